//! Where each key and value of a config stands in its text.
//!
//! serde_yaml's values carry no places, so the same text is read a second time by a
//! parser that gives them. This index decides nothing about the config: what it
//! does not know (values behind an alias, a text that only one parser accepts) has the
//! place of the nearest thing around it. Flat on purpose: a tree of boxes nested as
//! deep as the input would overflow the stack when dropped.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span as YamlSpan};

use super::key::{Key, Segment};

/// A range of the text. Lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub line: usize,
    pub column: usize,
    /// Characters on the first line, at least 1; `usize::MAX` up to the end of the line.
    pub width: usize,
    pub last_line: usize,
}

impl Span {
    /// The start of the text, where faults of the whole file are shown.
    pub const TOP: Self = Self { line: 1, column: 1, width: 1, last_line: 1 };

    fn of(span: &YamlSpan) -> Self {
        let (start, end) = (span.start, span.end);
        let one_line = start.line() == end.line();
        let width =
            if one_line { end.col().saturating_sub(start.col()).max(1) } else { usize::MAX };
        Self { line: start.line(), column: start.col() + 1, width, last_line: end.line() }
    }
}

#[derive(Debug)]
struct Node {
    key: Option<Span>,
    value: Span,
    /// A plain (unquoted) scalar as it is written.
    plain: Option<String>,
    is_scalar: bool,
    path: Key,
}

/// Collections within collections that are indexed: serde_yaml's own limit, beyond which
/// the text is refused anyway. Bounds the length of a path.
const DEPTH_MAX: usize = 128;

/// The index of one text.
#[derive(Debug)]
pub struct Marks {
    nodes: Vec<Node>,
    children: HashMap<(usize, Segment), usize>,
    /// Keys given twice in one mapping, with the place of the second.
    pub duplicates: Vec<(Key, Span)>,
}

/// A collection that is open while the events of its content pass.
enum Open {
    /// The key whose value comes next.
    Mapping(usize, Option<(String, Span)>),
    /// The index of the next item.
    Sequence(usize, usize),
    /// A collection used as a key; nothing in it has a path.
    Skipped,
}

impl Marks {
    /// Indexes `text` as far as it can be parsed.
    pub fn of(text: &str) -> Self {
        let mut marks =
            Self { nodes: Vec::new(), children: HashMap::new(), duplicates: Vec::new() };
        let lines: Vec<&str> = text.lines().collect();
        let mut open: Vec<Open> = Vec::new();
        for event in Parser::new_from_str(text) {
            let Ok((event, span)) = event else { break };
            if open.len() > DEPTH_MAX {
                break;
            }
            let span = Span::of(&span);
            match event {
                Event::Scalar(value, style, ..) => {
                    let span = without_trailer(span, style, &lines);
                    marks.scalar(&mut open, &value, style, span);
                }
                Event::Alias(_) => {
                    marks.node(&mut open, span, None, false);
                }
                Event::MappingStart(..) => {
                    let node = marks.node(&mut open, span, None, false);
                    open.push(node.map_or(Open::Skipped, |n| Open::Mapping(n, None)));
                }
                Event::SequenceStart(..) => {
                    let node = marks.node(&mut open, span, None, false);
                    open.push(node.map_or(Open::Skipped, |n| Open::Sequence(n, 0)));
                }
                Event::MappingEnd | Event::SequenceEnd => {
                    open.pop();
                }
                // A second document: the config is the first, serde_yaml refuses the rest.
                Event::DocumentEnd => break,
                _ => {}
            }
        }
        marks
    }

    fn scalar(&mut self, open: &mut [Open], value: &str, style: ScalarStyle, span: Span) {
        if let Some(Open::Mapping(_, key @ None)) = open.last_mut() {
            *key = Some((value.to_owned(), span));
            return;
        }
        let plain = (style == ScalarStyle::Plain).then(|| value.to_owned());
        self.node(open, span, plain, true);
    }

    /// Adds the value that begins at `span` to what is open; None in or as a complex key.
    fn node(
        &mut self,
        open: &mut [Open],
        value: Span,
        plain: Option<String>,
        is_scalar: bool,
    ) -> Option<usize> {
        let (parent, segment, key) = match open.last_mut() {
            None if self.nodes.is_empty() => {
                let path = Key::root();
                self.nodes.push(Node { key: None, value, plain, is_scalar, path });
                return Some(0);
            }
            None | Some(Open::Skipped) => return None,
            Some(Open::Mapping(node, key)) => match key.take() {
                Some((name, span)) => (*node, Segment::Name(name), Some(span)),
                None => {
                    *key = Some(("?".to_owned(), value));
                    return None;
                }
            },
            Some(Open::Sequence(node, next)) => {
                *next += 1;
                (*node, Segment::Index(*next - 1), None)
            }
        };
        let path = self.nodes[parent].path.with(segment.clone());
        let new = self.nodes.len();
        if self.children.contains_key(&(parent, segment.clone())) {
            self.duplicates.push((path.clone(), key.unwrap_or(value)));
        } else {
            self.children.insert((parent, segment), new);
        }
        self.nodes.push(Node { key, value, plain, is_scalar, path });
        Some(new)
    }

    fn find(&self, key: &Key) -> (Option<&Node>, bool) {
        let mut at = 0;
        for segment in key.segments() {
            match self.children.get(&(at, segment.clone())) {
                Some(&child) => at = child,
                None => return (self.nodes.get(at), false),
            }
        }
        (self.nodes.get(at), true)
    }

    /// The place of the key's value: of a scalar itself, of a collection its key.
    pub fn value(&self, key: &Key) -> Span {
        match self.find(key) {
            (Some(node), true) if node.is_scalar => node.value,
            _ => self.key(key),
        }
    }

    /// The place of the key's name; of a list item its start; of what is not in the text
    /// that of what should contain it.
    pub fn key(&self, key: &Key) -> Span {
        match self.find(key).0 {
            Some(node) => node.key.unwrap_or(Span {
                width: if node.is_scalar { node.value.width } else { 1 },
                ..node.value
            }),
            None => Span::TOP,
        }
    }

    /// An unquoted scalar as it is written: `1.10`, where the parsed number would be 1.1.
    pub fn plain(&self, key: &Key) -> Option<&str> {
        match self.find(key) {
            (Some(node), true) => node.plain.as_deref(),
            _ => None,
        }
    }

    /// Whether the text has this key at all.
    pub fn has(&self, key: &Key) -> bool {
        self.find(key).1
    }

    /// The spans of all values whose path `wanted` accepts.
    pub fn values(&self, wanted: impl Fn(&Key) -> bool) -> Vec<Span> {
        self.nodes.iter().filter(|n| n.is_scalar && wanted(&n.path)).map(|n| n.value).collect()
    }
}

/// The parser counts blanks and a comment behind a closing quote to the scalar.
fn without_trailer(span: Span, style: ScalarStyle, lines: &[&str]) -> Span {
    let quote = match style {
        ScalarStyle::SingleQuoted => '\'',
        ScalarStyle::DoubleQuoted => '"',
        _ => return span,
    };
    let line = lines.get(span.line - 1).copied().unwrap_or_default();
    let mut chars = line.chars().skip(span.column).enumerate();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && quote == '"' {
            chars.next();
        } else if c == quote {
            return Span { width: at + 2, last_line: span.line, ..span };
        }
    }
    span
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        text.split('.').fold(Key::root(), |key, part| match part.parse() {
            Ok(index) => key.index(index),
            Err(_) => key.name(part),
        })
    }

    #[test]
    fn places_of_scalars_collections_and_missing_keys() {
        let text = "a: 1\nb:\n  - { c: xyz, d: \"q\" } # c\n  - |\n    two\n    lines\n";
        let marks = Marks::of(text);
        let check = |name: &str, line, column, width| {
            let span = marks.value(&key(name));
            assert_eq!((span.line, span.column, span.width), (line, column, width), "{name}");
        };
        check("a", 1, 4, 1);
        check("b", 2, 1, 1);
        check("b.0.c", 3, 10, 3);
        check("b.0.d", 3, 18, 3);
        // A missing key has the place of what should contain it.
        check("b.0.zzz", 3, 5, 1);
        check("zzz", 1, 1, 1);
        assert_eq!((marks.value(&key("b.1")).line, marks.value(&key("b.1")).last_line), (5, 7));
        assert_eq!(marks.plain(&key("b.0.c")), Some("xyz"));
        assert_eq!(marks.plain(&key("b.0.d")), None);
        assert!(marks.has(&key("b.0")) && !marks.has(&key("b.2")));
    }

    #[test]
    fn duplicate_keys_are_found_with_the_place_of_the_second() {
        let marks = Marks::of("a: {x: 1, x: 2}\nb: 1\na: 3\n");
        let found: Vec<_> =
            marks.duplicates.iter().map(|(k, s)| (k.to_string(), s.line, s.column)).collect();
        assert_eq!(found, [("a.x".to_owned(), 1, 11), ("a".to_owned(), 3, 1)]);
    }

    #[test]
    fn complex_keys_and_broken_texts_do_not_confuse_the_rest() {
        let marks = Marks::of("? [a, {b: c}]\n: 1\nd: 2\n");
        assert_eq!(marks.value(&key("d")).line, 3);
        assert!(Marks::of("a: 1\nb: [\n").has(&key("a")));
        assert_eq!(Marks::of("").value(&key("a")), Span::TOP);
        Marks::of(&"[".repeat(100_000));
        Marks::of(&"- ".repeat(20_000));
    }
}
