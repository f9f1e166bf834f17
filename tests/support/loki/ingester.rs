//! The store behind the push path, with the rules of Loki's ingester.
//!
//! Streams of a request are handled one after the other and the result of the LAST one is the
//! answer: an entry lost from an earlier stream is lost without a word. That is Loki's behaviour
//! and the reason why the double has it.

use super::labels::Labels;
use super::limits::{Limits, Rate};
use super::push::{Entry, Refusal, Stamp, refuse};
use super::rules::{ValidStream, go_time, rfc3339};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;
use xxhash_rust::xxh3::Xxh3;

/// The recorded server has no schema before 2020-10-24.
const SCHEMA_FROM_NS: i64 = 1_603_497_600_000_000_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub ts_ns: i64,
    pub line: Vec<u8>,
    /// Sorted by name.
    pub metadata: Vec<(String, String)>,
}

#[derive(Default)]
pub struct Ingester {
    pub tenants: HashMap<String, Tenant>,
}

#[derive(Default)]
pub struct Tenant {
    /// By the label set as Loki writes it.
    pub streams: BTreeMap<String, Stream>,
    bucket: Option<Bucket>,
}

#[derive(Default)]
pub struct Stream {
    pub labels: Labels,
    entries: Vec<Stored>,
    sorted: bool,
    /// Hashes of all entries that are stored.
    seen: HashSet<u128>,
    /// Accepted entries that were stored already.
    pub repeats: u64,
    /// In the ingester's memory: counts as active and has a window.
    active: bool,
    newest_ns: Option<i64>,
    bucket: Option<Bucket>,
}

/// A token bucket that starts full.
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: Rate) -> Bucket {
        Bucket { tokens: rate.burst_bytes as f64, at: Instant::now() }
    }

    /// Takes all of `bytes` or nothing.
    fn take(&mut self, bytes: usize, rate: Rate) -> bool {
        let gained = self.at.elapsed().as_secs_f64() * rate.bytes_per_second as f64;
        self.at = Instant::now();
        self.tokens = (self.tokens + gained).min(rate.burst_bytes as f64);
        let enough = self.tokens >= bytes as f64;
        if enough {
            self.tokens -= bytes as f64;
        }
        enough
    }
}

impl Ingester {
    /// Charges a request to its tenant's ingestion rate.
    pub fn charge(
        &mut self,
        tenant: &str,
        streams: &[ValidStream],
        limits: &Limits,
    ) -> Result<(), Refusal> {
        let Some(rate) = limits.ingestion_rate else { return Ok(()) };
        let entries = || streams.iter().flat_map(|s| &s.entries);
        let (lines, bytes) = (entries().count(), entries().map(Entry::charged_bytes).sum());
        let bucket = &mut self.tenants.entry(tenant.into()).or_default().bucket;
        if bucket.get_or_insert_with(|| Bucket::full(rate)).take(bytes, rate) {
            return Ok(());
        }
        let limit = rate.bytes_per_second;
        Err(refuse(
            429,
            format!(
                "ingestion rate limit exceeded for user {tenant} (limit: {limit} bytes/sec) while \
                 attempting to ingest '{lines}' lines totaling '{bytes}' bytes, reduce log volume \
                 or contact your Loki administrator to see if the limit can be increased"
            ),
        ))
    }

    /// Stores the streams in turn; the answer is that of the last one.
    pub fn push(
        &mut self,
        tenant: &str,
        streams: Vec<ValidStream>,
        limits: &Limits,
    ) -> Result<(), Refusal> {
        let mut last = Ok(());
        let of = self.tenants.entry(tenant.into()).or_default();
        for stream in streams {
            last = of.push_stream(tenant, stream, limits);
        }
        last
    }

    /// Writes all streams to the store for good: they are idle afterwards and have no window.
    pub fn flush(&mut self) {
        for stream in self.tenants.values_mut().flat_map(|t| t.streams.values_mut()) {
            (stream.active, stream.newest_ns) = (false, None);
        }
    }
}

impl Tenant {
    fn push_stream(
        &mut self,
        tenant: &str,
        sent: ValidStream,
        limits: &Limits,
    ) -> Result<(), Refusal> {
        let first = sent.entries[0].stamp.ns();
        let active = self.streams.get(&sent.name).is_some_and(|s| s.active);
        if !active && first < SCHEMA_FROM_NS {
            let seconds = (first / 1_000_000) as f64 / 1000.0;
            let what = "failed to create stream: no schema config found for time";
            return Err(refuse(500, format!("rpc error: code = Unknown desc = {what} {seconds}")));
        }
        let max = limits.max_global_streams_per_user;
        if !active && self.streams.values().filter(|s| s.active).count() >= max {
            return Err(refuse(
                429,
                format!(
                    "maximum active stream limit exceeded when trying to create stream {}, reduce \
                     the number of active streams (reduce labels or reduce label values), or \
                     contact your Loki administrator to see if the limit can be increased, user: \
                     '{tenant}'",
                    sent.name
                ),
            ));
        }
        let stream = self.streams.entry(sent.name.clone()).or_default();
        stream.active = true;
        stream.labels = sent.labels;
        let total = sent.entries.len();
        let ignored = stream.accept(sent.entries, &sent.name, limits);
        ignored_refusal(&ignored, total, tenant, &sent.name, limits)
    }
}

/// An entry that the ingester did not take.
struct Ignored {
    stamp: Stamp,
    status: u16,
    reason: String,
}

fn ignored_refusal(
    ignored: &[Ignored],
    total: usize,
    tenant: &str,
    name: &str,
    limits: &Limits,
) -> Result<(), Refusal> {
    let Some(last) = ignored.last() else { return Ok(()) };
    let mut body = String::new();
    for entry in ignored.iter().take(limits.max_returned_stream_errors) {
        let when = go_time(entry.stamp);
        let reason = &entry.reason;
        body.push_str(&format!("entry with timestamp {when} ignored, reason: '{reason}',\n"));
    }
    let n = ignored.len();
    body.push_str(&format!(
        "user '{tenant}', total ignored: {n} out of {total} for stream: {name}"
    ));
    Err(refuse(last.status, body))
}

impl Stream {
    /// Stores what the window and the rate admit; returns the rest.
    fn accept(&mut self, entries: Vec<Entry>, name: &str, limits: &Limits) -> Vec<Ignored> {
        let (kept, ignored) = self.window(entries, limits);
        let Some(rate) = limits.per_stream_rate else {
            self.store_all(kept, limits);
            return ignored;
        };
        let bucket = self.bucket.get_or_insert_with(|| Bucket::full(rate));
        let over = |entry: &Entry| Ignored {
            stamp: entry.stamp,
            status: 429,
            reason: format!(
                "Per stream rate limit exceeded (limit: {}/sec) while attempting to ingest for \
                 stream '{name}' totaling {}B, consider splitting a stream via additional labels \
                 or contact your Loki administrator to see if the limit can be increased",
                short_bytes(rate.bytes_per_second),
                entry.charged_bytes()
            ),
        };
        if limits.shard_streams_enabled {
            if !bucket.take(kept.iter().map(Entry::charged_bytes).sum(), rate) {
                return kept.iter().map(over).collect();
            }
            self.store_all(kept, limits);
            return ignored;
        }
        let (kept, refused): (Vec<Entry>, Vec<Entry>) =
            kept.into_iter().partition(|entry| bucket.take(entry.charged_bytes(), rate));
        self.store_all(kept, limits);
        ignored.into_iter().chain(refused.iter().map(over)).collect()
    }

    /// Parts the entries by the order window, which moves with each entry that is let in.
    fn window(&self, entries: Vec<Entry>, limits: &Limits) -> (Vec<Entry>, Vec<Ignored>) {
        let window = limits.order_window.as_nanos() as i64;
        let mut newest = self.newest_ns;
        let (mut kept, mut ignored) = (Vec::with_capacity(entries.len()), Vec::new());
        for entry in entries {
            let when = entry.stamp.ns();
            match newest.map(|newest| newest - window).filter(|cutoff| when < *cutoff) {
                Some(cutoff) => ignored.push(Ignored {
                    stamp: entry.stamp,
                    status: 400,
                    reason: format!(
                        "entry too far behind, entry timestamp is: {}, oldest acceptable \
                         timestamp is: {}",
                        rfc3339(entry.stamp),
                        rfc3339(Stamp::from_ns(cutoff))
                    ),
                }),
                None => {
                    newest = newest.max(Some(when));
                    kept.push(entry);
                }
            }
        }
        (kept, ignored)
    }

    fn store_all(&mut self, entries: Vec<Entry>, limits: &Limits) {
        for entry in entries {
            let ts_ns = entry.stamp.ns();
            self.newest_ns = self.newest_ns.max(Some(ts_ns));
            // Loki keeps no entry that has nothing in it; with levels on it has a level.
            if entry.line.is_empty() && entry.metadata.is_empty() && !limits.discover_log_levels {
                continue;
            }
            let stored = Stored { ts_ns, line: entry.line, metadata: entry.metadata };
            if self.seen.insert(fingerprint(&stored)) {
                self.sorted &= self.entries.last().is_none_or(|last| last.ts_ns <= ts_ns);
                self.entries.push(stored);
            } else {
                self.repeats += 1;
            }
        }
    }

    /// All entries in order of time, equal times in order of arrival.
    pub fn entries(&mut self) -> &[Stored] {
        if !self.sorted {
            self.entries.sort_by_key(|e| e.ts_ns);
            self.sorted = true;
        }
        &self.entries
    }
}

fn fingerprint(entry: &Stored) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(&entry.ts_ns.to_le_bytes());
    for text in entry.metadata.iter().flat_map(|(n, v)| [n, v]) {
        hash.update(&text.len().to_le_bytes());
        hash.update(text.as_bytes());
    }
    hash.update(&entry.metadata.len().to_le_bytes());
    hash.update(&entry.line);
    hash.digest128()
}

/// A number of bytes as Loki's limits print it: `10KB`, `3MB`.
fn short_bytes(n: u64) -> String {
    match n {
        n if n >= 1 << 20 => format!("{}MB", n >> 20),
        n if n >= 1 << 10 => format!("{}KB", n >> 10),
        n => format!("{n}B"),
    }
}
