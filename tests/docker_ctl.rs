//! The thread `docker-ctl` alone on a real Docker Engine: what it tells the lanes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use log_capturer::clock::SystemClock;
use log_capturer::config::checked::{
    ContainerFilter, DockerSource, Endpoint, LongLines, ReadWay, StartAt,
};
use log_capturer::daemon::{Beat, Stop};
use log_capturer::metrics::Metrics;
use log_capturer::source::FileEvent;
use log_capturer::source::docker::DockerEvent;
use log_capturer::source::docker::ctl::{self, Ctl};
use log_capturer::units::ByteSize;
use polling::Poller;

use crate::support::daemon::PATIENCE;
use crate::support::docker::Engine;

fn source(engine: &Engine) -> DockerSource {
    DockerSource {
        name: "local".into(),
        endpoint: Endpoint::Unix(engine.socket()),
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

/// What the lanes are told, in words.
struct Told {
    files: Receiver<FileEvent>,
    docker: Receiver<DockerEvent>,
}

impl Told {
    #[track_caller]
    fn file(&self) -> String {
        match self.files.recv_timeout(PATIENCE).expect("a file lane is told") {
            FileEvent::Container(c) => {
                assert!(c.path.exists(), "{}", c.path.display());
                format!("{} {:?}", c.name, c.start_at)
            }
            FileEvent::ContainerGone { .. } => "gone".to_owned(),
            other => panic!("{other:?}"),
        }
    }

    /// Reads until a Docker lane is told `wanted`; what else comes is what the engine's timing
    /// brings, such as a container told twice.
    #[track_caller]
    fn docker(&self, wanted: &str) {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while let Ok(event) = self.docker.recv_deadline(deadline) {
            let told = match event {
                DockerEvent::Container(c) => format!("{} {}", c.name, c.running),
                DockerEvent::Started { .. } => "started".to_owned(),
                DockerEvent::Died { .. } => "died".to_owned(),
                DockerEvent::Gone { .. } => "gone".to_owned(),
                DockerEvent::EngineUp { .. } => "up".to_owned(),
                DockerEvent::EngineDown { .. } => "down".to_owned(),
                DockerEvent::Stop => "stop".to_owned(),
            };
            if told == wanted {
                return;
            }
            seen.push(told);
        }
        panic!("a Docker lane is not told {wanted:?}, only {seen:?}");
    }
}

fn with_ctl(engine: &mut Engine, test: impl FnOnce(&mut Engine, &Told)) {
    let (file_tx, files) = bounded(64);
    let (docker_tx, docker) = bounded(64);
    let (stop, poller) = (Stop::default(), Arc::new(Poller::new().expect("epoll")));
    let ctl = Ctl {
        sources: vec![Arc::new(source(engine))],
        files: vec![file_tx],
        docker: vec![(docker_tx, Arc::new(Poller::new().expect("epoll")))],
        positions: Vec::new(),
        poller: poller.clone(),
        resolve: None,
        clock: Arc::new(SystemClock),
        metrics: Arc::new(Metrics::new()),
        health: Arc::default(),
        stop: stop.clone(),
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| ctl::run(ctl, &Beat::new()));
        let told = Told { files, docker };
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(engine, &told)));
        stop.ask(Instant::now() + PATIENCE);
        poller.notify().expect("epoll");
        assert!(thread.join().is_ok());
        if let Err(panic) = passed {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn containers_of_a_real_engine_are_found_renamed_restarted_and_lost() {
    let Some(mut engine) = Engine::start() else { return };
    let before = engine.run(&[], "exec sleep 1000");
    with_ctl(&mut engine, |engine, told| {
        told.docker("up");
        assert_eq!(told.file(), format!("{before} End"));
        let after = engine.run(&[], "exec sleep 1000");
        assert_eq!(told.file(), format!("{after} Beginning"));
        engine.docker(&["rename", &after, "dk-ctl-renamed"]).expect("rename");
        assert_eq!(told.file(), "dk-ctl-renamed Beginning");
        let api = engine.run(&["--log-driver", "local"], "exec sleep 1000");
        told.docker(&format!("{api} true"));
        told.docker("started");
        engine.docker(&["kill", &api]).expect("kill");
        told.docker("died");
        engine.docker(&["start", &api]).expect("start");
        told.docker("started");
        engine.docker(&["rm", "-f", &before]).expect("rm");
        assert_eq!(told.file(), "gone");
        engine.down();
        told.docker("down");
        engine.up();
        told.docker("up");
        told.docker(&format!("{api} false"));
        engine.docker(&["rm", "-f", &api]).expect("rm");
        told.docker("gone");
    });
}
