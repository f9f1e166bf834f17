//! `sinks`: what all have in common, and `local_file`; `loki` has its own file.

use super::super::checked::{Batch, LocalFile, Queue, Sink, SinkKind};
use super::super::defaults;
use super::super::diagnose::{nearest, quote};
use super::super::key::Key;
use super::super::raw::{self, List, Scalar, Section};
use super::{Checks, loki};
use crate::units::ByteSize;

/// Keys that only a sink of type `loki` has.
const LOKI_KEYS: [&str; 11] = [
    "url",
    "senders",
    "timeout",
    "retry",
    "tenant",
    "auth",
    "headers",
    "proxy",
    "tls",
    "max_age",
    "max_future",
];
/// Keys that only a sink of type `local_file` has.
const LOCAL_FILE_KEYS: [&str; 2] = ["path", "rotate"];
const TYPES: [&str; 2] = ["loki", "local_file"];

/// All sinks. Empty only when that is reported.
pub(super) fn all(
    checks: &mut Checks<'_, '_>,
    at: &Key,
    raw: &List<Section<raw::Sink>>,
) -> Vec<Sink> {
    let items = checks.sections(at, raw, defaults::SINKS_MAX);
    if matches!(raw, List::Unset) || matches!(raw, List::Given(items) if items.is_empty()) {
        let expected = "at least one sink, such as `- { type: loki, url: http://localhost:3100 }`";
        checks.report.missing(at, expected);
    }
    let types: Vec<Option<String>> =
        items.iter().map(|(at, item)| sink_type(checks, at, &item.r#type)).collect();
    let mut names = Vec::new();
    let mut out: Vec<Sink> = Vec::new();
    for ((at, item), kind) in items.iter().zip(&types) {
        let alone = types.iter().filter(|t| *t == kind).count() == 1;
        let default = kind.as_deref().filter(|_| alone);
        let name = if kind.is_some() || item.name != Scalar::Unset {
            checks.item_name(at, &item.name, default)
        } else {
            String::new()
        };
        names.push((at.clone(), name.clone()));
        out.push(one(checks, at, item, kind.as_deref(), name));
    }
    checks.unique(&names);
    same_directory(checks, &names, &out);
    out
}

fn sink_type(checks: &mut Checks<'_, '_>, at: &Key, raw: &Scalar) -> Option<String> {
    let at = at.name("type");
    let text = checks.required_text(&at, raw, "loki or local_file")?;
    if TYPES.contains(&text.as_str()) {
        return Some(text);
    }
    let hint = nearest(&text, &TYPES).map_or(String::new(), |t| format!(" (`{t}`?)"));
    let expected = format!("loki or local_file{hint}");
    checks.report.bad(&at, format!("{} is no type of sink", quote(&text)), expected);
    None
}

fn one(
    checks: &mut Checks<'_, '_>,
    at: &Key,
    raw: &raw::Sink,
    kind: Option<&str>,
    name: String,
) -> Sink {
    let required = checks.boolean(&at.name("required"), &raw.required, true);
    let streams = &at.name("streams_max");
    let streams_max = checks.count(streams, &raw.streams_max, defaults::STREAMS_MAX);
    let batch = batch(checks, &at.name("batch"), &raw.batch);
    let queue = queue(checks, &at.name("queue"), &raw.queue);
    let kind = match kind {
        Some("loki") => {
            foreign(checks, at, &LOCAL_FILE_KEYS, "loki");
            SinkKind::Loki(Box::new(loki::loki(checks, at, raw)))
        }
        Some("local_file") => {
            foreign(checks, at, &LOKI_KEYS, "local_file");
            SinkKind::LocalFile(local_file(checks, at, raw))
        }
        // The type's mistake is reported; mistakes of both kinds still are.
        _ => {
            if checks.marks.has(&at.name("path")) {
                local_file(checks, at, raw);
            } else if checks.marks.has(&at.name("url")) {
                loki::loki(checks, at, raw);
            }
            SinkKind::LocalFile(LocalFile {
                path: "/nonexistent".into(),
                rotate_bytes: defaults::ROTATE_BYTES.default,
                keep: defaults::ROTATE_KEEP.default,
                total_bytes: defaults::ROTATE_TOTAL.default,
            })
        }
    };
    Sink { name, required, batch, queue, kind, streams_max }
}

fn foreign(checks: &mut Checks<'_, '_>, at: &Key, keys: &[&str], kind: &str) {
    for key in keys {
        let at = at.name(key);
        if checks.marks.has(&at) {
            checks.report.foreign(&at, kind);
        }
    }
}

fn batch(checks: &mut Checks<'_, '_>, at: &Key, raw: &Section<raw::Batch>) -> Batch {
    let raw = checks.section(at, raw);
    Batch {
        bytes: checks.size(&at.name("bytes"), &raw.bytes, defaults::BATCH_BYTES),
        wait: checks.duration(&at.name("wait"), &raw.wait, defaults::BATCH_WAIT),
    }
}

fn queue(checks: &mut Checks<'_, '_>, at: &Key, raw: &Section<raw::Queue>) -> Queue {
    let raw = checks.section(at, raw);
    checks.later(&at.name("disk"), raw.disk, "the disk spool (`disk`)");
    let when_full = at.name("when_full");
    match checks.text(&when_full, &raw.when_full).as_deref() {
        None | Some("block") => {}
        Some("drop_oldest" | "drop_newest") => {
            checks.report.unsupported(&when_full, "`when_full` other than `block`");
        }
        Some(text) => {
            let wrong = format!("{} is not known here", quote(text));
            checks.report.bad(&when_full, wrong, "`block`");
        }
    }
    Queue { memory: checks.size(&at.name("memory"), &raw.memory, defaults::QUEUE_MEMORY) }
}

fn local_file(checks: &mut Checks<'_, '_>, at: &Key, raw: &raw::Sink) -> LocalFile {
    let path = checks.path(&at.name("path"), &raw.path, None);
    let at = at.name("rotate");
    let rotate = checks.section(&at, &raw.rotate);
    let rotate_bytes = checks.size(&at.name("bytes"), &rotate.bytes, defaults::ROTATE_BYTES);
    let keep = checks.count(&at.name("keep"), &rotate.keep, defaults::ROTATE_KEEP);
    let total = &at.name("total_bytes");
    let mut total_bytes = checks.size(total, &rotate.total_bytes, defaults::ROTATE_TOTAL);
    if rotate.total_bytes == Scalar::Unset {
        // Nobody who raises `bytes` alone wants a total below one file.
        total_bytes = ByteSize(total_bytes.0.max(rotate_bytes.0.saturating_mul(2)));
    } else if total_bytes < rotate_bytes {
        let wrong = format!("{total_bytes} is less than one file");
        checks.report.bad(total, wrong, format!("at least `bytes`, {rotate_bytes}"));
    }
    LocalFile { path, rotate_bytes, keep, total_bytes }
}

fn same_directory(checks: &mut Checks<'_, '_>, names: &[(Key, String)], sinks: &[Sink]) {
    let mut seen: Vec<(&LocalFile, &Key)> = Vec::new();
    for (sink, (at, _)) in sinks.iter().zip(names) {
        let SinkKind::LocalFile(file) = &sink.kind else { continue };
        if !checks.marks.has(&at.name("path")) {
            continue;
        }
        if let Some((_, first)) = seen.iter().find(|(f, _)| f.path == file.path) {
            let wrong = format!("is the directory of {first} already");
            checks.report.bad(&at.name("path"), wrong, "a directory of its own");
        }
        seen.push((file, at));
    }
}
