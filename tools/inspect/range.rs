//! Ranges as people write them: `A..B`, `A..`, `..B`, or one number.

use std::str::FromStr;

/// Numbers from `from`, below `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NumberRange {
    /// The first.
    pub(crate) from: u64,
    /// The end, exclusive.
    pub(crate) to: u64,
}

/// The text is no range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoRange;

impl std::error::Error for NoRange {}

impl std::fmt::Display for NoRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("expected A..B (B exclusive), A.., ..B or one number")
    }
}

impl NumberRange {
    /// Every number.
    pub(crate) const ALL: Self = Self { from: 0, to: u64::MAX };

    /// Whether it holds a number.
    pub(crate) fn holds(self, number: u64) -> bool {
        self.from <= number && number < self.to
    }
}

impl FromStr for NumberRange {
    type Err = NoRange;

    fn from_str(text: &str) -> Result<Self, NoRange> {
        let number = |text: &str| text.parse::<u64>().map_err(|_| NoRange);
        let Some((from, to)) = text.split_once("..") else {
            let one = number(text)?;
            return Ok(Self { from: one, to: one.saturating_add(1) });
        };
        let from = if from.is_empty() { 0 } else { number(from)? };
        let to = if to.is_empty() { u64::MAX } else { number(to)? };
        Ok(Self { from, to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_open_or_closed() {
        let range = |text: &str| text.parse::<NumberRange>().map(|range| (range.from, range.to));
        assert_eq!(range("3..7"), Ok((3, 7)));
        assert_eq!(range("3.."), Ok((3, u64::MAX)));
        assert_eq!(range("..7"), Ok((0, 7)));
        assert_eq!(range(".."), Ok((0, u64::MAX)));
        assert_eq!(range("5"), Ok((5, 6)));
        for text in ["", "a", "1-2", "1..b", "-1"] {
            assert_eq!(range(text), Err(NoRange), "{text}");
        }
    }
}
