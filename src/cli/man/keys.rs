//! Every config key for the manual: type, one sentence, limits, default.
//!
//! Limits and defaults come from `config::defaults`, so they cannot go stale. A test
//! compares the keys with those that the config accepts, both ways.

use std::time::Duration;

use crate::config::defaults::{self as d, Bounds};
use crate::units::{ByteSize, show_duration};

/// What the manual says of a key.
#[derive(Clone, Debug)]
pub struct KeyText {
    /// In the form of `Key::general`.
    pub key: String,
    pub kind: &'static str,
    /// Without its final stop.
    pub sentence: &'static str,
    /// Empty where the type says all.
    pub limits: String,
    pub default: String,
}

/// The keys of a section.
pub struct Group {
    pub title: &'static str,
    pub keys: Vec<KeyText>,
}

/// All keys, in the order of the manual.
pub fn groups() -> Vec<Group> {
    vec![
        Group { title: "Top of the file", keys: top() },
        Group { title: "Sources: files", keys: files() },
        Group { title: "Sources: Docker", keys: docker() },
        Group { title: "Sinks: all types", keys: sinks() },
        Group { title: "Sinks: type loki", keys: loki() },
        Group { title: "Sinks: type local_file", keys: local_file() },
    ]
}

fn key(
    key: impl Into<String>,
    kind: &'static str,
    sentence: &'static str,
    limits: &str,
    default: &str,
) -> KeyText {
    let (limits, default) = (limits.to_owned(), default.to_owned());
    KeyText { key: key.into(), kind, sentence, limits, default }
}

fn bounded<T: Copy>(
    key: impl Into<String>,
    kind: &'static str,
    sentence: &'static str,
    bounds: Bounds<T>,
    show: impl Fn(T) -> String,
) -> KeyText {
    let limits = format!("{} to {}", show(bounds.min), show(bounds.max));
    KeyText { key: key.into(), kind, sentence, limits, default: show(bounds.default) }
}

fn duration(key: impl Into<String>, sentence: &'static str, bounds: Bounds<Duration>) -> KeyText {
    bounded(key, "Duration", sentence, bounds, show_duration)
}

fn size(key: impl Into<String>, sentence: &'static str, bounds: Bounds<ByteSize>) -> KeyText {
    bounded(key, "Size", sentence, bounds, |b| b.to_string())
}

fn count(key: impl Into<String>, sentence: &'static str, bounds: Bounds<usize>) -> KeyText {
    bounded(key, "Number", sentence, bounds, |n| n.to_string())
}

const LATER: &str = "only empty in this version";

fn top() -> Vec<KeyText> {
    vec![
        key(
            "data_dir",
            "Path",
            "Where positions, dead letters and the lock are kept; made with mode 0750 when missing",
            "one daemon at a time",
            d::DATA_DIR,
        ),
        key(
            "log.level",
            "Word",
            "What this program logs about itself on standard error",
            "error, warn, info, debug or trace",
            "info",
        ),
        key("log.format", "Word", "How it logs", "text or json", "text"),
        key(
            "server.listen",
            "Address and port",
            "Where metrics and health are served",
            "an IP address with a port, or off",
            d::LISTEN,
        ),
        count("readers.files", "Threads that read files", d::READERS),
        count("readers.docker", "Threads that read streams of Docker's API", d::READERS),
        duration(
            "shutdown_timeout",
            "How long SIGTERM may drain before the process ends; what is left is read again",
            d::SHUTDOWN_TIMEOUT,
        ),
        key(
            "labels",
            "Names with texts",
            "Labels on every stream; host is set to the host's name unless given, and an empty \
             value removes a label",
            "names [a-zA-Z_][a-zA-Z0-9_]*, values up to 2048 bytes, 15 labels a stream",
            "host: ${HOSTNAME}",
        ),
        key("stages", "Named lists", "Stages that sources share", LATER, "none"),
        size(
            "dead_letters.bytes",
            "Disk for lines that a sink refused for good; the oldest give way, counted",
            d::DEAD_LETTER_BYTES,
        ),
        duration("dead_letters.age", "How long refused lines are kept", d::DEAD_LETTER_AGE),
    ]
}

fn files() -> Vec<KeyText> {
    let mut out = vec![
        key(
            "sources.files[].name",
            "Name",
            "The source's name in metrics and log, and its label job unless that is given",
            "up to 32 of a-z, 0-9, _ and -; unique",
            "files, when there is one file source; else required",
        ),
        key(
            "sources.files[].include",
            "List of patterns",
            "Files to read; * and ? stop at /, ** does not, {a,b} and [ab] are alternatives; \
             relative patterns start from the working directory",
            "at least one",
            "required",
        ),
        key(
            "sources.files[].exclude",
            "List of patterns",
            "Files not to read, by path or, without /, by name",
            "",
            "none",
        ),
        key(
            "sources.files[].labels",
            "Names with texts",
            "Labels of this source's streams; filename is added for each file",
            "as labels; filename cannot be set",
            "job: the source's name, and the global labels",
        ),
        duration(
            "sources.files[].rotated_grace",
            "How long a rotated file is watched for late lines after its end",
            d::ROTATED_GRACE,
        ),
        key(
            "sources.files[].rotated_glob",
            "List of patterns",
            "Names that rotation gives to a file, {name} standing for its live name",
            "file names with {name} and more",
            "{name}.* and {name}-*",
        ),
    ];
    out.extend(lines("sources.files[]"));
    out
}

fn docker() -> Vec<KeyText> {
    let mut out = vec![
        key(
            "sources.docker[].name",
            "Name",
            "The source's name in metrics and log",
            "up to 32 of a-z, 0-9, _ and -; unique",
            "docker, when there is one Docker source; else required",
        ),
        key(
            "sources.docker[].endpoint",
            "Address",
            "The engine",
            "unix:///path or tcp://host:port",
            d::DOCKER_ENDPOINT,
        ),
        key(
            "sources.docker[].read",
            "Word",
            "The way to the lines: the engine's log files, its API, or the files where they can \
             be read",
            "auto, json_file or api",
            "auto",
        ),
    ];
    out.extend(filters("include", "Which containers to follow", "all"));
    out.extend(filters("exclude", "Which of them not to follow", "none"));
    out.push(key(
        "sources.docker[].labels",
        "Names with texts",
        "Labels of this source's streams; container, stream, compose_project and \
         compose_service are added",
        "as labels; those four cannot be set",
        "the global labels",
    ));
    out.extend(lines("sources.docker[]"));
    out
}

fn filters(name: &str, sentence: &'static str, default: &str) -> Vec<KeyText> {
    let rules = [
        ("names", "List of patterns on container names"),
        ("images", "List of patterns on image names"),
        ("labels", "List of labels, each key or key=value"),
        ("projects", "List of Compose projects"),
    ];
    rules
        .map(|(rule, kind)| {
            key(format!("sources.docker[].{name}.{rule}"), kind, sentence, "", default)
        })
        .to_vec()
}

/// What both kinds of source have.
fn lines(source: &str) -> Vec<KeyText> {
    let at = |name: &str| format!("{source}.{name}");
    vec![
        key(
            at("start_at"),
            "Word or duration",
            "Where to begin in what is there at the source's first start ever; an age: at the \
             beginning of what changed within it; what appears later is read from its beginning",
            "end, beginning, or 1s to 3650d",
            "end",
        ),
        key(at("timezone"), "Text", "Zone of times in the text that have no offset", LATER, "UTC"),
        key(at("stages"), "List", "What is done with each line", LATER, "none"),
        size(
            at("line_bytes_max"),
            "The longest line that is sent whole (Loki's max_line_size)",
            d::LINE_BYTES_MAX,
        ),
        key(
            at("long_lines"),
            "Word",
            "What becomes of a longer line",
            "split, truncate or dead_letter",
            "split",
        ),
        duration(
            at("partial_wait"),
            "How long a last line without newline waits for the rest before it is sent",
            d::PARTIAL_WAIT,
        ),
        key(at("sinks"), "List of names", "Which sinks get the lines", "names under sinks", "all"),
    ]
}

fn sinks() -> Vec<KeyText> {
    vec![
        key(
            "sinks[].name",
            "Name",
            "The sink's name in metrics, log and thread names",
            "up to 32 of a-z, 0-9, _ and -; unique",
            "its type, when it is the only one of it; else required",
        ),
        key("sinks[].type", "Word", "The kind of destination", "loki or local_file", "required"),
        key(
            "sinks[].required",
            "true or false",
            "Whether a position waits for this sink's acknowledgement; a full optional sink drops \
             its newest, counted",
            "",
            "true",
        ),
        size(
            "sinks[].batch.bytes",
            "Size before compression at which a batch is closed",
            d::BATCH_BYTES,
        ),
        duration("sinks[].batch.wait", "Age at which a batch is closed", d::BATCH_WAIT),
        size(
            "sinks[].queue.memory",
            "Closed batches held in memory, compressed; when full, sources wait",
            d::QUEUE_MEMORY,
        ),
        key(
            "sinks[].queue.disk",
            "Size",
            "Closed batches held on disk",
            "not in this version",
            "none",
        ),
        key("sinks[].queue.when_full", "Word", "What a full queue does", "block", "block"),
        count(
            "sinks[].streams_max",
            "Streams a sink may have; past it new label sets fall back to the source's labels",
            d::STREAMS_MAX,
        ),
    ]
}

fn loki() -> Vec<KeyText> {
    let secret = "Text, file:PATH or credential:NAME";
    vec![
        key(
            "sinks[].url",
            "URL",
            "Loki's address; /loki/api/v1/push is added unless it has a path",
            "http or https, no user, no query",
            "required",
        ),
        count("sinks[].senders", "Sender threads, each with one request in flight", d::SENDERS),
        duration(
            "sinks[].timeout.connect",
            "The longest a connection may take",
            d::CONNECT_TIMEOUT,
        ),
        duration("sinks[].timeout.request", "The longest a request may take", d::REQUEST_TIMEOUT),
        duration("sinks[].retry.initial", "First pause before a retry", d::RETRY_INITIAL),
        duration("sinks[].retry.max", "Longest pause before a retry", d::RETRY_MAX),
        key(
            "sinks[].tenant",
            "Text",
            "Sent as X-Scope-OrgID",
            "up to 150 letters, digits or !-_.*'()",
            "none",
        ),
        key("sinks[].auth.basic.user", "Text", "User of basic authentication", "", "none"),
        key("sinks[].auth.basic.password", secret, "Its password", "up to 64KiB", "none"),
        key("sinks[].auth.bearer", secret, "Bearer token", "besides no basic", "none"),
        key(
            "sinks[].headers",
            "Names with texts, file:PATH or credential:NAME",
            "Further headers of each request",
            "up to 32; none that the sender sets itself",
            "none",
        ),
        key("sinks[].proxy", "URL", "HTTP proxy", "http, no user", "none"),
        key("sinks[].tls.ca_file", "Path", "PEM file of authorities", "", "the system's"),
        key("sinks[].tls.cert_file", "Path", "PEM client certificate", "with key_file", "none"),
        key("sinks[].tls.key_file", "Path", "PEM key of it", "with cert_file", "none"),
        duration(
            "sinks[].max_age",
            "Older lines go to dead letters (Loki's reject_old_samples_max_age)",
            d::MAX_AGE,
        ),
        duration(
            "sinks[].max_future",
            "Lines further in the future go to dead letters (Loki's creation_grace_period)",
            d::MAX_FUTURE,
        ),
    ]
}

fn local_file() -> Vec<KeyText> {
    vec![
        key(
            "sinks[].path",
            "Path",
            "Directory of the files, one JSON object a line",
            "no file source may read there",
            "required",
        ),
        size("sinks[].rotate.bytes", "Size at which a new file is begun", d::ROTATE_BYTES),
        count("sinks[].rotate.keep", "Files kept besides the current one", d::ROTATE_KEEP),
        size(
            "sinks[].rotate.total_bytes",
            "All files together, at least rotate.bytes; the oldest give way",
            d::ROTATE_TOTAL,
        ),
    ]
}
