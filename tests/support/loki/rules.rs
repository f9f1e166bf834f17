//! What Loki's distributor does with a decoded push before an ingester sees it.
//!
//! Bad entries and bad streams are left out one by one and reported together; a few mistakes fail
//! the whole request. The messages are those of the recorded contract, word for word.

use super::labels::{self, Labels};
use super::limits::Limits;
use super::push::{Entry, PushStream, Refusal, Stamp, refuse};
use std::collections::{HashMap, HashSet};

/// A stream with its final label set and the entries that passed.
pub struct ValidStream {
    pub labels: Labels,
    /// The label set as Loki writes it, which is also its identity.
    pub name: String,
    pub entries: Vec<Entry>,
}

#[derive(Default)]
pub struct Validated {
    pub streams: Vec<ValidStream>,
    pub errors: Errors,
    /// A label set was refused, as opposed to an entry.
    pub bad_stream: bool,
}

/// Validation errors; equal ones are counted.
#[derive(Default)]
pub struct Errors {
    counts: Vec<(String, usize)>,
    index: HashMap<String, usize>,
}

impl Errors {
    fn add(&mut self, message: String) {
        let at = *self.index.entry(message).or_insert_with_key(|message| {
            self.counts.push((message.clone(), 0));
            self.counts.len() - 1
        });
        self.counts[at].1 += 1;
    }

    /// The 400 that stands for all of them; None if there are none.
    pub fn refusal(&self) -> Option<Refusal> {
        match &self.counts[..] {
            [] => None,
            [(message, 1)] => Some(refuse(400, message)),
            many => {
                let parts = many.iter().map(|(message, n)| format!("{n} errors like: {message}"));
                Some(refuse(400, parts.collect::<Vec<_>>().join("; ")))
            }
        }
    }
}

/// What the rules depend on besides the request.
pub struct Context<'a> {
    pub limits: &'a Limits,
    pub tenant: &'a str,
    pub now_ns: i64,
    /// The header `X-Loki-Backfill-Shard`.
    pub backfill: Option<&'a str>,
}

/// Applies the rules to all streams. An error fails the whole request, which stores nothing.
pub fn validate(streams: Vec<PushStream>, context: &Context) -> Result<Validated, Refusal> {
    if let Some(shard) = context.backfill.filter(|shard| shard.len() > 128) {
        let n = shard.len();
        let what = "invalid X-Loki-Backfill-Shard header: value length";
        return Err(refuse(400, format!("{what} {n} exceeds limit of 128")));
    }
    if streams.is_empty() {
        return Err(refuse(422, "error at least one valid stream is required for ingestion"));
    }
    let mut out = Validated::default();
    for stream in streams {
        if stream.entries.is_empty() {
            continue;
        }
        let labels = stream_labels(&stream.labels, context)?;
        let name = labels::display(&labels);
        if let Err(message) = check_labels(&labels, &name, context) {
            out.errors.add(message);
            out.bad_stream = true;
            continue;
        }
        let mut entries = Vec::with_capacity(stream.entries.len());
        for mut entry in stream.entries {
            match check_entry(&mut entry, &name, context) {
                Ok(()) => entries.push(normalise(entry)?),
                Err(message) => out.errors.add(message),
            }
        }
        if context.limits.increment_duplicate_timestamp {
            increment_duplicates(&mut entries);
        }
        if !entries.is_empty() {
            out.streams.push(ValidStream { labels, name, entries });
        }
    }
    Ok(out)
}

/// Where Loki looks for `service_name`, in this order.
const SERVICE_NAMES: [&str; 12] = [
    "service",
    "app",
    "application",
    "app_name",
    "name",
    "app_kubernetes_io_name",
    "container",
    "container_name",
    "k8s_container_name",
    "component",
    "workload",
    "job",
];

fn stream_labels(text: &[u8], context: &Context) -> Result<Labels, Refusal> {
    let mut labels = labels::parse(text).map_err(|what| refuse(400, what))?;
    if labels.iter().any(|(n, _)| n == "__backfill__" || n == "__backfill_shard__") {
        return Err(refuse(
            400,
            "streams must not contain the reserved labels __backfill__ or __backfill_shard__; \
             set the X-Loki-Backfill-Shard header to mark a push as backfill data",
        ));
    }
    labels.retain(|(_, value)| !value.is_empty());
    let has = |name: &str| labels.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    if context.limits.discover_service_name && has("service_name").is_none() {
        let found = SERVICE_NAMES.iter().find_map(|name| has(name));
        let service = found.unwrap_or_else(|| "unknown_service".into());
        labels.push(("service_name".into(), service));
    }
    if let Some(shard) = context.backfill {
        labels.push(("__backfill__".into(), "true".into()));
        labels.push(("__backfill_shard__".into(), shard.into()));
    }
    labels.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(labels)
}

fn check_labels(labels: &Labels, name: &str, context: &Context) -> Result<(), String> {
    let limits = context.limits;
    if labels.is_empty() {
        return Err("error at least one label pair is required per stream".into());
    }
    let missing = limits.enforced_labels.iter().copied();
    let missing: Vec<&str> = missing.filter(|m| labels.iter().all(|(n, _)| n != m)).collect();
    if !missing.is_empty() {
        let (missing, tenant) = (missing.join(","), context.tenant);
        return Err(format!(
            "missing required labels '{missing}' for user '{tenant}' for stream '{name}' \
             (policy: '')"
        ));
    }
    let counted = labels.iter().filter(|(n, _)| n != "service_name").count();
    let max = limits.max_label_names_per_series;
    if counted > max {
        return Err(format!("entry for stream '{name}' has {counted} label names; limit {max}"));
    }
    for (i, (label, value)) in labels.iter().enumerate() {
        if label.len() > limits.max_label_name_length {
            return Err(format!("stream '{name}' has label name too long: '{label}'"));
        }
        if value.len() > limits.max_label_value_length {
            return Err(format!("stream '{name}' has label value too long: '{value}'"));
        }
        if i > 0 && labels[i - 1].0 == *label {
            return Err(format!("stream '{name}' has duplicate label name: '{label}'"));
        }
    }
    Ok(())
}

fn check_entry(entry: &mut Entry, name: &str, context: &Context) -> Result<(), String> {
    let limits = context.limits;
    let oldest = context.now_ns - limits.reject_old_samples_max_age.as_nanos() as i64;
    let newest = context.now_ns + limits.creation_grace_period.as_nanos() as i64;
    let when = entry.stamp.ns();
    if limits.reject_old_samples && context.backfill.is_none() && when < oldest {
        return Err(format!(
            "entry for stream '{name}' has timestamp too old: {}, oldest acceptable timestamp \
             is: {}",
            rfc3339(entry.stamp),
            rfc3339(Stamp::from_ns(oldest))
        ));
    }
    if when > newest {
        let when = rfc3339(entry.stamp);
        return Err(format!("entry for stream '{name}' has timestamp too new: {when}"));
    }
    let (length, max) = (entry.line.len(), limits.max_line_size);
    if length > max && limits.max_line_size_truncate {
        let mark = limits.max_line_size_truncate_identifier;
        entry.line.truncate(max - mark.len());
        entry.line.extend_from_slice(mark.as_bytes());
    } else if length > max {
        return Err(format!(
            "max entry size '{max}' bytes exceeded for stream '{name}' while adding an entry \
             with length '{length}' bytes"
        ));
    }
    check_metadata(entry, name, limits)
}

fn check_metadata(entry: &Entry, name: &str, limits: &Limits) -> Result<(), String> {
    let see = |option: &str, cure: &str| {
        let contact = "or contact your Loki administrator to";
        format!("Please see `limits_config.{option}` {contact} {cure} it")
    };
    let (size, size_max) = (entry.metadata_bytes(), limits.max_structured_metadata_size);
    let (count, max) = (entry.metadata.len(), limits.max_structured_metadata_entries_count);
    if count > 0 && !limits.allow_structured_metadata {
        let see = see("allow_structured_metadata", "enable");
        let what = "includes structured metadata, but this feature is disallowed";
        return Err(format!("stream '{name}' {what}. {see}"));
    }
    if size > size_max {
        let see = see("max_structured_metadata_size", "increase");
        return Err(format!(
            "stream '{name}' has structured metadata too large: '{size}' bytes, limit: \
             '{size_max}' bytes. {see}"
        ));
    }
    if count > max {
        let see = see("max_structured_metadata_entries_count", "increase");
        return Err(format!(
            "stream '{name}' has too many structured metadata labels: '{count}', limit: \
             '{max}'. {see}"
        ));
    }
    Ok(())
}

/// Gives metadata the names that Loki stores, sorted, without empty values.
///
/// Of equal names the last wins; a name that had to be changed wins over one that was good.
fn normalise(mut entry: Entry) -> Result<Entry, Refusal> {
    if entry.metadata.is_empty() {
        return Ok(entry);
    }
    let mut stored = std::collections::BTreeMap::new();
    let mut changed = Vec::new();
    for (name, value) in entry.metadata {
        let good = metadata_name(&name).map_err(|what| refuse(500, what))?;
        if good == name {
            stored.insert(name, value);
        } else {
            changed.push((good, value));
        }
    }
    stored.extend(changed);
    stored.retain(|_, value| !value.is_empty());
    entry.metadata = stored.into_iter().collect();
    Ok(entry)
}

fn metadata_name(name: &str) -> Result<String, String> {
    if name.is_empty() {
        return Err("label name is empty".into());
    }
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        let c = if c.is_ascii_alphanumeric() { c } else { '_' };
        if c != '_' || !out.ends_with('_') {
            out.push(c);
        }
    }
    if out == "_" {
        let what = "resulted in invalid name \"_\"";
        return Err(format!("normalization for label name {name:?} {what}"));
    }
    if out.starts_with(|c: char| c.is_ascii_digit()) {
        out.insert_str(0, "key_");
    }
    Ok(out)
}

/// Moves entries with equal times 1 ns apart, except one that repeats the line before it.
fn increment_duplicates(entries: &mut [Entry]) {
    let mut previous = None;
    for i in 0..entries.len() {
        let when = entries[i].stamp.ns();
        let before = i.checked_sub(1).map(|j| (entries[j].stamp.ns(), entries[j].line.clone()));
        match before {
            Some((t, line)) if line != entries[i].line && (Some(when) == previous || when == t) => {
                entries[i].stamp = Stamp::from_ns(t + 1);
            }
            _ => previous = Some(when),
        }
    }
}

/// RFC 3339 in whole seconds.
pub fn rfc3339(stamp: Stamp) -> String {
    let (date, time) = date_and_time(stamp);
    format!("{date}T{time}Z")
}

/// Go's default form of a time: `2026-01-02 03:04:05.123456789 +0000 UTC`.
pub fn go_time(stamp: Stamp) -> String {
    let (date, time) = date_and_time(stamp);
    let fraction = format!(".{:09}", stamp.nanos);
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{date} {time}{fraction} +0000 UTC")
}

fn date_and_time(stamp: Stamp) -> (String, String) {
    let when = time::OffsetDateTime::from_unix_timestamp(stamp.seconds)
        .expect("the decoder admits the years 1 to 9999 only");
    let (year, month, day) = when.to_calendar_date();
    let (hour, minute, second) = when.to_hms();
    (
        format!("{year:04}-{:02}-{day:02}", u8::from(month)),
        format!("{hour:02}:{minute:02}:{second:02}"),
    )
}

const TENANT_CHARACTERS: &[u8] = b"!._*'()-";

/// The tenant of a request from its `X-Scope-OrgID`.
pub fn tenant(header: Option<&str>, limits: &Limits) -> Result<String, Refusal> {
    if !limits.auth_enabled {
        return Ok("fake".into());
    }
    let header = header.unwrap_or("");
    if header.is_empty() {
        return Err(refuse(401, "no org id"));
    }
    let mut ids = HashSet::new();
    for id in header.split('|') {
        let id = id.split(':').next().unwrap_or("");
        let allowed = |c: &char| {
            c.is_ascii_alphanumeric()
                || u8::try_from(*c).is_ok_and(|c| TENANT_CHARACTERS.contains(&c))
        };
        if let Some(c) = id.chars().find(|c| !allowed(c)) {
            let text = format!("tenant ID '{id}' contains unsupported character '{c}'");
            return Err(refuse(400, text));
        }
        if id.len() > 150 {
            return Err(refuse(400, "tenant ID is too long: max 150 characters"));
        }
        if id == "." || id == ".." {
            return Err(refuse(400, "tenant ID is '.' or '..'"));
        }
        ids.insert(id.to_owned());
    }
    if ids.len() > 1 {
        return Err(refuse(400, "multiple org IDs present"));
    }
    Ok(ids.into_iter().next().expect("split gives at least one part"))
}

#[test]
fn metadata_names_are_normalised_and_colliding_ones_merged() {
    let entry = |pairs: &[(&str, &str)]| {
        let own = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
        let metadata = pairs.iter().map(own).collect();
        normalise(Entry { stamp: Stamp::from_ns(0), line: vec![], metadata })
            .map(|e| labels::display(&e.metadata))
            .map_err(|r| r.body)
    };
    assert_eq!(entry(&[("1g", "4"), ("été", "5")]).unwrap(), r#"{_t_="5", key_1g="4"}"#);
    assert_eq!(entry(&[("a-b", "1"), ("a.b", "2"), ("a_b", "3")]).unwrap(), r#"{a_b="2"}"#);
    assert_eq!(entry(&[("a", ""), ("b", "1"), ("b", "2")]).unwrap(), r#"{b="2"}"#);
    assert_eq!(entry(&[("", "1")]).unwrap_err(), "label name is empty");
    assert!(entry(&[("---", "1")]).unwrap_err().contains("invalid name \"_\""));
}

#[test]
fn times_are_written_as_go_writes_them() {
    let stamp = Stamp::from_ns(1_767_323_045_120_000_000);
    assert_eq!(rfc3339(stamp), "2026-01-02T03:04:05Z");
    assert_eq!(go_time(stamp), "2026-01-02 03:04:05.12 +0000 UTC");
    assert_eq!(go_time(Stamp::from_ns(-1)), "1969-12-31 23:59:59.999999999 +0000 UTC");
}
