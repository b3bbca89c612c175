//! Times for people: UTC, to the second.

/// `2026-11-23 19:11:07Z` for milliseconds since the Unix epoch.
pub(super) fn utc(ms: u64) -> String {
    let seconds = ms / 1_000;
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar.
///
/// Counted in years that start on 1 March, the leap day is the last of its year, and the lengths
/// of months repeat every 153 days.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_TO_EPOCH: u64 = 719_468; // from 0000-03-01
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let days = days + DAYS_TO_EPOCH;
    let (era, day) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153; // from March
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let january_or_february = u64::from(10 <= month);
    (400 * era + year + january_or_february, month + 3 - 12 * january_or_february, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        assert_eq!(utc(0), "1970-01-01 00:00:00Z");
        assert_eq!(utc(951_868_799_999), "2000-02-29 23:59:59Z");
        assert_eq!(utc(1_709_251_200_000), "2024-03-01 00:00:00Z");
        assert_eq!(utc(4_107_542_399_000), "2100-02-28 23:59:59Z");
    }

    #[test]
    fn every_day_follows_the_one_before() {
        for days in 0..100_000 {
            let (today, next) = (date(days), date(days + 1));
            let leap = today.0 % 4 == 0 && (today.0 % 100 != 0 || today.0 % 400 == 0);
            let last = match today.1 {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let expected = match today {
                (year, 12, 31) => (year + 1, 1, 1),
                (year, month, day) if day == last => (year, month + 1, 1),
                (year, month, day) => (year, month, day + 1),
            };
            assert_eq!(next, expected, "after {today:?}");
        }
    }
}
