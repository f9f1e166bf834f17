//! What a record of the engine is made of: its standard stream, its time, its text.
//!
//! Owns the one parser of the engine's times (RFC 3339, UTC) and the split of a payload that was
//! asked for with `timestamps=1`. Joining the pieces of long lines belongs to `pieces`, frames to
//! `frame`. Pure: no clock, no I/O. Runs on whatever lane reads a container.

use std::fmt;

pub use crate::record::StdStream;

/// Bytes of the time that `timestamps=1` puts before each record: always nine digits of fraction.
const PREFIX_TIME_BYTES: usize = 30;

/// One stored record as the engine sends it: a line, or a piece of a line above 16 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineRecord<'a> {
    pub stream: StdStream,
    /// UTC nanoseconds since 1970: when dockerd read the line's end (or its first 16 KiB).
    pub time_ns: i64,
    /// What the program wrote, without the newline that ended it.
    pub text: &'a [u8],
    /// Whether the stored record ended in a newline, which `text` no longer has.
    pub newline: bool,
}

/// Why a payload is not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// The payload does not begin with a time and a space.
    NoTime { payload_bytes: usize },
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::NoTime { payload_bytes } => {
                write!(f, "record of {payload_bytes} bytes does not begin with a time")
            }
        }
    }
}

impl std::error::Error for RecordError {}

/// Splits the payload of a frame (or a chunk of a TTY stream) into its time and its text.
///
/// # Errors
/// `NoTime` when the payload does not begin with 30 characters of time and a space.
pub fn split(stream: StdStream, payload: &[u8]) -> Result<EngineRecord<'_>, RecordError> {
    let error = RecordError::NoTime { payload_bytes: payload.len() };
    if !begins_with_time(payload) {
        return Err(error);
    }
    let time_ns = parse_time_ns(&payload[..PREFIX_TIME_BYTES]).ok_or(error)?;
    let text = &payload[PREFIX_TIME_BYTES + 1..];
    Ok(match text.strip_suffix(b"\n") {
        Some(text) => EngineRecord { stream, time_ns, text, newline: true },
        None => EngineRecord { stream, time_ns, text, newline: false },
    })
}

/// Whether `bytes` could be the beginning of a record: the shape of the prefix, not its validity.
pub fn begins_with_time(bytes: &[u8]) -> bool {
    bytes.len() > PREFIX_TIME_BYTES
        && bytes[4] == b'-'
        && bytes[10] == b'T'
        && bytes[19] == b'.'
        && bytes[29] == b'Z'
        && bytes[30] == b' '
}

/// UTC nanoseconds of an RFC 3339 time that ends in `Z`, with up to nine digits of fraction (the
/// json-file cuts trailing zeros). `None` for everything else, and beyond the range of `i64`,
/// which the year 1 of a container never started is.
pub fn parse_time_ns(text: &[u8]) -> Option<i64> {
    let [head @ .., b'Z'] = text else { return None };
    if head.len() < 19 {
        return None;
    }
    let separators = [head[4], head[7], head[10], head[13], head[16]];
    if separators != *b"--T::" {
        return None;
    }
    let year = digits(&head[0..4])?;
    let month = digits(&head[5..7])?;
    let day = digits(&head[8..10])?;
    let (hour, minute) = (digits(&head[11..13])?, digits(&head[14..16])?);
    let second = digits(&head[17..19])?;
    if !(1..=12).contains(&month) || day < 1 || day > month_days(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let fraction_ns = fraction_ns(&head[19..])?;
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    seconds.checked_mul(1_000_000_000)?.checked_add(fraction_ns)
}

fn digits(text: &[u8]) -> Option<i64> {
    let mut value = 0;
    for byte in text {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i64::from(byte - b'0');
    }
    Some(value)
}

/// `.5` is half a second; nothing is none; a lone dot or more than nine digits is no time.
fn fraction_ns(text: &[u8]) -> Option<i64> {
    match text {
        [] => Some(0),
        [b'.', fraction @ ..] if (1..=9).contains(&fraction.len()) => {
            let scale = 10_i64.pow(9 - fraction.len() as u32);
            Some(digits(fraction)? * scale)
        }
        _ => None,
    }
}

fn month_days(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days of the proleptic Gregorian calendar. The year is counted from March, so that the leap
/// day is its last, and in eras of 400 years, which all have the same length.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::format_description::well_known::Rfc3339;

    fn check(text: &str, expected: Option<i64>) {
        assert_eq!(parse_time_ns(text.as_bytes()), expected, "{text}");
    }

    #[test]
    fn times_are_nanoseconds_since_1970() {
        check("1970-01-01T00:00:00Z", Some(0));
        check("1970-01-01T00:00:00.000000001Z", Some(1));
        check("1970-01-01T00:00:00.5Z", Some(500_000_000));
        check("1969-12-31T23:59:59.999999999Z", Some(-1));
        check("2000-02-29T12:00:00Z", Some(951_825_600_000_000_000));
        check("2026-11-24T20:53:46.52749504Z", Some(1_795_553_626_527_495_040));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "Z",
            "0001-01-01T00:00:00Z",
            "2026-11-24T20:53:46",
            "2026-11-24T20:53:46.Z",
            "2026-11-24T20:53:46.1234567890Z",
            "2026-11-24T20:53:46+00:00",
            "2026-11-24 20:53:46Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-24T24:00:00Z",
            "2026-11-24T20:53:4xZ",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn a_payload_is_split_into_time_text_and_newline() {
        let record =
            split(StdStream::Stderr, b"2026-11-24T20:53:46.527495040Z two words\n").unwrap();
        assert_eq!(record.time_ns, 1_795_553_626_527_495_040);
        assert_eq!(record.text, b"two words");
        assert!(record.newline);
        let record = split(StdStream::Stdout, b"2026-11-24T20:53:46.527495040Z ").unwrap();
        assert_eq!((record.text, record.newline), (&b""[..], false));
    }

    #[test]
    fn a_payload_without_a_time_is_an_error() {
        let error =
            split(StdStream::Stdout, b"no time here, but long enough to hold one").unwrap_err();
        assert_eq!(error.to_string(), "record of 41 bytes does not begin with a time");
    }

    proptest! {
        #[test]
        fn every_time_of_two_centuries_is_parsed_back(ns in 0_i64..6_000_000_000_000_000_000) {
            let time = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(ns)).unwrap();
            let text = time.format(&Rfc3339).unwrap();
            prop_assert_eq!(parse_time_ns(text.as_bytes()), Some(ns));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse_time_ns(&bytes);
            let _ = split(StdStream::Stdout, &bytes);
        }
    }
}
