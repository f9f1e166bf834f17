//! An engine's answers as recorded, served on sockets of our own; bad peers; real faults.

#![allow(clippy::disallowed_methods, reason = "peers and the thread under test")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use super::*;
use crate::source::docker::recordings;

fn recording(name: &str) -> Vec<u8> {
    let found = recordings().into_iter().find(|(n, _)| n == name);
    found.unwrap_or_else(|| panic!("no recording {name}")).1
}

/// Asks an engine that gives `answer` and closes; also what it was asked.
fn ask(answer: &[u8], path: &str) -> (Result<Answer, EngineError>, String) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let engine = Engine::new(Endpoint::Unix(socket), None, Stop::default());
    std::thread::scope(|scope| {
        let peer = scope.spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut asked = vec![0; 4096];
            let bytes = peer.read(&mut asked).unwrap();
            let _ = peer.write_all(answer);
            String::from_utf8_lossy(&asked[..bytes]).into_owned()
        });
        let answer = engine.request("GET", path);
        (answer, peer.join().unwrap())
    })
}

fn error_of(name: &str) -> EngineError {
    ask(&recording(name), "/x").0.expect_err(name)
}

#[test]
fn recorded_answers_are_read_whole() {
    let (answer, asked) = ask(&recording("02-list-all.http"), "/v1.41/containers/json?all=1");
    let answer = answer.unwrap();
    assert!(answer.body.starts_with(b"[{") && answer.body.ends_with(b"}]\n"));
    assert!(asked.starts_with("GET /v1.41/containers/json?all=1 HTTP/1.1\r\nHost: docker\r\n"));
    assert!(asked.ends_with("\r\n\r\n"), "{asked:?}");
    let (answer, _) = ask(&recording("01-http10.http"), "/_ping");
    assert_eq!(answer.unwrap().body, b"OK");
}

#[test]
fn recorded_refusals_have_their_kind_and_the_engines_text() {
    let error = error_of("13-404-container.http");
    assert!(matches!(&error, EngineError::NotFound(t) if t.starts_with("No such container")));
    let error = error_of("13-old-api-error.http");
    assert!(matches!(&error, EngineError::NotFound(t) if t == "No such container: nosuch"));
    let error = error_of("10-logs-none.http");
    assert!(matches!(&error, EngineError::NotReadable(t) if t.contains("does not support")));
    assert!(matches!(error_of("13-409-name.http"), EngineError::Conflict(_)));
    let error = error_of("01-version-too-new.http");
    assert!(matches!(&error, EngineError::Status(400, t) if t.contains("too new")), "{error}");
    assert!(matches!(error_of("13-500-since.http"), EngineError::Status(500, _)));
}

#[test]
fn answers_that_end_early_or_make_no_sense_are_errors() {
    for bad in [
        &b""[..],
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"220 mail.example.com ESMTP\r\n",
    ] {
        let error = ask(bad, "/x").0.unwrap_err();
        let text = String::from_utf8_lossy(bad);
        assert!(matches!(error, EngineError::Protocol(_)), "{text:?}: {error:?}");
    }
}

#[test]
fn the_lower_version_is_taken_and_an_old_engine_refused() {
    for (theirs, ours) in [("1.24", "1.24"), ("1.41", "1.41"), ("1.47", "1.47"), ("1.99", "1.47")] {
        assert_eq!(&*api_version(theirs).unwrap(), ours);
    }
    assert!(matches!(api_version("1.23"), Err(EngineError::TooOld { .. })));
    for odd in ["", "1", "x.y", "1.x"] {
        assert!(matches!(api_version(odd), Err(EngineError::Protocol(_))), "{odd:?}");
    }
}

fn fault(endpoint: Endpoint) -> EngineError {
    Engine::new(endpoint, None, Stop::default()).request("GET", "/_ping").unwrap_err()
}

#[test]
fn a_socket_that_is_missing_or_deserted_is_named_so() {
    let dir = tempfile::tempdir().unwrap();
    let missing = fault(Endpoint::Unix(dir.path().join("no.sock")));
    assert!(matches!(missing, EngineError::Missing), "{missing:?}");
    let deserted = dir.path().join("deserted.sock");
    drop(UnixListener::bind(&deserted).unwrap());
    let refused = fault(Endpoint::Unix(deserted));
    assert!(matches!(refused, EngineError::Refused), "{refused:?}");
    let long = fault(Endpoint::Unix(Path::new("/").join("x".repeat(200))));
    assert!(matches!(long, EngineError::Connection(_)), "{long:?}");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let refused = fault(Endpoint::Tcp { host: "127.0.0.1".into(), port });
    assert!(matches!(refused, EngineError::Refused), "{refused:?}");
}

#[test]
fn a_socket_without_permission_is_named_so_with_the_cure() {
    if rustix::process::geteuid().is_root() {
        // Root passes every mode: the kernel's own code stands for it.
        let error = EngineError::from(io::Error::from(Errno::ACCESS));
        let cure = error.cure(&Endpoint::Unix("/var/run/docker.sock".into()));
        assert!(cure.contains("usermod -aG docker log-capturer"), "{cure}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o000)).unwrap();
    let forbidden = fault(Endpoint::Unix(socket));
    assert!(matches!(forbidden, EngineError::Forbidden), "{forbidden:?}");
}

#[test]
fn a_silent_engine_holds_nobody_past_the_deadline_nor_past_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let stop = Stop::default();
    let engine = Engine::new(Endpoint::Unix(socket), None, stop.clone());
    let soon = Instant::now() + Duration::from_millis(30);
    let error = engine.send("GET", "/_ping", soon).unwrap_err();
    assert!(matches!(error, EngineError::Timeout), "{error:?}");
    stop.ask(Instant::now());
    let error = engine.request("GET", "/_ping").unwrap_err();
    assert!(matches!(error, EngineError::Stopping), "{error:?}");
}

#[test]
fn tcp_works_the_same() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint =
        Endpoint::Tcp { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut socket = connect(&endpoint, None, &Stop::default(), deadline).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    peer.write_all(b"hello").unwrap();
    let mut into = [0; 16];
    let bytes = read_some(&mut socket, &mut into, &Stop::default(), deadline).unwrap();
    assert_eq!(&into[..bytes], b"hello");
}
