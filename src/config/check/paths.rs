//! Paths and path patterns: made absolute, compiled, bounded.

use std::path::{Component, Path, PathBuf};

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use super::super::checked::PathPatterns;
use super::super::diagnose::quote;
use super::super::key::Key;
use super::super::overlap;
use super::super::raw::Scalar;
use super::Checks;

/// Linux's PATH_MAX: no path is longer, so no pattern needs to be.
const PATTERN_BYTES_MAX: usize = 4_096;

impl Checks<'_, '_> {
    /// `path` from the working directory, without `.` and `..`.
    pub fn absolute(&self, path: &str) -> PathBuf {
        lexical(&self.working_dir.join(path))
    }

    /// A path, absolute; `default` None: it must be given.
    pub fn path(&mut self, key: &Key, raw: &Scalar, default: Option<&str>) -> PathBuf {
        let text = match default {
            Some(_) => self.optional_text(key, raw, "a path"),
            None => self.required_text(key, raw, "a path"),
        };
        let text = text.as_deref().or(default).unwrap_or("/nonexistent");
        if text.starts_with('~') {
            self.report.bad(key, "`~` is not expanded", "a path, or `${HOME}/...`");
        }
        if text.contains('\0') || text.len() > PATTERN_BYTES_MAX {
            self.report.bad(key, format!("{} is no path", quote(text)), "a path");
        }
        self.absolute(text)
    }

    /// Patterns on whole paths: relative ones from the working directory.
    pub fn include_patterns(&mut self, texts: Vec<(Key, String)>) -> PathPatterns {
        self.patterns(texts, |_| true)
    }

    /// Patterns on whole paths, or (without `/`) on names; `**/x` stays as it is.
    pub fn exclude_patterns(&mut self, texts: Vec<(Key, String)>) -> PathPatterns {
        self.patterns(texts, |text| text.contains('/') && !text.starts_with("**"))
    }

    fn patterns(
        &mut self,
        texts: Vec<(Key, String)>,
        is_path: impl Fn(&str) -> bool,
    ) -> PathPatterns {
        let mut out = Vec::new();
        let mut globs = Vec::new();
        for (at, text) in texts {
            let text = if is_path(&text) { self.absolute_pattern(&at, &text) } else { text };
            if let Some(glob) = self.glob(&at, &text, true) {
                out.push(text);
                globs.push(glob);
            }
        }
        PathPatterns { texts: out, set: self.glob_set(globs) }
    }

    /// Makes a pattern absolute; the working directory's own special characters are
    /// escaped.
    fn absolute_pattern(&mut self, at: &Key, text: &str) -> String {
        if text.starts_with('~') {
            self.report.bad(at, "`~` is not expanded", "a path, or `${HOME}/...`");
        }
        let mut parts: Vec<String> = Vec::new();
        if !text.starts_with('/') {
            let dir = lexical(&self.working_dir);
            let dir = dir.to_string_lossy();
            parts.extend(dir.split('/').filter(|p| !p.is_empty()).map(overlap::escaped));
        }
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                part => parts.push(part.to_owned()),
            }
        }
        format!("/{}", parts.join("/"))
    }

    /// Compiles one pattern; None (reported) when it is none.
    pub fn glob(&mut self, at: &Key, text: &str, is_path: bool) -> Option<Glob> {
        if text.len() > PATTERN_BYTES_MAX {
            let expected = "at most 4096 bytes";
            self.report.bad(at, format!("the pattern has {} bytes", text.len()), expected);
            return None;
        }
        match GlobBuilder::new(text).literal_separator(is_path).build() {
            Ok(glob) => Some(glob),
            Err(e) => {
                let wrong = format!("{} is no pattern: {}", quote(text), e.kind());
                self.report.bad(at, wrong, "a glob such as /var/log/**/*.log");
                None
            }
        }
    }

    /// Compiles patterns into one matcher.
    pub fn glob_set(&mut self, globs: Vec<Glob>) -> GlobSet {
        let mut builder = GlobSetBuilder::new();
        for glob in globs {
            builder.add(glob);
        }
        // Each was compiled alone; together they fail only past the regex engine's size limit.
        builder.build().unwrap_or_else(|e| {
            let message = format!("the patterns together are too large: {e}");
            self.report.refuse(&Key::root().name("sources"), message);
            GlobSet::empty()
        })
    }

    /// Patterns on names that are no paths: containers, images.
    pub fn name_patterns(&mut self, texts: Vec<(Key, String)>) -> GlobSet {
        let globs = texts.iter().filter_map(|(at, text)| self.glob(at, text, false)).collect();
        self.glob_set(globs)
    }
}

/// Removes `.` and `..` without asking the file system.
fn lexical(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}
