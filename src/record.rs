//! The nouns that cross module borders: records, streams, sources, places.
//!
//! Pure data. Who may change a place: lanes make them, only `ack` commits them.

use std::fmt::Write as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Names a followed file or container for one run of the process.
/// Given out by [`crate::ack::AckPort::register`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u32);

/// Which standard stream of a container a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StdStream {
    Stdout,
    Stderr,
}

impl StdStream {
    /// The value of the label `stream`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// 0 for stdout, 1 for stderr: the index into a pair of states.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// The last record had from a container's log in stored order (API way): how its place is
/// found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMark {
    pub stream: StdStream,
    pub time_ns: i64,
    /// Number of the piece within a long line, from 0.
    pub piece: u32,
    /// xxh3 of the record's text.
    pub text_hash: u64,
}

/// A place between two records of one source, in the order they are stored there.
///
/// For files `offset` is the byte offset of the next record; for containers read through the
/// API it is a running number, and `mark` says which record stands just before the place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub offset: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<StoredMark>,
}

impl Place {
    /// The place at a byte offset of a file.
    pub const fn at(offset: u64) -> Self {
        Self { offset, mark: None }
    }
}

/// A set of labels, interned: one `Arc` a stream.
#[derive(Debug)]
pub struct StreamLabels {
    /// Sorted by name; names and values valid for Loki.
    pairs: Vec<(String, String)>,
    /// As Loki takes it: `{a="b", c="d"}`.
    text: String,
    /// xxh3 of `text`: the same after a restart, so that a stream keeps its shard.
    hash: u64,
    /// What its lines are sent under when a sink takes no further stream.
    base: Option<Arc<StreamLabels>>,
}

impl PartialEq for StreamLabels {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.text == other.text
    }
}

impl Eq for StreamLabels {}

impl StreamLabels {
    /// Builds the set from pairs; of equal names the last wins, empty values vanish.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Arc<Self> {
        Self::build(pairs, None)
    }

    /// The same, with the labels that stand in for it past a sink's limit of streams.
    pub fn with_base(
        pairs: impl IntoIterator<Item = (String, String)>,
        base: Arc<StreamLabels>,
    ) -> Arc<Self> {
        Self::build(pairs, Some(base))
    }

    fn build(
        pairs: impl IntoIterator<Item = (String, String)>,
        base: Option<Arc<StreamLabels>>,
    ) -> Arc<Self> {
        let mut sorted: Vec<(String, String)> = pairs.into_iter().collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        let mut pairs: Vec<(String, String)> = Vec::with_capacity(sorted.len());
        for pair in sorted {
            match pairs.last_mut() {
                Some(last) if last.0 == pair.0 => *last = pair,
                _ => pairs.push(pair),
            }
        }
        pairs.retain(|(_, value)| !value.is_empty());
        let text = label_text(&pairs);
        let hash = xxhash_rust::xxh3::xxh3_64(text.as_bytes());
        Arc::new(Self { pairs, text, hash, base })
    }

    pub fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// See [`Self::with_base`].
    pub fn base(&self) -> Option<&Arc<StreamLabels>> {
        self.base.as_ref()
    }
}

/// Writes pairs as Loki's label string, values escaped as Go strings.
fn label_text(pairs: &[(String, String)]) -> String {
    let mut text = String::from("{");
    for (i, (name, value)) in pairs.iter().enumerate() {
        if i > 0 {
            text.push_str(", ");
        }
        let _ = write!(text, "{name}=\"");
        for c in value.chars() {
            match c {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                c if c.is_control() => {
                    let _ = write!(text, "\\u{:04x}", c as u32);
                }
                c => text.push(c),
            }
        }
        text.push('"');
    }
    text.push('}');
    text
}

/// Makes a label name valid for Loki: `[a-zA-Z_][a-zA-Z0-9_]*`.
pub fn label_name(raw: &str) -> String {
    let mut name: String =
        raw.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert(0, '_');
    }
    name.truncate(crate::limits::LABEL_NAME_BYTES_MAX);
    name
}

/// One line on its way to the sinks. Borrowed: it lives no longer than the call.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub timestamp_ns: i64,
    /// Valid UTF-8, without its line end.
    pub line: &'a [u8],
    pub labels: &'a Arc<StreamLabels>,
    /// Structured metadata: names valid for Loki. Depends on the record alone.
    pub metadata: &'a [(&'a str, &'a str)],
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Arc<StreamLabels> {
        StreamLabels::new(pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())))
    }

    #[test]
    fn labels_are_sorted_escaped_and_hashed_by_content() {
        let a = labels(&[("b", "x\"\\\n"), ("a", "1"), ("a", "2"), ("c", "")]);
        assert_eq!(a.text(), r#"{a="2", b="x\"\\\n"}"#);
        assert_eq!(a.hash(), labels(&[("a", "2"), ("b", "x\"\\\n")]).hash());
        assert_ne!(a.hash(), labels(&[("a", "2")]).hash());
    }

    #[test]
    fn label_names_are_made_valid() {
        for (raw, name) in [("a-b.c", "a_b_c"), ("1x", "_1x"), ("", "_"), ("ok_1", "ok_1")] {
            assert_eq!(label_name(raw), name);
        }
    }
}
