//! HTTP/1.1, the server's side: from bytes to a request, from an answer to bytes. Pure.
//!
//! Leaves sockets, deadlines and what is answered to others. Everything a peer can make long is
//! bounded here: head, number of headers, body.

use crate::limits;

/// A status that we answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16);

impl Status {
    pub const OK: Self = Self(200);
    pub const BAD_REQUEST: Self = Self(400);
    pub const FORBIDDEN: Self = Self(403);
    pub const NOT_FOUND: Self = Self(404);
    pub const METHOD_NOT_ALLOWED: Self = Self(405);
    pub const REQUEST_TIMEOUT: Self = Self(408);
    pub const LENGTH_REQUIRED: Self = Self(411);
    pub const CONTENT_TOO_LARGE: Self = Self(413);
    pub const EXPECTATION_FAILED: Self = Self(417);
    pub const HEAD_TOO_LARGE: Self = Self(431);
    pub const NOT_IMPLEMENTED: Self = Self(501);
    pub const UNAVAILABLE: Self = Self(503);
    pub const VERSION_NOT_SUPPORTED: Self = Self(505);

    /// The phrase of RFC 9110.
    pub const fn phrase(self) -> &'static str {
        match self.0 {
            200 => "OK",
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            411 => "Length Required",
            413 => "Content Too Large",
            417 => "Expectation Failed",
            431 => "Request Header Fields Too Large",
            501 => "Not Implemented",
            503 => "Service Unavailable",
            505 => "HTTP Version Not Supported",
            _ => "Unknown",
        }
    }
}

/// Whether the connection serves another request afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Keep,
    Close,
}

/// One whole request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    pub method: String,
    /// Path without query.
    pub path: String,
    /// What follows `Bearer ` in `Authorization`.
    pub bearer: Option<String>,
    pub body: Vec<u8>,
    pub after: After,
}

/// What the bytes so far come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A part of a request.
    Incomplete,
    /// A request, and how many bytes of the input it took.
    Whole(HttpRequest, usize),
    /// No request that we serve: answer and close.
    Refused(Status),
}

/// The most that [`parse`] ever needs to see.
pub const REQUEST_BYTES_MAX: usize = limits::ADMIN_HEAD_BYTES_MAX + limits::ADMIN_BODY_BYTES_MAX;

/// Reads one request from the front of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed {
    let head = &bytes[..bytes.len().min(limits::ADMIN_HEAD_BYTES_MAX)];
    let mut headers = [httparse::EMPTY_HEADER; limits::ADMIN_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let head_bytes = match request.parse(head) {
        Ok(httparse::Status::Complete(n)) => n,
        Ok(httparse::Status::Partial) if head.len() < limits::ADMIN_HEAD_BYTES_MAX => {
            return Parsed::Incomplete;
        }
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Parsed::Refused(Status::HEAD_TOO_LARGE);
        }
        Err(httparse::Error::Version) => return Parsed::Refused(Status::VERSION_NOT_SUPPORTED),
        Err(_) => return Parsed::Refused(Status::BAD_REQUEST),
    };
    let fields = match Fields::read(&request) {
        Ok(fields) => fields,
        Err(status) => return Parsed::Refused(status),
    };
    let whole_bytes = head_bytes + fields.body_bytes;
    if bytes.len() < whole_bytes {
        return Parsed::Incomplete;
    }
    let target = request.path.unwrap_or_default();
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let request = HttpRequest {
        method: request.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        bearer: fields.bearer,
        body: bytes[head_bytes..whole_bytes].to_vec(),
        after: fields.after,
    };
    Parsed::Whole(request, whole_bytes)
}

/// The headers that count.
struct Fields {
    body_bytes: usize,
    bearer: Option<String>,
    after: After,
}

impl Fields {
    fn read(request: &httparse::Request<'_, '_>) -> Result<Self, Status> {
        let old = request.version == Some(0);
        let after = if old { After::Close } else { After::Keep };
        let mut fields = Self { body_bytes: 0, bearer: None, after };
        let (mut length, mut hosts) = (None, 0);
        for header in request.headers.iter() {
            let value = std::str::from_utf8(header.value).map_err(|_| Status::BAD_REQUEST)?.trim();
            match header.name.to_ascii_lowercase().as_str() {
                "content-length" => {
                    let n = body_length(value)?;
                    // Two lengths are how requests are smuggled past proxies.
                    if length.replace(n).is_some_and(|before| before != n) {
                        return Err(Status::BAD_REQUEST);
                    }
                }
                "transfer-encoding" => return Err(Status::LENGTH_REQUIRED),
                "expect" => return Err(Status::EXPECTATION_FAILED),
                "host" => hosts += 1,
                "authorization" => fields.bearer = bearer(value),
                "connection" => fields.after = after_of(value, fields.after),
                _ => {}
            }
        }
        if hosts > 1 || (hosts == 0 && !old) {
            return Err(Status::BAD_REQUEST);
        }
        fields.body_bytes = length.unwrap_or(0);
        if fields.body_bytes > limits::ADMIN_BODY_BYTES_MAX {
            return Err(Status::CONTENT_TOO_LARGE);
        }
        Ok(fields)
    }
}

/// Digits only: `parse` alone would take a sign. A number too large to hold is too large.
fn body_length(value: &str) -> Result<usize, Status> {
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Status::BAD_REQUEST);
    }
    Ok(value.parse().unwrap_or(usize::MAX))
}

fn bearer(value: &str) -> Option<String> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

fn after_of(value: &str, default: After) -> After {
    let mut after = default;
    for token in value.split(',').map(str::trim) {
        if token.eq_ignore_ascii_case("close") {
            return After::Close;
        }
        if token.eq_ignore_ascii_case("keep-alive") {
            after = After::Keep;
        }
    }
    after
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: Status,
    pub content_type: &'static str,
    /// Methods for `Allow`, with 405 only.
    pub allow: Option<&'static str>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(status: Status, text: &str) -> Self {
        let body = format!("{text}\n").into_bytes();
        Self { status, content_type: "text/plain; charset=utf-8", allow: None, body }
    }

    pub fn json(status: Status, value: &serde_json::Value) -> Self {
        let body = format!("{value:#}\n").into_bytes();
        Self { status, content_type: "application/json", allow: None, body }
    }

    /// A status with its phrase as body.
    pub fn bare(status: Status) -> Self {
        Self::text(status, status.phrase())
    }

    /// The bytes to send. For HEAD the head alone, with the length of the body that GET gives.
    pub fn encode(&self, head_only: bool, after: After) -> Vec<u8> {
        let connection = match after {
            After::Keep => "keep-alive",
            After::Close => "close",
        };
        let allow = self.allow.map(|a| format!("Allow: {a}\r\n")).unwrap_or_default();
        // The page has no script and loads nothing; no cache may hold figures.
        let head = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: {connection}\r\n\
             {allow}Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
             Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; \
             frame-ancestors 'none'\r\n\r\n",
            self.status.0,
            self.status.phrase(),
            self.content_type,
            self.body.len(),
        );
        let mut bytes = head.into_bytes();
        if !head_only {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One line: status of a refusal, `...`, or method, path, body and what comes after.
    fn check(input: &str, want: &str) {
        let got = match parse(input.as_bytes()) {
            Parsed::Incomplete => "...".to_owned(),
            Parsed::Refused(status) => status.0.to_string(),
            Parsed::Whole(r, taken) => {
                let body = String::from_utf8(r.body).unwrap();
                let left = input.len() - taken;
                format!("{} {} [{body}] {:?} {left} {:?}", r.method, r.path, r.after, r.bearer)
            }
        };
        assert_eq!(got, want, "{input:?}");
    }

    #[test]
    fn requests_are_read_whole_or_refused() {
        let h = "Host: a\r\n";
        check(&format!("GET / HTTP/1.1\r\n{h}\r\n"), "GET / [] Keep 0 None");
        check(&format!("GET /a?b=c HTTP/1.1\r\n{h}\r\nGET"), "GET /a [] Keep 3 None");
        check(
            &format!("GET / HTTP/1.1\r\n{h}Connection: x, Close\r\n\r\n"),
            "GET / [] Close 0 None",
        );
        check("GET / HTTP/1.0\r\n\r\n", "GET / [] Close 0 None");
        check("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET / [] Keep 0 None");
        check(
            &format!("POST /x HTTP/1.1\r\n{h}Content-Length: 2\r\n\r\nabc"),
            "POST /x [ab] Keep 1 None",
        );
        check(&format!("POST /x HTTP/1.1\r\n{h}Content-Length: 2\r\n\r\na"), "...");
        check(
            &format!("GET / HTTP/1.1\r\n{h}authorization: bearer  t0k \r\n\r\n"),
            "GET / [] Keep 0 Some(\"t0k\")",
        );
        check("", "...");
        check("GET / HT", "...");
        check("GET / HTTP/1.1\r\n\r\n", "400");
        check(&format!("GET / HTTP/1.1\r\n{h}{h}\r\n"), "400");
        check("\u{1}\u{2}\u{3}\r\n\r\n", "400");
        check(&format!("GET / HTTP/2.0\r\n{h}\r\n"), "505");
        check(&format!("POST / HTTP/1.1\r\n{h}Content-Length: 65537\r\n\r\n"), "413");
        check(&format!("POST / HTTP/1.1\r\n{h}Content-Length: {}\r\n\r\n", "9".repeat(40)), "413");
        check(&format!("POST / HTTP/1.1\r\n{h}Content-Length: +1\r\n\r\n"), "400");
        check(
            &format!("POST / HTTP/1.1\r\n{h}Content-Length: 1\r\nContent-Length: 2\r\n\r\n"),
            "400",
        );
        check(&format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\n\r\n"), "411");
        check(&format!("POST / HTTP/1.1\r\n{h}Expect: 100-continue\r\n\r\n"), "417");
        check(&format!("GET /{} HTTP/1.1\r\n{h}\r\n", "a".repeat(9000)), "431");
        let many = "x: y\r\n".repeat(limits::ADMIN_HEADERS_MAX);
        check(&format!("GET / HTTP/1.1\r\n{h}{many}\r\n"), "431");
    }

    #[test]
    fn an_answer_to_head_has_the_length_and_not_the_body() {
        let answer = Answer::text(Status::OK, "four");
        let head = String::from_utf8(answer.encode(true, After::Close)).unwrap();
        assert!(head.contains("Content-Length: 5\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        let whole = String::from_utf8(answer.encode(false, After::Keep)).unwrap();
        assert!(whole.ends_with("\r\n\r\nfour\n") && whole.contains("keep-alive"), "{whole}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_every_prefix_of_a_request_is_incomplete(
            noise in proptest::collection::vec(any::<u8>(), 0..300),
            body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = parse(&noise);
            let n = body.len();
            let head = format!("POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: {n}\r\n\r\n");
            let mut bytes = head.into_bytes();
            bytes.extend_from_slice(&body);
            for cut in 0..bytes.len() {
                prop_assert_eq!(parse(&bytes[..cut]), Parsed::Incomplete);
            }
            let Parsed::Whole(request, taken) = parse(&bytes) else { panic!("not whole") };
            prop_assert_eq!((request.body, taken), (body, bytes.len()));
        }
    }
}
