//! Cuts a container's log stream into records: multiplexed frames, or a TTY's raw chunks.
//!
//! Frames (daemon without TTY): type (1 stdout, 2 stderr, 3 an error of the engine), three zero
//! bytes, length as big-endian u32, payload; one stored record each. A TTY's stream has no frames:
//! one record a chunk. Pure; memory is bounded by [`limits::DOCKER_FRAME_BYTES_MAX`].

use std::fmt;

use super::chunk::{ChunkDecoder, ChunkEdge, ChunkError, Decoded};
use super::http::BodyLength;
use crate::limits;
use crate::record::StdStream;

const HEADER_BYTES: usize = 8;

/// What a stream held next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut<'a> {
    /// One stored record with its time: `2026-...Z text`.
    Record(StdStream, &'a [u8]),
    /// The engine's own words, frame type 3.
    EngineError(&'a [u8]),
}

/// Why bytes are no log stream. The connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    Type(u8),
    TooLong { bytes: usize },
    Chunk(ChunkError),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type(byte) => write!(f, "frame of type {byte}, expected 1, 2 or 3"),
            Self::TooLong { bytes } => {
                let max = limits::DOCKER_FRAME_BYTES_MAX;
                write!(f, "record of {bytes} bytes, at most {max} are read")
            }
            Self::Chunk(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for FrameError {}

/// Whether more of the stream is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamState {
    Open,
    /// The zero chunk came, or as many bytes as announced.
    Complete,
}

/// How records lie in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Frames,
    /// One record a chunk.
    Tty,
}

/// The decoder of one answer.
#[derive(Debug)]
pub struct LogDecoder {
    layout: Layout,
    chunks: Option<ChunkDecoder>,
    /// Bytes left of a body that is not chunked.
    left: u64,
    until_close: bool,
    /// The record in the making, with its frame header.
    gathered: Vec<u8>,
}

impl LogDecoder {
    pub fn new(layout: Layout, length: BodyLength) -> Self {
        let (chunks, left) = match length {
            BodyLength::Chunked => (Some(ChunkDecoder::default()), 0),
            BodyLength::Bytes(bytes) => (None, bytes),
            BodyLength::UntilClose => (None, u64::MAX),
        };
        let until_close = length == BodyLength::UntilClose;
        Self { layout, chunks, left, until_close, gathered: Vec::new() }
    }

    /// Takes what was read and hands every record that ends in it to `sink`.
    ///
    /// # Errors
    /// When the bytes are no log stream.
    pub fn push(
        &mut self,
        input: &[u8],
        sink: &mut impl FnMut(Cut<'_>),
    ) -> Result<StreamState, FrameError> {
        let Some(mut chunks) = self.chunks.take() else {
            let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
            self.left -= taken as u64;
            self.data(&input[..taken], ChunkEdge::Inside, sink)?;
            let done = self.left == 0;
            return Ok(if done { StreamState::Complete } else { StreamState::Open });
        };
        let mut rest = input;
        while let Decoded::Data(data, edge) = chunks.next(&mut rest).map_err(FrameError::Chunk)? {
            self.data(data, edge, sink)?;
        }
        let done = chunks.is_done();
        self.chunks = Some(chunks);
        Ok(if done { StreamState::Complete } else { StreamState::Open })
    }

    /// Whether the body may end here: nothing of it is missing.
    pub fn may_end(&self) -> bool {
        let whole = match &self.chunks {
            Some(chunks) => chunks.is_done(),
            None => self.until_close || self.left == 0,
        };
        whole && self.gathered.is_empty()
    }

    fn data(
        &mut self,
        data: &[u8],
        edge: ChunkEdge,
        sink: &mut impl FnMut(Cut<'_>),
    ) -> Result<(), FrameError> {
        match self.layout {
            Layout::Frames => self.frames(data, sink),
            Layout::Tty => self.tty(data, edge, sink),
        }
    }

    fn frames(
        &mut self,
        mut data: &[u8],
        sink: &mut impl FnMut(Cut<'_>),
    ) -> Result<(), FrameError> {
        while !data.is_empty() {
            if self.gathered.is_empty() && data.len() >= HEADER_BYTES {
                // The usual case: whole frames in one piece, cut without a copy.
                let end = HEADER_BYTES + payload_bytes(data)?;
                if data.len() >= end {
                    sink(cut(data[0], &data[HEADER_BYTES..end]));
                    data = &data[end..];
                    continue;
                }
            }
            let wanted = match self.gathered.len() {
                have @ 0..HEADER_BYTES => HEADER_BYTES - have,
                have => HEADER_BYTES + payload_bytes(&self.gathered)? - have,
            };
            let taken = wanted.min(data.len());
            self.gathered.extend_from_slice(&data[..taken]);
            data = &data[taken..];
            if self.gathered.len() >= HEADER_BYTES
                && self.gathered.len() == HEADER_BYTES + payload_bytes(&self.gathered)?
            {
                sink(cut(self.gathered[0], &self.gathered[HEADER_BYTES..]));
                self.gathered.clear();
            }
        }
        Ok(())
    }

    fn tty(
        &mut self,
        data: &[u8],
        edge: ChunkEdge,
        sink: &mut impl FnMut(Cut<'_>),
    ) -> Result<(), FrameError> {
        if self.gathered.is_empty() && edge == ChunkEdge::End {
            sink(Cut::Record(StdStream::Stdout, data));
            return Ok(());
        }
        let bytes = self.gathered.len() + data.len();
        if bytes > limits::DOCKER_FRAME_BYTES_MAX {
            return Err(FrameError::TooLong { bytes });
        }
        self.gathered.extend_from_slice(data);
        // Without chunks only newlines part the records.
        let newline = self.chunkless() && self.gathered.last() == Some(&b'\n');
        if edge == ChunkEdge::End || newline {
            sink(Cut::Record(StdStream::Stdout, &self.gathered));
            self.gathered.clear();
        }
        Ok(())
    }

    fn chunkless(&self) -> bool {
        self.chunks.is_none() && self.left > 0
    }
}

fn cut(kind: u8, payload: &[u8]) -> Cut<'_> {
    match kind {
        1 => Cut::Record(StdStream::Stdout, payload),
        2 => Cut::Record(StdStream::Stderr, payload),
        _ => Cut::EngineError(payload),
    }
}

/// The length in a frame's header; `header` has all of it.
fn payload_bytes(header: &[u8]) -> Result<usize, FrameError> {
    if !(1..=3).contains(&header[0]) {
        return Err(FrameError::Type(header[0]));
    }
    let bytes = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
    if bytes > limits::DOCKER_FRAME_BYTES_MAX {
        return Err(FrameError::TooLong { bytes });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::http::HeadReader;
    use super::*;

    type Records = Vec<(StdStream, Vec<u8>)>;

    fn decode(layout: Layout, answer: &[u8], cuts: &[usize]) -> (Records, Option<StreamState>) {
        let (head, body) = HeadReader::default().push(answer).unwrap().unwrap();
        let mut decoder = LogDecoder::new(layout, head.body);
        let mut records = Vec::new();
        let mut state = None;
        let (mut rest, mut turn) = (body, 0);
        while !rest.is_empty() {
            let n = cuts.get(turn).copied().unwrap_or(rest.len()).clamp(1, rest.len());
            let pushed = decoder.push(&rest[..n], &mut |cut| {
                if let Cut::Record(stream, payload) = cut {
                    records.push((stream, payload.to_vec()));
                }
            });
            state = Some(pushed.unwrap());
            rest = &rest[n..];
            turn += 1;
        }
        (records, state)
    }

    fn recording(name: &str) -> Vec<u8> {
        let path = format!("{}/tests/docker/recordings/{name}.http", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).unwrap()
    }

    #[test]
    fn recorded_frames_are_cut_into_records_of_both_streams() {
        let (records, state) = decode(Layout::Frames, &recording("03-logs-mux-timestamps"), &[]);
        assert_eq!(state, Some(StreamState::Complete));
        assert!(records.iter().any(|(s, _)| *s == StdStream::Stderr));
        assert!(records.iter().all(|(_, p)| p.len() > 31 && p[30] == b' '), "{records:?}");
    }

    #[test]
    fn a_recorded_tty_gives_one_record_a_chunk_also_in_long_lines() {
        for (name, more_than) in [("03-logs-tty-timestamps", 2), ("06-long-tty-json-file", 2)] {
            let (records, state) = decode(Layout::Tty, &recording(name), &[]);
            assert_eq!(state, Some(StreamState::Complete), "{name}");
            assert!(records.len() > more_than, "{name}: {}", records.len());
            assert!(records.iter().all(|(_, p)| p[30] == b' ' && p[10] == b'T'), "{name}");
        }
    }

    #[test]
    fn damage_is_told_and_memory_is_bounded() {
        let mut decoder = LogDecoder::new(Layout::Frames, BodyLength::UntilClose);
        let huge = [1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        let error = decoder.push(&huge, &mut |_| {}).unwrap_err();
        assert!(matches!(error, FrameError::TooLong { .. }));
        let mut decoder = LogDecoder::new(Layout::Frames, BodyLength::UntilClose);
        assert_eq!(decoder.push(&[9; 8], &mut |_| {}), Err(FrameError::Type(9)));
    }

    proptest! {
        #[test]
        fn any_cut_of_the_bytes_gives_the_same_records(
            cuts in proptest::collection::vec(1usize..5_000, 0..60),
            which in 0usize..4,
        ) {
            let (name, layout) = [
                ("03-logs-mux-timestamps", Layout::Frames),
                ("06-partial-interleaved-json-file", Layout::Frames),
                ("06-long-tty-local", Layout::Tty),
                ("03-logs-tty-timestamps", Layout::Tty),
            ][which];
            let answer = recording(name);
            prop_assert_eq!(decode(layout, &answer, &cuts), decode(layout, &answer, &[]));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for layout in [Layout::Frames, Layout::Tty] {
                for length in [BodyLength::Chunked, BodyLength::UntilClose, BodyLength::Bytes(99)] {
                    let _ = LogDecoder::new(layout, length).push(&bytes, &mut |_| {});
                }
            }
        }
    }
}
