//! Every file name of a data directory, built and parsed here and nowhere else.
//!
//! ```text
//! LOCK  STORE  CURRENT  MANIFEST-<n:016x>  journal/slot-<n:02>  packs/<n:016x>.{pack,names}  tmp/…
//! ```
//! Names are built from integers and fixed words; user text never becomes a path.

use crate::platform::RelPath;

/// Held by the process that has the store open.
pub fn lock() -> RelPath {
    RelPath::new("LOCK")
}

/// Says what the store is.
pub fn store() -> RelPath {
    RelPath::new("STORE")
}

/// Says which manifest is live.
pub fn current() -> RelPath {
    RelPath::new("CURRENT")
}

/// A new `CURRENT` before its rename.
pub fn current_new() -> RelPath {
    RelPath::new("tmp/CURRENT")
}

/// A new `STORE` before its rename.
pub fn store_new() -> RelPath {
    RelPath::new("tmp/STORE")
}

/// The data directory.
pub fn root() -> RelPath {
    RelPath::new("")
}

/// Directory of the journal's slots.
pub fn journal() -> RelPath {
    RelPath::new("journal")
}

/// Directory of the index of runs, which is derived.
pub fn index() -> RelPath {
    RelPath::new("index")
}

/// Directory of files before their rename.
pub fn tmp() -> RelPath {
    RelPath::new("tmp")
}

/// Manifest number `n`.
pub fn manifest(n: u64) -> RelPath {
    RelPath::new(format!("MANIFEST-{n:016x}"))
}

/// Number of the manifest with this file name in the data directory.
pub fn parse_manifest(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("MANIFEST-")?;
    let n = u64::from_str_radix(digits, 16).ok()?;
    (manifest(n).name() == name).then_some(n)
}

/// Slot number `n` of the journal.
pub fn slot(n: u32) -> RelPath {
    RelPath::new(format!("journal/slot-{n:02}"))
}

/// Number of the slot with this file name in the journal's directory.
pub fn parse_slot(name: &str) -> Option<u32> {
    let n = name.strip_prefix("slot-")?.parse().ok()?;
    (slot(n).name() == name).then_some(n)
}

/// Directory of the packs.
pub fn packs() -> RelPath {
    RelPath::new("packs")
}

/// Pack number `n`.
pub fn pack(n: u64) -> RelPath {
    RelPath::new(format!("packs/{n:016x}.pack"))
}

/// Pack number `n` before its rename.
pub fn pack_new(n: u64) -> RelPath {
    RelPath::new(format!("tmp/{n:016x}.pack"))
}

/// The names that pack number `n` may hold, once more.
pub fn pack_names(n: u64) -> RelPath {
    RelPath::new(format!("packs/{n:016x}.names"))
}

/// The names of pack number `n` before the rename.
pub fn pack_names_new(n: u64) -> RelPath {
    RelPath::new(format!("tmp/{n:016x}.names"))
}

/// Number of the pack that a file in the packs' directory belongs to, and the file's path.
pub fn parse_pack(name: &str) -> Option<(u64, RelPath)> {
    let (digits, kind) = name.split_once('.')?;
    let n = u64::from_str_radix(digits, 16).ok()?;
    let path = match kind {
        "pack" => pack(n),
        "names" => pack_names(n),
        _ => return None,
    };
    (path.name() == name).then_some((n, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_to_what_they_were_built_from_and_nothing_else_does() {
        for n in [0, 9, 10, 99, 100, 12_345] {
            assert_eq!(parse_slot(slot(n).name()), Some(n));
        }
        for n in [0, 1, u64::MAX] {
            assert_eq!(parse_manifest(manifest(n).name()), Some(n));
        }
        for n in [0, 1, u64::MAX] {
            for path in [pack(n), pack_names(n)] {
                assert_eq!(parse_pack(path.name()), Some((n, path)));
            }
        }
        for name in ["1.pack", "000000000000000G.pack", "0000000000000001", ".pack"] {
            assert_eq!(parse_pack(name), None, "{name}");
        }
        for name in ["slot-", "slot-1", "slot-007", "slot-+1", "slot-00.tmp", "SLOT-00"] {
            assert_eq!(parse_slot(name), None, "{name}");
        }
        for name in ["MANIFEST-1", "MANIFEST-000000000000000G", "MANIFEST-000000000000000A"] {
            assert_eq!(parse_manifest(name), None, "{name}");
        }
    }
}
