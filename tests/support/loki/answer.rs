//! Scripts: what happens to a push instead of, or besides, what Loki would do.

use super::Push;
use super::http::Reply;
use std::collections::VecDeque;
use std::time::Duration;

/// What happens to a push.
#[derive(Clone, Debug)]
pub struct Answer {
    pub(super) act: Act,
    pub(super) delay: Duration,
    pub(super) store: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Act {
    Loki,
    Reply(Reply),
    Hang,
    Reset,
    Close,
    Half,
}

impl Answer {
    fn new(act: Act) -> Answer {
        let store = matches!(act, Act::Loki);
        Answer { act, delay: Duration::ZERO, store }
    }

    /// What Loki would do.
    pub fn loki() -> Answer {
        Answer::new(Act::Loki)
    }

    /// That status, without a body; nothing is stored.
    pub fn status(status: u16) -> Answer {
        Answer::new(Act::Reply(Reply::new(status)))
    }

    /// That status with a text, as Loki sends its errors; nothing is stored.
    pub fn error(status: u16, body: &str) -> Answer {
        Answer::new(Act::Reply(Reply::text(status, body)))
    }

    /// No answer until the mode changes, [`LokiDouble::release`] or the end of the double; then
    /// the connection is closed.
    pub fn hang() -> Answer {
        Answer::new(Act::Hang)
    }

    /// The connection is reset after the request was read.
    pub fn reset() -> Answer {
        Answer::new(Act::Reset)
    }

    /// The connection is closed after the request was read.
    pub fn close() -> Answer {
        Answer::new(Act::Close)
    }

    /// The connection is closed in the middle of an answer's head.
    pub fn half() -> Answer {
        Answer::new(Act::Half)
    }

    /// Adds a header to a status.
    pub fn header(mut self, name: &str, value: &str) -> Answer {
        if let Act::Reply(reply) = &mut self.act {
            reply.headers.push((name.into(), value.into()));
        }
        self
    }

    /// Waits before it acts.
    pub fn after(mut self, delay: Duration) -> Answer {
        self.delay = delay;
        self
    }

    /// The push is stored by the rules first: the answer lies or gets lost, as with a timeout of
    /// the ingester.
    pub fn but_stored(mut self) -> Answer {
        self.store = true;
        self
    }
}

pub(super) type Rule = Box<dyn FnMut(&Push) -> Option<Answer> + Send>;

pub(super) struct Script {
    pub(super) mode: Answer,
    pub(super) queue: VecDeque<Answer>,
    pub(super) rule: Option<Rule>,
    /// Rises to let go what hangs.
    pub(super) generation: u64,
}
