//! Patterns on a real tree.

use std::collections::{HashSet, VecDeque};
use std::os::unix::fs::symlink;
use std::time::Duration;

use globset::GlobSetBuilder;

use super::*;
use crate::config::checked::{LongLines, PathPatterns, StartAt};
use crate::units::ByteSize;

/// All directories and files that the patterns reach, at most the limits allow.
fn walk(
    discovery: &Discovery,
    from: Vec<(PathBuf, Vec<State>)>,
    mut visit: impl FnMut(&Path, &[State], io::Result<Listing>),
) {
    let mut queue = VecDeque::from(from);
    let mut seen: HashSet<(PathBuf, Vec<State>)> = HashSet::new();
    while let Some((dir, states)) = queue.pop_front() {
        if seen.len() >= limits::WALK_DIRECTORIES_MAX || !seen.insert((dir.clone(), states.clone()))
        {
            continue;
        }
        let mut listing = discovery.look(&dir, &states);
        if let Ok(listing) = &mut listing {
            queue.extend(std::mem::take(&mut listing.below));
        }
        visit(&dir, &states, listing);
    }
}

/// A source for tests: absolute `include`, `exclude` as given.
pub fn source(name: &str, include: &[String], exclude: &[&str]) -> FileSource {
    let patterns = |texts: &[String]| {
        let mut set = GlobSetBuilder::new();
        for text in texts {
            set.add(GlobBuilder::new(text).literal_separator(true).build().unwrap());
        }
        PathPatterns { texts: texts.to_vec(), set: set.build().unwrap() }
    };
    let exclude: Vec<_> = exclude.iter().map(|e| e.to_string()).collect();
    FileSource {
        name: name.into(),
        include: patterns(include),
        exclude: patterns(&exclude),
        labels: vec![("job".into(), name.into())],
        start_at: StartAt::Beginning,
        line_bytes_max: ByteSize::kib(256),
        long_lines: LongLines::Split,
        partial_wait: Duration::from_secs(5),
        rotated_grace: Duration::from_secs(5),
        rotated_globs: vec!["{name}.*".into(), "{name}-*".into()],
        sinks: vec![0],
    }
}

fn check(include: &[&str], exclude: &[&str], expected: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    for file in ["a.log", "b.txt", "x/a.log", "x/y/z/a.log", "x/y/b.log", "w/a.log.gz", "w/c.log"] {
        fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
        fs::write(root.join(file), "").unwrap();
    }
    symlink(&root, root.join("x/y/circle")).unwrap();
    symlink(root.join("w"), root.join("linked")).unwrap();
    let include: Vec<_> = include.iter().map(|i| format!("{}/{i}", root.display())).collect();
    let discovery = Discovery::new(vec![Arc::new(source("s", &include, exclude))]);
    let mut found = Vec::new();
    walk(&discovery, discovery.roots(), |_, _, listing| {
        found.extend(listing.unwrap().found.into_iter().map(|f| f.path));
    });
    found.sort();
    found.dedup();
    let found: Vec<_> =
        found.iter().map(|p| p.strip_prefix(&root).unwrap().to_str().unwrap()).collect();
    assert_eq!(found, expected, "{include:?}");
}

#[test]
fn patterns_name_files() {
    check(&["*.log"], &[], &["a.log"]);
    check(&["a.log"], &[], &["a.log"]);
    check(&["*/a.log"], &[], &["x/a.log"]);
    check(&["*/c.log"], &[], &["linked/c.log", "w/c.log"]);
    let all = ["a.log", "w/c.log", "x/a.log", "x/y/b.log", "x/y/z/a.log"];
    check(&["**/*.log"], &[], &all);
    check(&["**/*.log"], &["b.*", "**/w/**"], &["a.log", "x/a.log", "x/y/z/a.log"]);
    check(&["x/**/a.log", "*.txt"], &[], &["b.txt", "x/a.log", "x/y/z/a.log"]);
    check(&["{x/y,w}/*.log"], &[], &["w/c.log", "x/y/b.log"]);
    check(&["missing/**/*.log"], &[], &[]);
}

#[test]
fn a_file_belongs_to_the_first_source_that_matches() {
    let sources = [("one", "/v/a*"), ("two", "/v/**/*.log")];
    let sources = sources.map(|(name, text)| Arc::new(source(name, &[text.to_string()], &[])));
    let discovery = Discovery::new(sources.to_vec());
    assert_eq!(discovery.source_of(Path::new("/v/a.log")), Some(0));
    assert_eq!(discovery.source_of(Path::new("/v/b.log")), Some(1));
    assert_eq!(discovery.source_of(Path::new("/v/b.txt")), None);
}

#[test]
fn a_directory_is_watched_where_a_name_may_yet_appear() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    fs::create_dir(root.join("there")).unwrap();
    let include = vec![format!("{}/there/later/*.log", root.display())];
    let discovery = Discovery::new(vec![Arc::new(source("s", &include, &[]))]);
    let mut watched = Vec::new();
    walk(&discovery, discovery.roots(), |dir, _, listing| {
        if listing.unwrap().watch {
            watched.push(dir.to_owned());
        }
    });
    assert_eq!(watched, [root.join("there")]);
}

#[test]
fn rotated_names_follow_the_live_name() {
    let globs = vec!["{name}.*".to_owned(), "{name}-*".to_owned()];
    let names = RotatedNames::of(Path::new("/v/a[1].log"), &globs);
    for (name, expected) in [("a[1].log.1", true), ("a[1].log-2026", true), ("a1.log.1", false)] {
        assert_eq!(names.matches(OsStr::new(name)), expected, "{name}");
    }
}
