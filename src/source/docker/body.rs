//! The body of an answer whatever way its length is told: chunked, counted, until close.
//!
//! For bodies in which the edges of chunks are of no meaning (JSON); a reader of a TTY's
//! stream uses `chunk` itself. Pure: no clock, no I/O.

use super::chunk::{ChunkDecoder, ChunkError};
use super::http::BodyLength;

/// Whether more of the body is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyState {
    Open,
    Complete,
}

/// Decodes one body.
#[derive(Clone, Debug)]
pub enum BodyReader {
    Chunked(ChunkDecoder),
    /// So many bytes are left.
    Counted(u64),
    UntilClose,
}

impl BodyReader {
    pub fn new(length: BodyLength) -> Self {
        match length {
            BodyLength::Chunked => Self::Chunked(ChunkDecoder::default()),
            BodyLength::Bytes(bytes) => Self::Counted(bytes),
            BodyLength::UntilClose => Self::UntilClose,
        }
    }

    /// Decodes what was read; each piece of the body goes to `sink`. What lies behind a
    /// complete body is left out.
    ///
    /// # Errors
    /// When the chunks are damaged.
    pub fn push(
        &mut self,
        bytes: &[u8],
        mut sink: impl FnMut(&[u8]),
    ) -> Result<BodyState, ChunkError> {
        match self {
            Self::Chunked(decoder) => {
                decoder.decode(bytes, |data, _| sink(data))?;
            }
            Self::Counted(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                sink(&bytes[..taken]);
            }
            Self::UntilClose => sink(bytes),
        }
        Ok(self.state())
    }

    /// The state so far; a body until close is never known to be complete.
    pub fn state(&self) -> BodyState {
        match self {
            Self::Chunked(decoder) if decoder.is_done() => BodyState::Complete,
            Self::Counted(0) => BodyState::Complete,
            _ => BodyState::Open,
        }
    }

    /// Whether the connection's end was the body's proper end.
    pub fn ends_with_the_connection(&self) -> bool {
        matches!(self, Self::UntilClose) || self.state() == BodyState::Complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(length: BodyLength, input: &[u8], state: BodyState, clean_at_close: bool) {
        let mut reader = BodyReader::new(length);
        let mut body = Vec::new();
        for byte in input {
            reader.push(&[*byte], |data| body.extend_from_slice(data)).unwrap();
        }
        assert_eq!((&body[..], reader.state()), (&b"abc"[..], state), "{length:?}");
        assert_eq!(reader.ends_with_the_connection(), clean_at_close, "{length:?}");
    }

    #[test]
    fn each_way_of_telling_the_length_gives_the_body() {
        use BodyState::{Complete, Open};
        check(BodyLength::Chunked, b"3\r\nabc\r\n0\r\n\r\n", Complete, true);
        check(BodyLength::Chunked, b"3\r\nabc\r\n", Open, false);
        check(BodyLength::Bytes(3), b"abcHTTP", Complete, true);
        check(BodyLength::Bytes(4), b"abc", Open, false);
        check(BodyLength::UntilClose, b"abc", Open, true);
    }

    #[test]
    fn an_empty_body_is_complete_before_any_byte() {
        assert_eq!(BodyReader::new(BodyLength::Bytes(0)).state(), BodyState::Complete);
    }
}
