//! Configuration: from a YAML file to types that cannot hold a bad value.
//!
//! The way of a file: `raw` keeps what is written, `marks` knows where it stands, `check`
//! judges all of it at once and fills in `defaults`, `diagnose` words every mistake,
//! `checked` is what the daemon gets. Runs on the main thread, at start and on reload.

pub mod check;
pub mod checked;
pub mod defaults;
pub mod diagnose;
pub mod expand;
pub mod key;
pub mod marks;
pub mod overlap;
pub mod raw;
pub mod secret;

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub use checked::Config;
pub use diagnose::{Diagnostic, Severity};
pub use expand::{Env, SystemEnv};

use diagnose::Report;
use key::{Key, Segment};
use marks::Marks;

/// A valid config and what its author should know about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<Diagnostic>,
}

/// Reads and checks the config at `path`.
///
/// # Errors
/// Every mistake of the file at once, sorted by place, with its warnings among them.
pub fn load(path: &Path, env: &dyn Env) -> Result<Loaded, Vec<Diagnostic>> {
    let name = path.display().to_string();
    match read(path) {
        Ok(bytes) => parse(&name, &bytes, env),
        Err(e) => {
            let message = format!(
                "cannot be read: {e}, expected a YAML file of at most 1MiB (`--config FILE` \
                 names another)"
            );
            Err(vec![unplaced(&name, message)])
        }
    }
}

/// Checks a config that was read already; `name` is what messages call it.
///
/// # Errors
/// As [`load`].
pub fn parse(name: &str, bytes: &[u8], env: &dyn Env) -> Result<Loaded, Vec<Diagnostic>> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(e) => return Err(vec![not_utf8(name, bytes, e.valid_up_to())]),
    };
    let marks = Marks::of(text);
    let mut report = Report::new(name, text, &marks);
    let raw = parse_raw(text, &marks, &mut report);
    let config = raw.and_then(|raw| check::config(&raw, &marks, &mut report, env));
    let failed = report.has_errors();
    let found = report.finish();
    match config {
        Some(config) if !failed => Ok(Loaded { config, warnings: found }),
        _ => Err(found),
    }
}

fn parse_raw(text: &str, marks: &Marks, report: &mut Report<'_>) -> Option<raw::Section<raw::Raw>> {
    for (key, span) in &marks.duplicates {
        report.duplicate(key, *span);
    }
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Some(raw::Section::Unset);
    }
    let mut unknown = Vec::new();
    let mut note = |path: serde_ignored::Path<'_>| unknown.push(key_of(&path));
    let yaml = serde_yaml::Deserializer::from_str(text);
    let parsed =
        serde_path_to_error::deserialize(serde_ignored::Deserializer::new(yaml, &mut note));
    let known = raw::keys();
    for key in &unknown {
        report.unknown(key, &known);
    }
    match parsed {
        Ok(raw) => Some(raw),
        // Serde stops at the first key that is given twice; all of them are reported above.
        Err(_) if !marks.duplicates.is_empty() => None,
        Err(e) => {
            let path = e.path().to_string();
            let key = if path == "." { "" } else { path.as_str() };
            let (line, column) = e.inner().location().map_or((1, 1), |l| (l.line(), l.column()));
            let message = yaml_message(&e.inner().to_string(), key, text, line, column);
            report.syntax(key, line, column, message);
            None
        }
    }
}

fn key_of(path: &serde_ignored::Path<'_>) -> Key {
    use serde_ignored::Path;
    match path {
        Path::Root => Key::root(),
        Path::Seq { parent, index } => key_of(parent).index(*index),
        Path::Map { parent, key } => key_of(parent).with(Segment::Name(key.clone())),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => key_of(parent),
    }
}

/// serde_yaml's message without the key and the place, which stand before it already.
fn yaml_message(message: &str, key: &str, text: &str, line: usize, column: usize) -> String {
    let message = message.strip_prefix(&format!("{key}: ")).unwrap_or(message);
    let message = message.replacen(&format!(" at line {line} column {column}"), "", 1);
    if message.contains("more than one document") {
        return "more than one YAML document (`---`), expected one".to_owned();
    }
    if message.starts_with("invalid type: enum") {
        return "has a YAML tag (`!`), expected a value without one".to_owned();
    }
    let shown = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let has_tab = shown.trim_start_matches(' ').starts_with('\t');
    let hint = if has_tab { " (a tab; YAML is indented with blanks)" } else { "" };
    format!("not valid YAML: {message}{hint}")
}

fn not_utf8(name: &str, bytes: &[u8], valid: usize) -> Diagnostic {
    let before = String::from_utf8_lossy(&bytes[..valid]);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
    let message = format!("byte 0x{:02x} is not UTF-8, expected UTF-8 text", bytes[valid]);
    Diagnostic { line, column, ..unplaced(name, message) }
}

fn unplaced(name: &str, message: String) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        file: name.to_owned(),
        line: 0,
        column: 0,
        key: String::new(),
        message,
        shown: None,
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // O_NONBLOCK: opening a FIFO without writer would hang for ever.
    let nonblock = libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path)?;
    let mut bytes = Vec::new();
    file.take(defaults::CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > defaults::CONFIG_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1MiB"));
    }
    Ok(bytes)
}
