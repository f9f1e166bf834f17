//! Batches: grouping records by stream, closing them by bytes or age, encoding them once.
//!
//! A sealed batch is immutable and in wire form. Memory, disk and network hold the same
//! bytes; streams are cut out of it by slicing the decompressed body, never by decoding and
//! encoding again.

mod batcher;
pub mod loki_push;
pub mod ndjson;
mod open;
mod streams;

use std::ops::Range;
use std::sync::Arc;

pub use batcher::{Batcher, Blocked, RunOutcome, RunRecord, SinkPort};
pub use open::{OpenBatch, Scratch, wire_form};
pub use streams::SinkStreams;

use crate::record::{Place, SourceId, StreamLabels};

/// How a sink wants its records written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Loki's push request: protobuf, then snappy (block format).
    LokiPush,
    /// One JSON object a line, not compressed.
    Ndjson,
}

/// Names a sealed batch for one run of the process: lane number and a running number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

/// Where one stream lies in a batch.
#[derive(Clone, Debug)]
pub struct StreamSpan {
    pub labels: Arc<StreamLabels>,
    /// In the uncompressed body. For Loki: the whole `StreamAdapter` field with tag and
    /// length, so that concatenating spans gives a valid request.
    pub raw: Range<u32>,
    pub first_ns: i64,
    pub last_ns: i64,
    pub entries: u32,
}

/// What a batch holds of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceSpan {
    pub source: SourceId,
    /// The place before its first record of this source.
    pub start: Place,
    pub entries: u32,
}

/// A closed batch, ready to be posted or written.
#[derive(Debug)]
pub struct SealedBatch {
    pub id: BatchId,
    /// Index into `Config::sinks`.
    pub sink: usize,
    pub shard: usize,
    pub format: Format,
    /// Wire form: what is posted, what is spooled.
    pub body: Vec<u8>,
    /// Length of the body before compression.
    pub raw_bytes: usize,
    pub entries: u32,
    pub streams: Vec<StreamSpan>,
    pub sources: Vec<SourceSpan>,
}

impl SealedBatch {
    /// What the batch costs a memory budget.
    pub fn cost_bytes(&self) -> usize {
        self.body.capacity()
            + self.streams.len() * size_of::<StreamSpan>()
            + self.sources.len() * size_of::<SourceSpan>()
    }

    /// The uncompressed body, into `out`.
    ///
    /// # Errors
    /// Only when the body was damaged after it was sealed.
    pub fn uncompress(&self, out: &mut Vec<u8>) -> Result<(), snap::Error> {
        out.clear();
        match self.format {
            Format::Ndjson => out.extend_from_slice(&self.body),
            Format::LokiPush => {
                out.resize(snap::raw::decompress_len(&self.body)?, 0);
                let n = snap::raw::Decoder::new().decompress(&self.body, out)?;
                out.truncate(n);
            }
        }
        Ok(())
    }
}
