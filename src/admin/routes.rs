//! From a request to its answer, or to the work that `admin-1` does for it.
//!
//! Over TCP without a token: figures only. What changes something needs the token, and there is
//! none in the config yet, so that such requests are refused.

use std::sync::Arc;

use super::figures::Figures;
use super::http::{Answer, HttpRequest, Status};
use super::worker::{NO_RELOAD, Task};
use super::{health, page};
use crate::metrics;

/// What becomes of a request.
#[derive(Debug)]
pub enum Routed {
    Answer(Answer),
    Ask(Task),
}

/// Answers requests.
pub struct Routes {
    pub figures: Arc<Figures>,
    /// What `Authorization: Bearer` must carry for requests that change something; None: no
    /// such request is served.
    pub token: Option<String>,
}

impl Routes {
    /// Never blocks and takes a few milliseconds at most.
    pub fn route(&self, request: &HttpRequest) -> Routed {
        let get = matches!(request.method.as_str(), "GET" | "HEAD");
        let answer = match request.path.as_str() {
            "/config/reload" if request.method != "POST" => not_allowed("POST"),
            "/config/reload" if self.authorised(request) => return Routed::Ask(Task::Reload),
            "/config/reload" if self.token.is_none() => {
                Answer::text(Status::NOT_IMPLEMENTED, NO_RELOAD)
            }
            "/config/reload" => Answer::text(Status::FORBIDDEN, "reloading needs a bearer token"),
            "/" | "/metrics" | "/health" | "/ready" if !get => not_allowed("GET, HEAD"),
            "/" => page::answer(&self.figures),
            "/metrics" => self.metrics(),
            "/health" => health::answer(&self.figures),
            "/ready" => self.ready(),
            _ => Answer::bare(Status::NOT_FOUND),
        };
        Routed::Answer(answer)
    }

    fn metrics(&self) -> Answer {
        Answer {
            status: Status::OK,
            content_type: metrics::CONTENT_TYPE,
            allow: None,
            body: self.figures.render_metrics().into_bytes(),
        }
    }

    fn ready(&self) -> Answer {
        if self.figures.is_ready() {
            Answer::text(Status::OK, "ready")
        } else if self.figures.stop.asked() {
            Answer::text(Status::UNAVAILABLE, "stopping")
        } else {
            Answer::text(Status::UNAVAILABLE, "starting")
        }
    }

    fn authorised(&self, request: &HttpRequest) -> bool {
        match (&self.token, &request.bearer) {
            (Some(token), Some(given)) => same(token.as_bytes(), given.as_bytes()),
            _ => false,
        }
    }
}

fn not_allowed(methods: &'static str) -> Answer {
    Answer { allow: Some(methods), ..Answer::bare(Status::METHOD_NOT_ALLOWED) }
}

/// Compares in a time that depends on the lengths alone.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |bits, (x, y)| bits | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_equal_only_as_a_whole() {
        for (a, b, equal) in
            [("", "", true), ("ab", "ab", true), ("ab", "a", false), ("ab", "aB", false)]
        {
            assert_eq!(same(a.as_bytes(), b.as_bytes()), equal, "{a} {b}");
        }
    }
}
