//! One POST: a request with a deadline, and either an answer or the kind of fault.
//!
//! Behind a small trait, so that tests script the answers. The real one is ureq with our own
//! resolver and transport; set against its defaults: a status is no error, no redirects, a
//! proxy only from the config, answers' bodies bounded. Runs on the sender's thread.

use std::fmt;
use std::io::{self, Read as _};
use std::time::{Duration, Instant};

use ureq::tls::TlsConfig;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    ConnectProxyConnector, Connector as _, NextTimeout, RustlsConnector,
};
use ureq::{Agent, http};

use super::resolver::{NameError, Resolve};
use super::transport::{Cancel, TcpConnector};
use crate::limits;

/// An answer, whatever its status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub retry_after: Option<String>,
    pub date: Option<String>,
    /// At most [`limits::ANSWER_BYTES_MAX`], bytes that are not UTF-8 replaced.
    pub body: String,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The host's name was not found.
    Resolve,
    /// No connection: refused, unreachable, timed out while connecting.
    Connect,
    /// The deadline passed before the answer was complete.
    Timeout,
    /// The connection broke after it stood.
    Reset,
    /// No trust: certificates, versions.
    Tls,
    /// What came is no HTTP.
    Protocol,
    /// The request cannot be made as configured (URL, header).
    Request,
    /// [`Cancel::cancel`].
    Cancelled,
}

impl Fault {
    /// For metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Tls => "tls",
            Self::Protocol => "protocol",
            Self::Request => "request",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A request without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportError {
    pub fault: Fault,
    pub text: String,
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.fault.as_str(), self.text)
    }
}

impl std::error::Error for TransportError {}

/// What a sender needs of HTTP.
pub trait Http: Send {
    /// Posts `body` to the URL that this client was made for. Returns by `deadline`.
    ///
    /// # Errors
    /// When there was no answer with a status.
    fn post(
        &mut self,
        body: &[u8],
        headers: &[(String, String)],
        deadline: Instant,
    ) -> Result<Answer, TransportError>;
}

/// How a client reaches its server. Clones share the roots.
#[derive(Clone)]
pub struct HttpSettings {
    pub url: String,
    pub connect_timeout: Duration,
    /// Of the whole request; the caller's deadline may be sooner.
    pub request_timeout: Duration,
    /// `http://[user:password@]host:port`.
    pub proxy: Option<String>,
    /// For https URLs ([`super::tls::tls_config`]).
    pub tls: Option<TlsConfig>,
}

/// ureq, with one connection kept alive.
pub struct UreqHttp {
    agent: Agent,
    url: String,
    cancel: Cancel,
    request_timeout: Duration,
}

impl UreqHttp {
    /// # Errors
    /// When the proxy's URL is not one.
    pub fn new(settings: HttpSettings, resolve: Resolve) -> Result<Self, TransportError> {
        let proxy = match &settings.proxy {
            None => None,
            Some(url) => Some(ureq::Proxy::new(url).map_err(|e| TransportError {
                fault: Fault::Request,
                text: format!("proxy: {e}"),
            })?),
        };
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy)
            .user_agent(concat!("log-capturer/", env!("CARGO_PKG_VERSION")))
            .timeout_global(Some(settings.request_timeout))
            .max_response_header_size(limits::ANSWER_HEAD_BYTES_MAX)
            .max_idle_connections(1)
            .max_idle_connections_per_host(1)
            .max_idle_age(limits::CONNECTION_IDLE)
            .input_buffer_size(limits::ANSWER_HEAD_BYTES_MAX)
            .output_buffer_size(64 << 10);
        if let Some(tls) = settings.tls {
            config = config.tls_config(tls);
        }
        let cancel = Cancel::default();
        let tcp =
            TcpConnector { cancel: cancel.clone(), connect_timeout: settings.connect_timeout };
        let connector =
            ().chain(ConnectProxyConnector::default()).chain(tcp).chain(RustlsConnector::default());
        let lookup =
            Lookup { resolve, cancel: cancel.clone(), connect_timeout: settings.connect_timeout };
        let agent = Agent::with_parts(config.build(), connector, lookup);
        let (url, request_timeout) = (settings.url, settings.request_timeout);
        Ok(Self { agent, url, cancel, request_timeout })
    }

    /// Interrupts this client's requests, from another thread.
    pub fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    fn fault(&self, error: &ureq::Error) -> Fault {
        if self.cancel.cancelled() {
            return Fault::Cancelled;
        }
        match error {
            ureq::Error::Timeout(_) => Fault::Timeout,
            ureq::Error::HostNotFound => Fault::Resolve,
            ureq::Error::Other(cause) if cause.is::<NameError>() => Fault::Resolve,
            ureq::Error::Io(_) if self.cancel.connect_failed() => Fault::Connect,
            ureq::Error::Io(e) => io_fault(e),
            ureq::Error::ConnectionFailed | ureq::Error::ConnectProxyFailed(_) => Fault::Connect,
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::TlsRequired => Fault::Tls,
            ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) => Fault::Protocol,
            _ => Fault::Request,
        }
    }
}

/// rustls wraps its errors in those of I/O.
fn io_fault(error: &io::Error) -> Fault {
    let is_tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
    match error.kind() {
        _ if is_tls => Fault::Tls,
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Fault::Timeout,
        _ => Fault::Reset,
    }
}

impl Http for UreqHttp {
    fn post(
        &mut self,
        body: &[u8],
        headers: &[(String, String)],
        deadline: Instant,
    ) -> Result<Answer, TransportError> {
        self.cancel.begin(deadline.min(Instant::now() + self.request_timeout));
        let mut request = self.agent.post(&self.url);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let response = request
            .send(body)
            .map_err(|e| TransportError { fault: self.fault(&e), text: e.to_string() })?;
        let (head, body) = response.into_parts();
        let header = |name: http::HeaderName| {
            head.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned)
        };
        let retry_after = header(http::header::RETRY_AFTER);
        let date = header(http::header::DATE);
        let mut bytes = Vec::new();
        // The status is known; of a body that breaks off what came is kept.
        let max = limits::ANSWER_BYTES_MAX as u64;
        let _ = body.into_reader().take(max).read_to_end(&mut bytes);
        let body = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Answer { status: head.status.as_u16(), retry_after, date, body })
    }
}

/// ureq's view of our resolver.
#[derive(Clone)]
struct Lookup {
    resolve: Resolve,
    cancel: Cancel,
    connect_timeout: Duration,
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lookup")
    }
}

impl Resolver for Lookup {
    fn resolve(
        &self,
        uri: &http::Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().ok_or_else(|| ureq::Error::BadUri(uri.to_string()))?;
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let deadline = self.cancel.deadline().min(Instant::now() + self.connect_timeout);
        let found = self
            .resolve
            .addresses(host, uri.port_u16().unwrap_or(default), deadline)
            .map_err(|e| ureq::Error::Other(Box::new(e)))?;
        let mut addresses: ResolvedSocketAddrs = self.empty();
        for address in found.into_iter().take(ADDRESSES_MAX) {
            addresses.push(address);
        }
        Ok(addresses)
    }
}

/// Room of ureq's array of addresses.
const ADDRESSES_MAX: usize = 16;

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // Test servers are scoped threads.
mod tests;
