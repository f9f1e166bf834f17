//! From what is written to what is valid: every rule of the config.
//!
//! Each function takes a key and what stands there, reports what is wrong and goes on
//! with the default, so that one run finds every mistake; the result counts only when
//! the report has no error. This file checks the top of the file and what concerns
//! several of its parts; `leaf` parses single values, the others own a section each.

mod docker;
mod feedback;
mod files;
mod labels;
mod leaf;
mod loki;
mod paths;
mod sinks;

use std::net::SocketAddr;
use std::path::PathBuf;

use super::checked::{Config, DeadLetters, Log, LogFormat, Readers, Server};
use super::defaults;
use super::diagnose::{Report, quote};
use super::expand::Env;
use super::key::Key;
use super::marks::Marks;
use super::raw::{self, List, Scalar, Section};

/// What all checks share.
pub(super) struct Checks<'a, 'r> {
    pub report: &'r mut Report<'a>,
    pub marks: &'a Marks,
    pub env: &'r dyn Env,
    pub working_dir: PathBuf,
}

/// Checks the whole file; None when a part is missing that nothing can stand in for.
pub(super) fn config<'a>(
    raw: &Section<raw::Raw>,
    marks: &'a Marks,
    report: &mut Report<'a>,
    env: &dyn Env,
) -> Option<Config> {
    let mut checks = Checks { report, marks, env, working_dir: env.working_dir() };
    let before = checks.report.errors_in_lists();
    let top = checks.section(&Key::root(), raw);
    if matches!(raw, Section::Wrong(_)) {
        return None;
    }
    let config = top_level(&mut checks, &top);
    // These find their keys by counting, so they need all sources and sinks to be there.
    if checks.report.errors_in_lists() == before {
        feedback::refuse_loops(&mut checks, &config);
        feedback::refuse_data_dir_as_sink(&mut checks, &config);
        feedback::warn_overlaps(&mut checks, &config);
        feedback::warn_unused_sinks(&mut checks, &config);
    }
    (!checks.report.has_errors()).then_some(config)
}

fn top_level(checks: &mut Checks<'_, '_>, raw: &raw::Raw) -> Config {
    let root = Key::root();
    let hostname = checks.env.hostname();
    checks.later(&root.name("stages"), raw.stages, "`stages` with content");
    let labels = checks.labels(&root.name("labels"), &raw.labels, &[]);
    let sinks = sinks::all(checks, &root.name("sinks"), &raw.sinks);
    let names: Vec<&str> = sinks.iter().map(|s| s.name.as_str()).collect();
    let global = labels::with_host(&labels, &hostname);
    let at = root.name("sources");
    let sources = checks.section(&at, &raw.sources);
    let files = files::all(checks, &at.name("files"), &sources.files, &global, &names);
    let docker = docker::all(checks, &at.name("docker"), &sources.docker, &global, &names);
    if files.is_empty() && docker.is_empty() && !checks.is_wrong(&raw.sources, &sources) {
        let expected = "at least one source under `files` or `docker`";
        checks.report.missing(&at, expected);
    }
    Config {
        data_dir: checks.path(&root.name("data_dir"), &raw.data_dir, Some(defaults::DATA_DIR)),
        log: log_section(checks, &root.name("log"), &raw.log),
        server: server(checks, &root.name("server"), &raw.server),
        readers: readers(checks, &root.name("readers"), &raw.readers),
        shutdown_timeout: checks.duration(
            &root.name("shutdown_timeout"),
            &raw.shutdown_timeout,
            defaults::SHUTDOWN_TIMEOUT,
        ),
        labels: labels::without_empty(global),
        hostname,
        files,
        docker,
        sinks,
        dead_letters: dead_letters(checks, &root.name("dead_letters"), &raw.dead_letters),
    }
}

fn log_section(checks: &mut Checks<'_, '_>, at: &Key, raw: &Section<raw::Log>) -> Log {
    use log::LevelFilter::{Debug, Error, Info, Trace, Warn};
    let raw = checks.section(at, raw);
    let levels =
        [("error", Error), ("warn", Warn), ("info", Info), ("debug", Debug), ("trace", Trace)];
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    Log {
        level: checks.choice(&at.name("level"), &raw.level, Info, &levels),
        format: checks.choice(&at.name("format"), &raw.format, LogFormat::Text, &formats),
    }
}

fn server(checks: &mut Checks<'_, '_>, at: &Key, raw: &Section<raw::Server>) -> Server {
    let raw = checks.section(at, raw);
    let at = at.name("listen");
    let text = checks.text(&at, &raw.listen);
    let text = text.as_deref().unwrap_or(defaults::LISTEN);
    if text == "off" {
        return Server { listen: None };
    }
    let listen: Option<SocketAddr> = text.parse().ok();
    match listen {
        None => {
            let expected = "an address and port such as 127.0.0.1:8401 or [::1]:8401, or `off`";
            checks.report.bad(&at, format!("{} is no address", quote(text)), expected);
        }
        Some(address) if !address.ip().is_loopback() => {
            let message = format!(
                "{address} can be reached from other hosts, and metrics and health need no \
                 password; 127.0.0.1 cannot"
            );
            checks.report.warn(&at, message);
        }
        Some(_) => {}
    }
    Server { listen }
}

fn readers(checks: &mut Checks<'_, '_>, at: &Key, raw: &Section<raw::Readers>) -> Readers {
    let raw = checks.section(at, raw);
    Readers {
        files: checks.count(&at.name("files"), &raw.files, defaults::READERS),
        docker: checks.count(&at.name("docker"), &raw.docker, defaults::READERS),
    }
}

fn dead_letters(
    checks: &mut Checks<'_, '_>,
    at: &Key,
    raw: &Section<raw::DeadLetters>,
) -> DeadLetters {
    let raw = checks.section(at, raw);
    DeadLetters {
        bytes: checks.size(&at.name("bytes"), &raw.bytes, defaults::DEAD_LETTER_BYTES),
        age: checks.duration(&at.name("age"), &raw.age, defaults::DEAD_LETTER_AGE),
    }
}

impl Checks<'_, '_> {
    /// The content of a section; defaults where it is absent or something else.
    pub fn section<T: Default + Clone>(&mut self, at: &Key, raw: &Section<T>) -> T {
        match raw {
            Section::Unset => T::default(),
            Section::Given(content) => content.clone(),
            Section::Wrong(shape) => {
                self.report.bad(at, format!("this is {shape}"), "a section of keys");
                T::default()
            }
        }
    }

    /// The items of a list; none where it is absent or something else.
    pub fn list<'l, T>(&mut self, at: &Key, raw: &'l List<T>, expected: &str) -> &'l [T] {
        match raw {
            List::Unset => &[],
            List::Given(items) => items,
            List::Wrong(shape) => {
                self.report.bad(at, format!("this is {shape}"), expected);
                &[]
            }
        }
    }

    /// The items of a list of sections, at most `max`, each with its key.
    pub fn sections<T: Default + Clone>(
        &mut self,
        at: &Key,
        raw: &List<Section<T>>,
        max: usize,
    ) -> Vec<(Key, T)> {
        let items = self.list(at, raw, "a list, each item beginning with `-`");
        if items.len() > max {
            self.report.bad(at, format!("has {} items", items.len()), format!("at most {max}"));
        }
        let mut out = Vec::new();
        for (index, item) in items.iter().take(max).enumerate() {
            let at = at.index(index);
            match item {
                Section::Unset => self.report.bad(&at, "is empty", "a section of keys"),
                Section::Given(item) => out.push((at, item.clone())),
                wrong => {
                    self.section(&at, wrong);
                }
            }
        }
        out
    }

    /// Whether a mistake in the sources was reported already, so that none being left
    /// over is its consequence.
    fn is_wrong(&self, raw: &Section<raw::Sources>, sources: &raw::Sources) -> bool {
        let empty_files = matches!(sources.files, List::Unset)
            || matches!(&sources.files, List::Given(items) if items.is_empty());
        let empty_docker = matches!(sources.docker, List::Unset)
            || matches!(&sources.docker, List::Given(items) if items.is_empty());
        matches!(raw, Section::Wrong(_)) || !empty_files || !empty_docker
    }

    /// The name of a source or sink: given, or `default` where it is the only one.
    pub fn item_name(&mut self, at: &Key, raw: &Scalar, default: Option<&str>) -> String {
        let at = at.name("name");
        if let (Scalar::Unset, Some(default)) = (raw, default) {
            return default.to_owned();
        }
        let Some(name) = self.required_text(&at, raw, "a unique name, since there are several")
        else {
            return String::new();
        };
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
        if name.is_empty() || name.len() > 32 || !name.chars().all(good) {
            let expected = "1 to 32 of a-z, 0-9, `_` and `-`";
            self.report.bad(&at, format!("{} is no name", quote(&name)), expected);
        }
        name
    }

    /// Reports names that stand twice in a list.
    pub fn unique(&mut self, names: &[(Key, String)]) {
        for (index, (at, name)) in names.iter().enumerate() {
            if name.is_empty() {
                continue;
            }
            if let Some((first, _)) = names[..index].iter().find(|(_, n)| n == name) {
                let wrong = format!("{} is the name of {first} already", quote(name));
                self.report.bad(&at.name("name"), wrong, "a unique name");
            }
        }
    }
}
