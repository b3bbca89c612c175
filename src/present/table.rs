//! Aligned columns for people.

use std::{array, fmt::Write, mem};

/// Rows that are printed under their headings with columns aligned.
///
/// It can be taken piece by piece; columns keep the width that the first pieces gave them and only
/// grow.
#[derive(Debug)]
pub struct Table<const N: usize> {
    rows: Vec<[String; N]>,
    widths: [usize; N],
    /// Columns of numbers, which end where others begin.
    right: [bool; N],
}

impl<const N: usize> Table<N> {
    /// A table with these headings. `>` in front of one aligns its column to the right.
    pub fn new(headings: [&str; N]) -> Self {
        let right = array::from_fn(|at| headings[at].starts_with('>'));
        let headings = headings.map(|heading| heading.trim_start_matches('>').to_owned());
        Self { rows: vec![headings], widths: [0; N], right }
    }

    /// Adds a row.
    pub fn row(&mut self, row: [String; N]) {
        self.rows.push(row);
    }

    /// The text of the rows added since the last time; the first time after the headings.
    pub fn take(&mut self) -> String {
        let rows = mem::take(&mut self.rows);
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        rows.iter().map(|row| self.line(row)).collect()
    }

    fn line(&self, row: &[String; N]) -> String {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let (gap, width) = (if at == 0 { "" } else { "  " }, self.widths[at]);
            // Writing to a string does not fail.
            let _ = if self.right[at] {
                write!(line, "{gap}{cell:>width$}")
            } else {
                write!(line, "{gap}{cell:<width$}")
            };
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_headings_come_once() {
        let mut table = Table::new(["RUN", ">TAIL", "TASK"]);
        table.row(["a".into(), "5".into(), "".into()]);
        table.row(["länger".into(), "123456".into(), "t".into()]);
        assert_eq!(table.take(), "RUN       TAIL  TASK\na            5\nlänger  123456  t\n");
        table.row(["b".into(), "7".into(), "u".into()]);
        assert_eq!(table.take(), "b            7  u\n");
        assert_eq!(table.take(), "");
    }
}
