//! `sources.files`: which files, from where on, and what becomes of odd lines.

use super::super::checked::{FileSource, LongLines, StartAt};
use super::super::defaults;
use super::super::diagnose::quote;
use super::super::key::Key;
use super::super::raw::{self, List, Scalar, Section};
use super::Checks;
use super::labels::Labels;

/// All file sources.
pub(super) fn all(
    checks: &mut Checks<'_, '_>,
    at: &Key,
    raw: &List<Section<raw::FileSource>>,
    global: &Labels,
    sinks: &[&str],
) -> Vec<FileSource> {
    let items = checks.sections(at, raw, defaults::SOURCES_MAX);
    let default = (items.len() == 1).then_some("files");
    let mut names = Vec::new();
    let mut out = Vec::new();
    for (at, item) in items {
        let source = one(checks, &at, &item, global, sinks, default);
        names.push((at, source.name.clone()));
        out.push(source);
    }
    checks.unique(&names);
    out
}

fn one(
    checks: &mut Checks<'_, '_>,
    at: &Key,
    raw: &raw::FileSource,
    global: &Labels,
    sinks: &[&str],
    default_name: Option<&str>,
) -> FileSource {
    let name = checks.item_name(at, &raw.name, default_name);
    let include = checks.texts(&at.name("include"), &raw.include, defaults::PATTERNS_MAX);
    let is_empty = matches!(&raw.include, List::Given(items) if items.is_empty());
    if is_empty || matches!(raw.include, List::Unset) {
        let expected = "patterns of the files to read, such as [/var/log/*.log]";
        checks.report.missing(&at.name("include"), expected);
    }
    let exclude = checks.texts(&at.name("exclude"), &raw.exclude, defaults::PATTERNS_MAX);
    checks.later(&at.name("timezone"), raw.timezone, "`timezone`");
    checks.later(&at.name("stages"), raw.stages, "`stages` with content");
    FileSource {
        include: checks.include_patterns(include),
        exclude: checks.exclude_patterns(exclude),
        labels: file_labels(checks, &at.name("labels"), raw, global, &name),
        start_at: checks.start_at(&at.name("start_at"), &raw.start_at),
        line_bytes_max: checks.size(
            &at.name("line_bytes_max"),
            &raw.line_bytes_max,
            defaults::LINE_BYTES_MAX,
        ),
        long_lines: checks.long_lines(&at.name("long_lines"), &raw.long_lines),
        partial_wait: checks.duration(
            &at.name("partial_wait"),
            &raw.partial_wait,
            defaults::PARTIAL_WAIT,
        ),
        rotated_grace: checks.duration(
            &at.name("rotated_grace"),
            &raw.rotated_grace,
            defaults::ROTATED_GRACE,
        ),
        rotated_globs: rotated_globs(checks, &at.name("rotated_glob"), &raw.rotated_glob),
        sinks: checks.sinks_of(&at.name("sinks"), &raw.sinks, sinks),
        name,
    }
}

fn file_labels(
    checks: &mut Checks<'_, '_>,
    at: &Key,
    raw: &raw::FileSource,
    global: &Labels,
    name: &str,
) -> Labels {
    let mut below = global.clone();
    if !below.iter().any(|(label, _)| label == "job") {
        below.push(("job".to_owned(), name.to_owned()));
    }
    let own = checks.labels(at, &raw.labels, &defaults::FILE_LABELS);
    checks.source_labels(at, own, &below, &defaults::FILE_LABELS)
}

fn rotated_globs(checks: &mut Checks<'_, '_>, at: &Key, raw: &List<Scalar>) -> Vec<String> {
    let texts = checks.texts(at, raw, defaults::PATTERNS_MAX);
    if matches!(raw, List::Unset) {
        return defaults::ROTATED_GLOBS.map(str::to_owned).to_vec();
    }
    for (at, text) in &texts {
        if text.contains('/') || !text.contains("{name}") || text == "{name}" {
            let expected = "`{name}` for the live file's name and more, such as {name}.*";
            checks.report.bad(at, format!("{} names no sibling", quote(text)), expected);
        } else {
            checks.glob(at, text, true);
        }
    }
    texts.into_iter().map(|(_, text)| text).collect()
}

/// What file and Docker sources have in common.
impl Checks<'_, '_> {
    /// `end`, `beginning` or an age.
    pub fn start_at(&mut self, key: &Key, raw: &Scalar) -> StartAt {
        match self.text(key, raw).as_deref() {
            None | Some("end") => StartAt::End,
            Some("beginning") => StartAt::Beginning,
            Some(age) if age.starts_with(|c: char| c.is_ascii_digit()) => {
                StartAt::Age(self.duration(key, raw, defaults::START_AT_AGE))
            }
            Some(text) => {
                let expected = "`end`, `beginning` or an age such as 1h";
                self.report.bad(key, format!("{} is no place", quote(text)), expected);
                StartAt::End
            }
        }
    }

    pub fn long_lines(&mut self, key: &Key, raw: &Scalar) -> LongLines {
        let words = [
            ("split", LongLines::Split),
            ("truncate", LongLines::Truncate),
            ("dead_letter", LongLines::DeadLetter),
        ];
        self.choice(key, raw, LongLines::Split, &words)
    }

    /// The indices of the sinks that a source names; all when it names none.
    pub fn sinks_of(&mut self, key: &Key, raw: &List<Scalar>, names: &[&str]) -> Vec<usize> {
        if matches!(raw, List::Unset) {
            return (0..names.len()).collect();
        }
        let texts = self.texts(key, raw, defaults::SINKS_MAX);
        if texts.is_empty() && matches!(raw, List::Given(_)) {
            self.report.bad(key, "names no sink", "names of sinks, or the key removed for all");
        }
        let mut out = Vec::new();
        for (at, text) in texts {
            match names.iter().position(|name| *name == text) {
                Some(index) if out.contains(&index) => {
                    self.report.bad(&at, format!("{} stands twice", quote(&text)), "it once");
                }
                Some(index) => out.push(index),
                None => {
                    let expected = format!("one of {}", names.join(", "));
                    self.report.bad(&at, format!("{} is no sink", quote(&text)), expected);
                }
            }
        }
        out.sort_unstable();
        out
    }
}
