//! The decoder of chunked bodies, over bytes cut anywhere.
//!
//! It hands out slices of its input and holds a few words of state, no bytes. The edges of
//! chunks are told, since they alone part the records of a TTY's stream. Strict about line
//! ends: what is no chunk is an error, never guessed at. Pure: no clock, no I/O.

use std::fmt;

use crate::limits;

/// Where a piece of data lies in its chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkEdge {
    /// The chunk goes on after this piece.
    Inside,
    /// This piece is the chunk's last.
    End,
}

/// What the input held next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A piece of the body; never empty.
    Data(&'a [u8], ChunkEdge),
    /// The input is used up, the body is not.
    More,
    /// The zero chunk and its trailers were read: the body is complete. What is left of the
    /// input is the next answer's.
    End,
}

/// Why the bytes are no chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkError {
    /// A byte that cannot stand there; `expected` in words.
    Byte { byte: u8, expected: &'static str },
    /// A size above 2^64 - 1.
    Size,
    /// The line that announces a chunk.
    LineTooLong { bytes_max: usize },
    /// The header lines after the last chunk.
    TrailerTooLong { bytes_max: usize },
}

impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Byte { byte, expected } => {
                write!(f, "chunked body has byte 0x{byte:02x}, expected {expected}")
            }
            Self::Size => f.write_str("chunk is larger than 2^64 - 1 bytes"),
            Self::LineTooLong { bytes_max } => {
                write!(f, "size line of a chunk is longer than {bytes_max} bytes")
            }
            Self::TrailerTooLong { bytes_max } => {
                write!(f, "trailers are longer than {bytes_max} bytes")
            }
        }
    }
}

impl std::error::Error for ChunkError {}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    #[default]
    SizeStart,
    SizeDigits,
    /// Between the size, or a semicolon, and the line's end.
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a line after the zero chunk.
    TrailerStart,
    Trailer,
    TrailerLf,
    LastLf,
    Done,
}

/// The decoder of one body.
#[derive(Clone, Debug, Default)]
pub struct ChunkDecoder {
    state: State,
    /// Size of the chunk while its line is read, then what is left of it.
    left: u64,
    /// Bytes of the size line, or of the trailers, so far.
    line_bytes: usize,
}

impl ChunkDecoder {
    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes the next piece off the front of `input`.
    ///
    /// # Errors
    /// When the bytes are no chunked body; the connection is of no more use.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Decoded<'a>, ChunkError> {
        loop {
            match self.state {
                State::Done => return Ok(Decoded::End),
                State::Data if !input.is_empty() => return Ok(self.data(input)),
                _ => {
                    let Some((&byte, rest)) = input.split_first() else {
                        return Ok(Decoded::More);
                    };
                    *input = rest;
                    self.state = self.step(byte)?;
                }
            }
        }
    }

    /// Decodes all of `input`, each piece of the body to `sink`. Returns how many bytes were
    /// used: fewer than given only when the body is complete.
    ///
    /// # Errors
    /// As [`Self::next`]; what came before the damage went to `sink`.
    pub fn decode(
        &mut self,
        input: &[u8],
        mut sink: impl FnMut(&[u8], ChunkEdge),
    ) -> Result<usize, ChunkError> {
        let mut rest = input;
        while let Decoded::Data(data, edge) = self.next(&mut rest)? {
            sink(data, edge);
        }
        Ok(input.len() - rest.len())
    }

    fn data<'a>(&mut self, input: &mut &'a [u8]) -> Decoded<'a> {
        let bytes = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
        let (data, rest) = input.split_at(bytes);
        *input = rest;
        self.left -= bytes as u64;
        if self.left > 0 {
            return Decoded::Data(data, ChunkEdge::Inside);
        }
        self.state = State::DataCr;
        Decoded::Data(data, ChunkEdge::End)
    }

    /// One byte of the framing.
    fn step(&mut self, byte: u8) -> Result<State, ChunkError> {
        match self.state {
            State::SizeStart => {
                (self.left, self.line_bytes) = (0, 0);
                self.digit(byte)
            }
            State::SizeDigits if byte.is_ascii_hexdigit() => self.digit(byte),
            State::SizeDigits | State::Extension => self.after_size(byte),
            State::SizeLf => {
                let next = if self.left == 0 { State::TrailerStart } else { State::Data };
                self.line_bytes = 0;
                lf(byte, next)
            }
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataCr => Err(ChunkError::Byte { byte, expected: "the CR after a chunk" }),
            State::DataLf => lf(byte, State::SizeStart),
            State::TrailerStart if byte == b'\r' => Ok(State::LastLf),
            State::TrailerStart | State::Trailer => self.trailer(byte),
            State::TrailerLf => lf(byte, State::TrailerStart),
            State::LastLf => lf(byte, State::Done),
            State::Data | State::Done => unreachable!("no framing byte in {:?}", self.state),
        }
    }

    fn digit(&mut self, byte: u8) -> Result<State, ChunkError> {
        let digit = char::from(byte).to_digit(16);
        let digit = digit.ok_or(ChunkError::Byte { byte, expected: "a size in hexadecimal" })?;
        self.count(limits::CHUNK_LINE_BYTES_MAX)
            .map_err(|bytes_max| ChunkError::LineTooLong { bytes_max })?;
        let left = self.left.checked_mul(16).ok_or(ChunkError::Size)?;
        self.left = left + u64::from(digit);
        Ok(State::SizeDigits)
    }

    fn after_size(&mut self, byte: u8) -> Result<State, ChunkError> {
        self.count(limits::CHUNK_LINE_BYTES_MAX)
            .map_err(|bytes_max| ChunkError::LineTooLong { bytes_max })?;
        match (self.state, byte) {
            (_, b'\r') => Ok(State::SizeLf),
            (State::SizeDigits, b';' | b' ' | b'\t') => Ok(State::Extension),
            (State::Extension, byte) if byte != b'\n' => Ok(State::Extension),
            _ => Err(ChunkError::Byte { byte, expected: "the end of a size" }),
        }
    }

    fn trailer(&mut self, byte: u8) -> Result<State, ChunkError> {
        self.count(limits::CHUNK_TRAILER_BYTES_MAX)
            .map_err(|bytes_max| ChunkError::TrailerTooLong { bytes_max })?;
        match byte {
            b'\r' => Ok(State::TrailerLf),
            b'\n' => Err(ChunkError::Byte { byte, expected: "a CR before the LF" }),
            _ => Ok(State::Trailer),
        }
    }

    fn count(&mut self, bytes_max: usize) -> Result<(), usize> {
        self.line_bytes += 1;
        if self.line_bytes > bytes_max { Err(bytes_max) } else { Ok(()) }
    }
}

fn lf(byte: u8, next: State) -> Result<State, ChunkError> {
    if byte == b'\n' { Ok(next) } else { Err(ChunkError::Byte { byte, expected: "an LF" }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::docker::http::{BodyLength, HeadReader};
    use crate::source::docker::recordings;

    /// The chunks of a body, whether it is complete, and how many bytes it took.
    type Body = (Vec<Vec<u8>>, bool, usize);

    /// Decodes `input` cut at the multiples of the steps, over and over.
    fn decode(input: &[u8], steps: &[usize]) -> Result<Body, ChunkError> {
        let mut decoder = ChunkDecoder::default();
        let (mut chunks, mut open, mut at) = (Vec::new(), Vec::new(), 0);
        for step in steps.iter().cycle() {
            if at == input.len() || decoder.is_done() {
                break;
            }
            let piece = &input[at..input.len().min(at + step)];
            at += decoder.decode(piece, |data, edge| {
                assert!(!data.is_empty());
                open.extend_from_slice(data);
                if edge == ChunkEdge::End {
                    chunks.push(std::mem::take(&mut open));
                }
            })?;
        }
        if !open.is_empty() {
            chunks.push(open);
        }
        Ok((chunks, decoder.is_done(), at))
    }

    fn check(input: &str, chunks: &[&str], done: bool, used: usize) {
        let expected = (chunks.iter().map(|c| c.as_bytes().to_vec()).collect(), done, used);
        for step in [1, 2, 3, 1000] {
            let body = decode(input.as_bytes(), &[step]).unwrap();
            assert_eq!(body, expected, "{input:?} by {step}");
        }
    }

    #[test]
    fn chunks_come_with_their_edges() {
        check("", &[], false, 0);
        check("0\r\n\r\n", &[], true, 5);
        check("3\r\nabc\r\nB\r\n0123456789a\r\n0\r\n\r\nHTTP", &["abc", "0123456789a"], true, 29);
        check("3\r\nabc\r\n2\r\nx", &["abc", "x"], false, 12);
        check("0003;name=\"v\"\r\nabc\r\n0 \r\nA: b\r\nC: d\r\n\r\n", &["abc"], true, 38);
    }

    #[test]
    fn what_is_no_chunk_is_an_error() {
        for bad in
            ["\r\n", "x\r\n", "-1\r\n", "3\nabc", "3\r\nabcd\r\n", "3\r\nabc\n", "3\rx", "0\r\nA\n"]
        {
            for step in [1, 1000] {
                let error = decode(bad.as_bytes(), &[step]).unwrap_err();
                assert!(matches!(error, ChunkError::Byte { .. }), "{bad:?}: {error}");
            }
        }
        let size = decode(b"10000000000000000\r\n", &[1]).unwrap_err();
        assert_eq!(size, ChunkError::Size);
        let line = "0".repeat(limits::CHUNK_LINE_BYTES_MAX + 1);
        let error = decode(line.as_bytes(), &[100]).unwrap_err();
        assert!(matches!(error, ChunkError::LineTooLong { .. }), "{error}");
        let trailers = format!("0\r\n{}", "a: b\r\n".repeat(limits::CHUNK_TRAILER_BYTES_MAX));
        let error = decode(trailers.as_bytes(), &[100]).unwrap_err();
        assert!(matches!(error, ChunkError::TrailerTooLong { .. }), "{error}");
    }

    #[test]
    fn all_recorded_bodies_are_the_same_however_they_are_cut() {
        let mut chunked = 0;
        for (name, bytes) in recordings() {
            let (head, body) = HeadReader::default().push(&bytes).unwrap().expect(&name);
            if head.body != BodyLength::Chunked {
                continue;
            }
            chunked += 1;
            let whole = decode(body, &[body.len().max(1)]).unwrap();
            assert_eq!(whole.2, body.len(), "{name}: nothing follows the body");
            for steps in [vec![1], vec![7, 1, 4096], vec![16_384]] {
                assert_eq!(decode(body, &steps).unwrap(), whole, "{name} by {steps:?}");
            }
        }
        assert!(chunked > 50, "{chunked} chunked recordings");
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_chunks(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..80), 0..20),
            steps in prop::collection::vec(1usize..40, 1..8),
        ) {
            let mut input = Vec::new();
            for chunk in &chunks {
                input.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                input.extend_from_slice(chunk);
                input.extend_from_slice(b"\r\n");
            }
            input.extend_from_slice(b"0\r\n\r\n");
            let used = input.len();
            prop_assert_eq!(decode(&input, &steps), Ok((chunks, true, used)));
        }

        #[test]
        fn any_cut_of_any_bytes_gives_the_same_answer(
            input in "[0-9a-f;\r\nx]{0,60}",
            steps in prop::collection::vec(1usize..10, 1..8),
        ) {
            prop_assert_eq!(decode(input.as_bytes(), &steps), decode(input.as_bytes(), &[100]));
        }

        #[test]
        fn any_bytes_do_not_panic(input in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&input, &[3]);
        }
    }
}
