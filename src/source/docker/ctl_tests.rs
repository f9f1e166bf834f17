//! The whole thread against an engine of the test's own on a unix socket.

#![allow(clippy::disallowed_methods, reason = "peers and the thread under test")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Mutex;

use crossbeam_channel::{Receiver, bounded};

use super::*;
use crate::clock::SystemClock;
use crate::config::checked::{ContainerFilter, Endpoint, LongLines, ReadWay, StartAt};
use crate::units::ByteSize;

const PATIENCE: Duration = Duration::from_secs(30);

/// A small engine: answers what `docker-ctl` asks, from a table that the test changes.
struct FakeEngine {
    dir: tempfile::TempDir,
    /// By id: name, driver, whether it runs.
    containers: Mutex<BTreeMap<String, (String, &'static str, bool)>>,
    streams: Mutex<Vec<UnixStream>>,
}

impl FakeEngine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, containers: Mutex::default(), streams: Mutex::default() }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }

    fn set(&self, digit: char, driver: &'static str, running: bool) {
        let container = (format!("name-{digit}"), driver, running);
        self.containers.lock().unwrap().insert(id(digit), container);
    }

    fn remove(&self, digit: char) {
        self.containers.lock().unwrap().remove(&id(digit));
    }

    /// Answers until `stop` is asked for and one more connection comes.
    fn serve(&self, listener: &UnixListener, stop: &Stop) {
        while let Ok((mut peer, _)) = listener.accept() {
            if stop.asked() {
                return;
            }
            let mut asked = [0; 4096];
            let bytes = peer.read(&mut asked).unwrap_or(0);
            let asked = String::from_utf8_lossy(&asked[..bytes]).into_owned();
            let path = asked.split(' ').nth(1).unwrap_or_default().to_owned();
            if path.contains("/events?") {
                let _ = peer.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                self.streams.lock().unwrap().push(peer);
            } else {
                let (status, body) = self.answer(&path);
                let bytes = body.len();
                let _ = write!(
                    peer,
                    "HTTP/1.1 {status}\r\nApi-Version: 1.41\r\nContent-Type: application/json\r\n\
                     Content-Length: {bytes}\r\n\r\n{body}"
                );
            }
        }
    }

    fn answer(&self, path: &str) -> (&'static str, String) {
        let containers = self.containers.lock().unwrap();
        if path == "/_ping" {
            return ("200 OK", "OK".to_owned());
        }
        if path == "/v1.41/containers/json?all=1" {
            let one = |(id, (name, _, running)): (&String, &(String, &str, bool))| {
                let state = if *running { "running" } else { "exited" };
                format!(r#"{{"Id":"{id}","Names":["/{name}"],"State":"{state}"}}"#)
            };
            let all: Vec<_> = containers.iter().map(one).collect();
            return ("200 OK", format!("[{}]", all.join(",")));
        }
        let id = path.strip_prefix("/v1.41/containers/").and_then(|p| p.strip_suffix("/json"));
        let Some((id, (name, driver, running))) = id.and_then(|id| containers.get_key_value(id))
        else {
            return ("404 Not Found", r#"{"message":"No such container"}"#.to_owned());
        };
        let log = self.dir.path().join("c-json.log");
        let log = if *driver == "json-file" { log.display().to_string() } else { String::new() };
        let body = format!(
            r#"{{"Id":"{id}","Name":"/{name}","State":{{"Running":{running}}},"LogPath":"{log}",
            "Config":{{"Image":"i"}},"HostConfig":{{"LogConfig":{{"Type":"{driver}"}}}}}}"#
        );
        ("200 OK", body)
    }

    fn happen(&self, action: &str, digit: char) {
        let line = format!(
            "{{\"Type\":\"container\",\"Action\":\"{action}\",\"Actor\":{{\"ID\":\"{}\"}}}}\n",
            id(digit)
        );
        self.stream_line(&line);
    }

    fn stream_line(&self, line: &str) {
        for stream in self.streams.lock().unwrap().iter_mut() {
            write!(stream, "{:x}\r\n{line}\r\n", line.len()).unwrap();
        }
    }

    fn drop_streams(&self) {
        self.streams.lock().unwrap().clear();
    }
}

fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

struct Ends {
    files: Receiver<FileEvent>,
    docker: Receiver<DockerEvent>,
    health: Arc<HealthBoard>,
    metrics: Arc<Metrics>,
}

impl Ends {
    fn file(&self) -> FileEvent {
        self.files.recv_timeout(PATIENCE).expect("a file lane is told")
    }

    fn docker(&self) -> String {
        match self.docker.recv_timeout(PATIENCE).expect("a Docker lane is told") {
            DockerEvent::Container(c) => format!("{} {} {:?}", c.name, c.running, c.start_at),
            DockerEvent::Started { id, .. } => format!("started {id:.1}"),
            DockerEvent::Died { id, .. } => format!("died {id:.1}"),
            DockerEvent::Gone { id, .. } => format!("gone {id:.1}"),
            other => format!("{other:?}"),
        }
    }

    fn level(&self) -> Level {
        self.health
            .all()
            .get(&("source".into(), "local".into()))
            .map_or(Level::Healthy, |c| c.level)
    }

    fn wait_for(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let poller = Poller::new().unwrap();
        while !done(self) {
            assert!(Instant::now() < deadline, "no {what}");
            poller.wait(&mut Events::new(), Some(Duration::from_millis(5))).unwrap();
        }
    }
}

fn source(socket: PathBuf) -> DockerSource {
    DockerSource {
        name: "local".into(),
        endpoint: Endpoint::Unix(socket),
        read: ReadWay::Auto,
        include: ContainerFilter::default(),
        exclude: ContainerFilter::default(),
        labels: Vec::new(),
        line_bytes_max: ByteSize::kib(256),
        long_lines: LongLines::Split,
        partial_wait: Duration::from_secs(5),
        start_at: StartAt::End,
        sinks: vec![0],
    }
}

/// Runs the thread beside `test`, and ends it.
fn with_ctl(socket: PathBuf, test: impl FnOnce(&Ends, &Stop)) {
    let (file_tx, files) = bounded(64);
    let (docker_tx, docker) = bounded(64);
    let (health, metrics, stop) = (Arc::default(), Arc::new(Metrics::new()), Stop::default());
    let poller = Arc::new(Poller::new().unwrap());
    let ctl = Ctl {
        sources: vec![Arc::new(source(socket))],
        files: vec![file_tx],
        docker: vec![(docker_tx, Arc::new(Poller::new().unwrap()))],
        positions: Vec::new(),
        poller: poller.clone(),
        resolve: None,
        clock: Arc::new(SystemClock),
        metrics: Arc::clone(&metrics),
        health: Arc::clone(&health),
        stop: stop.clone(),
    };
    let ends = Ends { files, docker, health, metrics };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| run(ctl, &Beat::new()));
        // A failing test must end the thread too.
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&ends, &stop)));
        stop.ask(Instant::now() + PATIENCE);
        poller.notify().unwrap();
        assert!(thread.join().is_ok());
        if let Err(panic) = passed {
            std::panic::resume_unwind(panic);
        }
    });
}

/// The same with an engine that answers.
fn with_engine(prepare: impl FnOnce(&FakeEngine), test: impl FnOnce(&FakeEngine, &Ends)) {
    let engine = FakeEngine::new();
    prepare(&engine);
    let listener = UnixListener::bind(engine.socket()).unwrap();
    let end = Stop::default();
    std::thread::scope(|scope| {
        scope.spawn(|| engine.serve(&listener, &end));
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            with_ctl(engine.socket(), |ends, _| test(&engine, ends));
        }));
        end.ask(Instant::now());
        let _ = UnixStream::connect(engine.socket());
        if let Err(panic) = passed {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn containers_are_followed_from_list_to_removal_and_across_a_reconnect() {
    with_engine(
        |engine| engine.set('a', "local", true),
        |engine, ends| {
            assert_eq!(ends.docker(), "EngineUp { engine: 0 }");
            assert_eq!(ends.docker(), "name-a true End");
            engine.set('b', "local", false);
            engine.happen("create", 'b');
            assert_eq!(ends.docker(), "name-b false Beginning");
            engine.set('b', "local", true);
            engine.happen("start", 'b');
            assert_eq!(ends.docker(), "name-b true Beginning");
            assert_eq!(ends.docker(), "started b");
            engine.happen("die", 'a');
            assert_eq!(ends.docker(), "name-a false End");
            assert_eq!(ends.docker(), "died a");
            engine.remove('a');
            engine.happen("destroy", 'a');
            assert_eq!(ends.docker(), "gone a");
            ends.wait_for("gauge", |e| e.metrics.containers_monitored.get() == 1);
            // The engine restarts, and a container is removed meanwhile.
            engine.remove('b');
            engine.set('c', "local", false);
            engine.drop_streams();
            assert_eq!(ends.docker(), "EngineDown { engine: 0 }");
            ends.wait_for("degraded health", |e| e.level() == Level::Degraded);
            assert_eq!(ends.docker(), "EngineUp { engine: 0 }");
            let mut told = [ends.docker(), ends.docker()];
            told.sort();
            assert_eq!(told, ["gone b", "name-c false Beginning"]);
            ends.wait_for("health", |e| e.level() == Level::Healthy);
        },
    );
}

#[test]
fn a_readable_json_file_goes_to_the_file_lane_and_an_odd_event_brings_a_list() {
    let prepare = |engine: &FakeEngine| {
        std::fs::write(engine.dir.path().join("c-json.log"), "").unwrap();
        engine.set('a', "json-file", true);
    };
    with_engine(prepare, |engine, ends| {
        let FileEvent::Container(container) = ends.file() else { panic!("a container") };
        assert_eq!(container.path, engine.dir.path().join("c-json.log"));
        assert_eq!((container.name.as_str(), container.start_at), ("name-a", StartAt::End));
        engine.remove('a');
        engine.stream_line("{\"Type\":\n");
        let FileEvent::ContainerGone { source, id: gone } = ends.file() else { panic!("gone") };
        assert_eq!((&*source, gone), ("local", id('a')));
    });
}

#[test]
fn a_missing_engine_is_degraded_health_and_is_found_when_it_comes() {
    let engine = FakeEngine::new();
    with_ctl(engine.socket(), |ends, _| {
        ends.wait_for("degraded health", |e| e.level() == Level::Degraded);
        assert_eq!(ends.docker(), "EngineDown { engine: 0 }");
        let listener = UnixListener::bind(engine.socket()).unwrap();
        let end = Stop::default();
        std::thread::scope(|scope| {
            scope.spawn(|| engine.serve(&listener, &end));
            let up = (0..50).map(|_| ends.docker()).find(|told| told.starts_with("EngineUp"));
            end.ask(Instant::now());
            let _ = UnixStream::connect(engine.socket());
            assert_eq!(up.as_deref(), Some("EngineUp { engine: 0 }"));
        });
    });
}

#[test]
fn a_stop_ends_the_thread_while_an_engine_is_silent() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    let _silent = UnixListener::bind(&socket).unwrap();
    let began = Instant::now();
    with_ctl(socket, |_, _| ());
    assert!(began.elapsed() < limits::DOCKER_REQUEST_TIMEOUT);
}
