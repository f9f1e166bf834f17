//! One dead letter as one JSON object on one line. Pure.

use serde::Serialize;
use serde::ser::{SerializeMap as _, SerializeSeq as _, Serializer};

use crate::batch::{SourceSpan, ndjson};
use crate::limits;
use crate::record::StreamLabels;

/// A line that a sink refused for good, or that a rule diverted. Borrowed.
#[derive(Clone, Copy)]
pub struct DeadLetter<'a> {
    pub labels: &'a StreamLabels,
    pub time_ns: i64,
    pub line: &'a [u8],
    pub metadata: &'a [(&'a str, &'a str)],
    /// A short key, as in the metric: `too_old`, `line_too_long`.
    pub cause: &'a str,
    /// In the sink's own words.
    pub reason: &'a str,
    /// The answer's status; 0: the line was never sent.
    pub status: u16,
    /// Empty: before any sink.
    pub sink: &'a str,
    pub first_failure_ns: i64,
    pub attempts: u32,
    /// The sources of the batch that held it, with the place before their first record.
    pub sources: &'a [SourceSpan],
}

#[derive(Serialize)]
struct Row<'a> {
    time: String,
    time_ns: i64,
    #[serde(serialize_with = "labels")]
    labels: &'a StreamLabels,
    line: &'a str,
    /// Length of a line that was cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    cut_from_bytes: Option<usize>,
    #[serde(serialize_with = "map", skip_serializing_if = "<[_]>::is_empty")]
    metadata: &'a [(&'a str, &'a str)],
    cause: &'a str,
    reason: &'a str,
    status: u16,
    sink: &'a str,
    first_failure: String,
    attempts: u32,
    #[serde(serialize_with = "sources")]
    sources: &'a [SourceSpan],
}

#[derive(Serialize)]
struct SourceRow {
    id: u32,
    offset: u64,
}

fn labels<S: Serializer>(labels: &&StreamLabels, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(labels.pairs().len()))?;
    for (name, value) in labels.pairs() {
        map.serialize_entry(name, value)?;
    }
    map.end()
}

fn map<S: Serializer>(pairs: &&[(&str, &str)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(pairs.len()))?;
    for (name, value) in *pairs {
        map.serialize_entry(name, value)?;
    }
    map.end()
}

fn sources<S: Serializer>(spans: &&[SourceSpan], serializer: S) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(Some(spans.len()))?;
    for span in *spans {
        list.serialize_element(&SourceRow { id: span.source.0, offset: span.start.offset })?;
    }
    list.end()
}

fn time(ns: i64) -> String {
    let mut out = Vec::new();
    ndjson::put_time(&mut out, ns);
    String::from_utf8(out).unwrap_or_default()
}

impl DeadLetter<'_> {
    /// Appends the object and its newline.
    pub fn write(&self, out: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(self.line);
        let mut end = text.len().min(limits::DEAD_LETTER_LINE_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let row = Row {
            time: time(self.time_ns),
            time_ns: self.time_ns,
            labels: self.labels,
            line: &text[..end],
            cut_from_bytes: (end < text.len()).then_some(self.line.len()),
            metadata: self.metadata,
            cause: self.cause,
            reason: self.reason,
            status: self.status,
            sink: self.sink,
            first_failure: time(self.first_failure_ns),
            attempts: self.attempts,
            sources: self.sources,
        };
        // Writing to a Vec cannot fail, and every key is a string.
        let _ = serde_json::to_writer(&mut *out, &row);
        out.push(b'\n');
    }
}
