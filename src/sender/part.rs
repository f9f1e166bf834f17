//! Parts of a batch: which entries of which streams travel in one request.
//!
//! Pure. A part is cut by naming entries; its bytes are slices of the batch's uncompressed
//! body put together again, never decoded and encoded anew.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::refusal::{Cause, Refusal, same_stream};
use crate::batch::{Format, SealedBatch, loki_push, wire_form};
use crate::record::StreamLabels;

const NS_PER_SECOND: i64 = 1_000_000_000;

/// Where one entry lies in the uncompressed body.
#[derive(Clone, Copy, Debug)]
struct EntryAt {
    start: u32,
    end: u32,
    time_ns: i64,
}

struct Stream {
    labels: Arc<StreamLabels>,
    entries: Vec<EntryAt>,
}

/// The uncompressed body with the place of every entry. Made only when a batch is not simply
/// accepted.
pub struct Index {
    raw: Vec<u8>,
    streams: Vec<Stream>,
}

/// An entry: index of its stream in the batch, index in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    pub stream: usize,
    pub entry: u32,
}

impl Index {
    /// # Panics
    /// When the batch's body is not what it was sealed as: our memory is not to be trusted.
    pub fn new(batch: &SealedBatch) -> Self {
        let mut raw = Vec::new();
        let uncompressed = batch.uncompress(&mut raw);
        assert!(uncompressed.is_ok(), "body of {:?}: {uncompressed:?}", batch.id);
        let mut streams = Vec::with_capacity(batch.streams.len());
        for span in &batch.streams {
            let bytes = &raw[span.raw.start as usize..span.raw.end as usize];
            let (_, encoded) = loki_push::split_stream(bytes).unwrap_or(("", &[]));
            let mut start = span.raw.end - encoded.len() as u32;
            let mut entries = Vec::with_capacity(span.entries as usize);
            for entry in loki_push::entries(encoded) {
                let end = start + entry.raw.len() as u32;
                entries.push(EntryAt { start, end, time_ns: entry.timestamp_ns });
                start = end;
            }
            assert!(entries.len() == span.entries as usize, "entries of {span:?}");
            streams.push(Stream { labels: span.labels.clone(), entries });
        }
        Self { raw, streams }
    }

    fn bytes(&self, id: EntryId) -> &[u8] {
        let at = self.streams[id.stream].entries[id.entry as usize];
        &self.raw[at.start as usize..at.end as usize]
    }

    /// The entry itself.
    pub fn entry(&self, id: EntryId) -> loki_push::EntrySlice<'_> {
        let found = loki_push::entries(self.bytes(id)).next();
        found.unwrap_or_else(|| panic!("no entry at {id:?}"))
    }

    pub fn labels(&self, stream: usize) -> &StreamLabels {
        &self.streams[stream].labels
    }

    fn time_ns(&self, id: EntryId) -> i64 {
        self.streams[id.stream].entries[id.entry as usize].time_ns
    }
}

/// What one request carries: never empty, streams and entries in the batch's order.
#[derive(Debug, Default)]
pub struct Part {
    /// By stream. Entries ascend, and so do their times.
    streams: Vec<(usize, Vec<u32>)>,
    /// Made by a search for culprits that no answer names.
    pub suspect: bool,
    /// Not to be sent before.
    pub not_before: Option<Instant>,
    /// Broken connections in a row.
    pub resets: u32,
    /// Rate limits in a row.
    pub rates: u32,
    /// Since when a limit on streams keeps it back.
    pub limited_since: Option<Instant>,
    /// Wire form, made when it is first sent.
    body: Option<(Vec<u8>, usize)>,
}

impl Part {
    /// All of a batch; its body is the batch's own.
    pub fn whole(batch: &SealedBatch) -> Self {
        Self::of(batch, 0..batch.streams.len())
    }

    /// Some streams of a batch, whole.
    pub fn of(batch: &SealedBatch, streams: impl IntoIterator<Item = usize>) -> Self {
        let streams =
            streams.into_iter().map(|s| (s, (0..batch.streams[s].entries).collect())).collect();
        Self { streams, ..Self::default() }
    }

    pub fn count(&self) -> usize {
        self.streams.iter().map(|(_, entries)| entries.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    pub fn streams(&self) -> impl Iterator<Item = usize> + '_ {
        self.streams.iter().map(|(stream, _)| *stream)
    }

    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Whether the part is the batch as it was sealed.
    pub fn is_whole(&self, batch: &SealedBatch) -> bool {
        self.streams.len() == batch.streams.len() && self.count() == batch.entries as usize
    }

    pub fn ids(&self) -> impl Iterator<Item = EntryId> + '_ {
        self.streams
            .iter()
            .flat_map(|(stream, list)| list.iter().map(|e| EntryId { stream: *stream, entry: *e }))
    }

    /// Time of the newest entry of each of its streams.
    pub fn newest<'a>(&'a self, batch: &'a SealedBatch) -> impl Iterator<Item = (u64, i64)> + 'a {
        // A cut stream's newest is not above the span's: good enough to see what is at risk.
        self.streams().map(|s| (batch.streams[s].labels.hash(), batch.streams[s].last_ns))
    }

    /// The bytes to send and their length before compression.
    pub fn body(&mut self, index: &Index) -> (&[u8], usize) {
        let (body, raw_bytes) = self.body.get_or_insert_with(|| {
            let mut raw = Vec::new();
            let mut entries = Vec::new();
            for (stream, list) in &self.streams {
                entries.clear();
                for entry in list {
                    let id = EntryId { stream: *stream, entry: *entry };
                    entries.extend_from_slice(index.bytes(id));
                }
                loki_push::put_stream(&mut raw, index.labels(*stream).text(), &entries);
            }
            (wire_form(Format::LokiPush, &raw), raw.len())
        });
        (body, *raw_bytes)
    }

    fn from_ids(ids: impl IntoIterator<Item = EntryId>, suspect: bool) -> Self {
        let mut part = Self { suspect, ..Self::default() };
        for id in ids {
            match part.streams.last_mut() {
                Some((stream, entries)) if *stream == id.stream => entries.push(id.entry),
                _ => part.streams.push((id.stream, vec![id.entry])),
            }
        }
        part
    }

    /// Two parts of about equal bytes, in order; the part itself when it is one entry.
    ///
    /// # Errors
    /// The part, if it cannot be halved.
    pub fn halves(self, index: &Index, suspect: bool) -> Result<(Self, Self), Box<Self>> {
        if self.count() < 2 {
            return Err(Box::new(self));
        }
        let ids: Vec<_> = self.ids().collect();
        let total: usize = ids.iter().map(|id| index.bytes(*id).len()).sum();
        let mut bytes = 0;
        let mut cut = 0;
        while cut < ids.len() - 1 && (cut == 0 || bytes < total / 2) {
            bytes += index.bytes(ids[cut]).len();
            cut += 1;
        }
        let (first, second) = ids.split_at(cut);
        let cut = |ids: &[EntryId]| Self::from_ids(ids.iter().copied(), suspect);
        Ok((cut(first), cut(second)))
    }

    /// Two parts with half of the streams each.
    ///
    /// # Errors
    /// The part, if it has one stream.
    pub fn halves_by_stream(mut self) -> Result<(Self, Self), Box<Self>> {
        if self.streams.len() < 2 {
            return Err(Box::new(self));
        }
        let second = self.streams.split_off(self.streams.len() / 2);
        let cut = |streams| Self { streams, suspect: true, ..Self::default() };
        Ok((cut(self.streams), cut(second)))
    }

    /// One part a stream.
    pub fn by_stream(self) -> Vec<Self> {
        let suspect = self.suspect;
        let alone = |stream| Self { streams: vec![stream], suspect, ..Self::default() };
        self.streams.into_iter().map(alone).collect()
    }

    /// Parts of one stream, none of which spans more than `slice_ns`.
    pub fn slices(self, index: &Index, slice_ns: i64) -> Vec<Self> {
        let mut slices: Vec<Vec<EntryId>> = Vec::new();
        for id in self.ids() {
            let time = index.time_ns(id);
            match slices.last_mut() {
                Some(slice) if time.saturating_sub(index.time_ns(slice[0])) <= slice_ns => {
                    slice.push(id);
                }
                _ => slices.push(vec![id]),
            }
        }
        slices.into_iter().map(|ids| Self::from_ids(ids, false)).collect()
    }

    /// The entries of all.
    pub fn joined(parts: impl IntoIterator<Item = Self>) -> Self {
        let ids: BTreeSet<_> =
            parts.into_iter().flat_map(|p| p.ids().collect::<Vec<_>>()).collect();
        Self::from_ids(ids, false)
    }

    /// The part without `refused`; may be empty.
    pub fn without(self, refused: &BTreeSet<EntryId>) -> Self {
        Self::from_ids(self.ids().filter(|id| !refused.contains(id)), self.suspect)
    }

    /// Whether an entry's stream is among the part's.
    pub fn shares_stream(&self, other: &Self) -> bool {
        self.streams().any(|s| other.streams().any(|o| o == s))
    }
}

/// An entry that will never pass, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condemned {
    pub id: EntryId,
    pub cause: &'static str,
    pub text: Arc<str>,
}

/// The entries of `part` that `refusals` mean. An entry counts once.
pub fn find_refused(index: &Index, part: &Part, refusals: &[Refusal]) -> Vec<Condemned> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for refusal in refusals {
        let text: Arc<str> = refusal.text.as_str().into();
        for (stream, list) in &part.streams {
            if !same_stream(index.labels(*stream).pairs(), &refusal.labels) {
                continue;
            }
            let ids: Vec<_> = list.iter().map(|e| EntryId { stream: *stream, entry: *e }).collect();
            for id in meant(index, &ids, refusal) {
                if seen.insert(id) {
                    let cause = refusal.cause.key();
                    found.push(Condemned { id, cause, text: text.clone() });
                }
            }
        }
    }
    found
}

/// The entries of one stream that a message means.
fn meant(index: &Index, ids: &[EntryId], refusal: &Refusal) -> Vec<EntryId> {
    let pick = |matches: &dyn Fn(EntryId) -> bool| -> Vec<EntryId> {
        ids.iter().copied().filter(|id| matches(*id)).collect()
    };
    let in_second =
        |id: EntryId, second: i64| index.time_ns(id).div_euclid(NS_PER_SECOND) == second;
    let pairs = |id: EntryId| loki_push::metadata_pairs(index.entry(id).metadata);
    let mut found = match &refusal.cause {
        Cause::TooOld { second } => pick(&|id| in_second(id, *second)),
        Cause::TooNew { second } => {
            // The boundary may lie within the second: the latest are meant.
            let mut found = pick(&|id| in_second(id, *second));
            found.drain(..found.len().saturating_sub(refusal.count));
            found
        }
        Cause::LineTooLong { len } => pick(&|id| index.entry(id).line.len() == *len),
        Cause::MetadataDisallowed => pick(&|id| !index.entry(id).metadata.is_empty()),
        Cause::MetadataTooLarge { len } => {
            pick(&|id| pairs(id).map(|(n, v)| n.len() + v.len()).sum::<usize>() == *len)
        }
        Cause::MetadataTooMany { pairs: n } => pick(&|id| pairs(id).count() == *n),
        Cause::Labels => return ids.to_vec(),
        Cause::TooFarBehind { ignored, total, listed_ns, oldest_second } => {
            if *total == ids.len() {
                // Sent in ascending order, the ignored ones are the first.
                return ids[..(*ignored).min(ids.len())].to_vec();
            }
            // Some did not pass validation, or the server split the stream: what is older
            // than the oldest acceptable second is refused in any case.
            let oldest_ns = oldest_second.saturating_mul(NS_PER_SECOND);
            let certain = |id: EntryId| {
                let time = index.time_ns(id);
                time < oldest_ns || listed_ns.contains(&time)
            };
            return pick(&certain);
        }
    };
    found.truncate(refusal.count);
    found
}

#[cfg(test)]
mod tests;
