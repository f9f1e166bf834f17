//! The admin threads over real sockets: every route, every bound, every refusal.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use polling::Poller;

use super::*;
use crate::admin::{Figures, Worker, run_worker};
use crate::clock::SystemClock;
use crate::daemon::Registry;
use crate::daemon::auditor::Auditor;
use crate::health::{HealthBoard, Level};
use crate::metrics::Metrics;
use crate::queue::SinkBudget;

const PATIENCE: Duration = Duration::from_secs(20);

/// Both admin threads with a clock of their own choice.
struct Served {
    address: SocketAddr,
    figures: Arc<Figures>,
    registry: Arc<Registry>,
    clock: Arc<SkewedClock>,
    poller: Arc<Poller>,
    end: Stop,
}

/// The host's clock, moved forward on demand: deadlines pass without waiting for them.
#[derive(Default)]
struct SkewedClock(std::sync::Mutex<Duration>);

impl Clock for SkewedClock {
    fn now(&self) -> Instant {
        Instant::now() + *self.0.lock().unwrap()
    }

    fn wall_ns(&self) -> i64 {
        SystemClock.wall_ns()
    }
}

impl Served {
    fn new() -> Self {
        let registry = Arc::new(Registry::default());
        let health = Arc::new(HealthBoard::default());
        let stop = Stop::default();
        let auditor = Auditor::new(registry.clone(), Vec::new(), 3, stop.clone(), health.clone());
        let figures = Arc::new(Figures {
            metrics: Arc::new(Metrics::new()),
            health,
            auditor: Arc::new(auditor),
            sinks: vec![("loki".to_owned(), SinkBudget::new(1 << 20, 4, Vec::new()))],
            queues: Vec::new(),
            ready: Arc::new(AtomicBool::new(false)),
            stop,
            started: Instant::now(),
        });
        let (poller, end) = (Arc::new(Poller::new().unwrap()), Stop::default());
        let clock = Arc::new(SkewedClock::default());
        let (requests, inbox) = bounded(limits::ADMIN_REQUESTS);
        let (answers, replies) = bounded(limits::ADMIN_REQUESTS);
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let admin = Admin {
            listener,
            poller: poller.clone(),
            routes: Routes { figures: figures.clone(), token: Some("s3cret".to_owned()) },
            requests,
            replies,
            clock: clock.clone(),
            end: end.clone(),
        };
        let worker = Worker { inbox, replies: answers, poller: poller.clone() };
        registry.spawn("admin-0", || {}, move |beat| run(admin, &beat)).unwrap();
        registry.spawn("admin-1", || {}, move |beat| run_worker(&worker, &beat)).unwrap();
        Self { address, figures, registry, clock, poller, end }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends bytes, reads until the server closes.
    fn exchange(&self, bytes: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn ask(&self, method: &str, path: &str) -> String {
        self.exchange(&format!("{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))
    }

    fn check(&self, method: &str, path: &str, status: u16) {
        let answer = self.ask(method, path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {path}: {answer}");
    }

    fn wait_for_a_slot(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.ask("GET", "/health").starts_with("HTTP/1.1 200 ") {
            assert!(Instant::now() < deadline, "slots were not freed");
        }
    }

    fn skip(&self, time: Duration) {
        *self.clock.0.lock().unwrap() += time;
        self.poller.notify().unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.end.ask(Instant::now());
        self.poller.notify().unwrap();
        let ended = self.registry.join(|_| true, Instant::now() + PATIENCE);
        assert!(ended || std::thread::panicking(), "the admin threads did not end");
    }
}

#[test]
fn every_route_answers_and_nothing_else_does() {
    let served = Served::new();
    for (method, path, status) in [
        ("GET", "/", 200),
        ("GET", "/metrics", 200),
        ("HEAD", "/metrics", 200),
        ("GET", "/metrics?x=y", 200),
        ("GET", "/health", 200),
        ("GET", "/ready", 503),
        ("GET", "/nothing", 404),
        ("GET", "/../etc/passwd", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/", 405),
        ("GET", "/config/reload", 405),
        ("POST", "/config/reload", 403),
    ] {
        served.check(method, path, status);
    }
    assert!(served.ask("POST", "/health").contains("Allow: GET, HEAD\r\n"));
    served.figures.ready.store(true, Ordering::Release);
    served.check("GET", "/ready", 200);
    served.figures.stop.ask(Instant::now());
    served.check("GET", "/ready", 503);
}

#[test]
fn a_token_is_taken_for_what_it_is_and_the_work_done_by_admin_1() {
    let served = Served::new();
    let post = |token: &str| {
        served.exchange(&format!(
            "POST /config/reload HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\
             Connection: close\r\n\r\n"
        ))
    };
    assert!(post("s3cret").starts_with("HTTP/1.1 501 "), "{}", post("s3cret"));
    assert!(post("s3creT").starts_with("HTTP/1.1 403 "));
}

#[test]
fn metrics_and_health_tell_the_same() {
    let served = Served::new();
    let metrics = served.ask("GET", "/metrics");
    assert!(metrics.contains("Content-Type: text/plain; version=0.0.4"), "{metrics}");
    assert!(metrics.contains("\nlog_capturer_threads_expected 3\n"), "{metrics}");
    assert!(metrics.contains(
        "\nlog_capturer_component_health{component_type=\"thread\",component_name=\"admin-1\"} 1"
    ));
    served.figures.health.set("sink", "loki", Level::Unhealthy, "held: 401");
    let health = served.ask("GET", "/health");
    assert!(health.starts_with("HTTP/1.1 503 "), "{health}");
    let body = health.split_once("\r\n\r\n").unwrap().1;
    let json: serde_json::Value = serde_json::from_str(body).unwrap();
    let reasons = json["reasons"].as_array().unwrap();
    assert!(reasons.contains(&"sink loki: held: 401".into()), "{json}");
    for tracker in ["thread_tracker", "goroutine_tracker"] {
        let stats = &json["services"][tracker]["stats"];
        assert_eq!(stats["expected_threads"], 3, "{json}");
        assert_eq!(stats["threads"][0]["name"], "admin-0", "{json}");
    }
    let metrics = served.ask("GET", "/metrics");
    assert!(metrics.contains("{component_type=\"sink\",component_name=\"loki\"} 0"), "{metrics}");
    let page = served.ask("GET", "/");
    assert!(page.contains("held: 401") && !page.contains("<script"), "{page}");
}

#[test]
fn oversized_requests_are_refused_and_the_answer_arrives() {
    let served = Served::new();
    let head = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "a".repeat(100_000));
    assert!(served.exchange(&head).starts_with("HTTP/1.1 431 "));
    let body = "b".repeat(100_000);
    let post = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n{body}");
    assert!(served.exchange(&post).starts_with("HTTP/1.1 413 "));
}

#[test]
fn connections_are_kept_and_pipelined_requests_answered() {
    let served = Served::new();
    let one = "GET /ready HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut stream = served.connect();
    stream.write_all(one.repeat(200).as_bytes()).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 503 ").count(), 200);
    assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 1);
}

#[test]
fn the_sixty_fifth_connection_is_refused_and_slow_ones_lose_their_slot() {
    let served = Served::new();
    let mut slow: Vec<TcpStream> =
        (0..limits::ADMIN_CONNECTIONS_MAX).map(|_| served.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /met").unwrap();
    }
    let mut extra = String::new();
    served.connect().read_to_string(&mut extra).unwrap();
    assert!(extra.starts_with("HTTP/1.1 503 ") && extra.contains("too many"), "{extra}");
    // Each byte comes in time, the request as a whole does not.
    served.skip(limits::ADMIN_REQUEST_TIME / 2);
    slow[0].write_all(b"r").unwrap();
    served.skip(limits::ADMIN_IDLE);
    for stream in &mut slow {
        let mut answer = String::new();
        // Told, or closed when not even its first bytes had been seen.
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    drop(slow);
    served.wait_for_a_slot();
}

#[test]
fn an_idle_connection_costs_nothing_and_is_closed_in_the_end() {
    let served = Served::new();
    let mut idle = served.connect();
    served.check("GET", "/health", 200);
    let state = || served.registry.all()[0].beat.state().0;
    let deadline = Instant::now() + PATIENCE;
    while state() != Waits::Events && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(state(), Waits::Events);
    served.skip(limits::ADMIN_IDLE);
    let mut end = Vec::new();
    assert_eq!(idle.read_to_end(&mut end).unwrap(), 0);
}

#[test]
fn peers_that_vanish_leave_nothing_behind() {
    let served = Served::new();
    for i in 0..3 * limits::ADMIN_CONNECTIONS_MAX {
        let mut stream = served.connect();
        let cut = ["", "GET", "GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"][i % 3];
        let _ = stream.write_all(cut.as_bytes());
    }
    served.wait_for_a_slot();
}
