//! One open batch: records of one sink, shard and tenant, grouped by stream, already encoded.
//!
//! Pure: the lane hands in the time. Sealing sorts the streams that came out of order,
//! writes the request and compresses it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::{BatchId, Format, SealedBatch, SourceSpan, StreamSpan, loki_push, ndjson};
use crate::record::{Place, Record, SourceId, StreamLabels};

/// Encoded size of an entry beyond its line: tags, lengths, time (two varints of 5 bytes).
const ENTRY_OVERHEAD_BYTES: usize = 24;

struct OpenStream {
    labels: Arc<StreamLabels>,
    /// NDJSON only: the member that is the same in each object.
    head: String,
    entries: Vec<u8>,
    /// Time and end (in `entries`) of each entry; kept only once the order was broken.
    first_ns: i64,
    last_ns: i64,
    count: u32,
    sorted: bool,
}

/// Buffers that a lane keeps from one batch to the next, so that a batch costs no fresh pages.
/// At most [`SPARE_BUFFERS`] and two of a batch's size.
#[derive(Default)]
pub struct Scratch {
    /// The uncompressed request.
    raw: Vec<u8>,
    /// Room for the compressed one.
    wire: Vec<u8>,
    /// Emptied entry buffers, for the first streams of batches to come.
    spare: Vec<Vec<u8>>,
}

/// One a shard would serve at best; more than two are rarely free at once.
const SPARE_BUFFERS: usize = 2;

impl Scratch {
    /// An empty buffer, with room if there is a spare one.
    pub fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    fn keep(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS && buffer.capacity() >= KEPT_BUFFER_BYTES_MIN {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

/// Smaller buffers are not worth keeping: the allocator has them at hand.
const KEPT_BUFFER_BYTES_MIN: usize = 64 << 10;

/// A batch that still takes records.
pub struct OpenBatch {
    format: Format,
    opened: Instant,
    streams: Vec<OpenStream>,
    stream_index: HashMap<u64, usize>,
    last_stream: usize,
    sources: Vec<SourceSpan>,
    source_index: HashMap<SourceId, usize>,
    last_source: usize,
    raw_bytes: usize,
    entries: u32,
    /// For the entries of the first stream.
    buffer: Vec<u8>,
}

impl OpenBatch {
    pub fn new(format: Format, opened: Instant) -> Self {
        Self::with_buffer(format, opened, Vec::new())
    }

    /// As [`Self::new`], with a buffer from [`Scratch::buffer`].
    pub fn with_buffer(format: Format, opened: Instant, buffer: Vec<u8>) -> Self {
        Self {
            buffer,
            format,
            opened,
            streams: Vec::new(),
            stream_index: HashMap::new(),
            last_stream: 0,
            sources: Vec::new(),
            source_index: HashMap::new(),
            last_source: 0,
            raw_bytes: 0,
            entries: 0,
        }
    }

    pub fn opened(&self) -> Instant {
        self.opened
    }

    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Encoded size so far.
    pub fn raw_bytes(&self) -> usize {
        self.raw_bytes
    }

    /// What adding `record` would come to at most.
    pub fn size_with(&self, record: &Record<'_>) -> usize {
        self.raw_bytes + record_cost(self.format, record) + record.labels.text().len()
    }

    /// The place before the first record of `source` in this batch.
    pub fn start_of(&self, source: SourceId) -> Option<Place> {
        self.source_index.get(&source).map(|&i| self.sources[i].start)
    }

    /// Adds a record; true when its stream begins with it. `tracked`: its source and the place
    /// before it, for required sinks.
    pub fn push(&mut self, record: &Record<'_>, tracked: Option<(SourceId, Place)>) -> bool {
        if let Some((source, place)) = tracked {
            self.note_source(source, place);
        }
        let format = self.format;
        let streams = self.streams.len();
        let at = self.stream_slot(record.labels);
        let stream = &mut self.streams[at];
        let before = stream.entries.len();
        match format {
            Format::LokiPush => loki_push::put_entry(
                &mut stream.entries,
                record.timestamp_ns,
                record.line,
                record.metadata,
            ),
            Format::Ndjson => ndjson::put_record(
                &mut stream.entries,
                &stream.head,
                record.timestamp_ns,
                record.line,
                record.metadata,
            ),
        }
        let added = stream.entries.len() - before;
        stream.sorted &= stream.count == 0 || record.timestamp_ns >= stream.last_ns;
        stream.first_ns = stream.first_ns.min(record.timestamp_ns);
        stream.last_ns = stream.last_ns.max(record.timestamp_ns);
        stream.count += 1;
        self.raw_bytes += added;
        self.entries += 1;
        self.streams.len() > streams
    }

    fn note_source(&mut self, source: SourceId, place: Place) {
        if self.sources.get(self.last_source).is_none_or(|s| s.source != source) {
            self.last_source = *self.source_index.entry(source).or_insert_with(|| {
                self.sources.push(SourceSpan { source, start: place, entries: 0 });
                self.sources.len() - 1
            });
        }
        let span = &mut self.sources[self.last_source];
        span.entries += 1;
        // A line joined from pieces may begin before lines that were added earlier.
        if place.offset < span.start.offset {
            span.start = place;
        }
    }

    fn stream_slot(&mut self, labels: &Arc<StreamLabels>) -> usize {
        let is = |s: &OpenStream| Arc::ptr_eq(&s.labels, labels) || s.labels == *labels;
        if self.streams.get(self.last_stream).is_some_and(is) {
            return self.last_stream;
        }
        let found = self.stream_index.get(&labels.hash()).copied();
        self.last_stream = match found {
            Some(i) => {
                assert!(
                    self.streams[i].labels == *labels,
                    "two streams with hash {}",
                    labels.hash()
                );
                i
            }
            None => self.add_stream(labels),
        };
        self.last_stream
    }

    fn add_stream(&mut self, labels: &Arc<StreamLabels>) -> usize {
        let head = match self.format {
            Format::Ndjson => ndjson::head(labels.pairs()),
            Format::LokiPush => String::new(),
        };
        self.raw_bytes += labels.text().len() + 2 * 5;
        self.streams.push(OpenStream {
            labels: labels.clone(),
            head,
            entries: std::mem::take(&mut self.buffer),
            first_ns: i64::MAX,
            last_ns: i64::MIN,
            count: 0,
            sorted: true,
        });
        let slot = self.streams.len() - 1;
        self.stream_index.insert(labels.hash(), slot);
        slot
    }

    /// Closes the batch into wire form.
    pub fn seal(
        self,
        id: BatchId,
        sink: usize,
        shard: usize,
        scratch: &mut Scratch,
    ) -> SealedBatch {
        let mut raw = std::mem::take(&mut scratch.raw);
        raw.clear();
        let mut streams = Vec::with_capacity(self.streams.len());
        for mut stream in self.streams {
            if !stream.sorted && self.format == Format::LokiPush {
                stream.entries = sorted_by_time(&stream.entries);
            }
            let span = match self.format {
                Format::LokiPush => {
                    loki_push::put_stream(&mut raw, stream.labels.text(), &stream.entries)
                }
                Format::Ndjson => {
                    let start = raw.len() as u32;
                    raw.extend_from_slice(&stream.entries);
                    start..raw.len() as u32
                }
            };
            scratch.keep(stream.entries);
            streams.push(StreamSpan {
                labels: stream.labels,
                raw: span,
                first_ns: stream.first_ns,
                last_ns: stream.last_ns,
                entries: stream.count,
            });
        }
        let body = wire_form_in(self.format, &raw, &mut scratch.wire);
        let raw_bytes = raw.len();
        scratch.raw = raw;
        SealedBatch {
            id,
            sink,
            shard,
            format: self.format,
            body,
            raw_bytes,
            entries: self.entries,
            streams,
            sources: self.sources,
        }
    }
}

/// Upper estimate of what a record adds to a batch.
fn record_cost(format: Format, record: &Record<'_>) -> usize {
    let metadata: usize = record.metadata.iter().map(|(n, v)| n.len() + v.len() + 10).sum();
    match format {
        Format::LokiPush => record.line.len() + metadata + ENTRY_OVERHEAD_BYTES,
        Format::Ndjson => record.line.len() + metadata + record.labels.text().len() + 64,
    }
}

/// Compresses for Loki; leaves NDJSON as it is.
pub fn wire_form(format: Format, raw: &[u8]) -> Vec<u8> {
    wire_form_in(format, raw, &mut Vec::new())
}

fn wire_form_in(format: Format, raw: &[u8], wire: &mut Vec<u8>) -> Vec<u8> {
    match format {
        Format::Ndjson => raw.to_vec(),
        Format::LokiPush => {
            let room = snap::raw::max_compress_len(raw.len());
            if wire.len() < room {
                wire.resize(room, 0);
            }
            let used = snap::raw::Encoder::new()
                .compress(raw, wire)
                .unwrap_or_else(|e| panic!("snappy refuses {} bytes: {e}", raw.len()));
            wire[..used].to_vec()
        }
    }
}

/// The entries of a stream in ascending order of time; equal times keep their order.
fn sorted_by_time(encoded: &[u8]) -> Vec<u8> {
    let mut entries: Vec<_> = loki_push::entries(encoded).collect();
    entries.sort_by_key(|e| e.timestamp_ns);
    let mut out = Vec::with_capacity(encoded.len());
    for entry in entries {
        out.extend_from_slice(entry.raw);
    }
    assert!(out.len() == encoded.len(), "sorting changed {} to {}", encoded.len(), out.len());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_batch_holds_each_stream_once_sorted_by_time() {
        let labels = |v: &str| StreamLabels::new([("a".to_owned(), v.to_owned())]);
        let (one, two) = (labels("1"), labels("2"));
        let mut open = OpenBatch::new(Format::LokiPush, Instant::now());
        let source = SourceId(7);
        for (i, (time, labels)) in [(5, &one), (1, &two), (3, &one), (3, &one)].iter().enumerate() {
            let line = i.to_string();
            let record =
                Record { timestamp_ns: *time, line: line.as_bytes(), labels, metadata: &[] };
            assert!(open.size_with(&record) > open.raw_bytes());
            open.push(&record, Some((source, Place::at(10 + i as u64))));
        }
        assert_eq!(open.start_of(source), Some(Place::at(10)));
        let bytes = open.raw_bytes();
        let sealed = open.seal(BatchId(1), 0, 0, &mut Scratch::default());
        assert!(sealed.raw_bytes <= bytes, "{} > {bytes}", sealed.raw_bytes);
        assert_eq!(sealed.entries, 4);
        assert_eq!(sealed.sources, [SourceSpan { source, start: Place::at(10), entries: 4 }]);
        let mut raw = Vec::new();
        sealed.uncompress(&mut raw).unwrap();
        let span = &sealed.streams[0];
        let bytes = &raw[span.raw.start as usize..span.raw.end as usize];
        let (text, entries) = loki_push::split_stream(bytes).unwrap();
        assert_eq!(text, r#"{a="1"}"#);
        let lines: Vec<_> = loki_push::entries(entries).map(|e| e.line.to_vec()).collect();
        assert_eq!(lines, [b"2".to_vec(), b"3".to_vec(), b"0".to_vec()]);
        assert_eq!((span.first_ns, span.last_ns, span.entries), (3, 5, 3));
    }
}
