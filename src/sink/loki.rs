//! The sink `loki`: carries out a batch's delivery over HTTP.
//!
//! Owns the request's headers (secrets in files are read again when they change), the newest
//! delivered time of each stream, and the writing of dead letters. What to send next and what
//! an answer means is decided in `sender::delivery` and `sender::verdict`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::batch::{SealedBatch, loki_push};
use crate::clock::Clock;
use crate::config::checked::{Auth, Loki};
use crate::config::secret::Secret;
use crate::dead_letter::{DeadLetter, DeadLetters};
use crate::limits;
use crate::sender::backoff::Backoff;
use crate::sender::delivery::{Action, Course, Delivery, Memory};
use crate::sender::http::{Answer, Fault, Http, HttpSettings, TransportError};
use crate::sender::tls::{TlsError, tls_config};
use crate::sender::verdict::{Verdict, judge, judge_fault};
use crate::sender::{Destination, Moment, SinkState, Step};

mod headers;

pub use headers::Headers;

/// How `UreqHttp` reaches this sink; TLS files are read and checked here, once for all senders.
///
/// # Errors
/// When TLS is needed and its files are of no use.
pub fn http_settings(loki: &Loki) -> Result<HttpSettings, TlsError> {
    let https = loki.url.starts_with("https://");
    Ok(HttpSettings {
        url: loki.url.clone(),
        connect_timeout: loki.connect_timeout,
        request_timeout: loki.request_timeout,
        proxy: loki.proxy.clone(),
        tls: if https { Some(tls_config(&loki.tls)?) } else { None },
    })
}

/// The part of one sender that knows Loki.
pub struct LokiDestination {
    shard: usize,
    http: Box<dyn Http>,
    headers: Headers,
    state: Arc<SinkState>,
    dead_letters: Arc<DeadLetters>,
    clock: Arc<dyn Clock>,
    request_timeout: Duration,
    backoff: Backoff,
    /// By hash of labels; what is not here counts as now.
    newest: HashMap<u64, i64>,
    current: Option<Current>,
}

/// The batch that is being delivered.
struct Current {
    delivery: Delivery,
    began_ns: i64,
    status: u16,
    /// Entries in dead letters, by cause.
    diverted: BTreeMap<&'static str, u32>,
    /// Dead letters cannot be written before.
    store_retry_at: Option<Instant>,
}

impl LokiDestination {
    /// `http` posts to the sink's URL ([`http_settings`]).
    pub fn new(
        loki: &Loki,
        shard: usize,
        http: Box<dyn Http>,
        state: Arc<SinkState>,
        dead_letters: Arc<DeadLetters>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let seed = (clock.wall_ns() as u64).rotate_left(17) ^ (shard as u64 + 1) << 32;
        Self {
            shard,
            http,
            headers: Headers::new(loki),
            state,
            dead_letters,
            clock,
            request_timeout: loki.request_timeout,
            backoff: Backoff::new(loki.retry_initial, loki.retry_max, seed),
            newest: HashMap::new(),
            current: None,
        }
    }

    fn begin(&self, batch: &SealedBatch, wall_ns: i64) -> Current {
        let alone = self.alone(batch, wall_ns);
        Current {
            delivery: Delivery::new(batch, &alone, self.state.bytes_max()),
            began_ns: wall_ns,
            status: 0,
            diverted: BTreeMap::new(),
            store_retry_at: None,
        }
    }

    /// Streams with entries that Loki may find too far behind: an answer tells of the last
    /// stream of a request only, so each of these travels alone.
    fn alone(&self, batch: &SealedBatch, wall_ns: i64) -> BTreeSet<usize> {
        let risk_ns = limits::ORDER_RISK.as_nanos() as i64;
        let at_risk = |(_, span): &(usize, &crate::batch::StreamSpan)| {
            let newest = self.newest.get(&span.labels.hash()).copied().unwrap_or(wall_ns);
            let newest = newest.max(span.last_ns);
            span.first_ns < newest.saturating_sub(risk_ns)
        };
        batch.streams.iter().enumerate().filter(at_risk).map(|(i, _)| i).collect()
    }

    fn remember(&mut self, newest: Vec<(u64, i64)>) {
        if self.newest.len() + newest.len() > limits::NEWEST_STREAMS_MAX {
            // Unknown counts as now, which is the careful side.
            self.newest.clear();
        }
        for (hash, time_ns) in newest {
            let known = self.newest.entry(hash).or_insert(time_ns);
            *known = (*known).max(time_ns);
        }
    }

    /// Writes the condemned to dead letters.
    fn divert(&mut self, current: &mut Current, batch: &SealedBatch, moment: Moment) -> Step {
        if let Some(at) = current.store_retry_at.filter(|at| moment.now < *at) {
            return Step::Wait(at);
        }
        let Some((index, condemned)) = current.delivery.condemned() else { return Step::Again };
        let entries: Vec<_> = condemned.iter().map(|c| index.entry(c.id)).collect();
        let metadata: Vec<Vec<_>> =
            entries.iter().map(|e| loki_push::metadata_pairs(e.metadata).collect()).collect();
        let letters: Vec<_> = condemned
            .iter()
            .enumerate()
            .map(|(i, c)| DeadLetter {
                labels: index.labels(c.id.stream),
                time_ns: entries[i].timestamp_ns,
                line: entries[i].line,
                metadata: &metadata[i],
                cause: c.cause,
                reason: &c.text,
                status: current.status,
                sink: &self.state.name,
                first_failure_ns: current.began_ns,
                attempts: current.delivery.requests(),
                sources: &batch.sources,
            })
            .collect();
        if let Err(e) = self.dead_letters.put(&letters, moment.wall_ns) {
            let at = moment.now + self.backoff.fail();
            current.store_retry_at = Some(at);
            let cure = "make room or check permissions";
            self.state.holding(self.shard, &e.to_string(), cure, moment.now);
            return Step::Wait(at);
        }
        current.store_retry_at = None;
        for condemned in current.delivery.diverted() {
            *current.diverted.entry(condemned.cause).or_default() += 1;
        }
        Step::Again
    }

    fn report(&self, delivered: u32, current: &Current, now: Instant) {
        let (name, metrics) = (&self.state.name, &self.state.metrics);
        metrics.delivered(name, u64::from(delivered));
        for (cause, lines) in &current.diverted {
            metrics.diverted(name, cause, u64::from(*lines));
            self.state.diverted(cause, u64::from(*lines), now);
        }
    }

    fn course(&self, course: &Course, delivery: &Delivery, now: Instant) {
        match course {
            // What is held back keeps the sink from being called well.
            Course::Onward if delivery.waits(now) => {}
            Course::Onward => self.state.well(self.shard),
            Course::Failing { why } => {
                self.state.failing(self.shard, self.backoff.failures(), why);
            }
            Course::Limited { why } => self.state.limited(self.shard, why),
            Course::Holding { why, cure } => self.state.holding(self.shard, why, cure, now),
        }
    }

    fn step(&mut self, current: &mut Current, batch: &SealedBatch, moment: Moment) -> Step {
        let answer = match current.delivery.next(batch, moment.now) {
            Action::Done(outcome) => {
                self.report(outcome.delivered, current, moment.now);
                return Step::Done(outcome);
            }
            Action::Wait(until) => return Step::Wait(until),
            Action::Divert => return self.divert(current, batch, moment),
            Action::Post { body } => {
                let deadline = moment.now + self.request_timeout;
                let deadline = moment.stop_at.map_or(deadline, |at| at.min(deadline));
                match self.headers.now() {
                    Ok(headers) => self.http.post(body, headers, deadline),
                    Err(text) => Err(TransportError { fault: Fault::Request, text }),
                }
            }
        };
        let now = self.clock.now();
        let metrics = &self.state.metrics;
        metrics.send_duration(&self.state.name, now.saturating_duration_since(moment.now));
        self.note(current, &answer);
        let verdict = match &answer {
            Ok(answer) => judge(answer),
            Err(error) => judge_fault(error),
        };
        log::debug!("sink {}: {:?}: {verdict:?}", self.state.name, batch.id);
        let stored: Vec<_> = match verdict {
            Verdict::Delivered => current.delivery.posted_newest(batch).collect(),
            _ => Vec::new(),
        };
        self.remember(stored);
        let mut bytes_max = self.state.bytes_max();
        let mut memory = Memory { backoff: &mut self.backoff, bytes_max: &mut bytes_max, now };
        let course = current.delivery.judged(batch, verdict, &mut memory);
        self.state.learn_bytes_max(bytes_max);
        self.course(&course, &current.delivery, now);
        Step::Again
    }

    fn note(&self, current: &mut Current, answer: &Result<Answer, TransportError>) {
        let component = format!("sink_{}", self.state.name);
        match answer {
            Ok(answer) => {
                current.status = answer.status;
                if answer.status != 204 && answer.status != 200 {
                    self.state.metrics.error(&component, &format!("http_{}", answer.status));
                }
            }
            Err(error) => {
                current.status = 0;
                self.state.metrics.error(&component, error.fault.as_str());
            }
        }
    }
}

impl Destination for LokiDestination {
    fn attempt(&mut self, batch: &SealedBatch, moment: Moment) -> Step {
        let mut current = match self.current.take() {
            Some(current) => current,
            None => self.begin(batch, moment.wall_ns),
        };
        let step = self.step(&mut current, batch, moment);
        if !matches!(step, Step::Done(_)) {
            self.current = Some(current);
        }
        step
    }

    fn hurry(&mut self) {
        if let Some(current) = &mut self.current {
            current.delivery.hurry();
            current.store_retry_at = None;
        }
    }
}

#[cfg(test)]
mod tests;
