//! One batch on its way to Loki: what is to be sent next, and what an answer does to it.
//!
//! Pure: no clock, no I/O; `sink/loki` carries out what [`Delivery::next`] asks for. The books
//! hold at every moment: delivered + condemned + in parts + under suspicion == entries.
//!
//! Refused entries that an answer names go to dead letters, the rest is sent again until all
//! of it is accepted. When an answer condemns something and does not name it, the part is
//! halved, within [`limits::SEARCH_REQUESTS_MAX`]; a search in which nothing passes condemns
//! nothing, and what stays unknown is held and tried again each minute.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::part::{Condemned, EntryId, Index, Part, find_refused};
use super::refusal::{Refusal, StreamLimit};
use super::verdict::{Unit, Verdict};
use crate::ack::Outcome;
use crate::batch::SealedBatch;
use crate::limits;

/// What the destination has to do now.
#[derive(Debug)]
pub enum Action<'a> {
    /// Post these bytes; tell [`Delivery::judged`] the verdict.
    Post { body: &'a [u8] },
    /// Write these to dead letters; then call [`Delivery::diverted`].
    Divert,
    /// Nothing before this time.
    Wait(Instant),
    /// All entries are accounted for.
    Done(Outcome),
}

/// How the batch fares, for health and log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Course {
    /// Something was stored or sorted out.
    Onward,
    /// To be tried again by itself.
    Failing { why: String },
    /// Slowed down by the server.
    Limited { why: String },
    /// A person is needed.
    Holding { why: String, cure: &'static str },
}

/// What a sender keeps between batches that a delivery needs.
pub struct Memory<'a> {
    pub backoff: &'a mut Backoff,
    /// Largest uncompressed request that the server takes, as far as learned.
    pub bytes_max: &'a mut usize,
    pub now: Instant,
}

/// See the module's head.
pub struct Delivery {
    parts: VecDeque<Part>,
    /// The part of `parts` that was posted last.
    posted: usize,
    index: Option<Index>,
    delivered: u32,
    diverted: u32,
    condemned: Vec<Condemned>,
    suspects: Vec<(Part, String)>,
    /// A part of the running search was accepted.
    passed: bool,
    search_requests: u32,
    requests: u32,
}

impl Delivery {
    /// `alone`: indices of streams that travel in a request of their own.
    pub fn new(batch: &SealedBatch, alone: &BTreeSet<usize>, bytes_max: usize) -> Self {
        let mut delivery = Self {
            parts: VecDeque::new(),
            posted: 0,
            index: None,
            delivered: 0,
            diverted: 0,
            condemned: Vec::new(),
            suspects: Vec::new(),
            passed: false,
            search_requests: 0,
            requests: 0,
        };
        let together = (0..batch.streams.len()).filter(|s| !alone.contains(s));
        let together = Part::of(batch, together);
        delivery.parts.extend((!together.is_empty()).then_some(together));
        for stream in alone {
            delivery.add_alone(batch, *stream);
        }
        if batch.raw_bytes > bytes_max {
            delivery.fit(batch, bytes_max);
        }
        delivery
    }

    /// A stream in requests of its own. One that spans much time is sliced: were it sent
    /// whole and stored in part, its own newest entries would have its oldest refused when
    /// it is sent again.
    fn add_alone(&mut self, batch: &SealedBatch, stream: usize) {
        let span = &batch.streams[stream];
        let slice_ns = limits::ORDER_RISK.as_nanos() as i64;
        let part = Part::of(batch, [stream]);
        if span.last_ns.saturating_sub(span.first_ns) <= slice_ns {
            self.parts.push_back(part);
            return;
        }
        let index = self.index.get_or_insert_with(|| Index::new(batch));
        self.parts.extend(part.slices(index, slice_ns));
    }

    /// Halves what is larger than the server is known to take.
    fn fit(&mut self, batch: &SealedBatch, bytes_max: usize) {
        let index = self.index.take().unwrap_or_else(|| Index::new(batch));
        let mut fitting = VecDeque::new();
        while let Some(mut part) = self.parts.pop_front() {
            if part.body(&index).1 <= bytes_max {
                fitting.push_back(part);
                continue;
            }
            match part.halves(&index, false) {
                Ok((first, second)) => {
                    self.parts.push_front(second);
                    self.parts.push_front(first);
                }
                Err(single) => fitting.push_back(*single),
            }
        }
        self.parts = fitting;
        self.index = Some(index);
    }

    /// Requests made for this batch.
    pub fn requests(&self) -> u32 {
        self.requests
    }

    /// What to do at `now`.
    pub fn next<'a>(&'a mut self, batch: &'a SealedBatch, now: Instant) -> Action<'a> {
        self.check_books(batch);
        if !self.condemned.is_empty() {
            return Action::Divert;
        }
        if self.parts.is_empty() {
            assert!(self.suspects.is_empty(), "suspects without a search");
            let outcome = Outcome { delivered: self.delivered, diverted: self.diverted };
            return Action::Done(outcome);
        }
        let Some(ready) = self.ready(now) else {
            let times = self.parts.iter().filter_map(|p| p.not_before);
            return Action::Wait(times.min().unwrap_or(now));
        };
        self.posted = ready;
        self.requests += 1;
        let part = &mut self.parts[ready];
        if part.is_whole(batch) {
            return Action::Post { body: &batch.body };
        }
        let index = self.index.get_or_insert_with(|| Index::new(batch));
        Action::Post { body: part.body(index).0 }
    }

    /// The first part whose time has come and that overtakes none of its streams.
    fn ready(&self, now: Instant) -> Option<usize> {
        (0..self.parts.len()).find(|&i| {
            let part = &self.parts[i];
            let waits = |p: &Part| p.not_before.is_some_and(|at| now < at);
            !waits(part) && !self.parts.iter().take(i).any(|p| waits(p) && p.shares_stream(part))
        })
    }

    /// Whether something of the batch has to wait for its time.
    pub fn waits(&self, now: Instant) -> bool {
        self.parts.iter().any(|p| p.not_before.is_some_and(|at| now < at))
    }

    /// A stop was asked for: no wait counts any more, once.
    pub fn hurry(&mut self) {
        self.parts.iter_mut().for_each(|p| p.not_before = None);
    }

    /// What is to be written to dead letters, with the means to read it.
    pub fn condemned(&self) -> Option<(&Index, &[Condemned])> {
        self.index.as_ref().map(|index| (index, &self.condemned[..]))
    }

    /// The condemned are on the disk.
    pub fn diverted(&mut self) -> Vec<Condemned> {
        self.diverted += self.condemned.len() as u32;
        std::mem::take(&mut self.condemned)
    }

    /// Streams of the part that was just posted, with the newest time each, if accepted.
    pub fn posted_newest<'a>(
        &'a self,
        batch: &'a SealedBatch,
    ) -> impl Iterator<Item = (u64, i64)> + 'a {
        self.parts[self.posted].newest(batch)
    }

    /// Takes in what became of the part that was posted.
    pub fn judged(
        &mut self,
        batch: &SealedBatch,
        verdict: Verdict,
        memory: &mut Memory<'_>,
    ) -> Course {
        if !matches!(verdict, Verdict::Delivered | Verdict::Retry { .. }) {
            self.index.get_or_insert_with(|| Index::new(batch));
        }
        let now = memory.now;
        match verdict {
            Verdict::Delivered => {
                let part = self.take_posted();
                self.delivered += part.count() as u32;
                self.passed |= part.suspect;
                memory.backoff.reset();
                self.end_search(now).unwrap_or(Course::Onward)
            }
            Verdict::Retry { reset, why } => self.retry(batch, reset, why, memory),
            Verdict::RateLimited { retry_after, limit_bytes, why } => {
                self.rate_limited(retry_after, limit_bytes, memory);
                Course::Limited { why }
            }
            Verdict::StreamLimited { limit, retry_after, why } => {
                self.stream_limited(limit, retry_after, why, memory)
            }
            Verdict::Split { max_bytes, why } => self.split(max_bytes, why, memory),
            Verdict::EntriesRefused { refusals, why } => self.refused(&refusals, why, now),
            Verdict::Poisoned { unit, why } => self.search(unit, why, now),
            Verdict::Hold { why, cure } => {
                self.wait_posted(now + limits::PROBE_INTERVAL);
                Course::Holding { why, cure }
            }
        }
    }

    fn take_posted(&mut self) -> Part {
        let part = self.parts.remove(self.posted);
        part.unwrap_or_else(|| panic!("no part {} was posted", self.posted))
    }

    /// Puts parts where the posted one was.
    fn put_back(&mut self, parts: impl IntoIterator<Item = Part>) {
        for (i, part) in parts.into_iter().enumerate() {
            self.parts.insert(self.posted + i, part);
        }
    }

    fn wait_posted(&mut self, until: Instant) {
        self.parts[self.posted].not_before = Some(until);
    }

    /// Halves the posted part, if it can be and is worth it.
    fn halve_posted(&mut self, bytes_min: usize) -> bool {
        let Some(index) = self.index.as_ref() else { return false };
        if self.parts[self.posted].body(index).1 < bytes_min {
            return false;
        }
        let part = self.take_posted();
        let (suspect, index) = (part.suspect, self.index.as_ref());
        let Some(index) = index else { return false };
        match part.halves(index, suspect) {
            Ok((first, second)) => {
                self.put_back([first, second]);
                true
            }
            Err(single) => {
                self.put_back([*single]);
                false
            }
        }
    }

    fn retry(
        &mut self,
        batch: &SealedBatch,
        reset: bool,
        why: String,
        memory: &mut Memory<'_>,
    ) -> Course {
        let part = &mut self.parts[self.posted];
        part.resets = if reset { part.resets + 1 } else { 0 };
        if part.resets >= limits::RESETS_BEFORE_SPLIT {
            part.resets = 0;
            self.index.get_or_insert_with(|| Index::new(batch));
            self.halve_posted(limits::SPLIT_BYTES_MIN);
        }
        let wait = memory.backoff.fail();
        self.wait_posted(memory.now + wait);
        Course::Failing { why }
    }

    fn rate_limited(
        &mut self,
        retry_after: Option<Duration>,
        limit_bytes: Option<u64>,
        memory: &mut Memory<'_>,
    ) {
        let raw_bytes = match self.index.as_ref() {
            Some(index) => self.parts[self.posted].body(index).1 as u64,
            None => 0,
        };
        let part = &mut self.parts[self.posted];
        part.rates += 1;
        // The burst is not printed. A request above the limit that is refused again and again
        // may be above the burst as well, and would then never pass.
        if part.rates >= RATES_BEFORE_SPLIT && limit_bytes.is_some_and(|limit| raw_bytes > limit) {
            part.rates = 0;
            self.halve_posted(limits::SPLIT_BYTES_MIN.min(limit_bytes.unwrap_or(0) as usize));
        }
        let wait = retry_after.unwrap_or_else(|| memory.backoff.fail());
        // The limit is the tenant's: nothing else of this batch passes either.
        let until = memory.now + wait.min(limits::RETRY_AFTER_MAX);
        self.parts.iter_mut().for_each(|p| p.not_before = p.not_before.max(Some(until)));
    }

    fn stream_limited(
        &mut self,
        limit: StreamLimit,
        retry_after: Option<Duration>,
        why: String,
        memory: &mut Memory<'_>,
    ) -> Course {
        let mut part = self.take_posted();
        if part.stream_count() > 1 {
            // The others of it are stored, or one of them is the one that is meant.
            self.put_back(part.by_stream());
            return Course::Limited { why };
        }
        let since = part.limited_since.unwrap_or(memory.now);
        if limit == StreamLimit::Count && memory.now - since >= limits::STREAM_LIMIT_PATIENCE {
            self.condemn(&part, "stream_limit", &why);
            return self.end_search(memory.now).unwrap_or(Course::Limited { why });
        }
        let wait = retry_after.unwrap_or_else(|| memory.backoff.fail());
        part.not_before = Some(memory.now + wait.min(limits::RETRY_AFTER_MAX));
        part.limited_since = Some(since);
        self.put_back([part]);
        Course::Limited { why }
    }

    fn split(&mut self, max_bytes: Option<usize>, why: String, memory: &mut Memory<'_>) -> Course {
        let raw_bytes = match self.index.as_ref() {
            Some(index) => self.parts[self.posted].body(index).1,
            None => 0,
        };
        if self.halve_posted(0) {
            let learned = max_bytes.unwrap_or(raw_bytes / 2).min(raw_bytes);
            *memory.bytes_max = learned.max(limits::SPLIT_BYTES_MIN).min(*memory.bytes_max);
            return Course::Limited { why };
        }
        let part = self.take_posted();
        self.condemn(&part, "too_large", &why);
        self.end_search(memory.now).unwrap_or(Course::Onward)
    }

    fn refused(&mut self, refusals: &[Refusal], why: String, now: Instant) -> Course {
        let part = self.take_posted();
        let found = match self.index.as_ref() {
            Some(index) => find_refused(index, &part, refusals),
            None => Vec::new(),
        };
        if found.is_empty() {
            if part.count() == 1 {
                // A known text about entries, and there is only this one.
                let text = refusals.first().map_or(&*why, |r| &*r.text);
                self.condemn(&part, refusals.first().map_or("refused", |r| r.cause.key()), text);
                return self.end_search(now).unwrap_or(Course::Onward);
            }
            self.put_back([part]);
            return self.search(Unit::Entry, why, now);
        }
        let refused: BTreeSet<EntryId> = found.iter().map(|c| c.id).collect();
        self.condemned.extend(found);
        let rest = part.without(&refused);
        if !rest.is_empty() {
            self.put_back([rest]);
        }
        self.end_search(now).unwrap_or(Course::Onward)
    }

    fn condemn(&mut self, part: &Part, cause: &'static str, text: &str) {
        let text: Arc<str> = text.into();
        let condemned = part.ids().map(|id| Condemned { id, cause, text: text.clone() });
        self.condemned.extend(condemned);
    }

    /// Something in the posted part will never pass: halves it, down to one `unit`.
    fn search(&mut self, unit: Unit, why: String, now: Instant) -> Course {
        let begins = self.suspects.is_empty() && !self.parts.iter().any(|p| p.suspect);
        if begins {
            self.passed = false;
        }
        self.search_requests += 1;
        if self.search_requests > limits::SEARCH_REQUESTS_MAX {
            self.hold_suspects(now);
            return Course::Holding { why, cure: UNKNOWN_CULPRIT };
        }
        let part = self.take_posted();
        let halves = match (unit, self.index.as_ref()) {
            (Unit::Entry, Some(index)) if part.stream_count() == 1 => part.halves(index, true),
            _ => part.halves_by_stream(),
        };
        let halves = match (unit, self.index.as_ref(), halves) {
            // One stream left, and an entry is looked for.
            (Unit::Entry, Some(index), Err(part)) => part.halves(index, true),
            (_, _, halves) => halves,
        };
        match halves {
            Ok((first, second)) => self.put_back([first, second]),
            Err(single) => self.suspects.push((*single, why.clone())),
        }
        self.end_search(now).unwrap_or(Course::Onward)
    }

    /// When the last part of a search is answered: condemns the suspects, or holds them when
    /// nothing of the search passed.
    fn end_search(&mut self, now: Instant) -> Option<Course> {
        if self.suspects.is_empty() || self.parts.iter().any(|p| p.suspect) {
            return None;
        }
        let suspects = std::mem::take(&mut self.suspects);
        if self.passed {
            for (part, why) in suspects {
                self.condemn(&part, "refused", &why);
            }
            return None;
        }
        let why = suspects.first().map(|(_, why)| why.clone()).unwrap_or_default();
        self.hold(suspects.into_iter().map(|(part, _)| part).collect(), now);
        Some(Course::Holding { why, cure: UNKNOWN_CULPRIT })
    }

    /// Ends a search that took too many requests: the posted part and all that is suspect
    /// become one part, tried again each minute.
    fn hold_suspects(&mut self, now: Instant) {
        let mut held = vec![self.take_posted()];
        let (suspect, rest) = std::mem::take(&mut self.parts).into_iter().partition(|p| p.suspect);
        self.parts = rest;
        let suspect: VecDeque<Part> = suspect;
        held.extend(suspect);
        held.extend(std::mem::take(&mut self.suspects).into_iter().map(|(part, _)| part));
        self.hold(held, now);
    }

    fn hold(&mut self, parts: Vec<Part>, now: Instant) {
        let mut held = Part::joined(parts);
        held.not_before = Some(now + limits::PROBE_INTERVAL);
        self.parts.push_front(held);
    }

    fn check_books(&self, batch: &SealedBatch) {
        let parts: usize = self.parts.iter().map(Part::count).sum();
        let suspects: usize = self.suspects.iter().map(|(p, _)| p.count()).sum();
        let settled = (self.delivered + self.diverted) as usize;
        let sum = settled + self.condemned.len() + parts + suspects;
        assert!(sum == batch.entries as usize, "{sum} of {} entries", batch.entries);
    }
}

/// Rate limits in a row after which a request above the printed limit is halved.
const RATES_BEFORE_SPLIT: u32 = 3;

const UNKNOWN_CULPRIT: &str =
    "the answer names no entry and no part of the batch passes: check what answers";
