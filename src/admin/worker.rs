//! The thread `admin-1`: requests that take time, one after the other.
//!
//! `admin-0` hands them over by a bounded channel and goes on; the answer comes back the same
//! way, with a notification to its epoll loop. Never touches a socket.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use polling::Poller;

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
}

/// A task and who waits for it.
#[derive(Debug)]
pub struct Request {
    pub task: Task,
    pub reply_to: Token,
}

/// The answer for a connection.
#[derive(Debug)]
pub struct Reply {
    pub to: Token,
    pub answer: Answer,
}

/// Why a reload is refused.
pub const NO_RELOAD: &str = "reloading is not served in this version: restart the service";

/// What the thread works with.
pub struct Worker {
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
            Task::Reload => Answer::text(Status::NOT_IMPLEMENTED, NO_RELOAD),
        };
        let to = request.reply_to;
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
