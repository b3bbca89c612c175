//! Durations and sizes as people write them, `7d` and `100MiB`, and the shortest text that means the
//! same.

/// The text is no quantity of the kind that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct Unreadable {
    /// What would have been right.
    pub expected: &'static str,
}

const DURATION: Unreadable =
    Unreadable { expected: "a number with ms, s, m, h, d or w behind it, such as 7d" };
const SIZE: Unreadable =
    Unreadable { expected: "bytes: a number, with KiB, MiB, GiB, kB, MB or GB behind it or alone" };

const DURATION_UNITS: [(&str, u64); 6] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 7 * 86_400_000),
];
/// The first five are those that are printed, in ascending order.
const SIZE_UNITS: [(&str, u64); 10] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Milliseconds of a duration.
pub fn duration_ms(text: &str) -> Result<u64, Unreadable> {
    scaled(text, &DURATION_UNITS).ok_or(DURATION)
}

/// Bytes of a size.
pub fn bytes(text: &str) -> Result<u64, Unreadable> {
    scaled(text, &SIZE_UNITS).ok_or(SIZE)
}

/// A number and its unit; none if either is unknown or the product is too large.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// `7d`: a duration in the greatest unit of which it is a whole number.
pub fn duration(ms: u64) -> String {
    whole(ms, &DURATION_UNITS)
}

/// `64MiB`: a size, exactly, in the greatest unit of which it is a whole number.
pub fn exact_size(bytes: u64) -> String {
    whole(bytes, &SIZE_UNITS[..5])
}

fn whole(number: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, factor): &&(&str, u64)| number.is_multiple_of(*factor) && *factor <= number;
    let (unit, factor) = units.iter().rev().find(fits).unwrap_or(&units[0]);
    format!("{}{unit}", number / factor)
}

/// `1.5 MiB`: a size for people.
pub fn size(bytes: u64) -> String {
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
    fn durations_and_sizes_have_units() {
        assert_eq!(duration_ms("250ms"), Ok(250));
        assert_eq!(duration_ms("7d"), Ok(604_800_000));
        assert_eq!(duration_ms("1 w"), duration_ms("7d"));
        for text in
            ["", "7", "d", "-1s", "1.5h", "7days", "99999999999999999999s", "9999999999999w"]
        {
            assert_eq!(duration_ms(text), Err(DURATION), "{text}");
        }
        assert_eq!(bytes("4096"), Ok(4_096));
        assert_eq!(bytes("100MiB"), Ok(100 << 20));
        assert_eq!(bytes("3 GB"), Ok(3_000_000_000));
        for text in ["", "MiB", "1mib", "1 M", "0x10"] {
            assert_eq!(bytes(text), Err(SIZE), "{text}");
        }
    }

    #[test]
    fn what_is_printed_is_read_again() {
        for (ms, text) in
            [(0, "0ms"), (250, "250ms"), (90_000, "90s"), (604_800_000, "1w"), (86_400_000, "1d")]
        {
            assert_eq!((duration(ms).as_str(), duration_ms(text)), (text, Ok(ms)));
        }
        for (size, text) in
            [(0, "0B"), (1_023, "1023B"), (1_536, "1536B"), (64 << 20, "64MiB"), (3 << 41, "6TiB")]
        {
            assert_eq!((exact_size(size).as_str(), bytes(text)), (text, Ok(size)));
        }
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
