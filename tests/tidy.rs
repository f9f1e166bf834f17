//! The rules of the code base that a machine can check, on the sources as they are.
//!
//! A failure names file and line. Where a rule has exceptions they are listed here, and an
//! exception that is not needed any more fails too: the lists can only shrink.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const LINE_CHARS_MAX: usize = 100;
const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;

/// Functions that are longer than [`FUNCTION_LINES_MAX`], as `file: name`. Only ever shorten
/// this list.
const LONG_FUNCTIONS: [&str; 0] = [];

/// A word that must not stand in src/, where it may, and why it must not elsewhere.
struct Banned {
    word: &'static str,
    allowed_in: &'static [&'static str],
    why: &'static str,
}

const REGISTRY: &[&str] = &["daemon/registry.rs", "daemon/test_hooks.rs"];

const BANNED: [Banned; 12] = [
    Banned { word: "thread::spawn", allowed_in: &[], why: "threads start in the registry" },
    Banned { word: "thread::Builder", allowed_in: REGISTRY, why: "threads start in the registry" },
    Banned { word: "thread::scope", allowed_in: &[], why: "threads start in the registry" },
    Banned { word: "unbounded(", allowed_in: &[], why: "every channel has a bound" },
    Banned { word: "thread::sleep", allowed_in: &[], why: "wait for what happens, not for time" },
    Banned { word: "std::sync::mpsc", allowed_in: &[], why: "crossbeam's channels have deadlines" },
    Banned { word: "todo!", allowed_in: &[], why: "it panics" },
    Banned { word: "unimplemented!", allowed_in: &[], why: "it panics" },
    Banned { word: "dbg!", allowed_in: &[], why: "it writes to stderr" },
    Banned { word: "TODO", allowed_in: &[], why: "what is missing belongs in an issue" },
    Banned { word: "FIXME", allowed_in: &[], why: "what is missing belongs in an issue" },
    Banned { word: "for now", allowed_in: &[], why: "say what is, not what will be" },
];

/// Where Deserialize may be derived besides config/raw.rs: formats of our own and Docker's.
const DESERIALIZE_IN: [&str; 5] = ["config/raw.rs", "record.rs", "ack/", "dead_letter/", "source/"];

/// Crates that would bring an async runtime.
const ASYNC_CRATES: [&str; 9] = [
    "tokio",
    "async-std",
    "smol",
    "async-io",
    "async-executor",
    "async-global-executor",
    "futures-executor",
    "actix-rt",
    "glommio",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// One source file. tests/bench is a package of its own.
struct Source {
    /// Relative to the directory that was listed.
    name: String,
    text: String,
}

impl Source {
    /// The lines before the unit tests, with their numbers. A file named `tests.rs` has none.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let skip = self.name.ends_with("tests.rs");
        let numbered = self.text.lines().enumerate().map(|(i, line)| (i + 1, line));
        numbered.take_while(move |(_, line)| !skip && !line.starts_with("#[cfg(test)]"))
    }
}

fn sources(dir: &str) -> Vec<Source> {
    let base = root().join(dir);
    let mut all = Vec::new();
    let mut dirs = vec![base.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory of sources") {
            let path = entry.expect("its entry").path();
            if path.is_dir() && !path.ends_with("tests/bench") {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                all.push(Source { name: relative(&base, &path), text: read(&path) });
            }
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(all.len() > 1, "no sources in {}", base.display());
    all
}

fn relative(base: &Path, path: &Path) -> String {
    path.strip_prefix(base).expect("below its base").to_string_lossy().into_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Fails with all complaints at once.
fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn every_file_begins_with_what_it_owns() {
    let mut bad = Vec::new();
    for source in sources("src").iter().chain(&sources("tests")) {
        let head = source.text.lines().take_while(|l| l.starts_with("//!")).count();
        if head == 0 {
            bad.push(format!("{}: no `//!` head", source.name));
        }
        if head > 14 && source.name != "lib.rs" {
            bad.push(format!("{}: a head of {head} lines", source.name));
        }
    }
    none(&bad);
}

#[test]
fn banned_words_stay_out() {
    let mut bad = Vec::new();
    for source in sources("src") {
        for (number, line) in source.code() {
            for banned in &BANNED {
                let allowed = banned.allowed_in.iter().any(|p| source.name.starts_with(p));
                if line.contains(banned.word) && !allowed {
                    let (name, word, why) = (&source.name, banned.word, banned.why);
                    bad.push(format!("{name}:{number}: `{}`: {why}", word.trim()));
                }
            }
        }
    }
    none(&bad);
}

#[test]
fn channels_are_made_in_daemon() {
    let mut bad = Vec::new();
    for source in sources("src").iter().filter(|s| !s.name.starts_with("daemon/")) {
        let code: String = source.code().map(|(_, line)| format!("{line}\n")).collect();
        // Whatever is imported or called by path, up to the end of the statement.
        for used in code.split("crossbeam_channel").skip(1) {
            let statement = used.split(';').next().unwrap_or_default();
            if statement.contains("bounded") {
                bad.push(format!("{}: makes a channel outside daemon/", source.name));
            }
        }
    }
    none(&bad);
}

#[test]
fn lines_and_files_are_short() {
    let mut bad = Vec::new();
    for source in sources("src").iter().chain(&sources("tests")) {
        for (i, line) in source.text.lines().enumerate() {
            // A recorded text or a URL in a string cannot be broken.
            let literal = line.trim_start().starts_with(['"', 'r']) || line.contains("://");
            if line.chars().count() > LINE_CHARS_MAX && !literal {
                bad.push(format!("{}:{}: over {LINE_CHARS_MAX} characters", source.name, i + 1));
            }
        }
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            bad.push(format!("{}: {lines} lines, over {FILE_LINES_MAX}", source.name));
        }
    }
    none(&bad);
}

/// Names and lengths of a file's functions: from `fn` to the closing brace at its indentation,
/// which rustfmt guarantees.
fn functions(source: &Source) -> Vec<(String, usize)> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let Some(name) = function_name(code) else { continue };
        let indent = &line[..line.len() - code.len()];
        let body = lines[start..].iter().position(|l| l.ends_with('{') || l.ends_with(';'));
        let Some(open) = body.map(|n| start + n).filter(|n| lines[*n].ends_with('{')) else {
            continue;
        };
        let closing = format!("{indent}}}");
        let Some(length) = lines[open..].iter().position(|l| *l == closing) else { continue };
        found.push((name.to_owned(), open + length + 1 - start));
    }
    found
}

fn function_name(code: &str) -> Option<&str> {
    let mut words = code.split([' ', '(', '<']);
    let first = words.next()?;
    let modifiers = ["pub", "const", "unsafe", "extern", "crate)", "super)"];
    if first != "fn" && !modifiers.contains(&first) {
        return None;
    }
    let at = if first == "fn" { 0 } else { code.find(" fn ")? + 1 };
    let before = &code[..at];
    if before.contains(['"', '=', '{', ';']) {
        return None;
    }
    code[at..].strip_prefix("fn ")?.split(['(', '<']).next()
}

#[test]
fn functions_are_short() {
    let mut long = BTreeSet::new();
    let mut seen = 0;
    for source in sources("src") {
        for (name, lines) in functions(&source) {
            seen += 1;
            if lines > FUNCTION_LINES_MAX {
                long.insert((format!("{}: {name}", source.name), lines));
            }
        }
    }
    assert!(seen > 100, "only {seen} functions were found");
    let mut bad = Vec::new();
    for (function, lines) in &long {
        if !LONG_FUNCTIONS.contains(&function.as_str()) {
            bad.push(format!("{function}: {lines} lines, over {FUNCTION_LINES_MAX}"));
        }
    }
    for listed in LONG_FUNCTIONS {
        if !long.iter().any(|(function, _)| function == listed) {
            bad.push(format!("{listed}: short enough: take it off LONG_FUNCTIONS"));
        }
    }
    none(&bad);
}

#[test]
fn the_check_of_functions_sees_long_ones() {
    let body = "    x();\n".repeat(FUNCTION_LINES_MAX);
    let text = format!(
        "pub(crate) fn a(\n    b: u8,\n) {{\n{body}}}\nimpl A {{\n    fn c(&self) {{\n    }}\n}}\nfn d();\n"
    );
    let found = functions(&Source { name: String::new(), text });
    assert_eq!(found, [("a".to_owned(), FUNCTION_LINES_MAX + 4), ("c".to_owned(), 2)]);
}

#[test]
fn user_input_is_read_in_one_file() {
    let mut bad = Vec::new();
    for source in sources("src") {
        let allowed = DESERIALIZE_IN.iter().any(|p| source.name.starts_with(p));
        for (number, line) in source.code() {
            if line.contains("derive(") && line.contains("Deserialize") && !allowed {
                bad.push(format!("{}:{number}: Deserialize outside config/raw.rs", source.name));
            }
        }
    }
    none(&bad);
}

#[test]
fn no_async_runtime_is_in_the_lock_file() {
    let lock = read(&root().join("Cargo.lock"));
    let names: BTreeSet<&str> =
        lock.lines().filter_map(|l| l.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    assert!(names.contains("log-capturer") && names.contains("ureq"), "not our lock file");
    let found: Vec<_> = ASYNC_CRATES.iter().filter(|c| names.contains(**c)).collect();
    assert!(found.is_empty(), "async runtimes in Cargo.lock: {found:?}");
}

#[test]
fn every_dependency_says_why() {
    let manifest = read(&root().join("Cargo.toml"));
    let exempt = ["log", "serde", "serde_json", "signal-hook", "time"];
    let (mut section, mut reason, mut bad) = ("", false, Vec::new());
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section.ends_with("dependencies]") && line.contains(" = ") {
            let name = line.split(' ').next().unwrap_or_default();
            if !reason && !exempt.contains(&name) {
                bad.push(format!("Cargo.toml: {name}: no line says why"));
            }
        }
        reason = line.starts_with('#');
    }
    none(&bad);
}

/// Names of metrics as the sources register them, `_total` added to counters.
fn metric_names() -> BTreeSet<String> {
    let text = read(&root().join("src/metrics.rs"));
    let mut names = BTreeSet::new();
    for part in text.split(" r.register(").skip(1) {
        let name = part.split('"').nth(1).expect("a metric's name");
        names.insert(format!("log_capturer_{name}"));
    }
    assert!(names.len() > 20, "only {} metrics were found", names.len());
    names
}

#[test]
fn every_metric_is_in_the_man_page() {
    // roff writes a hyphen as `\-`, and underscores as they are.
    let page = read(&root().join("man/log-capturer.8")).replace("\\-", "-");
    let missing: Vec<String> = metric_names()
        .into_iter()
        .filter(|name| !page.contains(name.as_str()))
        .map(|name| format!("man/log-capturer.8: {name} is not described"))
        .collect();
    none(&missing);
}
