//! The small part of `GET /loki/api/v1/query_range` that replaying the contract needs.
//!
//! A selector of equalities, at most one `|= "text"`, a range of nanoseconds, forward. Entries are
//! always answered with their metadata apart from the stream's labels (categorize-labels).

use super::ingester::{Ingester, Stored};
use super::labels::{self, Labels};
use super::limits::Limits;
use super::push::go_text;
use serde_json::{Map, Value, json};

struct Query {
    selector: Labels,
    contains: Option<String>,
    start_ns: i64,
    end_ns: i64,
    limit: usize,
}

/// Answers a query string; an error is the text of a 400.
pub fn answer(
    ingester: &mut Ingester,
    tenant: &str,
    query: &str,
    limits: &Limits,
) -> Result<String, String> {
    let query = parse(query)?;
    let mut result = Vec::new();
    let mut left = query.limit;
    let streams = ingester.tenants.get_mut(tenant).into_iter().flat_map(|t| t.streams.values_mut());
    for stream in streams {
        if query.selector.iter().any(|pair| !stream.labels.contains(pair)) {
            continue;
        }
        let labels = stream.labels.clone();
        let entries = stream.entries();
        let from = entries.partition_point(|e| e.ts_ns < query.start_ns);
        let to = entries.partition_point(|e| e.ts_ns < query.end_ns);
        let mut values = Vec::new();
        for entry in entries.get(from..to).unwrap_or_default() {
            let line = go_text(&entry.line, '\u{fffd}');
            if left > 0 && query.contains.as_ref().is_none_or(|text| line.contains(text)) {
                let metadata = shown_metadata(entry, &labels, &line, limits);
                let more = json!({ "structuredMetadata": metadata });
                values.push(json!([entry.ts_ns.to_string(), line, more]));
                left -= 1;
            }
        }
        if !values.is_empty() {
            let labels: Map<_, _> = labels.into_iter().map(|(n, v)| (n, v.into())).collect();
            result.push(json!({ "stream": labels, "values": values }));
        }
    }
    let data = json!({ "resultType": "streams", "result": result });
    Ok(json!({ "status": "success", "data": data }).to_string())
}

fn parse(text: &str) -> Result<Query, String> {
    let value = |name: &str| {
        let mut pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(n, _)| *n == name).map(|(_, v)| percent_decode(v))
    };
    let number = |name: &str| value(name).and_then(|v| v.parse::<i64>().ok());
    let selector = value("query").ok_or("no query")?;
    let (selector, rest) = labels::parse_prefix(selector.as_bytes())?;
    let rest = String::from_utf8_lossy(rest);
    let contains = match rest.trim() {
        "" => None,
        rest => {
            let text = rest.strip_prefix("|=").ok_or("only |= is understood")?;
            let quoted = text.trim().strip_prefix('"').and_then(|t| t.strip_suffix('"'));
            Some(quoted.ok_or("a quoted text has to follow |=")?.to_owned())
        }
    };
    Ok(Query {
        selector,
        contains,
        start_ns: number("start").unwrap_or(i64::MIN),
        end_ns: number("end").unwrap_or(i64::MAX),
        limit: number("limit").unwrap_or(100) as usize,
    })
}

fn percent_decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(c) = bytes.next() {
        let hex = |c: Option<u8>| char::from(c.unwrap_or(b'0')).to_digit(16).unwrap_or(0) as u8;
        out.push(match c {
            b'+' => b' ',
            b'%' => hex(bytes.next()) << 4 | hex(bytes.next()),
            c => c,
        });
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn shown_metadata(entry: &Stored, labels: &Labels, line: &str, limits: &Limits) -> Value {
    let mut out = Map::new();
    for (name, value) in &entry.metadata {
        let is_label = labels.iter().any(|(n, _)| n == name);
        let name = if is_label { format!("{name}_extracted") } else { name.clone() };
        out.insert(name, value.clone().into());
    }
    if limits.discover_log_levels
        && limits.allow_structured_metadata
        && !out.contains_key("detected_level")
    {
        out.insert("detected_level".into(), detected_level(entry, labels, line).into());
    }
    out.into()
}

const LEVEL_FIELDS: [&str; 5] = ["level", "LEVEL", "Level", "severity", "lvl"];

/// A rough form of Loki's level detection: metadata, label, JSON, logfmt, then words.
fn detected_level(entry: &Stored, labels: &Labels, line: &str) -> &'static str {
    let named = |pairs: &[(String, String)]| {
        let pair = pairs.iter().find(|(n, _)| LEVEL_FIELDS.contains(&n.as_str()));
        pair.map(|(_, value)| value.clone())
    };
    let in_json = || {
        let value: Value = serde_json::from_str(line).ok()?;
        LEVEL_FIELDS.iter().find_map(|f| Some(value.get(f)?.as_str()?.to_owned()))
    };
    let in_logfmt = || {
        let mut fields = line.split(' ').filter_map(|field| field.split_once('='));
        fields.find(|(n, _)| LEVEL_FIELDS.contains(n)).map(|(_, v)| v.trim_matches('"').to_owned())
    };
    let json = line.starts_with('{');
    let given = named(&entry.metadata).or_else(|| named(labels));
    let given = given.or_else(|| if json { in_json() } else { in_logfmt() });
    if let Some(level) = given {
        return match level.to_ascii_lowercase().as_str() {
            "trace" | "trc" => "trace",
            "debug" | "dbg" => "debug",
            "info" | "inf" | "information" => "info",
            "warn" | "wrn" | "warning" => "warn",
            "error" | "err" => "error",
            "critical" => "critical",
            "fatal" => "fatal",
            _ => "unknown",
        };
    }
    let words: [(&str, &[&str]); 5] = [
        ("info", &["info:", "INFO:", "info", "INFO"]),
        ("error", &["err:", "ERR:", "error", "ERROR"]),
        ("warn", &["warn:", "WARN:", "warning", "WARNING"]),
        ("critical", &["critical:", "CRITICAL:"]),
        ("debug", &["debug:", "DEBUG:"]),
    ];
    let found = words.iter().find(|(_, words)| words.iter().any(|word| line.contains(word)));
    found.map_or("unknown", |(level, _)| level)
}
