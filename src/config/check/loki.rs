//! A sink of type `loki`: where to push, as whom, with what patience.

use std::path::PathBuf;

use ureq::http::Uri;
use ureq::http::header::{HeaderName, HeaderValue};

use super::super::checked::{Auth, Loki, Tls};
use super::super::defaults;
use super::super::diagnose::quote;
use super::super::key::Key;
use super::super::raw::{self, Scalar, Section};
use super::super::secret::Secret;
use super::Checks;
use crate::units::show_duration;

/// Headers that the sender sets itself.
const OWN_HEADERS: [&str; 8] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "authorization",
    "x-scope-orgid",
];

const URL_EXPECTED: &str = "http:// or https://, a host, and a port unless it is the scheme's own";

pub(super) fn loki(checks: &mut Checks<'_, '_>, at: &Key, raw: &raw::Sink) -> Loki {
    let url = push_url(checks, &at.name("url"), &raw.url);
    let timeout_at = at.name("timeout");
    let timeout = checks.section(&timeout_at, &raw.timeout);
    let connect = timeout_at.name("connect");
    let connect_timeout = checks.duration(&connect, &timeout.connect, defaults::CONNECT_TIMEOUT);
    let request = timeout_at.name("request");
    let request_timeout = checks.duration(&request, &timeout.request, defaults::REQUEST_TIMEOUT);
    if timeout.connect != Scalar::Unset && connect_timeout > request_timeout {
        let wrong = format!("{} is longer than `request`", show_duration(connect_timeout));
        let expected = format!("at most {}", show_duration(request_timeout));
        checks.report.bad(&connect, wrong, expected);
    }
    let retry_at = at.name("retry");
    let retry = checks.section(&retry_at, &raw.retry);
    let initial = retry_at.name("initial");
    let retry_initial = checks.duration(&initial, &retry.initial, defaults::RETRY_INITIAL);
    let max = retry_at.name("max");
    let retry_max = checks.duration(&max, &retry.max, defaults::RETRY_MAX);
    if retry_max < retry_initial {
        let wrong = format!("{} is less than `initial`", show_duration(retry_max));
        checks.report.bad(&max, wrong, format!("at least {}", show_duration(retry_initial)));
    }
    let auth = auth(checks, &at.name("auth"), &raw.auth, url.as_deref());
    Loki {
        senders: checks.count(&at.name("senders"), &raw.senders, defaults::SENDERS),
        connect_timeout: connect_timeout.min(request_timeout),
        request_timeout,
        retry_initial,
        retry_max,
        tenant: tenant(checks, &at.name("tenant"), &raw.tenant),
        auth,
        headers: headers(checks, &at.name("headers"), raw),
        proxy: proxy(checks, &at.name("proxy"), &raw.proxy),
        tls: tls(checks, &at.name("tls"), &raw.tls, url.as_deref()),
        max_age: checks.duration(&at.name("max_age"), &raw.max_age, defaults::MAX_AGE),
        max_future: checks.duration(&at.name("max_future"), &raw.max_future, defaults::MAX_FUTURE),
        url: url.unwrap_or_default(),
    }
}

/// The push URL, with Loki's path unless one is given.
fn push_url(checks: &mut Checks<'_, '_>, at: &Key, raw: &Scalar) -> Option<String> {
    let text = checks.required_text(at, raw, "Loki's address, such as http://localhost:3100")?;
    let instead = "`auth: { basic: { user: ..., password: ... } }` instead";
    let uri = http_uri(checks, at, &text, instead)?;
    if uri.query().is_some() || text.contains('#') {
        let wrong = format!("{} has a query or fragment", quote(&text));
        checks.report.bad(at, wrong, "none");
        return None;
    }
    let path = if uri.path() == "/" { defaults::PUSH_PATH } else { uri.path() };
    Some(format!("{}://{}{path}", uri.scheme_str()?, uri.authority()?))
}

/// An http or https URL without user; `instead` is what to give in place of one.
fn http_uri(checks: &mut Checks<'_, '_>, at: &Key, text: &str, instead: &str) -> Option<Uri> {
    let lower = text.to_ascii_lowercase();
    if !lower.starts_with("http://") && !lower.starts_with("https://") {
        let wrong = format!("{} has no scheme that is known", quote(text));
        checks.report.bad(at, wrong, format!("{URL_EXPECTED}, such as http://localhost:3100"));
        return None;
    }
    let uri: Option<Uri> = text.parse().ok();
    let authority = uri.as_ref().and_then(Uri::authority);
    let Some(authority) = authority.filter(|a| !a.host().is_empty()) else {
        checks.report.bad(at, format!("{} is no URL", quote(text)), URL_EXPECTED);
        return None;
    };
    if authority.as_str().contains('@') {
        let wrong = "has a user or password in it, which logs would show";
        checks.report.bad(at, wrong, instead);
        return None;
    }
    let has_port = authority.as_str().len() > authority.host().len();
    if has_port && authority.port_u16().is_none_or(|port| port == 0) {
        let wrong = format!("{} has no valid port", quote(text));
        checks.report.bad(at, wrong, "a port from 1 to 65535");
        return None;
    }
    uri
}

fn tenant(checks: &mut Checks<'_, '_>, at: &Key, raw: &Scalar) -> Option<String> {
    let expected = "1 to 150 letters, digits or !-_.*'() (Loki's tenant names)";
    let text = checks.optional_text(at, raw, expected)?;
    let good = |c: char| c.is_ascii_alphanumeric() || "!-_.*'()".contains(c);
    if text.len() > 150 || !text.chars().all(good) || text == "." || text == ".." {
        checks.report.bad(at, format!("{} is no tenant name", quote(&text)), expected);
    }
    Some(text)
}

fn auth(
    checks: &mut Checks<'_, '_>,
    at: &Key,
    raw: &Section<raw::Auth>,
    url: Option<&str>,
) -> Auth {
    let raw = checks.section(at, raw);
    let bearer = checks.secret(&at.name("bearer"), &raw.bearer);
    let basic = basic(checks, &at.name("basic"), &raw.basic);
    if raw.bearer != Scalar::Unset && !matches!(raw.basic, Section::Unset) {
        checks.report.bad(&at.name("bearer"), "stands besides `basic`", "one of them");
    }
    let auth = match (basic, bearer) {
        (Some((user, password)), _) => Auth::Basic { user, password },
        (None, Some(token)) => Auth::Bearer(token),
        (None, None) => Auth::None,
    };
    if !matches!(auth, Auth::None) && url.is_some_and(|u| u.starts_with("http://")) {
        warn_cleartext(checks, at, url.unwrap_or_default());
    }
    auth
}

fn warn_cleartext(checks: &mut Checks<'_, '_>, at: &Key, url: &str) {
    let host = url.parse::<Uri>().ok().and_then(|u| u.host().map(str::to_owned));
    let host = host.unwrap_or_default();
    if !["localhost", "127.0.0.1", "[::1]"].contains(&host.as_str()) {
        checks.report.warn(at, "the credentials cross the network unencrypted; use https");
    }
}

fn basic(
    checks: &mut Checks<'_, '_>,
    at: &Key,
    raw: &Section<raw::Basic>,
) -> Option<(String, Secret)> {
    if matches!(raw, Section::Unset) {
        return None;
    }
    let wrong = matches!(raw, Section::Wrong(_));
    let raw = checks.section(at, raw);
    if wrong {
        return None;
    }
    let user = checks.required_text(&at.name("user"), &raw.user, "a user name");
    if user.as_ref().is_some_and(|u| u.contains(':')) {
        checks.report.bad(&at.name("user"), "has a colon", "a name that HTTP can carry");
    }
    if raw.password == Scalar::Unset {
        let expected = "a password, `file:PATH` or `credential:NAME`";
        checks.report.missing(&at.name("password"), expected);
    }
    let password = checks.secret(&at.name("password"), &raw.password);
    Some((user?, password?))
}

fn headers(checks: &mut Checks<'_, '_>, at: &Key, raw: &raw::Sink) -> Vec<(String, Secret)> {
    let entries = checks.entries(at, &raw.headers);
    if entries.len() > defaults::HEADERS_MAX {
        let expected = format!("at most {}", defaults::HEADERS_MAX);
        checks.report.bad(at, format!("has {} headers", entries.len()), expected);
    }
    let mut out = Vec::new();
    for (name, value) in entries {
        let at = at.name(name);
        let lower = name.to_ascii_lowercase();
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            let wrong = format!("{} is no header name", quote(name));
            checks.report.bad_name(&at, wrong, "letters, digits and hyphens");
        } else if OWN_HEADERS.contains(&lower.as_str()) {
            let expected = "another header (`auth` and `tenant` set theirs)";
            let wrong = format!("{} is set by the sender", quote(name));
            checks.report.bad_name(&at, wrong, expected);
        }
        let Some(value) = checks.secret(&at, value) else { continue };
        if matches!(&value, Secret::Value(v) if HeaderValue::from_str(v).is_err()) {
            checks.report.bad(&at, "the value is none that a header can have", "visible ASCII");
        }
        out.push((name.clone(), value));
    }
    out
}

fn proxy(checks: &mut Checks<'_, '_>, at: &Key, raw: &Scalar) -> Option<String> {
    let text = checks.optional_text(at, raw, "an http:// address")?;
    let lower = text.to_ascii_lowercase();
    if !lower.starts_with("http://") {
        let wrong = format!("{} is no proxy address", quote(&text));
        checks.report.bad(at, wrong, "an http:// address such as http://proxy:3128");
        return None;
    }
    let uri = http_uri(checks, at, &text, "a proxy that needs none")?;
    Some(format!("http://{}", uri.authority()?))
}

fn tls(checks: &mut Checks<'_, '_>, at: &Key, raw: &Section<raw::Tls>, url: Option<&str>) -> Tls {
    let raw = checks.section(at, raw);
    let ca_file = pem(checks, &at.name("ca_file"), &raw.ca_file);
    let cert = pem(checks, &at.name("cert_file"), &raw.cert_file);
    let key = pem(checks, &at.name("key_file"), &raw.key_file);
    for (given, other, missing) in
        [(&cert, &raw.key_file, "key_file"), (&key, &raw.cert_file, "cert_file")]
    {
        if given.is_some() && *other == Scalar::Unset {
            let expected = "both `cert_file` and `key_file`, or neither";
            checks.report.missing(&at.name(missing), expected);
        }
    }
    let used = ca_file.is_some() || cert.is_some();
    if used && url.is_some_and(|u| u.starts_with("http://")) {
        checks.report.warn(at, "has no effect, since `url` begins with http://");
    }
    Tls { ca_file, client: cert.zip(key) }
}

fn pem(checks: &mut Checks<'_, '_>, at: &Key, raw: &Scalar) -> Option<PathBuf> {
    if *raw == Scalar::Unset {
        return None;
    }
    let path = checks.path(at, raw, None);
    match std::fs::metadata(&path) {
        Ok(facts) if facts.is_file() => {}
        Ok(_) => {
            let wrong = format!("{} is no regular file", path.display());
            checks.report.bad(at, wrong, "a PEM file");
        }
        Err(e) => {
            let wrong = format!("{} cannot be read: {e}", path.display());
            checks.report.bad(at, wrong, "a PEM file");
        }
    }
    Some(path)
}
