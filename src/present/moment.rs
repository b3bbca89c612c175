//! Moments as people write them: `2026-11-23T19:11`, `2h-ago`, `10m` from now.

use std::str::FromStr;

use super::{
    quantity::{Unreadable, duration_ms},
    utc,
};

const MOMENT: Unreadable =
    Unreadable { expected: "a time in UTC such as 2026-11-23 or 2026-11-23T19:11, or 2h-ago" };

/// A moment: by itself, or by how long ago it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Milliseconds since the Unix epoch.
    At(u64),
    /// Milliseconds before now.
    Ago(u64),
}

impl Moment {
    /// Milliseconds since the Unix epoch.
    pub fn ms(self, now_ms: u64) -> u64 {
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
pub enum When {
    /// Milliseconds since the Unix epoch.
    At(u64),
    /// Milliseconds from now.
    In(u64),
}

impl When {
    /// Milliseconds since the Unix epoch.
    pub fn ms(self, now_ms: u64) -> u64 {
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
}
