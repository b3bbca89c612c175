//! Quantities as people write them: besides durations and sizes, moments such as `2h-ago`; and
//! sizes for people.

use std::str::FromStr;

pub(super) use crate::config::quantity::{bytes, duration, duration_ms};

use super::utc;
use crate::config::quantity::Unreadable;

const MOMENT: Unreadable =
    Unreadable { expected: "a time in UTC such as 2026-11-23 or 2026-11-23T19:11, or 2h-ago" };

/// A moment: by itself, or by how long ago it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// Milliseconds since the Unix epoch.
    At(u64),
    /// Milliseconds before now.
    Ago(u64),
}

impl Moment {
    /// Milliseconds since the Unix epoch.
    pub(super) fn ms(self, now_ms: u64) -> u64 {
        match self {
            Self::At(ms) => ms,
            Self::Ago(ms) => now_ms.saturating_sub(ms),
        }
    }
}

impl FromStr for Moment {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        match text.strip_suffix("-ago").or_else(|| text.strip_suffix(" ago")) {
            Some(duration) => duration_ms(duration).map(Self::Ago).map_err(|_| MOMENT),
            None => utc::parse(text).map(Self::At).ok_or(MOMENT),
        }
    }
}

const WHEN: Unreadable = Unreadable {
    expected: "a time in UTC such as 2026-11-23T19:11, or how long from now, such as 10m",
};

/// A moment to come: by itself, or by how long it is from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Milliseconds since the Unix epoch.
    At(u64),
    /// Milliseconds from now.
    In(u64),
}

impl When {
    /// Milliseconds since the Unix epoch.
    pub(super) fn ms(self, now_ms: u64) -> u64 {
        match self {
            Self::At(ms) => ms,
            Self::In(ms) => now_ms.saturating_add(ms),
        }
    }
}

impl FromStr for When {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let is_duration = duration_ms(text).map(Self::In).ok();
        is_duration.or_else(|| utc::parse(text).map(Self::At)).ok_or(WHEN)
    }
}

/// `1.5 MiB`: a size for people.
pub(super) fn size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| 1 << shift <= bytes) {
        // Cut, not rounded: 1,023 is never a thousand of the next unit.
        Some((unit, shift)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_given_or_some_time_ago() {
        let moment = |text: &str| text.parse::<Moment>();
        assert_eq!(moment("2h-ago"), Ok(Moment::Ago(7_200_000)));
        assert_eq!(moment("10m ago"), Ok(Moment::Ago(600_000)));
        assert_eq!(moment("1970-01-02"), Ok(Moment::At(86_400_000)));
        assert_eq!(moment("1970-01-01T00:01Z"), Ok(Moment::At(60_000)));
        for text in ["", "ago", "-ago", "yesterday", "2h"] {
            assert_eq!(moment(text), Err(MOMENT), "{text}");
        }
        assert_eq!(Moment::Ago(5).ms(7), 2);
        assert_eq!(Moment::Ago(9).ms(7), 0);
        assert_eq!(Moment::At(9).ms(7), 9);
    }

    #[test]
    fn moments_to_come_are_given_or_some_time_from_now() {
        assert_eq!("10m".parse::<When>(), Ok(When::In(600_000)));
        assert_eq!("1970-01-01T00:01Z".parse::<When>(), Ok(When::At(60_000)));
        for text in ["", "soon", "2h-ago", "7"] {
            assert_eq!(text.parse::<When>(), Err(WHEN), "{text}");
        }
        assert_eq!((When::In(5).ms(7), When::At(5).ms(7)), (12, 5));
    }

    #[test]
    fn sizes_are_short_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (1_536, "1.5 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (3 << 40, "3.0 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
