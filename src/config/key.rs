//! The place of a value in a config: names of mappings and indices of lists.
//!
//! Structural, so that a label name with a point in it is still one name. Owns the
//! two texts of a key: `sinks[0].url` in messages, `sinks[].url` in tables.

use std::fmt;

/// One step down into a mapping or a list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    Name(String),
    Index(usize),
}

/// A path from the top of the file to a value; empty for the whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Key(Vec<Segment>);

impl Key {
    /// The whole file.
    pub fn root() -> Self {
        Self::default()
    }

    /// The value of `name` in this mapping.
    pub fn name(&self, name: &str) -> Self {
        self.with(Segment::Name(name.to_owned()))
    }

    /// The item `index` of this list, counted from 0.
    pub fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    /// One step further down.
    pub fn with(&self, segment: Segment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Self(segments)
    }

    /// What contains this value; the whole file contains itself.
    pub fn parent(&self) -> Self {
        let mut segments = self.0.clone();
        segments.pop();
        Self(segments)
    }

    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// The last name, empty for list items and the whole file.
    pub fn last(&self) -> &str {
        match self.0.last() {
            Some(Segment::Name(name)) => name,
            _ => "",
        }
    }

    /// The key without indices, as tables of keys write it: `sources.files[].name`.
    pub fn general(&self) -> String {
        self.text(|_| "[]".to_owned())
    }

    fn text(&self, index: impl Fn(usize) -> String) -> String {
        let mut out = String::new();
        for segment in &self.0 {
            match segment {
                Segment::Name(name) => {
                    if !out.is_empty() {
                        out.push('.');
                    }
                    out.push_str(name);
                }
                Segment::Index(i) => out.push_str(&index(*i)),
            }
        }
        out
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(|i| format!("[{i}]")))
    }
}
