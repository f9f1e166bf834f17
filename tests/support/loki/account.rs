//! The books of a run: which of the numbered lines arrived, and how often they can be seen.
//!
//! A numbered line carries ` f=<file> n=<number> `, as the load generator under tests/bench writes
//! it, with numbers from 0 in each file.

use super::ingester::Ingester;
use std::collections::BTreeMap;

/// What the store holds, counted by the marks in the lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Different marks that are stored.
    pub unique: u64,
    /// Marks that should be there and are not.
    pub missing: u64,
    /// Lines that came again, whether Loki shows them twice or not.
    pub duplicates: u64,
    /// Lines that a query shows again: they came with another time, stream or metadata.
    pub visible_duplicates: u64,
    /// Stored lines without a mark.
    pub unmarked: u64,
    /// The first missing marks as (file, number), at most 20.
    pub first_missing: Vec<(u32, u64)>,
}

impl Account {
    /// Panics, with all figures, unless nothing is missing and nothing is seen twice.
    #[track_caller]
    pub fn assert_complete(&self) {
        assert!(self.missing == 0 && self.visible_duplicates == 0, "lost or doubled: {self:?}");
    }
}

/// Counts all tenants together. `expected`: file to number of lines; a file that is not in there
/// is expected to end with the highest number stored.
pub fn account(ingester: &mut Ingester, expected: &BTreeMap<u32, u64>) -> Account {
    let mut out = Account::default();
    let mut files: BTreeMap<u32, Vec<bool>> = BTreeMap::new();
    let finder = memchr::memmem::Finder::new(b" f=");
    for stream in ingester.tenants.values_mut().flat_map(|t| t.streams.values_mut()) {
        out.duplicates += stream.repeats;
        for entry in stream.entries() {
            let Some((file, number)) = mark(&entry.line, &finder) else {
                out.unmarked += 1;
                continue;
            };
            let seen = files.entry(file).or_default();
            if seen.len() <= number {
                seen.resize(number + 1, false);
            }
            if std::mem::replace(&mut seen[number], true) {
                out.visible_duplicates += 1;
            } else {
                out.unique += 1;
            }
        }
    }
    out.duplicates += out.visible_duplicates;
    for (file, lines) in expected {
        let seen = files.entry(*file).or_default();
        seen.resize(seen.len().max(*lines as usize), false);
    }
    for (file, seen) in &files {
        for (number, _) in seen.iter().enumerate().filter(|(_, seen)| !**seen) {
            out.missing += 1;
            if out.first_missing.len() < 20 {
                out.first_missing.push((*file, number as u64));
            }
        }
    }
    out
}

/// Highest number that is taken for a mark; a larger one is a coincidence.
const NUMBER_MAX: usize = 100_000_000;

fn mark(line: &[u8], finder: &memchr::memmem::Finder) -> Option<(u32, usize)> {
    let rest = &line[finder.find(line)? + 3..];
    let (file, rest) = digits(rest)?;
    let (number, _) = digits(rest.strip_prefix(b" n=")?)?;
    Some((u32::try_from(file).ok()?, number)).filter(|(_, number)| *number <= NUMBER_MAX)
}

fn digits(text: &[u8]) -> Option<(usize, &[u8])> {
    let n = text.iter().take_while(|c| c.is_ascii_digit()).count();
    Some((std::str::from_utf8(&text[..n]).ok()?.parse().ok()?, &text[n..]))
}

#[test]
fn marks_are_found_in_lines() {
    let check = |line: &str, want| {
        assert_eq!(mark(line.as_bytes(), &memchr::memmem::Finder::new(b" f=")), want, "{line}");
    };
    check("2026-01-01T00:00:00Z INFO f=3 n=41 xyz", Some((3, 41)));
    check("INFO f=3 n=41", Some((3, 41)));
    check("INFO f=3 m=41", None);
    check("INFO f= n=41", None);
    check("nothing", None);
}
