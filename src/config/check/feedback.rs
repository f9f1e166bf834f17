//! What concerns sources and sinks together: loops that are refused, overlaps that are
//! worth a warning.
//!
//! A source that reads what this program writes would send its own output for ever,
//! growing with each turn. Names are compared, no directory is read: the loop may begin
//! with a file that is not there yet.

use std::path::{Path, PathBuf};

use super::super::checked::{Config, FileSource, SinkKind};
use super::super::diagnose::quote;
use super::super::key::Key;
use super::super::overlap::{escaped, may_overlap, samples};
use super::Checks;

/// Pairs of patterns that are compared for the warning; a config with more goes without.
const PAIRS_MAX: usize = 100_000;

/// Refuses every include pattern that can match a file that this program writes.
pub(super) fn refuse_loops(checks: &mut Checks<'_, '_>, config: &Config) {
    let mut written = vec![(config.data_dir.clone(), "data_dir".to_owned())];
    for (index, sink) in config.sinks.iter().enumerate() {
        let at = Key::root().name("sinks").index(index).name("path");
        if let (SinkKind::LocalFile(file), true) = (&sink.kind, checks.marks.has(&at)) {
            written.push((file.path.clone(), at.to_string()));
        }
    }
    for (index, source) in config.files.iter().enumerate() {
        let at = Key::root().name("sources").name("files").index(index).name("include");
        for (nth, pattern) in source.include.texts.iter().enumerate() {
            for (dir, what) in &written {
                if reads(source, pattern, dir) {
                    let message = format!(
                        "feedback loop: {} can match files in {}, where this program writes \
                         ({what}); expected another directory there, or \"{}/**\" in `exclude`",
                        quote(pattern),
                        dir.display(),
                        dir.display(),
                    );
                    checks.report.refuse(&at.index(nth), message);
                }
            }
        }
    }
}

/// Refuses a `local_file` sink in the data directory itself, whose files have other owners.
pub(super) fn refuse_data_dir_as_sink(checks: &mut Checks<'_, '_>, config: &Config) {
    for (index, sink) in config.sinks.iter().enumerate() {
        let at = Key::root().name("sinks").index(index).name("path");
        if matches!(&sink.kind, SinkKind::LocalFile(file) if file.path == config.data_dir) {
            checks.report.bad(&at, "is the `data_dir`", "a directory of its own");
        }
    }
}

/// Whether the source, through this pattern, may read files below `dir`.
fn reads(source: &FileSource, pattern: &str, dir: &Path) -> bool {
    names_of(dir).iter().any(|dir| {
        let below = format!("{}/**", escaped(&dir.to_string_lossy()));
        may_overlap(pattern, &below) && !excludes_all(source, dir)
    })
}

/// The directory as written and, where it exists, as the file system knows it.
fn names_of(dir: &Path) -> Vec<PathBuf> {
    let mut names = vec![dir.to_owned()];
    names.extend(dir.canonicalize().ok().filter(|real| real != dir));
    names
}

/// Whether the source's exclusions leave nothing below `dir`.
fn excludes_all(source: &FileSource, dir: &Path) -> bool {
    ["x", "x.log", "x.ndjson", "x.json", "x/x", "x/x.log", "x/y/x.txt", ".x"]
        .iter()
        .all(|name| excluded(source, &dir.join(name)))
}

fn excluded(source: &FileSource, path: &Path) -> bool {
    let by_name = path.file_name().is_some_and(|name| source.exclude.set.is_match(name));
    by_name || source.exclude.set.is_match(path)
}

/// Warns where a later source includes files of an earlier one, which get the latter's
/// labels only.
pub(super) fn warn_overlaps(checks: &mut Checks<'_, '_>, config: &Config) {
    let patterns: usize = config.files.iter().map(|s| s.include.texts.len()).sum();
    if patterns * patterns > PAIRS_MAX {
        return;
    }
    for (index, later) in config.files.iter().enumerate() {
        let at = Key::root().name("sources").name("files").index(index).name("include");
        for earlier in &config.files[..index] {
            let both = shared(earlier, later);
            if let Some((nth, pattern)) = both {
                let message = format!(
                    "can match files of {} too, which belong to the source {} alone, since it \
                     stands first; `exclude` them in one of the two",
                    quote(pattern),
                    quote(&earlier.name),
                );
                checks.report.warn(&at.index(nth), message);
            }
        }
    }
}

/// Warns of sinks that no source names.
pub(super) fn warn_unused_sinks(checks: &mut Checks<'_, '_>, config: &Config) {
    for (index, sink) in config.sinks.iter().enumerate() {
        let used = config.files.iter().any(|s| s.sinks.contains(&index))
            || config.docker.iter().any(|s| s.sinks.contains(&index));
        if !used {
            let at = Key::root().name("sinks").index(index).name("name");
            checks.report.warn(&at, format!("no source sends to the sink {}", quote(&sink.name)));
        }
    }
}

/// The first pattern of `later` that shares files with one of `earlier`, and that one.
fn shared<'p>(earlier: &'p FileSource, later: &FileSource) -> Option<(usize, &'p str)> {
    for (nth, b) in later.include.texts.iter().enumerate() {
        for a in &earlier.include.texts {
            if may_overlap(a, b) && !kept_apart(earlier, later, a, b) {
                return Some((nth, a));
            }
        }
    }
    None
}

/// Whether examples of what both match are excluded by one of the two.
fn kept_apart(earlier: &FileSource, later: &FileSource, a: &str, b: &str) -> bool {
    let mut common = 0;
    for sample in samples(a).iter().chain(&samples(b)) {
        let path = Path::new(sample);
        if earlier.include.set.is_match(path) && later.include.set.is_match(path) {
            common += 1;
            if !excluded(earlier, path) && !excluded(later, path) {
                return false;
            }
        }
    }
    common > 0
}
