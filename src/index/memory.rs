//! The index in memory: what it should be, in the fewest words.
//!
//! Used where there is no database, and as the other half of the tests of the one that has it.

use std::{collections::BTreeMap, sync::Arc};

use super::{By, Change, Found, Hit, IndexError, Position, Row, Scan, SecondaryIndex, check_count};

/// An index that is gone when the process ends.
#[derive(Debug, Default)]
pub struct MemoryIndex {
    /// Every list that has a run, by namespace and condition.
    lists: BTreeMap<(Arc<str>, By), BTreeMap<Position, Arc<Row>>>,
    runs: u64,
    applied_block: u64,
}

impl MemoryIndex {
    /// An index without runs.
    pub fn new() -> Self {
        Self::default()
    }

    fn put(&mut self, row: &Row) {
        self.remove(&row.namespace, row.position());
        let row = Arc::new(row.clone());
        for list in row.lists() {
            let list = self.lists.entry((row.namespace.clone(), list)).or_default();
            list.insert(row.position(), row.clone());
        }
        self.runs += 1;
    }

    fn remove(&mut self, namespace: &Arc<str>, position: Position) {
        let all = self.lists.get(&(namespace.clone(), By::All));
        let Some(row) = all.and_then(|all| all.get(&position)).cloned() else { return };
        for list in row.lists() {
            let key = (namespace.clone(), list);
            if let Some(list) = self.lists.get_mut(&key) {
                list.remove(&position);
                if list.is_empty() {
                    self.lists.remove(&key);
                }
            }
        }
        self.runs -= 1;
    }
}

impl SecondaryIndex for MemoryIndex {
    fn apply(&mut self, changes: &[Change], applied_block: u64) -> Result<(), IndexError> {
        check_count(changes)?;
        for change in changes {
            match change {
                Change::Put(row) => self.put(row),
                Change::Remove { namespace, position } => self.remove(namespace, *position),
            }
        }
        self.applied_block = applied_block;
        Ok(())
    }

    fn scan(&self, scan: &Scan) -> Result<Found, IndexError> {
        let (list, status) = scan.by.list();
        let positions = scan.positions();
        let Some(list) = self.lists.get(&(scan.namespace.clone(), list)) else {
            return Ok(Found::default());
        };
        // A map refuses a range that ends before it starts.
        if positions.is_empty() {
            return Ok(Found::default());
        }
        let rows = list.range(positions).rev().map(|(&position, row)| {
            Ok(Hit { position, run_id: row.run_id.clone(), status: row.status })
        });
        Found::gather(scan, status, rows)
    }

    fn applied_block(&self) -> Result<u64, IndexError> {
        Ok(self.applied_block)
    }

    fn len(&self) -> Result<u64, IndexError> {
        Ok(self.runs)
    }

    fn bytes_on_disk(&self) -> Result<u64, IndexError> {
        Ok(0)
    }
}
