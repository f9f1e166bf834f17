//! `log-capturer check`: every mistake of the config, or what the config will cost.
//!
//! Mistakes and warnings go to standard error, the tables to standard output. Starts
//! nothing and touches neither the data directory nor the network.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::budget::{Budget, Item, Unit, budget};
use super::exit::Exit;
use crate::config::{self, Config, Diagnostic, Loaded, Severity, SystemEnv};
use crate::daemon::plan::{self, PlannedThread};

/// Prints the answer for the file at `path`.
pub fn check(path: &Path, as_json: bool) -> Exit {
    let answer = config::load(path, &SystemEnv);
    let exit = if answer.is_ok() { Exit::Ok } else { Exit::BadConfig };
    let text = match (&answer, as_json) {
        (answer, true) => format!("{:#}\n", in_json(answer)),
        (Ok(loaded), false) => {
            print_diagnostics(&loaded.warnings);
            format!("config OK: {}\n\n{}", path.display(), report(&loaded.config))
        }
        (Err(diagnostics), false) => {
            print_diagnostics(diagnostics);
            String::new()
        }
    };
    // A closed pipe behind `check | head` is no fault.
    let _ = std::io::stdout().write_all(text.as_bytes());
    exit
}

/// Prints mistakes and warnings on standard error, and how many there are.
pub fn print_diagnostics(diagnostics: &[Diagnostic]) {
    let mut out = String::new();
    for diagnostic in diagnostics {
        let _ = writeln!(out, "{diagnostic}");
    }
    let errors = diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
    if errors > 1 {
        let _ = writeln!(out, "{errors} mistakes");
    }
    let _ = std::io::stderr().write_all(out.as_bytes());
}

/// The tables of a valid config.
pub fn report(config: &Config) -> String {
    let mut out = String::new();
    threads_table(&mut out, &plan::threads(config));
    let Budget { memory, disk, descriptors } = budget(config);
    items_table(&mut out, "memory", &memory, Unit::Bytes);
    items_table(&mut out, "disk", &disk, Unit::Bytes);
    items_table(&mut out, "file descriptors", &descriptors, Unit::Count);
    let needed = total(&descriptors);
    if let Some(limit) = descriptors_limit().filter(|limit| *limit < needed) {
        let _ = writeln!(
            out,
            "\nThis shell's limit is {limit} file descriptors, {needed} may be needed: set \
             LimitNOFILE= in the unit or `ulimit -n`."
        );
    }
    out
}

fn threads_table(out: &mut String, threads: &[PlannedThread]) {
    let count: usize = threads.iter().map(|t| t.count).sum();
    let _ = writeln!(out, "threads: {count}");
    let names = threads.iter().map(|t| t.name.len()).max().unwrap_or(0);
    let waits = threads.iter().map(|t| t.waits_on.len()).max().unwrap_or(0);
    for t in threads {
        let _ = writeln!(
            out,
            "  {:names$}  {:>2}  waits on {:waits$}  {}",
            t.name, t.count, t.waits_on, t.does
        );
    }
}

fn items_table(out: &mut String, title: &str, items: &[Item], unit: Unit) {
    let _ = writeln!(out, "\n{title}: at most {}", unit.show(total(items)));
    let width = items.iter().map(|i| unit.show(i.amount).len()).max().unwrap_or(0);
    let names = items.iter().map(|i| i.name.len()).max().unwrap_or(0);
    for item in items {
        let amount = unit.show(item.amount);
        let _ = writeln!(out, "  {amount:>width$}  {:names$}  {}", item.name, item.arithmetic);
    }
}

fn total(items: &[Item]) -> u64 {
    items.iter().map(|i| i.amount).sum()
}

fn descriptors_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

fn in_json(answer: &Result<Loaded, Vec<Diagnostic>>) -> Value {
    let found = match answer {
        Ok(loaded) => &loaded.warnings,
        Err(diagnostics) => diagnostics,
    };
    let mut out = json!({
        "ok": answer.is_ok(),
        "diagnostics": found.iter().map(diagnostic_in_json).collect::<Vec<_>>(),
    });
    if let Ok(Loaded { config, .. }) = answer {
        let threads = plan::threads(config);
        out["threads"] = threads
            .iter()
            .map(|t| {
                json!({ "name": t.name, "count": t.count, "waits_on": t.waits_on, "does": t.does })
            })
            .collect();
        let Budget { memory, disk, descriptors } = budget(config);
        out["memory_bytes"] = items_in_json(&memory);
        out["disk_bytes"] = items_in_json(&disk);
        out["file_descriptors"] = items_in_json(&descriptors);
    }
    out
}

fn items_in_json(items: &[Item]) -> Value {
    let list: Vec<Value> = items
        .iter()
        .map(|i| json!({ "name": i.name, "amount": i.amount, "arithmetic": i.arithmetic }))
        .collect();
    json!({ "total": total(items), "items": list })
}

fn diagnostic_in_json(d: &Diagnostic) -> Value {
    json!({
        "severity": if d.severity == Severity::Error { "error" } else { "warning" },
        "file": d.file,
        "line": d.line,
        "column": d.column,
        "key": d.key,
        "message": d.message,
    })
}
