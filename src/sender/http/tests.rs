//! Requests over real sockets, against servers that misbehave.

use std::io::{BufRead, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::daemon::Beat;
use crate::sender::resolver::{self, Names};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

fn resolve() -> Resolve {
    let (requests, _) = crossbeam_channel::bounded(1);
    Resolve::new(Arc::new(Names::default()), requests)
}

fn client(address: SocketAddr, request_timeout: Duration) -> UreqHttp {
    client_for(format!("http://{address}/loki/api/v1/push"), request_timeout, resolve())
}

fn client_for(url: String, request_timeout: Duration, resolve: Resolve) -> UreqHttp {
    let settings = HttpSettings {
        url,
        connect_timeout: Duration::from_secs(5),
        request_timeout,
        proxy: None,
        tls: None,
    };
    UreqHttp::new(settings, resolve).unwrap()
}

fn post(http: &mut UreqHttp, body: &[u8]) -> Result<Answer, TransportError> {
    let headers = [("Content-Type".to_owned(), "application/x-protobuf".to_owned())];
    http.post(body, &headers, Instant::now() + LONG)
}

/// Runs `server` on each connection of a listener while `client` runs.
fn with_server(server: impl Fn(TcpStream) + Sync, client: impl FnOnce(SocketAddr)) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while let Ok((stream, _)) = listener.accept() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                stream.set_read_timeout(Some(LONG)).unwrap();
                server(stream);
            }
        });
        client(address);
        over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(address);
    });
}

/// Reads a request's head; the length of its body and the head's lines.
fn read_head(reader: &mut impl BufRead) -> Option<(usize, Vec<String>)> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            let length = lines.iter().find_map(|l: &String| l.strip_prefix("content-length: "));
            return Some((length?.parse().ok()?, lines));
        }
        lines.push(line);
    }
}

#[test]
fn requests_share_one_connection_and_carry_the_headers() {
    let serve = |stream: TcpStream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut number = 0;
        while let Some((length, head)) = read_head(&mut reader) {
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            assert_eq!(head[0], "post /loki/api/v1/push http/1.1");
            assert!(head.contains(&"content-type: application/x-protobuf".to_owned()));
            assert!(head.iter().any(|line| line.starts_with("user-agent: log-capturer/")));
            assert!(!head.iter().any(|line| line.starts_with("transfer-encoding")));
            number += 1;
            let text = format!("{number}:{length}");
            let status = if number == 1 { "429 Too Many Requests" } else { "400 Bad Request" };
            let answer = format!(
                "HTTP/1.1 {status}\r\nRetry-After: 7\r\nContent-Length: {}\r\n\r\n{text}",
                text.len()
            );
            (&stream).write_all(answer.as_bytes()).unwrap();
        }
    };
    with_server(serve, |address| {
        let mut http = client(address, LONG);
        let first = post(&mut http, b"abc").unwrap();
        assert_eq!((first.status, &*first.body), (429, "1:3"));
        assert_eq!(first.retry_after.as_deref(), Some("7"));
        let second = post(&mut http, &[0; 300_000]).unwrap();
        assert_eq!((second.status, &*second.body), (400, "2:300000"));
    });
}

#[test]
fn redirects_are_answers() {
    let serve = |stream: TcpStream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some((length, _)) = read_head(&mut reader) {
            std::io::copy(&mut (&mut reader).take(length as u64), &mut std::io::sink()).unwrap();
            let answer = "HTTP/1.1 307 x\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n";
            (&stream).write_all(answer.as_bytes()).unwrap();
        }
    };
    with_server(serve, |address| {
        assert_eq!(post(&mut client(address, LONG), b"abc").unwrap().status, 307);
    });
}

#[test]
fn a_proxy_from_the_config_is_used_and_resolves_the_target_itself() {
    let serve = |stream: TcpStream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut connect = String::new();
        reader.read_line(&mut connect).unwrap();
        assert_eq!(connect.trim_end(), "CONNECT loki.invalid:3100 HTTP/1.1");
        while reader.read_line(&mut connect).unwrap() > 2 {}
        assert!(connect.contains("Proxy-Authorization: Basic dTpw"), "{connect}");
        (&stream).write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let (length, _) = read_head(&mut reader).unwrap();
        reader.read_exact(&mut vec![0; length]).unwrap();
        (&stream).write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    };
    with_server(serve, |address| {
        let settings = HttpSettings {
            url: "http://loki.invalid:3100/push".to_owned(),
            connect_timeout: LONG,
            request_timeout: LONG,
            proxy: Some(format!("http://u:p@{address}")),
            tls: None,
        };
        let mut http = UreqHttp::new(settings, resolve()).unwrap();
        assert_eq!(post(&mut http, &[7; 100_000]).unwrap().status, 204);
    });
}

#[test]
fn a_server_that_never_answers_times_out() {
    let serve = |mut stream: TcpStream| {
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    };
    with_server(serve, |address| {
        let began = Instant::now();
        let error = post(&mut client(address, SHORT), b"abc").unwrap_err();
        assert_eq!(error.fault, Fault::Timeout, "{error}");
        assert!(began.elapsed() >= SHORT && began.elapsed() < LONG / 2);
    });
}

#[test]
fn a_peer_that_takes_the_body_in_drops_does_not_prolong_the_deadline() {
    let over = AtomicBool::new(false);
    let serve = |mut stream: TcpStream| {
        let mut some = [0; 64];
        // What waits in the kernel's buffers would take minutes.
        while !over.load(Ordering::SeqCst) && matches!(stream.read(&mut some), Ok(n) if n > 0) {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    };
    with_server(serve, |address| {
        let began = Instant::now();
        let answer = post(&mut client(address, SHORT), &vec![7; 64 << 20]);
        over.store(true, Ordering::SeqCst);
        let error = answer.unwrap_err();
        assert_eq!(error.fault, Fault::Timeout, "{error}");
        assert!(began.elapsed() < LONG / 2, "{:?}", began.elapsed());
    });
}

#[test]
fn a_peer_that_answers_in_drops_does_not_prolong_the_deadline() {
    let serve = |stream: TcpStream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        read_head(&mut reader);
        while (&stream).write_all(b"HTTP/1.1").is_ok() {
            std::thread::park_timeout(Duration::from_millis(5));
            if (&stream).write_all(b" 204 ").is_err() {
                return;
            }
        }
    };
    // Not HTTP in the end: the fault depends on what is seen first, the time does not.
    with_server(serve, |address| {
        let began = Instant::now();
        assert!(post(&mut client(address, SHORT), b"abc").is_err());
        assert!(began.elapsed() < LONG / 2, "{:?}", began.elapsed());
    });
}

#[test]
fn a_connection_that_breaks_is_a_reset_and_a_closed_port_is_not() {
    let serve = |stream: TcpStream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        read_head(&mut reader);
        // Closed with unread bytes: the kernel resets.
    };
    with_server(serve, |address| {
        let error = post(&mut client(address, LONG), &[0; 3 << 20]).unwrap_err();
        assert_eq!(error.fault, Fault::Reset, "{error}");
    });
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = post(&mut client(closed, LONG), b"abc").unwrap_err();
    assert_eq!(error.fault, Fault::Connect, "{error}");
}

/// `closes`: the server closes after its answer; else it neither reads on nor closes.
fn early_413(closes: bool) {
    let over = AtomicBool::new(false);
    let serve = |stream: TcpStream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        read_head(&mut reader);
        let answer = "HTTP/1.1 413 x\r\nConnection: close\r\nContent-Length: 9\r\n\r\ntoo large";
        (&stream).write_all(answer.as_bytes()).unwrap();
        while !closes && !over.load(Ordering::SeqCst) {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    };
    with_server(serve, |address| {
        let mut http = client(address, LONG);
        let answer = post(&mut http, &vec![7; 64 << 20]);
        over.store(true, Ordering::SeqCst);
        let answer = answer.unwrap();
        assert_eq!((answer.status, &*answer.body), (413, "too large"));
        // The connection is not used again.
        assert_eq!(post(&mut http, &vec![7; 64 << 20]).unwrap().status, 413);
    });
}

#[test]
fn an_answer_that_comes_before_the_body_is_taken_is_read() {
    early_413(true);
    early_413(false);
}

#[test]
fn a_request_that_waits_is_interrupted_and_later_ones_fail() {
    let serve = |mut stream: TcpStream| {
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    };
    with_server(serve, |address| {
        let mut http = client(address, LONG);
        let cancel = http.cancel();
        let began = Instant::now();
        std::thread::scope(|scope| {
            let request = scope.spawn(move || {
                let first = post(&mut http, b"abc").unwrap_err().fault;
                (first, post(&mut http, b"abc").unwrap_err().fault)
            });
            std::thread::park_timeout(Duration::from_millis(50));
            cancel.cancel();
            assert_eq!(request.join().unwrap(), (Fault::Cancelled, Fault::Cancelled));
        });
        assert!(began.elapsed() < LONG / 2);
    });
}

#[test]
fn names_are_looked_up_by_the_resolver_thread_alone() {
    let serve = |stream: TcpStream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some((length, _)) = read_head(&mut reader) {
            std::io::copy(&mut (&mut reader).take(length as u64), &mut std::io::sink()).unwrap();
            (&stream).write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        }
    };
    with_server(serve, |address| {
        let (requests, inbox) = crossbeam_channel::bounded(4);
        let names = Arc::new(Names::default());
        let resolve = Resolve::new(names.clone(), requests);
        std::thread::scope(|scope| {
            scope.spawn(move || resolver::run(&inbox, &names, &Beat::new()));
            let url = |host: &str| format!("http://{host}:{}/push", address.port());
            let mut http = client_for(url("localhost"), LONG, resolve.clone());
            assert_eq!(post(&mut http, b"abc").unwrap().status, 204);
            let mut http = client_for(url("nowhere.invalid"), LONG, resolve);
            let error = post(&mut http, b"abc").unwrap_err();
            assert_eq!(error.fault, Fault::Resolve, "{error}");
        });
    });
}

#[test]
fn a_lookup_that_hangs_ends_with_the_request() {
    let (requests, _inbox) = crossbeam_channel::bounded(4);
    let resolve = Resolve::new(Arc::new(Names::default()), requests);
    let mut http = client_for("http://hangs.invalid/push".to_owned(), SHORT, resolve);
    let began = Instant::now();
    let error = post(&mut http, b"abc").unwrap_err();
    assert_eq!(error.fault, Fault::Resolve, "{error}");
    assert!(began.elapsed() < LONG / 2);
}
