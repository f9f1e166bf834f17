//! The head of an engine's answer: status line and headers, from bytes cut anywhere.
//!
//! Built on `httparse`, with a bound on the head's size; the body belongs to `chunk` and to
//! whoever asked. Pure: no clock, no I/O. Runs on `docker-ctl` and on the Docker lanes.

use std::fmt;

use crate::limits;

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// `Transfer-Encoding: chunked`: see `chunk`.
    Chunked,
    /// This many bytes; 0 for the statuses that have no body.
    Bytes(u64),
    /// Until the engine closes the connection.
    UntilClose,
}

/// What an answer's head says, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    pub body: BodyLength,
    pub content_type: Option<String>,
    /// The engine's highest API version, `Api-Version`: `1.41`. Answers of its router have it.
    pub api_version: Option<String>,
    /// The engine closes the connection after this answer.
    pub closes: bool,
}

/// Why bytes are no head of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadError {
    TooLong {
        bytes_max: usize,
    },
    Malformed {
        cause: httparse::Error,
    },
    /// A value that leaves the length of the body unknown.
    Length {
        header: &'static str,
        value: String,
    },
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes_max } => {
                write!(f, "head of the answer is longer than {bytes_max} bytes")
            }
            Self::Malformed { cause } => write!(f, "head of the answer is malformed: {cause}"),
            Self::Length { header, value } => {
                write!(f, "head of the answer has {header} {value:?}, not understood")
            }
        }
    }
}

impl std::error::Error for HeadError {}

/// Gathers the bytes of one head; memory is bounded by [`limits::DOCKER_HEAD_BYTES_MAX`].
#[derive(Debug, Default)]
pub struct HeadReader {
    gathered: Vec<u8>,
}

impl HeadReader {
    /// Takes what was read. None: the head goes on. Some: the head, and the rest of `bytes`,
    /// where the body begins; the reader is ready for the next answer of the connection.
    ///
    /// # Errors
    /// When the bytes are no head or too many for one; the connection is of no more use.
    pub fn push<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<(Head, &'a [u8])>, HeadError> {
        let room = limits::DOCKER_HEAD_BYTES_MAX - self.gathered.len();
        let before = self.gathered.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.gathered.extend_from_slice(taken);
        // Only a newline can end a head: bytes that trickle are not parsed each time.
        if taken.contains(&b'\n')
            && let Some((head, head_bytes)) = parse(&self.gathered)?
        {
            self.gathered.clear();
            return Ok(Some((head, &bytes[head_bytes - before..])));
        }
        if self.gathered.len() == limits::DOCKER_HEAD_BYTES_MAX {
            return Err(HeadError::TooLong { bytes_max: limits::DOCKER_HEAD_BYTES_MAX });
        }
        Ok(None)
    }
}

fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, HeadError> {
    let mut headers = [httparse::EMPTY_HEADER; limits::DOCKER_HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(bytes) {
        Ok(httparse::Status::Complete(n)) => n,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(cause) => return Err(HeadError::Malformed { cause }),
    };
    let status = response.code.unwrap_or_default();
    let http10 = response.version == Some(0);
    Ok(Some((read_headers(status, http10, response.headers)?, head_bytes)))
}

fn read_headers(
    status: u16,
    http10: bool,
    headers: &[httparse::Header<'_>],
) -> Result<Head, HeadError> {
    let mut head = Head {
        status,
        body: BodyLength::UntilClose,
        content_type: None,
        api_version: None,
        closes: http10,
    };
    let (mut length, mut chunked) = (None, false);
    for header in headers {
        let value = String::from_utf8_lossy(header.value).trim().to_owned();
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            let n = value.parse::<u64>().ok().filter(|n| length.is_none_or(|l| l == *n));
            length = Some(n.ok_or(HeadError::Length { header: "Content-Length", value })?);
        } else if is("transfer-encoding") {
            if !value.eq_ignore_ascii_case("chunked") {
                return Err(HeadError::Length { header: "Transfer-Encoding", value });
            }
            chunked = true;
        } else if is("connection") {
            let mut tokens = value.split(',').map(str::trim);
            head.closes |= tokens.any(|t| t.eq_ignore_ascii_case("close"));
        } else if is("content-type") {
            head.content_type = Some(value);
        } else if is("api-version") {
            head.api_version = Some(value);
        }
    }
    head.body = match (status, length) {
        (100..200 | 204 | 304, _) => BodyLength::Bytes(0),
        _ if chunked => BodyLength::Chunked,
        (_, Some(bytes)) => BodyLength::Bytes(bytes),
        (_, None) => BodyLength::UntilClose,
    };
    head.closes |= head.body == BodyLength::UntilClose;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::docker::recordings;

    fn read(bytes: &[u8]) -> Result<Option<(Head, usize)>, HeadError> {
        let mut reader = HeadReader::default();
        Ok(reader.push(bytes)?.map(|(head, rest)| (head, rest.len())))
    }

    fn check(text: &str, status: u16, body: BodyLength, closes: bool) {
        let (head, rest) = read(text.as_bytes()).unwrap().expect(text);
        assert_eq!(
            (head.status, head.body, head.closes, rest),
            (status, body, closes, 4),
            "{text}"
        );
    }

    #[test]
    fn the_length_of_the_body_is_known_from_the_head() {
        use BodyLength::{Bytes, Chunked, UntilClose};
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\nbody", 200, Chunked, false);
        check("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody", 200, Bytes(4), false);
        check(
            "HTTP/1.1 200 OK\r\nConnection: x, close\r\nContent-Length:4\r\n\r\nbody",
            200,
            Bytes(4),
            true,
        );
        check("HTTP/1.0 200 OK\r\n\r\nbody", 200, UntilClose, true);
        check("HTTP/1.1 304 Not Modified\r\n\r\nnext", 304, Bytes(0), false);
        check("HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\nnext", 204, Bytes(0), false);
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\nbody",
            200,
            Chunked,
            false,
        );
    }

    #[test]
    fn a_head_that_leaves_the_length_open_is_refused() {
        for headers in [
            "Content-Length: -1",
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: 99999999999999999999",
            "Transfer-Encoding: gzip, chunked",
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n");
            let error = read(text.as_bytes()).unwrap_err();
            assert!(matches!(error, HeadError::Length { .. }), "{headers}: {error}");
        }
        let error = read(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap_err();
        assert!(matches!(error, HeadError::Malformed { .. }), "{error}");
    }

    #[test]
    fn a_head_has_a_bound() {
        let mut reader = HeadReader::default();
        assert_eq!(reader.push(b"HTTP/1.1 200 OK\r\nX: "), Ok(None));
        let error = reader.push(&vec![b'x'; 1 << 20]).unwrap_err();
        assert_eq!(error, HeadError::TooLong { bytes_max: limits::DOCKER_HEAD_BYTES_MAX });
    }

    #[test]
    fn all_recorded_heads_are_read_whole_and_byte_by_byte() {
        for (name, bytes) in recordings() {
            let (head, rest) = read(&bytes).unwrap().expect(&name);
            let mut reader = HeadReader::default();
            let mut at = 0;
            let slow = loop {
                match reader.push(&bytes[at..=at]).unwrap() {
                    Some((head, _)) => break head,
                    None => at += 1,
                }
            };
            assert_eq!((&slow, bytes.len() - at - 1), (&head, rest), "{name}");
            assert!((200..600).contains(&head.status), "{name}");
        }
    }

    #[test]
    fn a_ping_tells_the_api_version() {
        let (_, bytes) = recordings().into_iter().find(|(n, _)| n == "01-ping-get.http").unwrap();
        let (head, _) = read(&bytes).unwrap().unwrap();
        assert_eq!(head.api_version.as_deref(), Some("1.41"));
    }

    proptest! {
        #[test]
        fn whatever_comes_neither_panics_nor_is_kept_without_bound(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..60),
        ) {
            let mut reader = HeadReader::default();
            for piece in pieces {
                let failed = reader.push(&piece).is_err();
                prop_assert!(reader.gathered.len() <= limits::DOCKER_HEAD_BYTES_MAX);
                if failed {
                    break;
                }
            }
        }
    }
}
