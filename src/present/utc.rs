//! Times for people: UTC, to the second.

/// `2026-11-23 19:11:07Z` for milliseconds since the Unix epoch.
pub fn utc(ms: u64) -> String {
    let seconds = ms / 1_000;
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

/// Milliseconds since the Unix epoch of a time like `2026-11-23`, `2026-11-23T19:11` or what
/// [`utc`] prints; none for other text, and for times before the epoch.
pub fn parse(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00"));
    let [year, month, day] = numbers(date, '-')?[..] else { return None };
    let (hour, minute, second) = match numbers(time, ':')?[..] {
        [hour, minute] => (hour, minute, 0),
        [hour, minute, second] => (hour, minute, second),
        _ => return None,
    };
    if 24 <= hour || 60 <= minute || 60 <= second {
        return None;
    }
    let days = days(year, month, day)?;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000)
}

/// Numbers of at most four digits, and no signs.
fn numbers(text: &str, between: char) -> Option<Vec<u64>> {
    let number = |text: &str| match text.len() {
        1..=4 if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    };
    text.split(between).map(number).collect()
}

/// Number of days from 1970-01-01 to a day; none if it is earlier, or there is no such day.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9_999).contains(&year) || !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    // Years that start on 1 March, as in `date`.
    let year_from_march = year - u64::from(month <= 2);
    let (era, year_of_era) = (year_from_march / 400, year_from_march % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * DAYS_OF_400_YEARS + day_of_era).checked_sub(DAYS_TO_EPOCH)?;
    (date(days) == (year, month, day)).then_some(days)
}

/// Days from 0000-03-01 to 1970-01-01.
const DAYS_TO_EPOCH: u64 = 719_468;
const DAYS_OF_400_YEARS: u64 = 146_097;

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar.
///
/// Counted in years that start on 1 March, the leap day is the last of its year, and the lengths
/// of months repeat every 153 days.
fn date(days: u64) -> (u64, u64, u64) {
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
    fn a_time_that_was_printed_is_read_again() {
        for ms in [0, 951_868_799_000, 1_709_251_200_000, 4_107_542_399_000] {
            assert_eq!(parse(&utc(ms)), Some(ms));
        }
        for day in 0..100_000 {
            let ms = day * 86_400_000;
            assert_eq!(parse(&utc(ms)[..10]), Some(ms));
        }
        assert_eq!(parse("2024-03-01T00:00"), Some(1_709_251_200_000));
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "2024",
            "2024-13-01",
            "2024-02-30",
            "2023-02-29",
            "2024-00-01",
            "2024-01-00",
            "1969-12-31",
            "2024-01-01 24:00",
            "2024-01-01 00:60",
            "2024-01-01 00:00:60",
            "2024-01-01 00",
            "2024-+1-01",
            "2024-01-01+02:00",
            "20240-01-01",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
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
