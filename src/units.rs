//! Quantities as people write them: sizes (`64MiB`) and durations (`30s`, `1h30m`).
//!
//! Owns parsing and display, nothing else. Bare numbers are refused, so that no
//! config says `timeout: 30` and leaves the reader to guess the unit.

use std::fmt;
use std::time::Duration;

/// A number of bytes, written with a unit: `B`, `KB`, `MB`, `GB` (powers of 1000)
/// or `KiB`, `MiB`, `GiB` (powers of 1024).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// `n` KiB.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// `n` MiB.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// `n` GiB.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    /// The size in bytes as `usize`; on the 64-bit targets that we support nothing is cut.
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }
}

/// What a quantity should have looked like; its text completes "expected ...".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitError(pub &'static str);

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for UnitError {}

const SIZE_EXPECTED: UnitError = UnitError("a size with its unit, such as 512KiB, 64MiB or 1GiB");
const DURATION_EXPECTED: UnitError =
    UnitError("a duration with its unit, such as 500ms, 30s, 5m, 1h30m or 7d");

const SIZES: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Splits leading digits with at most one point from the unit that follows.
fn number_and_rest(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number = text.get(..end)?;
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    Some((number.parse().ok()?, &text[end..]))
}

impl std::str::FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, rest) = number_and_rest(text.trim()).ok_or(SIZE_EXPECTED)?;
        let unit = rest.trim();
        let factor = SIZES.iter().find(|(name, _)| *name == unit).ok_or(SIZE_EXPECTED)?.1;
        let bytes = number * factor as f64;
        if bytes > (1u64 << 50) as f64 {
            return Err(UnitError("a size below 1 PiB"));
        }
        Ok(Self(bytes as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, factor) in [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{name}", self.0 / factor);
            }
        }
        for (name, factor) in [("GiB", 1u64 << 30), ("MiB", 1 << 20)] {
            if self.0 >= 10 * factor {
                return write!(f, "{:.1}{name}", self.0 as f64 / factor as f64);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// Parses a duration of one or more numbers with units (`ms`, `s`, `m`, `h`, `d`, `w`).
///
/// # Errors
/// A bare number, an unknown unit, an empty text or more than 100 years.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let mut rest = text.trim();
    let mut total = 0.0;
    if rest.is_empty() {
        return Err(DURATION_EXPECTED);
    }
    while !rest.is_empty() {
        let (number, after) = number_and_rest(rest).ok_or(DURATION_EXPECTED)?;
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let seconds = match after[..end].trim() {
            "ns" => 1e-9,
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            "w" => 604_800.0,
            _ => return Err(DURATION_EXPECTED),
        };
        total += number * seconds;
        rest = after[end..].trim_start();
    }
    if total > 3_155_760_000.0 {
        return Err(UnitError("a duration below 100 years"));
    }
    Ok(Duration::from_nanos((total * 1e9).round() as u64))
}

/// Writes a duration the way the config takes it: `1h30m`, `500ms`, `0s`.
pub fn show_duration(d: Duration) -> String {
    let mut out = String::new();
    let mut seconds = d.as_secs();
    for (name, size) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
        if seconds >= size {
            out.push_str(&format!("{}{name}", seconds / size));
            seconds %= size;
        }
    }
    let millis = d.subsec_millis();
    if millis > 0 {
        out.push_str(&format!("{millis}ms"));
    }
    if out.is_empty() {
        out.push_str("0s");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_unit_and_round_trip() {
        for (text, bytes) in
            [("1B", 1), ("64MiB", 64 << 20), ("1.5KiB", 1536), ("10 MB", 10_000_000)]
        {
            assert_eq!(text.parse::<ByteSize>(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "64", "MiB", "-1MiB", "1mib", "1.2.3MiB", "9999999PiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        for size in [ByteSize::mib(64), ByteSize::kib(3), ByteSize(17), ByteSize::gib(1)] {
            assert_eq!(size.to_string().parse(), Ok(size));
        }
    }

    #[test]
    fn durations_need_a_unit_and_round_trip() {
        for (text, ms) in
            [("500ms", 500), ("30s", 30_000), ("1h30m", 5_400_000), ("7d", 604_800_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
            assert_eq!(show_duration(Duration::from_millis(ms)), text);
        }
        for text in ["", "30", "s", "1x", "-5s", "5000w5000w"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
