//! Channels and threads: every one of them is made here, from the plan's table.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use polling::Poller;

use super::auditor::{Auditor, Foreign};
use super::core::Core;
use super::monitor::{self, Monitor};
use super::run::{RunError, Running};
use super::systemd::Notifier;
use super::{Beat, Stop, plan};
use crate::ack::{self, AckEvent, AckPort, Identity, Position, PositionsFile, Watermarks};
use crate::admin::{self, Admin, Figures, QueueGauge, Routes, Worker};
use crate::batch::{Batcher, Format, SinkPort, SinkStreams};
use crate::config::checked::{LocalFile, Loki, Sink, SinkKind};
use crate::dead_letter::DeadLetter;
use crate::limits;
use crate::queue::{ShardInbox, SinkBudget, SinkQueue, Waker};
use crate::sender::http::{HttpSettings, TransportError, UreqHttp};
use crate::sender::resolver::{self, Names, Resolve};
use crate::sender::transport::Cancel;
use crate::sender::{self, Destination, ShardSender, SinkState};
use crate::sink::local_file::LocalFileDestination;
use crate::sink::loki::{LokiDestination, http_settings};
use crate::source::FileEvent;
use crate::source::docker::DockerEvent;
use crate::source::docker::ctl::{self, Ctl};
use crate::source::docker::lane::{self as docker_lane, DockerLane};
use crate::source::file::{self, Divert, FileLane, LaneInbox, LongLine};

/// Starts threads by the registry; a panic in any of them wakes `main`.
pub struct Starter {
    core: Core,
    ended: Arc<dyn Fn() + Send + Sync>,
}

impl Starter {
    pub fn new(core: Core, ended: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self { core, ended }
    }

    /// Starts one thread.
    ///
    /// # Errors
    /// When the system has no room for it.
    pub fn spawn(
        &self,
        name: &str,
        body: impl FnOnce(&Beat) + Send + 'static,
    ) -> Result<(), RunError> {
        let ended = self.ended.clone();
        let failed = |cause| RunError::Thread { name: name.to_owned(), cause };
        self.core.registry.spawn(name, move || ended(), move |beat| body(&beat)).map_err(failed)
    }
}

struct FileInbox {
    events: Sender<FileEvent>,
    inbox: Receiver<FileEvent>,
    rescan: Arc<AtomicBool>,
}

struct DockerInbox {
    events: Sender<DockerEvent>,
    inbox: Receiver<DockerEvent>,
    poller: Arc<Poller>,
}

/// What lanes need to feed a sink, and what its senders take from.
struct SinkEnds {
    queue: SinkQueue,
    inboxes: Vec<ShardInbox>,
    budget: Arc<SinkBudget>,
    streams: Arc<SinkStreams>,
}

fn system(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |e| RunError::System(what, e)
}

/// Makes all channels, starts all threads but `main` and `log`.
///
/// # Errors
/// The first thing that cannot be made.
pub fn start(
    starter: &Starter,
    positions: &[Position],
    notifier: Option<Arc<Notifier>>,
) -> Result<Running, RunError> {
    let core = &starter.core;
    let config = &core.config;
    let listener = match config.server.listen {
        Some(address) => {
            let bound = admin::bind(address).map_err(|e| RunError::Listen(address, e))?;
            Some(bound)
        }
        None => None,
    };
    let files = file_inboxes(plan::file_lanes(config));
    let docker = docker_inboxes(plan::docker_lanes(config))?;
    let sinks = sink_ends(&config.sinks, &wakers(&files, &docker));
    let (ack_events, ack_inbox) = bounded(limits::ACK_INBOX_EVENTS);
    let port = AckPort::new(ack_events);
    let figures = Arc::new(Figures {
        metrics: core.metrics.clone(),
        health: core.health.clone(),
        auditor: Arc::new(auditor(core)),
        sinks: sink_budgets(&config.sinks, &sinks),
        queues: queue_gauges(&ack_inbox, &files),
        ready: Arc::default(),
        stop: core.stop.clone(),
        started: Instant::now(),
    });
    start_ack(starter, ack_inbox, positions)?;
    let resolve = start_resolver(starter)?;
    let batchers = Batchers { core, sinks: &sinks, port: &port };
    let cancels = start_senders(starter, &sinks, &port, resolve.as_ref())?;
    start_file_lanes(starter, &files, &batchers, positions)?;
    let resolve = resolve.as_ref();
    let docker_ctl = start_docker(starter, &files, &docker, &batchers, positions, resolve)?;
    let monitor_end = start_monitor(starter, figures.auditor.clone(), notifier)?;
    let admin = match listener {
        Some(listener) => Some(start_admin(starter, listener, figures.clone())?),
        None => None,
    };
    Ok(Running {
        files: files.into_iter().map(|f| f.events).collect(),
        docker: docker.into_iter().map(|d| (d.events, d.poller)).collect(),
        docker_ctl,
        sinks: sinks.into_iter().map(|ends| ends.budget).collect(),
        cancels,
        ack: port,
        admin,
        monitor_end,
        figures,
    })
}

fn file_inboxes(lanes: usize) -> Vec<FileInbox> {
    let one = |_| {
        let (events, inbox) = bounded(limits::LANE_INBOX_EVENTS);
        FileInbox { events, inbox, rescan: Arc::default() }
    };
    (0..lanes).map(one).collect()
}

fn docker_inboxes(lanes: usize) -> Result<Vec<DockerInbox>, RunError> {
    let one = |_| {
        let (events, inbox) = bounded(limits::LANE_INBOX_EVENTS);
        let poller = Arc::new(Poller::new().map_err(system("epoll"))?);
        Ok(DockerInbox { events, inbox, poller })
    };
    (0..lanes).map(one).collect()
}

/// How senders wake lanes that wait for room. A full inbox needs no further wake-up.
fn wakers(files: &[FileInbox], docker: &[DockerInbox]) -> Vec<Waker> {
    let file = files.iter().map(|lane| {
        let events = lane.events.clone();
        Waker::new(move || {
            let _ = events.try_send(FileEvent::Wake);
        })
    });
    let docker = docker.iter().map(|lane| {
        let poller = lane.poller.clone();
        Waker::new(move || {
            let _ = poller.notify();
        })
    });
    file.chain(docker).collect()
}

fn sink_ends(sinks: &[Sink], wakers: &[Waker]) -> Vec<SinkEnds> {
    let ends = |sink: &Sink| {
        let shards = plan::senders(&sink.kind);
        let memory_bytes = sink.queue.memory.bytes();
        let budget = SinkBudget::new(memory_bytes, shards, wakers.to_vec());
        let (txs, inboxes) = (0..shards).map(|_| bounded(limits::SHARD_QUEUE_BATCHES)).unzip();
        let streams = Arc::new(SinkStreams::new(sink.streams_max));
        SinkEnds { queue: SinkQueue::new(budget.clone(), txs), inboxes, budget, streams }
    };
    sinks.iter().map(ends).collect()
}

fn sink_budgets(sinks: &[Sink], ends: &[SinkEnds]) -> Vec<(String, Arc<SinkBudget>)> {
    sinks.iter().zip(ends).map(|(s, e)| (s.name.clone(), e.budget.clone())).collect()
}

/// Receivers are cloned, not senders: a gauge must not keep a channel open.
fn queue_gauges(ack: &Receiver<AckEvent>, files: &[FileInbox]) -> Vec<QueueGauge> {
    let gauge = |component: String, len: Box<dyn Fn() -> usize + Send + Sync>| QueueGauge {
        component,
        queue_type: "events".to_owned(),
        len,
    };
    let ack = ack.clone();
    let mut gauges = vec![gauge("ack".to_owned(), Box::new(move || ack.len()))];
    for (i, lane) in files.iter().enumerate() {
        let inbox = lane.inbox.clone();
        gauges.push(gauge(format!("file-{i}"), Box::new(move || inbox.len())));
    }
    gauges
}

fn auditor(core: &Core) -> Auditor {
    let count = if plan::file_lanes(&core.config) > 0 { plan::NOTIFY_THREADS } else { 0 };
    let foreign = vec![Foreign { prefix: plan::NOTIFY_THREAD.to_owned(), count }];
    let expected = plan::threads_count(&core.config);
    let (stop, health) = (core.stop.clone(), core.health.clone());
    Auditor::new(core.registry.clone(), foreign, expected, stop, health)
}

fn start_ack(
    starter: &Starter,
    inbox: Receiver<AckEvent>,
    positions: &[Position],
) -> Result<(), RunError> {
    let core = &starter.core;
    let ack = ack::Ack {
        inbox,
        file: PositionsFile::new(&core.config.data_dir),
        disk: core.disk.clone(),
        clock: core.clock.clone(),
        health: core.health.clone(),
        metrics: core.metrics.clone(),
        watermarks: Watermarks::restored(positions.to_vec(), core.clock.wall_ns()),
        stop: core.stop.clone(),
    };
    starter.spawn("ack", move |beat| ack::run(ack, beat))
}

fn start_resolver(starter: &Starter) -> Result<Option<Resolve>, RunError> {
    if !plan::has_resolver(&starter.core.config) {
        return Ok(None);
    }
    let (requests, inbox) = bounded(limits::RESOLVER_INBOX);
    let names: Arc<Names> = Arc::default();
    let resolve = Resolve::new(names.clone(), requests);
    starter.spawn("resolver", move |beat| resolver::run(&inbox, &names, beat))?;
    Ok(Some(resolve))
}

fn start_senders(
    starter: &Starter,
    ends: &[SinkEnds],
    port: &AckPort,
    resolve: Option<&Resolve>,
) -> Result<Vec<Cancel>, RunError> {
    let core = &starter.core;
    let mut cancels = Vec::new();
    for (sink, ends) in core.config.sinks.iter().zip(ends) {
        let shards = ends.inboxes.len();
        let way = way(sink, resolve)?;
        let state = SinkState::new(&sink.name, shards, core.metrics.clone(), core.health.clone());
        for (shard, inbox) in ends.inboxes.iter().enumerate() {
            let sender = ShardSender {
                shard,
                inbox: inbox.clone(),
                budget: ends.budget.clone(),
                ack: port.clone(),
                destination: destination(core, sink, shard, &state, &way, &mut cancels)?,
                clock: core.clock.clone(),
                stop: core.stop.clone(),
            };
            let name = plan::sender_name(&sink.name, shard);
            starter.spawn(&name, move |beat| sender::run(sender, beat))?;
        }
    }
    Ok(cancels)
}

/// How a sink is reached; made once a sink, since it reads certificates.
enum Way<'a> {
    Loki(&'a Loki, HttpSettings, Resolve),
    LocalFile(&'a LocalFile),
}

fn way<'a>(sink: &'a Sink, resolve: Option<&Resolve>) -> Result<Way<'a>, RunError> {
    let failed = |cause: String| RunError::Sink { sink: sink.name.clone(), cause };
    match &sink.kind {
        SinkKind::LocalFile(file) => Ok(Way::LocalFile(file)),
        SinkKind::Loki(loki) => {
            let Some(resolve) = resolve else { panic!("a Loki sink without the resolver") };
            let settings = http_settings(loki).map_err(|e| failed(e.to_string()))?;
            Ok(Way::Loki(loki, settings, resolve.clone()))
        }
    }
}

fn destination(
    core: &Core,
    sink: &Sink,
    shard: usize,
    state: &Arc<SinkState>,
    way: &Way<'_>,
    cancels: &mut Vec<Cancel>,
) -> Result<Box<dyn Destination>, RunError> {
    let (loki, settings, resolve) = match way {
        Way::LocalFile(file) => {
            let (file, disk) = ((*file).clone(), core.disk.clone());
            return Ok(Box::new(LocalFileDestination::new(file, disk, state.clone())));
        }
        Way::Loki(loki, settings, resolve) => (loki, settings, resolve),
    };
    let failed =
        |e: TransportError| RunError::Sink { sink: sink.name.clone(), cause: e.to_string() };
    let http = UreqHttp::new(settings.clone(), resolve.clone()).map_err(failed)?;
    cancels.push(http.cancel());
    Ok(Box::new(LokiDestination::new(
        loki,
        shard,
        Box::new(http),
        state.clone(),
        core.dead_letters.clone(),
        core.clock.clone(),
    )))
}

/// Makes each lane its batcher.
struct Batchers<'a> {
    core: &'a Core,
    sinks: &'a [SinkEnds],
    port: &'a AckPort,
}

impl Batchers<'_> {
    fn make(&self, lane: u64) -> Batcher {
        let port = |(index, (sink, ends)): (usize, (&Sink, &SinkEnds))| SinkPort {
            index,
            name: sink.name.clone(),
            required: sink.required,
            format: match sink.kind {
                SinkKind::Loki(_) => Format::LokiPush,
                SinkKind::LocalFile(_) => Format::Ndjson,
            },
            batch_bytes: sink.batch.bytes.bytes(),
            batch_wait: sink.batch.wait,
            queue: ends.queue.clone(),
            streams: ends.streams.clone(),
        };
        let sinks = self.core.config.sinks.iter().zip(self.sinks).enumerate().map(port);
        Batcher::new(lane, sinks.collect(), self.port.clone(), self.core.metrics.clone())
    }
}

fn start_monitor(
    starter: &Starter,
    auditor: Arc<Auditor>,
    notifier: Option<Arc<Notifier>>,
) -> Result<Sender<()>, RunError> {
    let core = &starter.core;
    let (end_tx, end) = bounded(1);
    let monitor =
        Monitor { auditor, notifier, clock: core.clock.clone(), health: core.health.clone(), end };
    starter.spawn("monitor", move |beat| monitor::run(&monitor, beat))?;
    Ok(end_tx)
}

fn start_admin(
    starter: &Starter,
    listener: std::net::TcpListener,
    figures: Arc<Figures>,
) -> Result<(Stop, Arc<Poller>), RunError> {
    let poller = Arc::new(Poller::new().map_err(system("epoll"))?);
    let (requests, inbox) = bounded(limits::ADMIN_REQUESTS);
    let (reply_tx, replies) = bounded(limits::ADMIN_REQUESTS);
    let end = Stop::default();
    let admin = Admin {
        listener,
        poller: poller.clone(),
        routes: Routes { figures, token: None },
        requests,
        replies,
        clock: starter.core.clock.clone(),
        end: end.clone(),
    };
    let worker = Worker { inbox, replies: reply_tx, poller: poller.clone() };
    starter.spawn("admin-0", move |beat| admin::run(admin, beat))?;
    starter.spawn("admin-1", move |beat| admin::run_worker(&worker, beat))?;
    Ok((end, poller))
}

fn start_file_lanes(
    starter: &Starter,
    files: &[FileInbox],
    batchers: &Batchers<'_>,
    positions: &[Position],
) -> Result<(), RunError> {
    if files.is_empty() {
        return Ok(());
    }
    let core = &starter.core;
    let ends = |f: &FileInbox| LaneInbox { events: f.events.clone(), rescan: f.rescan.clone() };
    let inboxes: Vec<LaneInbox> = files.iter().map(ends).collect();
    let watch = file::start(&inboxes).map_err(|e| RunError::Watch(e.to_string()))?;
    let watch = Arc::new(watch);
    let sources: Vec<_> = core.config.files.iter().cloned().map(Arc::new).collect();
    for (number, inbox) in files.iter().enumerate() {
        let lane = FileLane {
            inbox: inbox.inbox.clone(),
            rescan: inbox.rescan.clone(),
            watch: Some(watch.clone()),
            sources: sources.clone(),
            lane: number,
            lanes: files.len(),
            batcher: batchers.make(number as u64),
            positions: file_positions(positions),
            clock: core.clock.clone(),
            metrics: core.metrics.clone(),
            health: core.health.clone(),
            divert: divert(core),
            stop: core.stop.clone(),
        };
        starter.spawn(&format!("file-{number}"), move |beat| file::run(lane, beat))?;
    }
    Ok(())
}

/// How file lanes put lines that are too long into dead letters.
fn divert(core: &Core) -> Divert {
    let (letters, clock, metrics) =
        (core.dead_letters.clone(), core.clock.clone(), core.metrics.clone());
    Arc::new(move |long: LongLine<'_>| {
        let now_ns = clock.wall_ns();
        let letter = DeadLetter {
            labels: long.labels,
            time_ns: long.timestamp_ns,
            line: long.line.as_bytes(),
            metadata: &[],
            cause: "line_too_long",
            reason: "longer than line_bytes_max",
            status: 0,
            sink: "",
            first_failure_ns: now_ns,
            attempts: 0,
            sources: &[],
        };
        let put = letters.put(&[letter], now_ns);
        if put.is_ok() {
            metrics.filtered(long.source, "line_too_long", 1);
        }
        put.is_ok()
    })
}

fn file_positions(positions: &[Position]) -> Vec<Position> {
    let is_file = |p: &&Position| matches!(p.identity, Identity::File(_));
    positions.iter().filter(is_file).cloned().collect()
}

/// `docker-ctl` and the Docker lanes; what wakes `docker-ctl` for a stop.
fn start_docker(
    starter: &Starter,
    files: &[FileInbox],
    docker: &[DockerInbox],
    batchers: &Batchers<'_>,
    positions: &[Position],
    resolve: Option<&Resolve>,
) -> Result<Option<Arc<Poller>>, RunError> {
    let core = &starter.core;
    if docker.is_empty() {
        return Ok(None);
    }
    for (number, inbox) in docker.iter().enumerate() {
        let lane = DockerLane {
            inbox: inbox.inbox.clone(),
            poller: inbox.poller.clone(),
            endpoints: core.config.docker.iter().map(|d| d.endpoint.clone()).collect(),
            lanes: docker.len(),
            batcher: batchers.make((files.len() + number) as u64),
            positions: positions.to_vec(),
            clock: core.clock.clone(),
            metrics: core.metrics.clone(),
            resolve: resolve.cloned(),
            divert: divert(core),
            stop: core.stop.clone(),
        };
        let name = format!("docker-{number}");
        starter.spawn(&name, move |beat| docker_lane::run(lane, beat))?;
    }
    let poller = Arc::new(Poller::new().map_err(system("epoll"))?);
    let ctl = Ctl {
        sources: core.config.docker.iter().cloned().map(Arc::new).collect(),
        files: files.iter().map(|f| f.events.clone()).collect(),
        docker: docker.iter().map(|d| (d.events.clone(), d.poller.clone())).collect(),
        positions: positions.to_vec(),
        poller: poller.clone(),
        resolve: resolve.cloned(),
        clock: core.clock.clone(),
        metrics: core.metrics.clone(),
        health: core.health.clone(),
        stop: core.stop.clone(),
    };
    starter.spawn("docker-ctl", move |beat| ctl::run(ctl, beat))?;
    Ok(Some(poller))
}
