//! Bytes of the index on disk: keys, leaves, what a list says of a run, and the summary.
//!
//! ```text
//! key       list u64 · created_ms u64, big-endian · run_no u64, big-endian
//! leaf      entries, by position: created_ms less the one before · run_no · bytes of the value
//!           shared with the one before · bytes that follow · these (numbers are varints)
//! value     in the list of all: count · lists u64 each · run id · status u8;   else empty
//! summary   version u8 · store 16 · applied_block u64 · runs u64 · leaves u64 · sum u64
//! ```
//! Integers are little-endian, but for those that a key is ordered by: the database compares keys
//! byte by byte. A list is the hash of its name, because a name may be long and is in many keys.
//!
//! Rows stand together in leaves because each key of the database costs far more than a row does:
//! on disk, in its cache, and in the scan that proves the index whole. A leaf has every entry
//! from its key up to the key of the next one in its list; the first leaf of a list has the lowest
//! key there is, so that every position has a leaf it belongs to.
//!
//! Nothing here reads or writes; bytes that make no sense are `None`.

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64, xxh3_64_with_seed};

use super::{By, Position, Row};
use crate::record::RunNo;

/// Bytes of a leaf of the list of all, at most, unless one entry has more. New runs come to the
/// last leaf, many at once, so that large leaves are rewritten rarely.
const ALL_LEAF_BYTES_MAX: usize = 2 << 10;
/// Bytes of a leaf of any other list, at most. A change touches one entry in each of some lists and
/// rewrites a leaf for it, and the database is slow to reuse what that leaves behind.
const LEAF_BYTES_MAX: usize = 128;
/// Bytes of a key.
pub(super) const KEY_BYTES: usize = 24;
/// Where the summary is: no leaf has a key of this length.
pub(super) const SUMMARY_KEY: &[u8] = b"summary";
const SUMMARY_VERSION: u8 = 1;

/// A list of runs: the hash of its namespace and condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ListId(u64);

impl ListId {
    /// The list of a condition.
    ///
    /// The lowest bit says whether it is the list of all runs, so that no choice of tags makes
    /// another list take its place. Others may share a hash: a hit is checked by the caller.
    pub(super) fn new(namespace: &str, by: &By) -> Self {
        let status;
        let (kind, value) = match by {
            By::All => (0, &[][..]),
            By::Tag(tag) => (1, tag.as_bytes()),
            By::Batch(batch) => (2, batch.as_bytes()),
            By::Task(task) => (3, task.as_bytes()),
            By::Status(number) => {
                status = [*number];
                (4, &status[..])
            }
        };
        let mut hasher = Xxh3Default::new();
        hasher.update(&[kind]);
        hasher.update(namespace.as_bytes());
        // Names have no control characters: this one separates.
        hasher.update(&[0]);
        hasher.update(value);
        let hash = hasher.digest();
        Self(if *by == By::All { hash | 1 } else { hash & !1 })
    }

    fn is_all(self) -> bool {
        self.0 & 1 == 1
    }
}

/// Names a leaf by its list and the lowest position it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) list: ListId,
    pub(super) from: Position,
}

impl Key {
    pub(super) fn new(list: ListId, from: Position) -> Self {
        Self { list, from }
    }

    /// The key of a list's first leaf.
    pub(super) fn first(list: ListId) -> Self {
        Self::new(list, Position { created_ms: 0, run_no: RunNo(0) })
    }

    /// The highest key that a leaf of the list can have.
    pub(super) fn last(list: ListId) -> Self {
        Self::new(list, Position { created_ms: u64::MAX, run_no: RunNo(u64::MAX) })
    }

    pub(super) fn encode(self) -> [u8; KEY_BYTES] {
        let mut bytes = [0; KEY_BYTES];
        bytes[..8].copy_from_slice(&self.list.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.from.created_ms.to_be_bytes());
        bytes[16..].copy_from_slice(&self.from.run_no.0.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (list, rest) = bytes.split_first_chunk()?;
        let (created_ms, rest) = rest.split_first_chunk()?;
        let created_ms = u64::from_be_bytes(*created_ms);
        let run_no = RunNo(u64::from_be_bytes(rest.try_into().ok()?));
        Some(Self::new(ListId(u64::from_le_bytes(*list)), Position { created_ms, run_no }))
    }
}

/// A run in a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) position: Position,
    /// Bytes of a [`Run`] in the list of all, else none.
    pub(super) value: Vec<u8>,
}

/// What the list of all says of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run<'a> {
    /// Bytes of the lists that have the run, other than those of all and of its status.
    lists: &'a [[u8; 8]],
    pub(super) run_id: &'a str,
    pub(super) status: u8,
}

impl<'a> Run<'a> {
    /// Bytes for a row. The status is last, so that neighbours share what is before it.
    pub(super) fn encode(row: &Row) -> Vec<u8> {
        let lists = row.lists().into_iter().filter(|by| !matches!(by, By::All | By::Status(_)));
        let mut lists: Vec<_> = lists.map(|by| ListId::new(&row.namespace, &by)).collect();
        lists.sort_unstable();
        lists.dedup();
        let mut bytes = Vec::with_capacity(2 + lists.len() * 8 + row.run_id.len());
        push_number(lists.len() as u64, &mut bytes);
        lists.iter().for_each(|list| bytes.extend(list.0.to_le_bytes()));
        bytes.extend(row.run_id.as_bytes());
        bytes.push(row.status);
        bytes
    }

    pub(super) fn decode(mut bytes: &'a [u8]) -> Option<Self> {
        let count = usize::try_from(take_number(&mut bytes)?).ok()?;
        let (lists, bytes) = bytes.split_at_checked(count.checked_mul(8)?)?;
        let (&status, run_id) = bytes.split_last()?;
        let run_id = str::from_utf8(run_id).ok()?;
        Some(Self { lists: lists.as_chunks().0, run_id, status })
    }

    /// The lists that have the run, other than that of all, each once.
    pub(super) fn lists(&self, namespace: &str) -> Vec<ListId> {
        let named = self.lists.iter().map(|list| ListId(u64::from_le_bytes(*list)));
        let status = match By::Status(self.status).list() {
            (By::All, _) => None,
            (by, _) => Some(ListId::new(namespace, &by)),
        };
        let mut lists: Vec<_> = named.chain(status).collect();
        lists.sort_unstable();
        lists.dedup();
        lists
    }
}

/// Entries from the bytes of a leaf.
pub(super) fn decode(mut bytes: &[u8]) -> Option<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut before = Key::first(ListId(0)).from;
    while !bytes.is_empty() {
        let created_ms = before.created_ms.checked_add(take_number(&mut bytes)?)?;
        let position = Position { created_ms, run_no: RunNo(take_number(&mut bytes)?) };
        let shared = usize::try_from(take_number(&mut bytes)?).ok()?;
        let len = usize::try_from(take_number(&mut bytes)?).ok()?;
        let (rest, behind) = bytes.split_at_checked(len)?;
        let last = entries.last().map_or(&[][..], |entry| &entry.value);
        let value = [last.get(..shared)?, rest].concat();
        if !entries.is_empty() && position <= before {
            return None;
        }
        entries.push(Entry { position, value });
        (bytes, before) = (behind, position);
    }
    Some(entries)
}

/// How much of a leaf is used before the next one is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    /// All: what comes next goes behind the last entry.
    Whole,
    /// Half, if it has to be divided: entries may come anywhere.
    Half,
}

/// The bytes of one leaf or more, each with the position of its first entry.
pub(super) fn encode(list: ListId, entries: &[Entry], fill: Fill) -> Vec<(Position, Vec<u8>)> {
    let bytes_max = if list.is_all() { ALL_LEAF_BYTES_MAX } else { LEAF_BYTES_MAX };
    let leaves = encode_up_to(entries, bytes_max);
    match fill {
        Fill::Half if 1 < leaves.len() => encode_up_to(entries, bytes_max / 2),
        Fill::Half | Fill::Whole => leaves,
    }
}

fn encode_up_to(entries: &[Entry], bytes_max: usize) -> Vec<(Position, Vec<u8>)> {
    let mut leaves: Vec<(Position, Vec<u8>)> = Vec::new();
    let mut before: Option<&Entry> = None;
    for entry in entries {
        if let Some((_, leaf)) = leaves.last_mut() {
            let len = leaf.len();
            push_entry(before, entry, leaf);
            if bytes_max < leaf.len() {
                leaf.truncate(len);
                before = None;
            }
        }
        if before.is_none() {
            let mut leaf = Vec::new();
            push_entry(None, entry, &mut leaf);
            leaves.push((entry.position, leaf));
        }
        before = Some(entry);
    }
    leaves
}

fn push_entry(before: Option<&Entry>, entry: &Entry, leaf: &mut Vec<u8>) {
    let (created_ms, value) =
        before.map_or((0, &[][..]), |before| (before.position.created_ms, &before.value[..]));
    let shared = value.iter().zip(&entry.value).take_while(|(a, b)| a == b).count();
    let rest = &entry.value[shared..];
    push_number(entry.position.created_ms - created_ms, leaf);
    push_number(entry.position.run_no.0, leaf);
    push_number(shared as u64, leaf);
    push_number(rest.len() as u64, leaf);
    leaf.extend(rest);
}

/// A varint: seven bits a byte, lowest first, the top bit set on all but the last.
fn push_number(mut number: u64, bytes: &mut Vec<u8>) {
    while 0x80 <= number {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// What the index holds, kept in the same batch as every change.
///
/// The sum is over the hashes of all leaves with their keys, so that a change adds and subtracts
/// what it touched, and a scan in any order finds out whether anything else was touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Summary {
    /// Identity of the store.
    pub(super) store: [u8; 16],
    /// Exclusive end of the blocks that are in the index.
    pub(super) applied_block: u64,
    pub(super) runs: u64,
    pub(super) total: Total,
}

impl Summary {
    /// Of an index without runs.
    pub(super) fn empty(store: [u8; 16]) -> Self {
        Self { store, applied_block: 0, runs: 0, total: Total::default() }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![SUMMARY_VERSION];
        bytes.extend(self.store);
        let Total { leaves, sum } = self.total;
        let numbers = [self.applied_block, self.runs, leaves, sum];
        numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&SUMMARY_VERSION, rest) = bytes.split_first()? else { return None };
        let (&store, rest) = rest.split_first_chunk()?;
        let ([applied_block, runs, leaves, sum], []) = rest.as_chunks() else { return None };
        let [applied_block, runs, leaves, sum] =
            [applied_block, runs, leaves, sum].map(|number| u64::from_le_bytes(*number));
        Some(Self { store, applied_block, runs, total: Total { leaves, sum } })
    }
}

/// Leaves, counted and summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Total {
    pub(super) leaves: u64,
    sum: u64,
}

impl Total {
    pub(super) fn add(&mut self, key: &[u8], leaf: &[u8]) {
        self.leaves = self.leaves.wrapping_add(1);
        self.sum = self.sum.wrapping_add(hash(key, leaf));
    }

    pub(super) fn subtract(&mut self, key: &[u8], leaf: &[u8]) {
        self.leaves = self.leaves.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(hash(key, leaf));
    }
}

fn hash(key: &[u8], leaf: &[u8]) -> u64 {
    xxh3_64_with_seed(leaf, xxh3_64(key))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position(created_ms: u64, run_no: u64) -> Position {
        Position { created_ms, run_no: RunNo(run_no) }
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let value = prop::collection::vec(any::<u8>(), 0..100);
        let number = prop_oneof![0..20_u64, any::<u64>()];
        prop::collection::btree_map((number.clone(), number), value, 0..200).prop_map(|entries| {
            let entry =
                |((created_ms, no), value)| Entry { position: position(created_ms, no), value };
            entries.into_iter().map(entry).collect()
        })
    }

    proptest! {
        #[test]
        fn leaves_give_back_their_entries_in_order(entries in entries(), whole: bool) {
            let fill = if whole { Fill::Whole } else { Fill::Half };
            let mut found = Vec::new();
            for (first, bytes) in encode(ListId(0), &entries, fill) {
                let leaf = decode(&bytes).unwrap();
                prop_assert_eq!(leaf[0].position, first);
                prop_assert!(bytes.len() <= LEAF_BYTES_MAX || leaf.len() == 1);
                found.extend(leaf);
            }
            prop_assert_eq!(found, entries);
        }

        #[test]
        fn any_bytes_decode_to_something_or_nothing(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let _ = (decode(&bytes), Run::decode(&bytes), Summary::decode(&bytes), Key::decode(&bytes));
        }

        #[test]
        fn keys_are_ordered_as_what_they_name(a: (u64, u64), b: (u64, u64)) {
            let list = ListId::new("n", &By::All);
            let [a, b] = [a, b].map(|(created, no)| Key::new(list, position(created, no)));
            prop_assert_eq!(a.cmp(&b), a.encode().cmp(&b.encode()));
            prop_assert_eq!(Key::decode(&a.encode()), Some(a));
        }
    }

    #[test]
    fn a_leaf_that_is_divided_has_room_unless_it_only_grew_at_its_end() {
        let entry = |no| Entry { position: position(no, no), value: vec![no as u8; 30] };
        let entries: Vec<_> = (0..100).map(entry).collect();
        let sizes = |fill| {
            encode(ListId(1), &entries, fill).iter().map(|leaf| leaf.1.len()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(Fill::Whole).len(), 2);
        assert_eq!(sizes(Fill::Half).len(), 4);
        assert!(ALL_LEAF_BYTES_MAX - 40 < sizes(Fill::Whole)[0]);
    }

    #[test]
    fn a_run_is_stored_with_the_lists_that_have_it() {
        let row = Row {
            namespace: "n".into(),
            run_id: "run".into(),
            run_no: RunNo(1),
            created_ms: 1,
            status: 3,
            task: "t".into(),
            tags: vec!["a".into(), "t".into(), "a".into()],
            batch: "".into(),
        };
        let bytes = Run::encode(&row);
        let run = Run::decode(&bytes).unwrap();
        assert_eq!((run.run_id, run.status, bytes.len()), ("run", 3, 1 + 3 * 8 + 3 + 1));
        let lists = [By::Status(3), By::Tag("a".into()), By::Tag("t".into()), By::Task("t".into())];
        let mut ids = lists.map(|by| ListId::new("n", &by));
        ids.sort_unstable();
        assert_eq!(run.lists("n"), ids);
    }

    #[test]
    fn a_total_is_the_same_in_any_order_and_differs_by_any_leaf() {
        let leaves = [(b"k1", b"a"), (b"k2", b"b"), (b"k3", b"a")];
        let (mut there, mut back) = (Total::default(), Total::default());
        leaves.iter().for_each(|(key, leaf)| there.add(*key, *leaf));
        leaves.iter().rev().for_each(|(key, leaf)| back.add(*key, *leaf));
        assert_eq!(there, back);
        back.subtract(b"k1", b"a");
        back.add(b"k1", b"b");
        assert_ne!(there, back);
    }
}
