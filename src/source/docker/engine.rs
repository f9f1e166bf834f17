//! Requests to a Docker Engine, each within one deadline, and what its refusals mean.
//!
//! A connection serves one request: the events stream and log streams stay open for long,
//! everything else is rare. Connecting and waiting are `socket`'s. Runs on `docker-ctl`.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;

use super::body::{BodyReader, BodyState};
use super::http::{Head, HeadReader};
pub use super::socket::{Socket, connect};
use super::socket::{read_some, write_all};
use crate::config::checked::Endpoint;
use crate::daemon::Stop;
use crate::limits;
use crate::sender::resolver::Resolve;

/// The API version we speak at most: what the later engines' sources were read for.
const API_VERSION_MAX: (u32, u32) = (1, 47);

/// The lowest version whose errors are JSON; engines from 1.12 (2016) on have it.
const API_VERSION_MIN: (u32, u32) = (1, 24);

/// Why an engine did not do what was asked.
#[derive(Debug)]
pub enum EngineError {
    /// 404: no such container.
    NotFound(String),
    /// 501: the container's log driver does not support reading.
    NotReadable(String),
    /// 409: such as the log of a container that is being removed.
    Conflict(String),
    /// Any other status that is no success, with the engine's text.
    Status(u16, String),
    /// No permission on the socket (EACCES).
    Forbidden,
    /// No socket at the path (ENOENT).
    Missing,
    /// Nobody listens (ECONNREFUSED).
    Refused,
    /// No whole answer within the request's deadline.
    Timeout,
    /// Any other fault of the connection.
    Connection(io::Error),
    /// The answer is not what the protocol says.
    Protocol(String),
    /// The engine's highest API version is below ours.
    TooOld { api_version: String },
    /// A stop was asked for meanwhile.
    Stopping,
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(text) | Self::NotReadable(text) | Self::Conflict(text) => {
                f.write_str(text)
            }
            Self::Status(code, text) => write!(f, "status {code}: {text}"),
            Self::Forbidden => f.write_str("no permission on the socket"),
            Self::Missing => f.write_str("the socket does not exist"),
            Self::Refused => f.write_str("connection refused"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Connection(e) => write!(f, "connection: {e}"),
            Self::Protocol(cause) => f.write_str(cause),
            Self::TooOld { api_version } => {
                let (major, minor) = API_VERSION_MIN;
                write!(f, "the engine's API {api_version} is too old, {major}.{minor} is the least")
            }
            Self::Stopping => f.write_str("a stop was asked for"),
        }
    }
}

impl std::error::Error for EngineError {}

impl From<io::Error> for EngineError {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::PermissionDenied => Self::Forbidden,
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::Interrupted => Self::Stopping,
            _ => Self::Connection(e),
        }
    }
}

impl EngineError {
    /// A short word for the error counter.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not_found",
            Self::NotReadable(_) => "not_readable",
            Self::Conflict(_) => "conflict",
            Self::Status(..) => "status",
            Self::Forbidden => "forbidden",
            Self::Missing => "missing",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Connection(_) => "connection",
            Self::Protocol(_) => "protocol",
            Self::TooOld { .. } => "too_old",
            Self::Stopping => "stopping",
        }
    }

    /// What a person can do about it; empty where nothing is known.
    pub fn cure(&self, endpoint: &Endpoint) -> String {
        match (self, endpoint) {
            (Self::Forbidden, Endpoint::Unix(_)) => {
                "; `usermod -aG docker log-capturer` and a restart give it access".to_owned()
            }
            (Self::Missing, Endpoint::Unix(path)) => {
                format!("; is the Docker Engine installed and started? {}", path.display())
            }
            (Self::Refused, _) => "; is the Docker Engine running?".to_owned(),
            _ => String::new(),
        }
    }
}

/// A whole answer with a status of success.
#[derive(Debug)]
pub struct Answer {
    pub head: Head,
    pub body: Vec<u8>,
}

/// An answer whose body is read by the caller.
#[derive(Debug)]
pub struct Opened {
    pub socket: Socket,
    pub head: Head,
    /// What was read behind the head: the beginning of the body.
    pub rest: Vec<u8>,
}

/// An engine as it is asked; each request has its own connection.
#[derive(Clone, Debug)]
pub struct Engine {
    endpoint: Endpoint,
    resolve: Option<Resolve>,
    stop: StopCheck,
}

/// A stop, in types that show themselves.
#[derive(Clone)]
struct StopCheck(Stop);

impl fmt::Debug for StopCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stop")
    }
}

impl Engine {
    /// `resolve` is needed where the endpoint names a host.
    pub fn new(endpoint: Endpoint, resolve: Option<Resolve>, stop: Stop) -> Self {
        Self { endpoint, resolve, stop: StopCheck(stop) }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Asks for the engine's version; the one to put into every path, `1.41`.
    ///
    /// # Errors
    /// When the engine does not answer, or is too old.
    pub fn negotiate(&self) -> Result<Arc<str>, EngineError> {
        let answer = self.request("GET", "/_ping")?;
        let theirs = answer.head.api_version.unwrap_or_default();
        api_version(&theirs)
    }

    /// One request and its whole answer within [`limits::DOCKER_REQUEST_TIMEOUT`]; the body has
    /// at most [`limits::DOCKER_BODY_BYTES_MAX`].
    ///
    /// # Errors
    /// Also for every status that is no success.
    pub fn request(&self, method: &str, path: &str) -> Result<Answer, EngineError> {
        let deadline = Instant::now() + limits::DOCKER_REQUEST_TIMEOUT;
        let mut opened = self.send(method, path, deadline)?;
        let body = self.body(&mut opened, limits::DOCKER_BODY_BYTES_MAX, deadline)?;
        if let Some(error) = refusal(&opened.head, &body) {
            return Err(error);
        }
        Ok(Answer { head: opened.head, body })
    }

    /// A request whose answer is a stream: returns when its head has come.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub fn open(&self, path: &str) -> Result<Opened, EngineError> {
        let deadline = Instant::now() + limits::DOCKER_REQUEST_TIMEOUT;
        let mut opened = self.send("GET", path, deadline)?;
        if (200..300).contains(&opened.head.status) {
            return Ok(opened);
        }
        let body = self.body(&mut opened, limits::DOCKER_BODY_BYTES_MAX, deadline)?;
        Err(refusal(&opened.head, &body).unwrap_or(EngineError::Timeout))
    }

    fn send(&self, method: &str, path: &str, deadline: Instant) -> Result<Opened, EngineError> {
        let stop = &self.stop.0;
        let connected = deadline.min(Instant::now() + limits::DOCKER_CONNECT_TIMEOUT);
        let mut socket = connect(&self.endpoint, self.resolve.as_ref(), stop, connected)?;
        write_all(&mut socket, &request_head(method, path, &self.endpoint), stop, deadline)?;
        let mut reader = HeadReader::default();
        let mut buffer = vec![0; limits::DOCKER_READ_BYTES];
        loop {
            let bytes = read_some(&mut socket, &mut buffer, stop, deadline)?;
            if bytes == 0 {
                let cause = "the engine closed the connection before its answer";
                return Err(EngineError::Protocol(cause.to_owned()));
            }
            let found = reader.push(&buffer[..bytes]);
            if let Some((head, rest)) = found.map_err(|e| EngineError::Protocol(e.to_string()))? {
                let rest = rest.to_vec();
                return Ok(Opened { socket, head, rest });
            }
        }
    }

    fn body(
        &self,
        opened: &mut Opened,
        bytes_max: usize,
        deadline: Instant,
    ) -> Result<Vec<u8>, EngineError> {
        let mut reader = BodyReader::new(opened.head.body);
        let mut body = Vec::new();
        let mut buffer = std::mem::take(&mut opened.rest);
        let mut bytes = buffer.len();
        loop {
            let state = reader.push(&buffer[..bytes], |data| body.extend_from_slice(data));
            let state = state.map_err(|e| EngineError::Protocol(e.to_string()))?;
            if body.len() > bytes_max {
                let cause = format!("body of the answer is longer than {bytes_max} bytes");
                return Err(EngineError::Protocol(cause));
            }
            if state == BodyState::Complete {
                return Ok(body);
            }
            buffer.resize(limits::DOCKER_READ_BYTES, 0);
            bytes = read_some(&mut opened.socket, &mut buffer, &self.stop.0, deadline)?;
            if bytes == 0 && reader.ends_with_the_connection() {
                return Ok(body);
            }
            if bytes == 0 {
                let cause = "the engine closed the connection amid its answer";
                return Err(EngineError::Protocol(cause.to_owned()));
            }
        }
    }
}

/// The head of a request, ready to be sent.
pub fn request_head(method: &str, path: &str, endpoint: &Endpoint) -> Vec<u8> {
    let host = match endpoint {
        Endpoint::Unix(_) => "docker".to_owned(),
        Endpoint::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
        Endpoint::Tcp { host, port } => format!("{host}:{port}"),
    };
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: log-capturer/{version}\r\n\
         Connection: close\r\n\r\n"
    )
    .into_bytes()
}

/// The error that an answer's status stands for; None for a success.
pub fn refusal(head: &Head, body: &[u8]) -> Option<EngineError> {
    let text = || error_text(head, body);
    match head.status {
        200..300 => None,
        404 => Some(EngineError::NotFound(text())),
        409 => Some(EngineError::Conflict(text())),
        501 => Some(EngineError::NotReadable(text())),
        status => Some(EngineError::Status(status, text())),
    }
}

/// Errors are JSON from API 1.24 on, but text from the engine's outermost layers.
fn error_text(head: &Head, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Message {
        message: String,
    }
    let json = head.content_type.as_deref().is_some_and(|t| t.starts_with("application/json"));
    let message = if json { serde_json::from_slice::<Message>(body).ok() } else { None };
    let text = message.map_or_else(|| String::from_utf8_lossy(body).into_owned(), |m| m.message);
    let text = text.trim();
    text[..text.floor_char_boundary(limits::DOCKER_ERROR_TEXT_BYTES_MAX)].to_owned()
}

/// The lower of the engine's version and ours.
fn api_version(theirs: &str) -> Result<Arc<str>, EngineError> {
    let parse = |(major, minor): (&str, &str)| Some((major.parse().ok()?, minor.parse().ok()?));
    let Some(version) = theirs.split_once('.').and_then(parse) else {
        let cause =
            format!("the answer to a ping has Api-Version {theirs:?}; is it a Docker Engine?");
        return Err(EngineError::Protocol(cause));
    };
    if version < API_VERSION_MIN {
        return Err(EngineError::TooOld { api_version: theirs.to_owned() });
    }
    let (major, minor): (u32, u32) = version.min(API_VERSION_MAX);
    Ok(format!("{major}.{minor}").into())
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
