//! One admin connection as a state machine: bytes in, requests out, answers in, bytes out.
//!
//! Knows neither sockets nor the clock: `server` reads, writes and tells the time. One deadline
//! a state, never renewed by progress, so that a trickling peer holds a slot for a known time.

use std::time::Instant;

use super::http::{After, Answer, HttpRequest, Parsed, REQUEST_BYTES_MAX, Status, parse};
use crate::limits;

/// What a connection is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing of a request has come.
    Idle,
    /// A part of a request has come.
    Reading,
    /// `admin-1` works on the answer.
    Asked,
    Writing(After),
    /// Our side is shut; what still comes is thrown away, so that no reset overtakes the answer.
    Lingering,
}

/// What the server does next for a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait for bytes.
    Read,
    /// Answer this: call [`Connection::answer`] or [`Connection::asked`].
    Serve(HttpRequest),
    /// Send what [`Connection::unsent`] gives.
    Write,
    /// Wait for `admin-1`.
    Wait,
    /// Shut down the sending side, then wait for the peer to close.
    Linger,
}

/// A connection without its socket.
pub struct Connection {
    phase: Phase,
    input: Vec<u8>,
    output: Vec<u8>,
    sent_bytes: usize,
    deadline: Instant,
    head_only: bool,
    after: After,
}

impl Connection {
    pub fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Idle,
            input: Vec::new(),
            output: Vec::new(),
            sent_bytes: 0,
            deadline: now + limits::ADMIN_IDLE,
            head_only: false,
            after: After::Close,
        }
    }

    /// When the connection is closed, if nothing happens.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Takes bytes of the peer.
    pub fn take(&mut self, bytes: &[u8]) {
        if self.phase != Phase::Lingering {
            self.input.extend_from_slice(bytes);
        }
    }

    /// How many more bytes [`Self::take`] may be given: what we hold is bounded.
    pub fn room(&self) -> usize {
        match self.phase {
            Phase::Lingering => limits::ADMIN_READ_BYTES,
            _ => REQUEST_BYTES_MAX.saturating_sub(self.input.len()),
        }
    }

    /// Moves on as far as it goes.
    pub fn step(&mut self, now: Instant) -> Next {
        match self.phase {
            Phase::Asked => return Next::Wait,
            Phase::Lingering => return Next::Read,
            Phase::Writing(after) if self.unsent().is_empty() => {
                if after == After::Close {
                    self.enter(Phase::Lingering, now);
                    return Next::Linger;
                }
                (self.output, self.sent_bytes) = (Vec::new(), 0);
                self.enter(Phase::Idle, now);
            }
            Phase::Writing(_) => return Next::Write,
            Phase::Idle | Phase::Reading => {}
        }
        self.next_request(now)
    }

    fn next_request(&mut self, now: Instant) -> Next {
        match parse(&self.input) {
            Parsed::Incomplete => {
                if self.phase == Phase::Idle && !self.input.is_empty() {
                    self.enter(Phase::Reading, now);
                }
                Next::Read
            }
            Parsed::Whole(request, taken) => {
                self.input.drain(..taken);
                self.head_only = request.method == "HEAD";
                self.after = request.after;
                Next::Serve(request)
            }
            Parsed::Refused(status) => {
                self.refuse(status, now);
                Next::Write
            }
        }
    }

    /// The answer to the request that was served last.
    pub fn answer(&mut self, answer: &Answer, now: Instant) {
        self.output = answer.encode(self.head_only, self.after);
        self.sent_bytes = 0;
        self.enter(Phase::Writing(self.after), now);
    }

    /// `admin-1` has the request that was served last.
    pub fn asked(&mut self, now: Instant) {
        self.enter(Phase::Asked, now);
    }

    /// Answers with a status and closes.
    pub fn refuse(&mut self, status: Status, now: Instant) {
        (self.head_only, self.after) = (false, After::Close);
        self.answer(&Answer::bare(status), now);
    }

    /// The deadline has passed. True when an answer is to be sent before closing: a peer whose
    /// request is not whole is told.
    pub fn expire(&mut self, now: Instant) -> bool {
        if self.phase != Phase::Reading {
            return false;
        }
        self.refuse(Status::REQUEST_TIMEOUT, now);
        true
    }

    /// What is to be sent.
    pub fn unsent(&self) -> &[u8] {
        &self.output[self.sent_bytes..]
    }

    /// So much of [`Self::unsent`] was sent.
    pub fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes;
        assert!(self.sent_bytes <= self.output.len(), "sent more than there was");
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        let time = match phase {
            Phase::Reading => limits::ADMIN_REQUEST_TIME,
            Phase::Lingering => limits::ADMIN_LINGER,
            Phase::Idle | Phase::Asked | Phase::Writing(_) => limits::ADMIN_IDLE,
        };
        self.deadline = now + time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const GET: &[u8] = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n";

    fn served(next: Next) -> HttpRequest {
        match next {
            Next::Serve(request) => request,
            other => panic!("no request but {other:?}"),
        }
    }

    #[test]
    fn a_trickling_request_has_one_deadline() {
        let start = Instant::now();
        let mut c = Connection::new(start);
        for (i, byte) in GET[..9].iter().enumerate() {
            c.take(&[*byte]);
            assert_eq!(c.step(start + Duration::from_secs(i as u64)), Next::Read);
        }
        assert_eq!(c.deadline(), start + limits::ADMIN_REQUEST_TIME);
        assert!(c.expire(c.deadline()));
        assert!(c.unsent().starts_with(b"HTTP/1.1 408 "));
        let n = c.unsent().len();
        c.sent(n);
        assert_eq!(c.step(start), Next::Linger);
        assert_eq!(c.step(start), Next::Read);
        assert!(!c.expire(start), "a lingering connection is simply closed");
    }

    #[test]
    fn pipelined_requests_are_answered_in_turn_on_one_connection() {
        let now = Instant::now();
        let mut c = Connection::new(now);
        c.take(&[GET, GET, b"HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"].concat());
        for _ in 0..2 {
            assert_eq!(served(c.step(now)).path, "/x");
            c.asked(now);
            assert_eq!(c.step(now), Next::Wait);
            c.answer(&Answer::bare(Status::OK), now);
            assert_eq!(c.step(now), Next::Write);
            assert!(c.unsent().ends_with(b"OK\n"));
            let n = c.unsent().len();
            c.sent(1);
            assert_eq!(c.step(now), Next::Write);
            c.sent(n - 1);
        }
        assert_eq!(served(c.step(now)).method, "HEAD");
        c.answer(&Answer::bare(Status::OK), now);
        assert!(c.unsent().ends_with(b"\r\n\r\n"));
        let n = c.unsent().len();
        c.sent(n);
        assert_eq!(c.step(now), Next::Linger);
    }

    #[test]
    fn what_is_held_of_a_peer_is_bounded() {
        let now = Instant::now();
        let mut c = Connection::new(now);
        c.take(&vec![b'a'; c.room()]);
        assert_eq!((c.room(), c.step(now)), (0, Next::Write));
        assert!(
            c.unsent().starts_with(b"HTTP/1.1 431 ") || c.unsent().starts_with(b"HTTP/1.1 400 ")
        );
    }
}
