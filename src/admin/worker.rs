//! The thread `admin-1`: requests that take time, one after the other.
//!
//! `admin-0` hands them over by a bounded channel and goes on; the answer comes back the same
//! way, with a notification to its epoll loop. Never touches a socket.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use polling::Poller;

use super::figures::{Figures, word, worst};
use super::http::{Answer, Status};
use crate::daemon::{Beat, Waits};

/// Names a connection of `admin-0` for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub(super) slot: usize,
    pub(super) generation: u64,
}

/// What takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Read the config again. Not served in this version.
    Reload,
    /// Write threads, components and queues to our own log (SIGUSR2).
    DumpState,
}

/// A task and who waits for it: nobody when a signal asked.
#[derive(Debug)]
pub struct Request {
    pub task: Task,
    pub reply_to: Option<Token>,
}

impl Request {
    /// A request of the daemon itself.
    pub fn from_signal(task: Task) -> Self {
        Self { task, reply_to: None }
    }
}

/// The answer for a connection.
#[derive(Debug)]
pub struct Reply {
    pub to: Token,
    pub answer: Answer,
}

/// What the thread works with.
pub struct Worker {
    pub figures: Arc<Figures>,
    pub inbox: Receiver<Request>,
    pub replies: Sender<Reply>,
    /// The one that `admin-0` waits on.
    pub poller: Arc<Poller>,
}

/// Runs until every sender of requests is gone.
pub fn run(worker: &Worker, beat: &Beat) {
    loop {
        beat.waits(Waits::Events);
        let request = worker.inbox.recv();
        beat.busy();
        let Ok(request) = request else { return };
        let answer = match request.task {
            Task::Reload => Answer::text(
                Status::NOT_IMPLEMENTED,
                "reloading is not served in this version: restart the service",
            ),
            Task::DumpState => {
                dump(&worker.figures);
                Answer::bare(Status::OK)
            }
        };
        let Some(to) = request.reply_to else { continue };
        beat.waits(Waits::Room);
        if worker.replies.send(Reply { to, answer }).is_err() {
            return;
        }
        beat.busy();
        if let Err(e) = worker.poller.notify() {
            log::debug!("admin-0 was not notified: {e}");
        }
    }
}

/// One line a thread, a component and a sink.
fn dump(figures: &Figures) {
    let (audit, conditions) = figures.look();
    let level = word(worst(&conditions));
    log::info!("state: {level}, {} of {} threads", audit.running, audit.expected);
    for thread in &audit.threads {
        log::info!(
            "state: thread {} {} for {} s",
            thread.name,
            thread.state.as_str(),
            thread.since.as_secs()
        );
    }
    for ((kind, name), condition) in &conditions {
        if kind != "thread" || !condition.reason.is_empty() {
            log::info!("state: {kind} {name} {} {}", word(condition.level), condition.reason);
        }
    }
    for (name, budget) in &figures.sinks {
        log::info!(
            "state: queue of {name}: {} batches, {} of {} bytes",
            budget.held_batches(),
            budget.used_bytes(),
            budget.memory_max_bytes()
        );
    }
    for queue in &figures.queues {
        log::info!("state: {} {} waiting: {}", queue.component, queue.queue_type, (queue.len)());
    }
}
