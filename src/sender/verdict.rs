//! What an answer, or the lack of one, means for what was sent: a pure table.
//!
//! Content is condemned only by Loki's own known texts; everything else that is not a plain
//! retry is held, so that a proxy's error page cannot send a day of logs to dead letters.
//! Texts and statuses are those recorded in tests/loki/contract.jsonl.

use std::time::Duration;

use time::PrimitiveDateTime;
use time::macros::format_description;

use super::http::{Answer, Fault, TransportError};
use super::refusal::{self, Refusal, StreamLimit};
use crate::limits;

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All of it is stored.
    Delivered,
    /// The same bytes again, after a growing wait.
    Retry { reset: bool, why: String },
    /// Nothing is stored; the same bytes later.
    RateLimited { retry_after: Option<Duration>, limit_bytes: Option<u64>, why: String },
    /// What other streams hold is stored; each stream alone, later.
    StreamLimited { limit: StreamLimit, retry_after: Option<Duration>, why: String },
    /// Too large; at most `max_bytes` would pass, if the answer says so.
    Split { max_bytes: Option<usize>, why: String },
    /// Some entries will never pass; the rest may be stored or not.
    EntriesRefused { refusals: Vec<Refusal>, why: String },
    /// Nothing is stored because of one stream or entry that is not named.
    Poisoned { unit: Unit, why: String },
    /// A person is needed; nothing is dropped.
    Hold { why: String, cure: &'static str },
}

/// What a search for unnamed culprits ends at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Stream,
    Entry,
}

/// Texts of a 400 or 422 that condemn one stream and name none; nothing is stored then.
const POISONED_STREAM: [&str; 9] = [
    "couldn't parse labels: ",
    "error at least one label pair is required per stream",
    "error at least one valid stream is required for ingestion",
    "streams must not contain the reserved labels ",
    "timestamp: &types.Timestamp{",
    "proto: ",
    "unexpected EOF",
    "EOF",
    "snappy: corrupt input",
];

/// Texts of a 500 that never passes: an entry's metadata, or a time before the schema.
const POISONED_ENTRY: [&str; 3] =
    ["label name is empty", "normalization for label name ", "no schema config found for time"];

/// Texts of a 400 that mean the tenant.
const TENANT: [&str; 2] = ["multiple org IDs present", "tenant ID "];

/// Judges an answer.
pub fn judge(answer: &Answer) -> Verdict {
    let body = answer.body.trim_end();
    let why = describe(answer.status, body);
    if body.starts_with("ingestion blocked for user ") || answer.status == 260 {
        return hold(why, "ingestion is blocked for this tenant by Loki's operator");
    }
    match answer.status {
        204 => Verdict::Delivered,
        // Some gateways answer 200 in place of 204; with a body it is somebody else's.
        200 if body.is_empty() => Verdict::Delivered,
        200..=299 => hold(why, "this is not Loki's answer to a push: check the sink's url"),
        300..=399 => hold(why, "redirects are not followed: set the sink's url to the new place"),
        400 | 422 => refused(body, why),
        408 | 502 | 503 | 504 => Verdict::Retry { reset: false, why },
        413 => Verdict::Split { max_bytes: None, why },
        429 => limited(answer, body, why),
        500 => failed(body, why),
        401 | 403 => hold(why, "check the sink's credentials and tenant"),
        404 | 405 => hold(why, "check the sink's url: Loki's push path is /loki/api/v1/push"),
        _ => hold(why, "check what answers at the sink's url"),
    }
}

/// Judges a request without an answer.
pub fn judge_fault(error: &TransportError) -> Verdict {
    let why = error.to_string();
    match error.fault {
        Fault::Resolve | Fault::Connect | Fault::Timeout | Fault::Cancelled => {
            Verdict::Retry { reset: false, why }
        }
        Fault::Reset => Verdict::Retry { reset: true, why },
        Fault::Protocol => hold(why, "what listens at the sink's url does not speak HTTP/1.1"),
        Fault::Tls => hold(why, "check tls.ca_file, tls.client and the host name in the url"),
        Fault::Request => hold(why, "check the sink's url, headers and proxy"),
    }
}

fn hold(why: String, cure: &'static str) -> Verdict {
    Verdict::Hold { why, cure }
}

fn refused(body: &str, why: String) -> Verdict {
    let refusals = refusal::parse(body);
    if !refusals.is_empty() {
        return Verdict::EntriesRefused { refusals, why };
    }
    if POISONED_STREAM.iter().any(|known| body.starts_with(known)) {
        return Verdict::Poisoned { unit: Unit::Stream, why };
    }
    if TENANT.iter().any(|known| body.starts_with(known)) {
        return hold(why, "check the sink's tenant");
    }
    hold(why, "an answer that is not known to be Loki's: check what answers at the sink's url")
}

fn limited(answer: &Answer, body: &str, why: String) -> Verdict {
    let retry_after = retry_after(answer);
    match refusal::stream_limit(body) {
        Some(limit) => Verdict::StreamLimited { limit, retry_after, why },
        None => Verdict::RateLimited { retry_after, limit_bytes: rate_limit_bytes(body), why },
    }
}

/// `ingestion rate limit exceeded for user U (limit: N bytes/sec) while ...`
fn rate_limit_bytes(body: &str) -> Option<u64> {
    let rest = body.strip_prefix("ingestion rate limit exceeded for user ")?;
    rest.split_once(" (limit: ")?.1.split_once(" bytes/sec)")?.0.parse().ok()
}

fn failed(body: &str, why: String) -> Verdict {
    if body.contains("ResourceExhausted") && body.contains("larger than max") {
        // `... larger than max (5002231 vs. 4194304)`
        let max = body.rsplit_once(" vs. ").and_then(|(_, max)| max.split_once(')'));
        return Verdict::Split { max_bytes: max.and_then(|(n, _)| n.parse().ok()), why };
    }
    if POISONED_ENTRY.iter().any(|known| body.contains(known)) && !body.starts_with('<') {
        return Verdict::Poisoned { unit: Unit::Entry, why };
    }
    Verdict::Retry { reset: false, why }
}

/// Seconds, or a date to be compared with the answer's own.
fn retry_after(answer: &Answer) -> Option<Duration> {
    let text = answer.retry_after.as_deref()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let seconds = http_date(text)? - http_date(answer.date.as_deref()?)?;
            Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
        }
    };
    Some(wait.min(limits::RETRY_AFTER_MAX))
}

/// Seconds since 1970 of an HTTP date (RFC 9110, the form that is to be sent).
pub fn http_date(text: &str) -> Option<i64> {
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    Some(PrimitiveDateTime::parse(text.trim(), format).ok()?.assume_utc().unix_timestamp())
}

/// Characters of an answer's body that go into our log.
const WHY_CHARS_MAX: usize = 200;

fn describe(status: u16, body: &str) -> String {
    let mut text: String = body.chars().take(WHY_CHARS_MAX).collect();
    text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.is_empty() { format!("status {status}") } else { format!("status {status}: {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sender::refusal::Cause;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, body: body.to_owned(), ..Answer::default() }
    }

    fn kind(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Delivered => "delivered",
            Verdict::Retry { .. } => "retry",
            Verdict::RateLimited { .. } => "rate",
            Verdict::StreamLimited { limit: StreamLimit::Rate, .. } => "stream-rate",
            Verdict::StreamLimited { limit: StreamLimit::Count, .. } => "stream-count",
            Verdict::Split { .. } => "split",
            Verdict::EntriesRefused { .. } => "entries",
            Verdict::Poisoned { unit: Unit::Stream, .. } => "poisoned-stream",
            Verdict::Poisoned { unit: Unit::Entry, .. } => "poisoned-entry",
            Verdict::Hold { .. } => "hold",
        }
    }

    #[test]
    fn statuses_without_a_known_text_condemn_nothing() {
        for (status, body, expected) in [
            (204, "", "delivered"),
            (200, "", "delivered"),
            (200, "<html>welcome</html>", "hold"),
            (202, "", "hold"),
            (260, "", "hold"),
            (301, "", "hold"),
            (400, "", "hold"),
            (400, "<html>bad request</html>", "hold"),
            (400, "<html>couldn't parse labels: </html>", "hold"),
            (401, "no org id", "hold"),
            (403, "", "hold"),
            (404, "404 page not found", "hold"),
            (408, "", "retry"),
            (409, "", "hold"),
            (413, "", "split"),
            (418, "", "hold"),
            (429, "slow down", "rate"),
            (500, "", "retry"),
            (500, "<html>label name is empty</html>", "retry"),
            (502, "bad gateway", "retry"),
            (503, "", "retry"),
            (504, "", "retry"),
            (599, "", "hold"),
        ] {
            assert_eq!(kind(&judge(&answer(status, body))), expected, "{status} {body}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let date = Some("Tue, 24 Nov 2026 21:00:00 GMT".to_owned());
        for (text, seconds) in [
            ("7", Some(7)),
            ("86400", Some(300)),
            ("Tue, 24 Nov 2026 21:00:09 GMT", Some(9)),
            ("Tue, 24 Nov 2026 20:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            let retry_after = Some(text.to_owned());
            let answer = Answer { status: 429, retry_after, date: date.clone(), ..answer(429, "") };
            let Verdict::RateLimited { retry_after, .. } = judge(&answer) else { panic!() };
            assert_eq!(retry_after, seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn faults_are_tried_again_unless_the_config_is_to_blame() {
        for (fault, expected) in [
            (Fault::Resolve, "retry"),
            (Fault::Connect, "retry"),
            (Fault::Timeout, "retry"),
            (Fault::Reset, "retry"),
            (Fault::Cancelled, "retry"),
            (Fault::Tls, "hold"),
            (Fault::Protocol, "hold"),
            (Fault::Request, "hold"),
        ] {
            let error = TransportError { fault, text: String::new() };
            assert_eq!(kind(&judge_fault(&error)), expected, "{fault:?}");
        }
    }

    /// Every recorded answer to a push, by the group or case that it belongs to.
    #[test]
    fn every_recorded_answer_has_its_row() {
        let contract = include_str!("../../tests/loki/contract.jsonl");
        let mut judged = std::collections::BTreeMap::<&str, u32>::new();
        for line in contract.lines() {
            let case: serde_json::Value = serde_json::from_str(line).unwrap();
            let name = case["case"].as_str().unwrap();
            let status = case["status"].as_u64().unwrap_or(0) as u16;
            if status == 0 || name.starts_with("ready-") || name.starts_with("otlp-") {
                continue;
            }
            let body = case["response_body"].as_str().unwrap_or_default();
            let verdict = judge(&answer(status, body));
            assert_eq!(kind(&verdict), expected(name, status, body), "{name}: {status} {body}");
            *judged.entry(kind(&verdict)).or_default() += 1;
            if let Verdict::EntriesRefused { refusals, .. } = &verdict {
                check_refusals(name, body, refusals);
            }
        }
        assert!(judged.len() == 10 && judged["entries"] > 40, "{judged:?}");
    }

    /// By words of the text alone, without the parser.
    fn expected(name: &str, status: u16, body: &str) -> &'static str {
        let has = |text: &str| body.contains(text);
        match status {
            _ if has("ingestion blocked") => "hold",
            204 => "delivered",
            400 if has("for stream '") || has("for stream: ") || has("stream '{") => "entries",
            400 | 422 if has("parse labels") || has("at least one") || has("reserved") => {
                "poisoned-stream"
            }
            400 if has("types.Timestamp") || has("proto: ") || has("corrupt input") => {
                "poisoned-stream"
            }
            400 if body.starts_with("EOF") || body.starts_with("unexpected EOF") => {
                "poisoned-stream"
            }
            413 => "split",
            429 if has("Per stream rate") => "stream-rate",
            429 if has("active stream limit") => "stream-count",
            429 => "rate",
            500 if has("ResourceExhausted") => "split",
            500 if name.starts_with("metadata-name") || has("no schema config") => "poisoned-entry",
            500 | 503 => "retry",
            _ => "hold",
        }
    }

    fn check_refusals(name: &str, body: &str, refusals: &[Refusal]) {
        let groups = body.matches(" errors like: ").count().max(1);
        assert_eq!(refusals.len(), groups, "{name}: {body}");
        let count: usize = refusals.iter().map(|r| r.count).sum();
        match name {
            "partial-old-500-same-second" | "partial-old-500-different-seconds" => {
                assert_eq!(count, 500);
            }
            "partial-mixed-reasons" => {
                let mut keys: Vec<_> = refusals.iter().map(|r| r.cause.key()).collect();
                keys.sort_unstable();
                assert_eq!(keys, ["line_too_long", "too_new", "too_old"]);
            }
            "partial-behind-11" => {
                let Cause::TooFarBehind { ignored, listed_ns, .. } = &refusals[0].cause else {
                    panic!("{refusals:?}")
                };
                assert_eq!((*ignored, listed_ns.len()), (11, 10));
            }
            _ => {}
        }
    }
}
