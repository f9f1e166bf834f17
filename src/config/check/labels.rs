//! Labels: names and values that Loki takes, and not more than it takes.
//!
//! Loki's limits are applied here first, since it answers a request with a bad label set
//! by refusing the stream. An empty value removes a label that would be there otherwise.

use super::super::diagnose::quote;
use super::super::key::Key;
use super::super::raw::Entries;
use super::Checks;
use crate::limits::{LABEL_NAME_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX};

/// Name and value pairs; values may be empty until `without_empty`.
pub(super) type Labels = Vec<(String, String)>;

impl Checks<'_, '_> {
    /// Names with texts, in the order written; `max` entries.
    pub fn entries<'e>(
        &mut self,
        at: &Key,
        raw: &'e Entries,
    ) -> &'e [(String, super::super::raw::Scalar)] {
        match raw {
            Entries::Unset => &[],
            Entries::Given(entries) => entries,
            Entries::Wrong(shape) => {
                let expected = "names with values such as { name: value }";
                self.report.bad(at, format!("this is {shape}"), expected);
                &[]
            }
        }
    }

    /// Checked labels, none of them `reserved` for what the source adds itself.
    pub fn labels(&mut self, at: &Key, raw: &Entries, reserved: &[&str]) -> Labels {
        let mut out = Labels::new();
        for (name, value) in self.entries(at, raw) {
            let at = at.name(name);
            self.label_name(&at, name, reserved);
            let Some(value) = self.text(&at, value) else { continue };
            if value.len() > LABEL_VALUE_BYTES_MAX {
                let wrong = format!("the value has {} bytes", value.len());
                let expected = format!("at most {LABEL_VALUE_BYTES_MAX} (Loki's limit)");
                self.report.bad(&at, wrong, expected);
            }
            out.push((name.clone(), value));
        }
        out
    }

    fn label_name(&mut self, at: &Key, name: &str, reserved: &[&str]) {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts_well || !name.chars().all(good) {
            let expected = "a letter or `_`, then letters, digits and `_`";
            self.report.bad_name(at, format!("{} is no label name", quote(name)), expected);
        } else if name.starts_with("__") {
            let wrong = format!("{} is reserved by Loki", quote(name));
            self.report.bad_name(at, wrong, "a name that does not begin with `__`");
        } else if name.len() > LABEL_NAME_BYTES_MAX {
            let wrong = format!("the name has {} bytes", name.len());
            self.report.bad_name(
                at,
                wrong,
                format!("at most {LABEL_NAME_BYTES_MAX} (Loki's limit)"),
            );
        } else if reserved.contains(&name) {
            let wrong = format!("{} is set by the source itself", quote(name));
            self.report.bad_name(at, wrong, "another name");
        }
    }

    /// The labels of a source over the global ones, `added` more being set later. Names
    /// that the source sets itself are taken out of the global ones.
    pub fn source_labels(
        &mut self,
        at: &Key,
        own: Labels,
        below: &Labels,
        added: &[&str],
    ) -> Labels {
        let mut all: Labels =
            below.iter().filter(|(name, _)| !added.contains(&name.as_str())).cloned().collect();
        for (name, value) in own {
            set(&mut all, &name, &value);
        }
        let all = without_empty(all);
        if all.len() + added.len() > LABELS_MAX {
            let wrong = format!(
                "with the global labels there are {} labels ({}; {} added by the source)",
                all.len() + added.len(),
                all.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", "),
                added.join(", "),
            );
            self.report.bad(at, wrong, format!("at most {LABELS_MAX} (Loki's limit)"));
        }
        all
    }
}

fn set(labels: &mut Labels, name: &str, value: &str) {
    match labels.iter_mut().find(|(n, _)| n == name) {
        Some((_, old)) => value.clone_into(old),
        None => labels.push((name.to_owned(), value.to_owned())),
    }
}

/// The global labels with `host`, unless they set it.
pub(super) fn with_host(labels: &Labels, hostname: &str) -> Labels {
    let mut all = labels.clone();
    if !all.iter().any(|(name, _)| name == "host") {
        all.push(("host".to_owned(), hostname.to_owned()));
    }
    all
}

/// Sorted by name, without those whose value is empty.
pub(super) fn without_empty(mut labels: Labels) -> Labels {
    labels.retain(|(_, value)| !value.is_empty());
    labels.sort();
    labels
}
