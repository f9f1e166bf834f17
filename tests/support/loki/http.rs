//! The HTTP/1.1 server side of the double: reads requests from one socket, writes answers.
//!
//! Keep-alive, Content-Length and chunked bodies, `Expect: 100-continue`. Runs on the connection's
//! thread; what to answer is decided elsewhere.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// Most that the double reads of one body; above the largest one of the recorded contract.
const BODY_BYTES_MAX: usize = 256 << 20;

/// What Go's server reads of an unwanted body to keep a connection; above, it closes.
const UNREAD_BODY_BYTES_MAX: u64 = 256 << 10;

#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    /// Without the query.
    pub path: String,
    pub query: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    fn header_has(&self, name: &str, word: &str) -> bool {
        self.header(name).is_some_and(|value| value.to_ascii_lowercase().contains(word))
    }

    /// The declared Content-Length, 0 if there is none.
    pub fn length(&self) -> u64 {
        self.header("content-length").and_then(|v| v.trim().parse().ok()).unwrap_or(0)
    }

    fn chunked(&self) -> bool {
        self.header_has("transfer-encoding", "chunked")
    }

    fn expects_continue(&self) -> bool {
        self.header_has("expect", "100-continue")
    }

    /// The connection can serve another request after the body was left unread.
    pub fn can_skip_body(&self) -> bool {
        !self.expects_continue() && (self.chunked() || self.length() <= UNREAD_BODY_BYTES_MAX)
    }

    pub fn wants_close(&self) -> bool {
        self.header_has("connection", "close")
    }
}

#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn new(status: u16) -> Reply {
        Reply { status, ..Reply::default() }
    }

    /// An answer in plain text, as Go's `http.Error` gives it.
    pub fn text(status: u16, body: &str) -> Reply {
        Reply::new(status)
            .with("Content-Type", "text/plain; charset=utf-8")
            .with("X-Content-Type-Options", "nosniff")
            .with_body(&format!("{body}\n"))
    }

    pub fn with(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn with_body(mut self, body: &str) -> Reply {
        self.body = body.as_bytes().to_vec();
        self
    }

    fn bytes(&self, close: bool, head_only: bool) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            204 => "No Content",
            301 => "Moved Permanently",
            400 => "Bad Request",
            429 => "Too Many Requests",
            500 => "Internal Server Error",
            503 => "Service Unavailable",
            _ => "",
        };
        let mut out = format!("HTTP/1.1 {} {reason}\r\n", self.status);
        for (name, value) in &self.headers {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.status != 204 {
            out.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        out.push_str(if close { "Connection: close\r\n\r\n" } else { "\r\n" });
        let mut out = out.into_bytes();
        if !head_only && self.status != 204 {
            out.extend_from_slice(&self.body);
        }
        out
    }
}

pub struct Connection {
    pub socket: Arc<TcpStream>,
    buffer: Vec<u8>,
}

impl Connection {
    pub fn new(socket: Arc<TcpStream>) -> Connection {
        let _ = socket.set_nodelay(true);
        Connection { socket, buffer: Vec::new() }
    }

    /// Reads a request's head; None when the client closed the connection between requests.
    pub fn head(&mut self) -> io::Result<Option<Request>> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut parsed = httparse::Request::new(&mut headers);
            let bad = |e| io::Error::new(io::ErrorKind::InvalidData, e);
            if let httparse::Status::Complete(n) = parsed.parse(&self.buffer).map_err(bad)? {
                let target = parsed.path.unwrap_or("");
                let (path, query) = target.split_once('?').unwrap_or((target, ""));
                let text = |v: &[u8]| String::from_utf8_lossy(v).into_owned();
                let request = Request {
                    method: parsed.method.unwrap_or("").into(),
                    path: path.into(),
                    query: query.into(),
                    headers: parsed
                        .headers
                        .iter()
                        .map(|h| (h.name.into(), text(h.value)))
                        .collect(),
                    body: Vec::new(),
                };
                self.buffer.drain(..n);
                return Ok(Some(request));
            }
            if !self.more(64 << 10)? {
                return Ok(None);
            }
        }
    }

    /// Reads the body, after "100 Continue" if the client waits for it.
    pub fn read_body(&mut self, request: &mut Request) -> io::Result<()> {
        if request.expects_continue() {
            (&*self.socket).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if request.chunked() {
            return self.read_chunks(&mut request.body);
        }
        let length = usize::try_from(request.length()).unwrap_or(usize::MAX);
        self.fill(length)?;
        let rest = self.buffer.split_off(length);
        request.body = std::mem::replace(&mut self.buffer, rest);
        Ok(())
    }

    fn read_chunks(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let line = loop {
                if let Some(at) = memchr::memmem::find(&self.buffer, b"\r\n") {
                    break at;
                }
                self.more_or_eof(64 << 10)?;
            };
            let digits = String::from_utf8_lossy(&self.buffer[..line]).into_owned();
            let digits = digits.split(';').next().unwrap_or("").trim();
            let bad = |_| io::Error::new(io::ErrorKind::InvalidData, "bad chunk size");
            let size = usize::from_str_radix(digits, 16).map_err(bad)?;
            self.fill((line + 4).saturating_add(size))?;
            if body.len() + size > BODY_BYTES_MAX {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            body.extend_from_slice(&self.buffer[line + 2..line + 2 + size]);
            self.buffer.drain(..line + 4 + size);
            if size == 0 {
                return Ok(());
            }
        }
    }

    /// Writes an answer. With `close`, the client is told so and the connection is shut down.
    pub fn answer(&mut self, reply: &Reply, close: bool, head_only: bool) -> io::Result<()> {
        (&*self.socket).write_all(&reply.bytes(close, head_only))?;
        if close {
            self.shut_down();
        }
        Ok(())
    }

    /// Writes the first half of an answer's head and closes.
    pub fn half_answer(&mut self, reply: &Reply) -> io::Result<()> {
        let bytes = reply.bytes(false, false);
        (&*self.socket).write_all(&bytes[..12.min(bytes.len())])?;
        self.shut_down();
        Ok(())
    }

    /// Makes the closing of the socket a reset, as soon as its last owner lets go.
    pub fn reset_on_close(&self) {
        let _ = rustix::net::sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
    }

    /// Closes for writing and reads on for a while: a reset would destroy the answer on its way.
    fn shut_down(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Write);
        let _ = self.socket.set_read_timeout(Some(Duration::from_secs(2)));
        self.buffer.clear();
        let mut read = 0;
        while read < BODY_BYTES_MAX && self.more(1 << 20).unwrap_or(false) {
            read += self.buffer.len();
            self.buffer.clear();
        }
    }

    fn fill(&mut self, length: usize) -> io::Result<()> {
        if length > BODY_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        while self.buffer.len() < length {
            self.more_or_eof((length - self.buffer.len()).clamp(64 << 10, 1 << 20))?;
        }
        Ok(())
    }

    fn more_or_eof(&mut self, bytes: usize) -> io::Result<()> {
        match self.more(bytes)? {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn more(&mut self, bytes: usize) -> io::Result<bool> {
        let old = self.buffer.len();
        self.buffer.resize(old + bytes, 0);
        let got = (&*self.socket).read(&mut self.buffer[old..]);
        self.buffer.truncate(old + *got.as_ref().unwrap_or(&0));
        Ok(got? > 0)
    }
}
