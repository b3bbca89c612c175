//! Generations of the stored index: which one is opened, and what becomes of the others.
//!
//! ```text
//! gen-<n:06>        a generation: the directory of one database
//! gen-<n:06>.bad    one that failed; its number is not used again
//! ```
//! The newest generation is used if all of it is sound. Otherwise the next number is begun, empty;
//! only then are older ones removed, so that a database left behind with a hung thread, which may
//! still write by its path, never meets a new one there.
//!
//! The directory is reached directly and not through a `Vfs`: the database beneath does its own
//! input and output, so a simulated disk could not hold it; and nothing here has to survive.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    GuardedIndex, IndexError, IndexOptions, Opened, SecondaryIndex, State, Unsound,
    guard::Guard,
    tree::{Progress, SledIndex},
};
use crate::platform::{
    RelPath, Vfs,
    os::{self, OsVfs},
};

/// A generation in the directory of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Generation {
    number: u64,
    is_bad: bool,
}

impl Generation {
    fn name(self) -> String {
        format!("gen-{:06}{}", self.number, if self.is_bad { ".bad" } else { "" })
    }

    fn parse(name: &str) -> Option<Self> {
        let number = name.strip_prefix("gen-")?;
        let (number, is_bad) = match number.strip_suffix(".bad") {
            Some(number) => (number, true),
            None => (number, false),
        };
        let parsed = Self { number: number.parse().ok()?, is_bad };
        (parsed.name() == name).then_some(parsed)
    }

    fn next(self) -> Self {
        Self { number: self.number + 1, is_bad: false }
    }

    fn path(self, dir: &Path) -> PathBuf {
        dir.join(self.name())
    }

    /// Makes sure, if the system lets us, that this generation is not opened again.
    fn set_aside(self, dir: &Path) {
        let bad = Self { is_bad: true, ..self };
        let name = |generation: Self| RelPath::new(generation.name());
        // What cannot be renamed is checked like any other when it is opened.
        drop(OsVfs::new(dir).rename(&name(self), &name(bad)));
    }
}

/// Opens the newest generation of a directory, or starts the next.
pub(super) fn open(dir: &Path, options: &IndexOptions) -> Result<Opened, IndexError> {
    let newest = generations(dir).map_err(failed)?.into_iter().max();
    let (generation, index, discarded) = match newest {
        None => start(Generation { number: 1, is_bad: false }, None, dir, options)?,
        Some(newest) => match use_again(newest, dir, options) {
            Ok(index) => (newest, index, None),
            Err(error) => start(newest.next(), Some(error), dir, options)?,
        },
    };
    let state = match index.applied_block()? {
        0 => State::Empty,
        applied_block => State::Usable { applied_block },
    };
    // Tried again by every later open.
    drop(remove_others(generation, dir));
    Ok(Opened { index, state, discarded })
}

fn failed(source: io::Error) -> IndexError {
    IndexError::Io { operation: "opening", source: Arc::new(source) }
}

fn generations(dir: &Path) -> io::Result<Vec<Generation>> {
    OsVfs::create_root(dir)?;
    let names = OsVfs::new(dir).list(&RelPath::new(RelPath::ROOT))?;
    Ok(names.iter().filter_map(|name| Generation::parse(name)).collect())
}

fn remove_others(kept: Generation, dir: &Path) -> io::Result<()> {
    let others = generations(dir)?.into_iter().filter(|other| *other != kept);
    others.map(|other| os::remove_tree(&other.path(dir))).fold(Ok(()), io::Result::and)
}

/// A generation that is there, if all of it is sound.
fn use_again(
    generation: Generation,
    dir: &Path,
    options: &IndexOptions,
) -> Result<GuardedIndex, IndexError> {
    if generation.is_bad {
        return Err(IndexError::Unsound(Unsound::SetAside));
    }
    let (path, its_options) = (generation.path(dir), options.clone());
    let guard = Guard::start(options.open_timeout, move || SledIndex::open(&path, &its_options));
    let verified = guard.and_then(|guard| {
        while guard.call("verifying", options.call_timeout, SledIndex::verify)? == Progress::More {}
        Ok(guard)
    });
    match verified {
        Ok(guard) => Ok(guarded(guard, generation, dir, options)),
        Err(error) => {
            generation.set_aside(dir);
            Err(error)
        }
    }
}

/// A new generation, and why the one before is not used.
fn start(
    generation: Generation,
    discarded: Option<IndexError>,
    dir: &Path,
    options: &IndexOptions,
) -> Result<(Generation, GuardedIndex, Option<IndexError>), IndexError> {
    let (path, its_options) = (generation.path(dir), options.clone());
    let guard = Guard::start(options.open_timeout, move || SledIndex::create(&path, &its_options))?;
    Ok((generation, guarded(guard, generation, dir, options), discarded))
}

fn guarded(
    guard: Guard<SledIndex>,
    generation: Generation,
    dir: &Path,
    options: &IndexOptions,
) -> GuardedIndex {
    let dir = dir.to_owned();
    GuardedIndex::new(guard, options.call_timeout, move || generation.set_aside(&dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_to_what_they_were_built_from_and_nothing_else_does() {
        for number in [0, 1, 999_999, 1_000_000] {
            for is_bad in [false, true] {
                let generation = Generation { number, is_bad };
                assert_eq!(Generation::parse(&generation.name()), Some(generation));
            }
        }
        for name in ["gen-1", "gen-+00001", "gen-000001.BAD", "gen-000001.bad.bad", "000001"] {
            assert_eq!(Generation::parse(name), None, "{name}");
        }
    }
}
