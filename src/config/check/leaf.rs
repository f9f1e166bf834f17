//! Single values: texts with variables, durations, sizes, counts, choices, secrets.
//!
//! All give the default after a mistake, which the report has by then.

use std::path::PathBuf;
use std::time::Duration;

use super::super::defaults::Bounds;
use super::super::diagnose::{nearest, quote};
use super::super::expand::expand;
use super::super::key::Key;
use super::super::raw::{Later, List, Scalar};
use super::super::secret::Secret;
use super::Checks;
use crate::units::{ByteSize, parse_duration, show_duration};

impl Checks<'_, '_> {
    /// The text at `key`, variables replaced; None when unset or reported as a mistake.
    pub fn text(&mut self, key: &Key, raw: &Scalar) -> Option<String> {
        let written = match raw {
            Scalar::Unset => return None,
            Scalar::Empty => {
                self.report.bad(key, "has no value", "a value, or the key removed");
                return None;
            }
            Scalar::Wrong(shape) => {
                self.report.bad(key, format!("this is {shape}"), "a single value");
                return None;
            }
            Scalar::Text(text) => text.as_str(),
            // `1.10` is 1.1 to YAML; people mean what they wrote.
            Scalar::Plain(shown) => self.marks.plain(key).unwrap_or(shown),
        };
        match expand(written, self.env) {
            Ok(text) => Some(text),
            Err(e) => {
                let expected = e.expected();
                self.report.bad(key, e, expected);
                None
            }
        }
    }

    /// A text that must be there and not be empty.
    pub fn required_text(&mut self, key: &Key, raw: &Scalar, expected: &str) -> Option<String> {
        if *raw == Scalar::Unset {
            self.report.missing(key, expected);
            return None;
        }
        let text = self.text(key, raw)?;
        if text.is_empty() {
            self.report.bad(key, "is empty", expected);
            return None;
        }
        Some(text)
    }

    /// A text that may be absent but not empty.
    pub fn optional_text(&mut self, key: &Key, raw: &Scalar, expected: &str) -> Option<String> {
        if *raw == Scalar::Unset { None } else { self.required_text(key, raw, expected) }
    }

    pub fn duration(&mut self, key: &Key, raw: &Scalar, bounds: Bounds<Duration>) -> Duration {
        let parse = |text: &str| parse_duration(text).map_err(|e| e.0);
        self.bounded(key, raw, bounds, parse, |d| show_duration(*d))
    }

    pub fn size(&mut self, key: &Key, raw: &Scalar, bounds: Bounds<ByteSize>) -> ByteSize {
        let parse = |text: &str| text.parse::<ByteSize>().map_err(|e| e.0);
        self.bounded(key, raw, bounds, parse, ToString::to_string)
    }

    pub fn count(&mut self, key: &Key, raw: &Scalar, bounds: Bounds<usize>) -> usize {
        let parse = |text: &str| text.parse::<usize>().map_err(|_| "a whole number");
        self.bounded(key, raw, bounds, parse, ToString::to_string)
    }

    fn bounded<T: PartialOrd + Copy>(
        &mut self,
        key: &Key,
        raw: &Scalar,
        bounds: Bounds<T>,
        parse: impl Fn(&str) -> Result<T, &'static str>,
        show: impl Fn(&T) -> String,
    ) -> T {
        let Some(text) = self.text(key, raw) else { return bounds.default };
        let value = match parse(&text) {
            Ok(value) => value,
            Err(expected) => {
                self.report.bad(key, format!("{} cannot be read", quote(&text)), expected);
                return bounds.default;
            }
        };
        let (min, max) = (show(&bounds.min), show(&bounds.max));
        let range = format!("{min} to {max}");
        if value < bounds.min {
            self.report.bad(key, format!("{} is less than {min}", quote(&text)), range);
        } else if value > bounds.max {
            self.report.bad(key, format!("{} is more than {max}", quote(&text)), range);
        } else {
            return value;
        }
        bounds.default
    }

    pub fn boolean(&mut self, key: &Key, raw: &Scalar, default: bool) -> bool {
        self.choice(key, raw, default, &[("true", true), ("false", false)])
    }

    /// One of some words.
    pub fn choice<T: Copy>(
        &mut self,
        key: &Key,
        raw: &Scalar,
        default: T,
        words: &[(&str, T)],
    ) -> T {
        let Some(text) = self.text(key, raw) else { return default };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let hint = nearest(&text, &known).map_or(String::new(), |w| format!(" (`{w}`?)"));
        let expected = format!("one of {}{hint}", known.join(", "));
        self.report.bad(key, format!("{} is not known here", quote(&text)), expected);
        default
    }

    /// The texts of a list, each with its key; absent is empty.
    pub fn texts(&mut self, key: &Key, raw: &List<Scalar>, max: usize) -> Vec<(Key, String)> {
        let items = self.list(key, raw, "a list such as [a, b]");
        if items.len() > max {
            self.report.bad(key, format!("has {} items", items.len()), format!("at most {max}"));
        }
        let mut out = Vec::new();
        for (index, item) in items.iter().take(max).enumerate() {
            let at = key.index(index);
            if let Some(text) = self.required_text(&at, item, "a text") {
                out.push((at, text));
            }
        }
        out
    }

    /// A password, token or header value; None when unset or reported. Its value is never
    /// part of a message.
    pub fn secret(&mut self, key: &Key, raw: &Scalar) -> Option<Secret> {
        let text = self.optional_text(key, raw, "a value, `file:PATH` or `credential:NAME`")?;
        let path = if let Some(path) = text.strip_prefix("file:") {
            self.absolute(path)
        } else if let Some(name) = text.strip_prefix("credential:") {
            self.credential(key, name)?
        } else {
            if text.chars().any(char::is_control) {
                let expected = "one line of text";
                self.report.bad(key, "the secret has control characters", expected);
            }
            return Some(Secret::Value(text));
        };
        let secret = Secret::File(path);
        if let Err(e) = secret.read() {
            self.report.warn(key, format!("{e}; it is read again at each use"));
        }
        Some(secret)
    }

    fn credential(&mut self, key: &Key, name: &str) -> Option<PathBuf> {
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            let expected = "the name of a systemd credential (`LoadCredential=NAME:PATH`)";
            self.report.bad(key, "the credential's name is no file name", expected);
            return None;
        }
        let Some(dir) = self.env.var("CREDENTIALS_DIRECTORY") else {
            let expected = "to run under systemd with `LoadCredential=` in the unit";
            self.report.bad(key, "CREDENTIALS_DIRECTORY is not set", expected);
            return None;
        };
        Some(PathBuf::from(dir).join(name))
    }

    /// A key that a later version supports.
    pub fn later(&mut self, key: &Key, raw: Later, what: &str) {
        if raw == Later::Given {
            self.report.unsupported(key, what);
        }
    }
}
