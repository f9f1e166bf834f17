//! Every config error and warning is built here.
//!
//! One form for all: `file:line:col: key: what is wrong, expected what`, then the line
//! with a caret below the mistake. Secrets are masked in the line that is shown, since
//! people paste such output into tickets.

use std::fmt;

use super::key::Key;
use super::marks::{Marks, Span};

/// Characters of a source line that are shown; longer lines are cut around the caret.
const SHOWN_CHARS_MAX: usize = 160;
/// Bytes of a line that is shown at all: nobody reads a longer one, and each is masked anew.
const LINE_BYTES_MAX: usize = 16 << 10;
/// Diagnostics of one file; a file with more is no config, and the first are enough.
const FOUND_MAX: usize = 500;
/// Characters of a value that a message quotes.
const QUOTED_CHARS_MAX: usize = 80;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// One mistake, or one thing worth knowing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// As given on the command line.
    pub file: String,
    /// From 1; 0 where the fault has no place in the text (the file cannot be read).
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// `sinks[0].url`; empty for faults of the whole file.
    pub key: String,
    /// What is wrong and what was expected.
    pub message: String,
    /// The line with secrets masked, and where the caret begins in it (in characters).
    pub shown: Option<Shown>,
}

/// A line of the file, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub text: String,
    pub caret: usize,
    pub width: usize,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        f.write_str(": ")?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if let Some(shown) = &self.shown {
            let number = self.line.to_string();
            let (gutter, blanks) = (number.len(), shown.caret);
            write!(f, "\n  {number} | {}", shown.text)?;
            let carets = "^".repeat(shown.width);
            write!(f, "\n  {:gutter$} | {:blanks$}{carets}", "", "")?;
        }
        Ok(())
    }
}

/// Collects what is wrong with one file.
pub struct Report<'a> {
    file: &'a str,
    lines: Vec<&'a str>,
    marks: &'a Marks,
    /// Values that are never shown.
    secrets: Vec<Span>,
    found: Vec<Diagnostic>,
    /// An error was found, also one past the bound.
    failed: bool,
}

impl<'a> Report<'a> {
    /// A report on `text`, called `file` in messages.
    pub fn new(file: &'a str, text: &'a str, marks: &'a Marks) -> Self {
        let secrets = marks.values(is_secret);
        Self {
            file,
            lines: text.lines().collect(),
            marks,
            secrets,
            found: Vec::new(),
            failed: false,
        }
    }

    /// The value of `key` is not what it must be.
    pub fn bad(&mut self, key: &Key, wrong: impl fmt::Display, expected: impl fmt::Display) {
        let message = format!("{wrong}, expected {expected}");
        self.push(Severity::Error, key, self.marks.value(key), message);
    }

    /// The name of `key` itself is not what it must be.
    pub fn bad_name(&mut self, key: &Key, wrong: impl fmt::Display, expected: impl fmt::Display) {
        let message = format!("{wrong}, expected {expected}");
        self.push(Severity::Error, key, self.marks.key(key), message);
    }

    /// The value of `key` cannot be accepted; the message says why and what to do.
    pub fn refuse(&mut self, key: &Key, message: impl fmt::Display) {
        self.push(Severity::Error, key, self.marks.value(key), message.to_string());
    }

    /// `key` must be given.
    pub fn missing(&mut self, key: &Key, expected: impl fmt::Display) {
        let message = format!("is missing, expected {expected}");
        self.push(Severity::Error, key, self.marks.key(key), message);
    }

    /// `key` exists in the design, but not in this version.
    pub fn unsupported(&mut self, key: &Key, what: &str) {
        let message = format!("{what} is not supported by this version yet, remove the key");
        self.push(Severity::Error, key, self.marks.key(key), message);
    }

    /// `key` belongs to another type of sink.
    pub fn foreign(&mut self, key: &Key, kind: &str) {
        let message = format!("is not a key of a sink of type {kind}, remove it");
        self.push(Severity::Error, key, self.marks.key(key), message);
    }

    /// `key` does not exist; `known` are all that do, in the form of `Key::general`.
    pub fn unknown(&mut self, key: &Key, known: &[String]) {
        let place = key.parent().general();
        let siblings = siblings(&place, known);
        let mut message = "unknown key".to_owned();
        if let Some(near) = nearest(key.last(), &siblings) {
            message.push_str(&format!(", did you mean `{near}`?"));
        } else if let Some(other) = elsewhere(key.last(), known) {
            message
                .push_str(&format!(", expected here: {}; `{other}` exists", siblings.join(", ")));
        } else {
            message.push_str(&format!(", expected one of {}", siblings.join(", ")));
        }
        let mut span = self.marks.key(key);
        if !self.marks.has(key) {
            span = Span::TOP;
        }
        let pushed = self.push(Severity::Error, key, span, message);
        // The value may be a secret under a misspelt name: show the name only.
        if let Some(shown) = pushed.and_then(|d| d.shown.as_mut()) {
            let end = shown.caret + shown.width;
            if shown.text.chars().count() > end + 1 {
                shown.text = shown.text.chars().take(end).collect();
                shown.text.push_str(": ...");
            }
        }
    }

    /// A key stands twice in one mapping; `span` is the second one's place.
    pub fn duplicate(&mut self, key: &Key, span: Span) {
        let first = self.marks.key(key).line;
        let message = format!("is given twice, expected once (the first is in line {first})");
        self.push(Severity::Error, key, span, message);
    }

    /// The text is not YAML, or YAML that a config cannot be.
    pub fn syntax(&mut self, key: &str, line: usize, column: usize, message: String) {
        let line = line.clamp(1, self.lines.len().max(1));
        let span = Span { line, column: column.max(1), width: 1, last_line: line };
        if let Some(pushed) = self.push(Severity::Error, &Key::root(), span, message) {
            key.clone_into(&mut pushed.key);
        }
    }

    pub fn warn(&mut self, key: &Key, message: impl fmt::Display) {
        self.push(Severity::Warning, key, self.marks.value(key), message.to_string());
    }

    /// Whether an error (not a warning) was found.
    pub fn has_errors(&self) -> bool {
        self.failed
    }

    /// Errors so far in the items of `sources` and `sinks`.
    pub fn errors_in_lists(&self) -> usize {
        let in_lists = |key: &str| key.starts_with("sources") || key.starts_with("sinks");
        let errors = self.found.iter().filter(|d| d.severity == Severity::Error);
        errors.filter(|d| in_lists(&d.key)).count()
    }

    /// All that was found, by place.
    pub fn finish(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(|d| (d.line, d.column));
        self.found.dedup();
        self.found
    }

    fn push(
        &mut self,
        severity: Severity,
        key: &Key,
        span: Span,
        message: String,
    ) -> Option<&mut Diagnostic> {
        self.failed |= severity == Severity::Error;
        if self.found.len() >= FOUND_MAX {
            return None;
        }
        let file = self.file.to_owned();
        let shown = self.show(span);
        let (line, column) = (span.line, span.column);
        let key = key.to_string();
        self.found.push(Diagnostic { severity, file, line, column, key, message, shown });
        self.found.last_mut()
    }

    fn show(&self, span: Span) -> Option<Shown> {
        let line = self.lines.get(span.line.checked_sub(1)?)?;
        if line.len() > LINE_BYTES_MAX {
            return None;
        }
        let masked = self.mask(line, span.line);
        let count = masked.len();
        let caret = (span.column - 1).min(count);
        let width = span.width.min(count.saturating_sub(caret)).max(1);
        let from =
            if count > SHOWN_CHARS_MAX { caret.saturating_sub(SHOWN_CHARS_MAX / 2) } else { 0 };
        let to = count.min(from + SHOWN_CHARS_MAX);
        let width = width.min(to.saturating_sub(caret).max(1));
        let text: String = masked[from..to].iter().collect();
        Some(Shown { text: text.trim_end().to_owned(), caret: caret - from, width })
    }

    /// The line's characters without secrets; as many as it has, so that the caret fits.
    fn mask(&self, line: &str, number: usize) -> Vec<char> {
        let mut chars: Vec<char> =
            line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        for span in &self.secrets {
            if span.line == number {
                let end = span.column.saturating_sub(1).saturating_add(span.width);
                stars(&mut chars, span.column - 1, end);
            } else if span.line < number && number <= span.last_line {
                stars(&mut chars, 0, usize::MAX);
            }
        }
        mask_by_name(&mut chars);
        mask_user_info(&mut chars);
        chars
    }
}

fn stars(chars: &mut [char], from: usize, to: usize) {
    let to = to.min(chars.len());
    for c in chars.iter_mut().take(to).skip(from) {
        if *c != ' ' {
            *c = '*';
        }
    }
}

/// Values at these keys, and at misplaced ones below them, are never shown.
fn is_secret(key: &Key) -> bool {
    let general = key.general();
    let below = |name: &str| general.contains(name);
    (below("].auth") && !general.ends_with(".user")) || below("].headers")
}

/// For texts that could not be indexed: what follows a telling name is masked.
fn mask_by_name(chars: &mut [char]) {
    let lower: String = chars.iter().map(|c| c.to_ascii_lowercase()).collect();
    for name in ["password", "passwd", "bearer", "token", "secret", "authorization"] {
        let mut from = 0;
        while let Some(at) = lower[from..].find(name) {
            let end = from + at + name.len();
            from = end;
            let after = lower[..end].chars().count();
            let of_name =
                |c: &char| c.is_alphanumeric() || matches!(c, '"' | '\'' | ' ' | '_' | '-');
            let colon = chars[after..].iter().position(|c| !of_name(c));
            if let Some(colon) = colon.filter(|c| chars[after + c] == ':') {
                stars(chars, after + colon + 1, value_end(chars, after + colon + 1));
            }
        }
    }
}

fn value_end(chars: &[char], from: usize) -> usize {
    let end = chars[from..].iter().position(|c| matches!(c, ',' | '}'));
    end.map_or(chars.len(), |e| from + e)
}

/// Masks `user:password` in `scheme://user:password@host`.
fn mask_user_info(chars: &mut [char]) {
    let mut from = 0;
    while let Some(at) = find(&chars[from..], &['/', '/']) {
        let start = from + at + 2;
        let end = chars[start..]
            .iter()
            .position(|c| matches!(c, '/' | ' ' | '"' | '\''))
            .map_or(chars.len(), |e| start + e);
        if let Some(at) = chars[start..end].iter().rposition(|c| *c == '@') {
            stars(chars, start, start + at);
        }
        from = end.max(start);
    }
}

fn find(chars: &[char], what: &[char]) -> Option<usize> {
    chars.windows(what.len()).position(|w| w == what)
}

/// A value as messages quote it: bounded, control characters visible, no password of a URL.
pub fn quote(value: &str) -> String {
    let mut chars: Vec<char> = value.chars().take(QUOTED_CHARS_MAX).collect();
    mask_user_info(&mut chars);
    let text: String = chars.iter().collect();
    let more = if value.chars().nth(QUOTED_CHARS_MAX).is_some() { "..." } else { "" };
    format!("`{}{more}`", text.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'"))
}

/// The names that exist in the section `place`.
fn siblings<'k>(place: &str, known: &'k [String]) -> Vec<&'k str> {
    let mut out: Vec<&str> = Vec::new();
    for key in known {
        let below = match key.strip_prefix(place) {
            Some(rest) if place.is_empty() => rest,
            Some(rest) if rest.starts_with('.') => &rest[1..],
            _ => continue,
        };
        let name = below.split(['.', '[']).next().unwrap_or(below);
        if !out.contains(&name) {
            out.push(name);
        }
    }
    out
}

/// A full key elsewhere whose last name is `name`, such as `sinks[].batch.bytes`.
fn elsewhere<'k>(name: &str, known: &'k [String]) -> Option<&'k String> {
    known.iter().find(|key| key.rsplit(['.', ']']).next() == Some(name))
}

/// The candidate that is a likely misspelling away: at most a third of its letters.
pub fn nearest<'k>(name: &str, candidates: &[&'k str]) -> Option<&'k str> {
    if name.len() > 64 {
        return None;
    }
    candidates
        .iter()
        .map(|c| (edit_distance(name, c), *c))
        .filter(|(distance, c)| *distance <= (c.len().max(3) / 3).min(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words.
fn edit_distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspellings_find_their_key_and_strangers_do_not() {
        let known = ["include", "exclude", "labels", "start_at", "name"];
        for (name, want) in [
            ("inclde", Some("include")),
            ("includes", Some("include")),
            ("lables", Some("labels")),
            ("start-at", Some("start_at")),
            ("nmae", Some("name")),
            ("zebra", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, &known), want, "{name}");
        }
    }

    #[test]
    fn secrets_never_show() {
        let text = "sinks:\n- auth: { bearer: hunter2, x: 1 }\n\
                    - headers:\n    A: |\n      hunter2\n- url: http://me:hunter2@h\n\
                    - passwordd: hunter2\n- {Token: hunter2, y: 1\n";
        let marks = Marks::of(text);
        let mut report = Report::new("f", text, &marks);
        for line in 1..=text.lines().count() {
            report.syntax("", line, 1, "m".to_owned());
        }
        report.unknown(&Key::root().name("sinks").index(4).name("passwordd"), &[]);
        for found in report.finish() {
            assert!(!found.to_string().contains("hunter2"), "{found}");
        }
        assert_eq!(quote("http://me:hunter2@h/p"), "`http://**********@h/p`");
    }

    #[test]
    fn the_caret_stands_below_the_mistake_also_in_long_lines() {
        let long = format!("{{ {}key: value }}\n", " ".repeat(300));
        let marks = Marks::of(&long);
        let mut report = Report::new("f", &long, &marks);
        report.bad(&Key::root().name("key"), "w", "e");
        let found = report.finish();
        let shown = found[0].shown.as_ref().unwrap();
        assert_eq!(&shown.text[shown.caret..shown.caret + shown.width], "value");
    }
}
