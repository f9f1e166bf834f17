//! From a config to a running daemon, and to its end.
//!
//! Starts exactly the threads of the plan, says "started", waits for signals, and stops in the
//! order of the flow: lanes drain into queues, senders into sinks, `ack` saves, the rest ends.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use polling::Poller;

use super::core::Core;
use super::data_dir::{self, DataDirError};
use super::heap;
use super::own_log::{self, OwnLog};
use super::signals::{Signals, Woken};
use super::systemd::Notifier;
use super::{Beat, Stop, plan, wiring};
use crate::ack::{AckPort, PositionsFile};
use crate::admin::Figures;
use crate::config::Config;
use crate::queue::SinkBudget;
use crate::sender::transport::Cancel;
use crate::source::FileEvent;
use crate::source::docker::DockerEvent;
use crate::units::show_duration;

/// After the drain's deadline: for `ack` to save positions and for the rest to end.
const LAST_SAVE: Duration = Duration::from_secs(2);

/// Why the daemon did not start or did not end well.
#[derive(Debug)]
pub enum RunError {
    DataDir(DataDirError),
    Log(log::SetLoggerError),
    /// What could not be made, and why.
    System(&'static str, io::Error),
    Listen(std::net::SocketAddr, io::Error),
    Sink {
        sink: String,
        cause: String,
    },
    Watch(String),
    Thread {
        name: String,
        cause: io::Error,
    },
    Panicked,
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DataDir(e) => e.fmt(f),
            Self::Log(e) => write!(f, "own log: {e}"),
            Self::System(what, e) => write!(f, "{what}: {e}"),
            Self::Listen(address, e) => write!(f, "server.listen {address}: {e}"),
            Self::Sink { sink, cause } => write!(f, "sink {sink}: {cause}"),
            Self::Watch(cause) => write!(f, "inotify: {cause}"),
            Self::Thread { name, cause } => write!(f, "thread {name}: {cause}"),
            Self::Panicked => f.write_str("a thread ended by a panic; see the log"),
        }
    }
}

impl std::error::Error for RunError {}

/// How `main` reaches the threads once they run. Holds no end whose closing a thread waits for,
/// but `monitor_end`, and `ack`, which a stop drops before it waits for threads.
pub struct Running {
    pub files: Vec<Sender<FileEvent>>,
    pub docker: Vec<(Sender<DockerEvent>, Arc<Poller>)>,
    pub docker_ctl: Option<Arc<Poller>>,
    pub admin: Option<(Stop, Arc<Poller>)>,
    /// What each sink has not settled yet.
    pub sinks: Vec<Arc<SinkBudget>>,
    /// Wake senders that sit in a request.
    pub cancels: Vec<Cancel>,
    /// Wakes `ack`, which waits without a deadline while nothing is to be saved.
    pub ack: AckPort,
    pub monitor_end: Sender<()>,
    pub figures: Arc<Figures>,
}

/// Runs until a signal, or until a thread ends that should not.
///
/// # Errors
/// When something cannot be started, or a thread panicked.
pub fn run(config: Config) -> Result<(), RunError> {
    let lock = data_dir::lock(&config.data_dir).map_err(RunError::DataDir)?;
    let (own_log, log_inbox) = own_log::init(&config.log).map_err(RunError::Log)?;
    own_log::log_panics();
    heap::tune();
    let core = Core::new(config);
    core.metrics.declare(&core.config);
    let signals = Signals::install().map_err(|e| RunError::System("signal handlers", e))?;
    let notifier = Notifier::from_env().unwrap_or_else(|e| {
        log::warn!("systemd cannot be told of our state: {e}");
        None
    });
    let notifier = notifier.map(Arc::new);
    let main_beat = core.registry.adopt("main");
    let ended = signals.ended_waker().map_err(|e| RunError::System("wake pipe", e))?;
    let starter = wiring::Starter::new(core.clone(), Arc::new(ended));
    starter.spawn("log", move |beat| own_log::run(&log_inbox, beat))?;
    let started = positions(&core).and_then(|p| wiring::start(&starter, &p, notifier.clone()));
    let outcome = match started {
        Ok(running) => {
            core.registry.seal();
            running.figures.ready.store(true, Ordering::Release);
            say_started(&core, notifier.as_deref());
            let asked = serve(&running.figures, &signals, &main_beat);
            tell(notifier.as_deref().map(Notifier::stopping));
            stop(&core, running, &signals);
            asked
        }
        Err(e) => {
            core.stop.ask(Instant::now());
            Err(e)
        }
    };
    end_log(&core, &own_log);
    drop(lock);
    outcome
}

fn tell(said: Option<io::Result<()>>) {
    if let Some(Err(e)) = said {
        log::warn!("systemd cannot be told of our state: {e}");
    }
}

/// The positions of the run before; damaged generations are reported and set aside.
fn positions(core: &Core) -> Result<Vec<crate::ack::Position>, RunError> {
    let file = PositionsFile::new(&core.config.data_dir);
    let (positions, errors) = file.load(&*core.disk, core.clock.wall_ns());
    for e in errors {
        core.metrics.error("positions", "load");
        log::error!("{e}; the generation before it serves, some lines may be sent again");
    }
    Ok(positions)
}

fn say_started(core: &Core, notifier: Option<&Notifier>) {
    let threads = plan::threads_count(&core.config);
    let (files, docker) = (core.config.files.len(), core.config.docker.len());
    let sinks: Vec<&str> = core.config.sinks.iter().map(|s| s.name.as_str()).collect();
    let text = format!(
        "{threads} threads, {files} file and {docker} docker sources, sinks {}",
        sinks.join(", ")
    );
    log::info!("log-capturer {} started: {text}", env!("CARGO_PKG_VERSION"));
    tell(notifier.map(|n| n.ready(&text)));
}

/// Handles signals until one asks for the end.
fn serve(figures: &Figures, signals: &Signals, beat: &Beat) -> Result<(), RunError> {
    loop {
        beat.waits(super::Waits::Events);
        let woken = signals.wait(None).map_err(|e| RunError::System("poll", e))?;
        beat.busy();
        match woken {
            Woken::Stop => return Ok(()),
            Woken::ThreadEnded => return Err(RunError::Panicked),
            Woken::Reload => log::warn!(
                "SIGHUP: reloading is not supported by this version; the config stays, restart \
                 to change it"
            ),
            Woken::ReopenLog => {
                log::info!("SIGUSR1: the own log goes to stderr, nothing to reopen")
            }
            Woken::DumpState => figures.log_state(),
            Woken::Deadline => {}
        }
    }
}

/// Drains within the config's time. A second SIGTERM ends the drain at once.
fn stop(core: &Core, running: Running, signals: &Signals) {
    let timeout = core.config.shutdown_timeout;
    let deadline = Instant::now() + timeout;
    log::info!("stopping: draining for at most {}", show_duration(timeout));
    core.stop.ask(deadline);
    for lane in &running.files {
        // Full: the lane sees the stop at its next event.
        let _ = lane.try_send(FileEvent::Stop);
    }
    for (lane, poller) in &running.docker {
        let _ = lane.try_send(DockerEvent::Stop);
        let _ = poller.notify();
    }
    if let Some(poller) = &running.docker_ctl {
        let _ = poller.notify();
    }
    running.ack.wake();
    drop(running.ack);
    let flow = |name: &str| {
        ["file-", "docker-", "send-", "ack", "resolver"].iter().any(|p| name.starts_with(p))
    };
    let mut until = deadline + LAST_SAVE;
    let drained = loop {
        let step = until.min(Instant::now() + Duration::from_millis(50));
        if core.registry.join(flow, step) {
            break true;
        }
        if Instant::now() >= until.min(deadline) {
            running.cancels.iter().for_each(Cancel::cancel);
        }
        if Instant::now() >= until {
            break false;
        }
        if matches!(signals.wait(Some(Instant::now())), Ok(Woken::Stop)) {
            log::warn!("stopping at once: what is not acknowledged will be read again");
            running.cancels.iter().for_each(Cancel::cancel);
            until = until.min(Instant::now() + LAST_SAVE);
        }
    };
    // Senders that gave up end in time as well, and leave what they held.
    let held = running.sinks.iter().any(|sink| sink.held_batches() > 0);
    if held || !drained {
        log::warn!("not everything was delivered in time; it will be read again");
    }
    if let Some((end, poller)) = &running.admin {
        end.ask(Instant::now());
        let _ = poller.notify();
    }
    drop(running.monitor_end);
    let rest = |name: &str| name.starts_with("admin-") || name == "monitor";
    core.registry.join(rest, Instant::now() + LAST_SAVE);
    log::info!("stopped");
}

fn end_log(core: &Core, own_log: &OwnLog) {
    own_log.finish();
    core.registry.join(|name| name == "log", Instant::now() + LAST_SAVE);
}
