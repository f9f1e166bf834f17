//! The texts with which Loki names the entries and streams that it refuses.
//!
//! Pure. Two shapes (recorded in tests/loki/contract.jsonl): the distributor's list of
//! `N errors like: MESSAGE` joined by `; ` in no fixed order, and the ingester's report of
//! one stream. A text is known only when it has such a shape from its first byte: a proxy's
//! page that quotes one is not.

use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

/// What a message says about the entries it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Validation: entries of this second (UTC).
    TooOld {
        second: i64,
    },
    TooNew {
        second: i64,
    },
    /// Lines of exactly this many bytes.
    LineTooLong {
        len: usize,
    },
    MetadataDisallowed,
    /// Names and values of this many bytes together.
    MetadataTooLarge {
        len: usize,
    },
    /// This many pairs.
    MetadataTooMany {
        pairs: usize,
    },
    /// All entries of the stream: its labels break a limit.
    Labels,
    /// The ingester ignored `ignored` entries out of `total`; listed are the times of at most
    /// ten of them. What is older than `oldest_second` (the least that is listed) is refused.
    TooFarBehind {
        ignored: usize,
        total: usize,
        listed_ns: Vec<i64>,
        oldest_second: i64,
    },
}

impl Cause {
    /// For metrics and dead letters.
    pub const fn key(&self) -> &'static str {
        match self {
            Self::TooOld { .. } => "too_old",
            Self::TooNew { .. } => "too_new",
            Self::LineTooLong { .. } => "line_too_long",
            Self::MetadataDisallowed => "metadata_disallowed",
            Self::MetadataTooLarge { .. } => "metadata_too_large",
            Self::MetadataTooMany { .. } => "metadata_too_many",
            Self::Labels => "labels",
            Self::TooFarBehind { .. } => "too_far_behind",
        }
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The stream's labels as Loki has them (with those that it adds), sorted.
    pub labels: Vec<(String, String)>,
    pub cause: Cause,
    /// Entries (or streams) that it stands for.
    pub count: usize,
    /// Loki's own words.
    pub text: String,
}

/// Which limit on single streams a 429 reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamLimit {
    Rate,
    Count,
}

/// The messages of a 400 whose text is known; empty when it is not.
pub fn parse(body: &str) -> Vec<Refusal> {
    let body = body.trim_end();
    if body.starts_with(INGESTER) {
        return ingester(body).into_iter().collect();
    }
    let mut found = Vec::new();
    let mut rest = Some(body);
    while let Some(text) = rest {
        let (group, after) = next_group(text);
        let (count, message) = counted(group);
        match validation(message) {
            Some((labels, cause)) => {
                found.push(Refusal { labels, cause, count, text: message.to_owned() });
            }
            // Not one of ours from its first byte on: then nothing is known. A group that was
            // cut off, or a new kind beside known ones, comes out when the rest is sent again.
            None if found.is_empty() => return found,
            None => {}
        }
        rest = after;
    }
    found
}

const INGESTER: &str = "entry with timestamp ";
const GROUP: &str = " errors like: ";

/// Cuts before the next `; N errors like: `.
fn next_group(text: &str) -> (&str, Option<&str>) {
    let mut from = 0;
    while let Some(at) = text[from..].find("; ").map(|i| i + from) {
        let after = &text[at + 2..];
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits > 0 && after[digits..].starts_with(GROUP) {
            return (&text[..at], Some(after));
        }
        from = at + 2;
    }
    (text, None)
}

fn counted(group: &str) -> (usize, &str) {
    let Some((number, message)) = group.split_once(GROUP) else { return (1, group) };
    match number.parse() {
        Ok(count) => (count, message),
        Err(_) => (1, group),
    }
}

fn validation(message: &str) -> Option<(Vec<(String, String)>, Cause)> {
    if let Some(rest) = message.strip_prefix("entry for stream '") {
        let (labels, rest) = label_set(rest)?;
        let rest = rest.strip_prefix("' has ")?;
        if let Some(rest) = rest.strip_prefix("timestamp too old: ") {
            let time = rest.split_once(", oldest acceptable timestamp is: ")?.0;
            return Some((labels, Cause::TooOld { second: rfc3339_second(time)? }));
        }
        if let Some(time) = rest.strip_prefix("timestamp too new: ") {
            return Some((labels, Cause::TooNew { second: rfc3339_second(time)? }));
        }
        return rest.contains(" label names; limit ").then_some((labels, Cause::Labels));
    }
    if let Some(rest) = message.strip_prefix("stream '") {
        let (labels, rest) = label_set(rest)?;
        return Some((labels, stream_cause(rest.strip_prefix("' ")?)?));
    }
    if let Some(rest) = message.strip_prefix("max entry size '") {
        let rest = rest.split_once("' bytes exceeded for stream '")?.1;
        let (labels, rest) = label_set(rest)?;
        let len = rest.strip_prefix("' while adding an entry with length '")?;
        let len = len.split_once('\'')?.0.parse().ok()?;
        return Some((labels, Cause::LineTooLong { len }));
    }
    if message.starts_with("missing required labels ") {
        let rest = message.split_once(" for stream '")?.1;
        return Some((label_set(rest)?.0, Cause::Labels));
    }
    None
}

fn stream_cause(rest: &str) -> Option<Cause> {
    if rest.starts_with("includes structured metadata, but this feature is disallowed") {
        return Some(Cause::MetadataDisallowed);
    }
    let number = |text: &str| text.split_once('\'')?.0.parse().ok();
    if let Some(rest) = rest.strip_prefix("has structured metadata too large: '") {
        return Some(Cause::MetadataTooLarge { len: number(rest)? });
    }
    if let Some(rest) = rest.strip_prefix("has too many structured metadata labels: '") {
        return Some(Cause::MetadataTooMany { pairs: number(rest)? });
    }
    let labels = ["has label name too long", "has label value too long", "has duplicate label"];
    labels.iter().any(|known| rest.starts_with(known)).then_some(Cause::Labels)
}

/// The ingester's report; None as well when its reason is a rate limit.
fn ingester(body: &str) -> Option<Refusal> {
    let mut listed_ns = Vec::new();
    let mut oldest_second = i64::MAX;
    let mut rest = body;
    while let Some(after) = rest.strip_prefix(INGESTER) {
        let (time, after) = after.split_once(" ignored, reason: '")?;
        listed_ns.push(go_time_ns(time)?);
        let after = after.strip_prefix("entry too far behind, entry timestamp is: ")?;
        let (times, after) = after.split_once("',\n")?;
        let oldest = times.split_once(", oldest acceptable timestamp is: ")?.1;
        oldest_second = oldest_second.min(rfc3339_second(oldest)?);
        rest = after;
    }
    let (ignored, total, stream) = totals(rest)?;
    let labels = label_set(stream)?.0;
    let text = body.lines().next().unwrap_or_default().trim_end_matches(',').to_owned();
    let cause = Cause::TooFarBehind { ignored, total, listed_ns, oldest_second };
    Some(Refusal { labels, cause, count: ignored, text })
}

/// `user 'U', total ignored: N out of M for stream: {...}`. With more than ten a line
/// between the list and the totals may stand: it is skipped.
fn totals(rest: &str) -> Option<(usize, usize, &str)> {
    let counts = rest.split_once("total ignored: ")?.1;
    let (ignored, rest) = counts.split_once(" out of ")?;
    let (total, stream) = rest.split_once(" for stream: ")?;
    Some((ignored.parse().ok()?, total.parse().ok()?, stream))
}

/// What a 429 about single streams means, if it is one.
pub fn stream_limit(body: &str) -> Option<StreamLimit> {
    if body.starts_with("maximum active stream limit exceeded") {
        return Some(StreamLimit::Count);
    }
    let reason = body.strip_prefix(INGESTER)?.split_once(" ignored, reason: '")?.1;
    reason.starts_with("Per stream rate limit exceeded").then_some(StreamLimit::Rate)
}

fn rfc3339_second(text: &str) -> Option<i64> {
    OffsetDateTime::parse(text.trim(), &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
}

/// `2026-01-02 03:04:05.123456789 +0000 UTC`, trailing zeros of the fraction dropped.
fn go_time_ns(text: &str) -> Option<i64> {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let text = text.strip_suffix(" +0000 UTC")?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = PrimitiveDateTime::parse(seconds, format).ok()?.assume_utc().unix_timestamp();
    if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// `{a="b", c="d"}`, values as Go quotes them; what follows it is returned too.
pub fn label_set(text: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut rest = text.strip_prefix('{')?;
    let mut pairs = Vec::new();
    while !rest.starts_with('}') {
        if !pairs.is_empty() {
            rest = rest.strip_prefix(',')?.trim_start();
        }
        let (name, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        pairs.push((name.to_owned(), value));
        rest = after;
    }
    pairs.sort();
    Some((pairs, &rest[1..]))
}

/// The value of a Go string after its opening quote, and what follows the closing one.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => {
                let (_, kind) = chars.next()?;
                let digits = match kind {
                    'x' => 2,
                    'u' => 4,
                    'U' => 8,
                    _ => 0,
                };
                if digits > 0 {
                    let hex: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
                    value.push(char::from_u32(u32::from_str_radix(&hex, 16).ok()?)?);
                } else {
                    value.push(escaped(kind)?);
                }
            }
            c => value.push(c),
        }
    }
    None
}

fn escaped(kind: char) -> Option<char> {
    Some(match kind {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        '\\' | '"' | '\'' => kind,
        _ => return None,
    })
}

/// Whether `theirs` (from an answer) is our stream: the same pairs but for what Loki adds.
pub fn same_stream(ours: &[(String, String)], theirs: &[(String, String)]) -> bool {
    let added =
        |name: &str| name == "service_name" || (name.starts_with("__") && name.ends_with("__"));
    let mut left = ours.iter().peekable();
    for pair in theirs {
        if left.peek().is_some_and(|mine| *mine == pair) {
            left.next();
        } else if !added(&pair.0) {
            return false;
        }
    }
    left.next().is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()
    }

    #[test]
    fn label_sets_are_read_as_go_quotes_them() {
        let (set, rest) = label_set(r#"{b="x\"}', \\\n\u0001é", a="1"}' has more"#).unwrap();
        assert_eq!(set, pairs(&[("a", "1"), ("b", "x\"}', \\\n\u{1}é")]));
        assert_eq!(rest, "' has more");
        assert_eq!(label_set("{}"), Some((vec![], "")));
        for bad in ["", "{", r#"{a="1""#, r#"{a="1" b="2"}"#, r#"{a="\q"}"#, "{a=1}"] {
            assert_eq!(label_set(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_stream_is_known_in_spite_of_what_loki_adds() {
        let ours = pairs(&[("a", "1"), ("job", "x")]);
        let check = |theirs: &[(&str, &str)]| same_stream(&ours, &pairs(theirs));
        assert!(check(&[("a", "1"), ("job", "x")]));
        assert!(check(&[("a", "1"), ("job", "x"), ("service_name", "x")]));
        assert!(check(&[("__stream_shard__", "1"), ("a", "1"), ("job", "x")]));
        assert!(!check(&[("a", "1"), ("service_name", "x")]));
        assert!(!check(&[("a", "1"), ("b", "2"), ("job", "x")]));
        assert!(!check(&[("a", "2"), ("job", "x")]));
    }

    #[test]
    fn go_times_have_nanoseconds_with_trailing_zeros_dropped() {
        for (text, ns) in [
            ("1970-01-01 00:00:01 +0000 UTC", Some(1_000_000_000)),
            ("1970-01-01 00:00:00.000000002 +0000 UTC", Some(2)),
            ("1970-01-01 00:00:00.5 +0000 UTC", Some(500_000_000)),
            ("1970-01-01 00:00:00", None),
            ("1970-01-01 00:00:00.-5 +0000 UTC", None),
        ] {
            assert_eq!(go_time_ns(text), ns, "{text}");
        }
    }

    #[test]
    fn a_text_that_only_quotes_a_refusal_is_not_one() {
        let known = "entry for stream '{a=\"1\"}' has timestamp too new: 2026-11-24T21:09:44Z";
        assert_eq!(parse(known).len(), 1);
        assert_eq!(parse(&format!("<html>{known}")), []);
        assert_eq!(parse(&format!("blocked: {known}")), []);
    }

    proptest! {
        #[test]
        fn arbitrary_texts_never_panic(text in "\\PC{0,300}") {
            let _ = parse(&text);
            let _ = stream_limit(&text);
        }

        #[test]
        fn damaged_texts_never_panic(
            cut in 0usize..700, at in 0usize..700, with in "[ -~]{0,6}"
        ) {
            let text = concat!(
                "2 errors like: entry for stream '{a=\"b\"}' has timestamp too old: ",
                "2026-11-16T20:59:14Z, oldest acceptable timestamp is: 2026-11-17T20:59:14Z; ",
                "1 errors like: max entry size '262144' bytes exceeded for stream '{a=\"b\"}' ",
                "while adding an entry with length '262145' bytes; 3 errors like: stream ",
                "'{a=\"b\"}' has too many structured metadata labels: '129', limit: '128'.",
            );
            let mut damaged = text[..cut.min(text.len())].to_owned();
            damaged.insert_str(at.min(damaged.len()), &with);
            let _ = parse(&damaged);
            let ingester = concat!(
                "entry with timestamp 2026-11-24 18:59:14 +0000 UTC ignored, reason: 'entry too ",
                "far behind, entry timestamp is: 2026-11-24T18:59:14Z, oldest acceptable ",
                "timestamp is: 2026-11-24T19:59:14Z',\nuser 'fake', total ignored: 1 out of 2 ",
                "for stream: {job=\"b\"}",
            );
            let mut damaged = ingester[..cut.min(ingester.len())].to_owned();
            damaged.insert_str(at.min(damaged.len()), &with);
            let _ = parse(&damaged);
        }
    }
}
