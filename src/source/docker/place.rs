//! Finding one's place again in a container's log: the resume machine of the API way.
//!
//! A position is "this record in stored order", known by stream, time, piece number and a hash of
//! its text; it is not "everything up to this time", since stdout and stderr are stored out of
//! order by some milliseconds. Pure: handed each record of an answer in stored order, it says
//! whether the record was had. Runs on a Docker lane.

use super::record::EngineRecord;
use crate::record::StoredMark;

/// Stored order goes back in time by scheduling only (6 ms were seen); an answer whose records
/// are this much later than the place, without it, does not hold it.
const DISORDER_NS: i64 = 5_000_000_000;

/// How much of the log is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    Records(u64),
    All,
}

/// The first answer asked for, and the largest before `all`.
const TAIL_FIRST: u64 = 1_000;
const TAIL_LAST: u64 = 1_000_000;

impl Tail {
    /// Enough for `expected` new records and some that were had.
    pub fn covering(expected: u64) -> Self {
        match expected.saturating_mul(2).max(TAIL_FIRST) {
            more if more > TAIL_LAST => Self::All,
            records => Self::Records(records),
        }
    }

    /// The next try when the place was not in the answer.
    pub fn wider(self) -> Self {
        match self {
            Self::Records(n) if n < TAIL_LAST => Self::Records(n * 10),
            _ => Self::All,
        }
    }

    /// The value of the query parameter `tail`.
    pub fn query(self) -> String {
        match self {
            Self::Records(n) => n.to_string(),
            Self::All => "all".to_owned(),
        }
    }
}

/// What is to be done with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Had {
    /// It was had, or stands before the place.
    Before,
    /// It is new.
    After(StoredMark),
    /// The place is not in this answer: ask for more.
    NotHere,
}

enum State {
    /// The place has not come yet.
    Seeking(StoredMark),
    /// It is not in the log any more: what is later by its time is taken.
    LaterThan(i64),
    Found,
}

/// The machine for one answer.
pub struct Seek {
    state: State,
    tail: Tail,
    records: u64,
    /// Time and piece number of the last record of each stream.
    last: Numbers,
    /// The same at the place, where they are known: an answer that begins within a line cannot
    /// count its pieces.
    had: Numbers,
}

/// Time and piece number of a record, for stdout and stderr.
pub type Numbers = [Option<(i64, u32)>; 2];

impl Seek {
    /// For an answer of `tail` records. `place` is the last record had, if any was.
    pub fn new(place: Option<StoredMark>, tail: Tail) -> Self {
        let state = place.map_or(State::Found, State::Seeking);
        Self { state, tail, records: 0, last: [None; 2], had: [None; 2] }
    }

    /// The numbers of the last records had of both streams.
    pub fn with_numbers(self, had: Numbers) -> Self {
        Self { had, ..self }
    }

    /// For an answer that follows a whole one without the place in it: it is lost.
    pub fn lost(place: StoredMark) -> Self {
        let state = State::LaterThan(place.time_ns);
        Self { state, tail: Tail::All, records: 0, last: [None; 2], had: [None; 2] }
    }

    /// Whether everything from now on is new.
    pub fn found(&self) -> bool {
        !matches!(self.state, State::Seeking(_))
    }

    /// Records seen.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Takes the next record in stored order.
    pub fn next(&mut self, record: &EngineRecord<'_>) -> Had {
        let first = self.records == 0;
        self.records += 1;
        let last = &mut self.last[record.stream.index()];
        let first_of_stream = last.is_none();
        let piece = match *last {
            Some((time_ns, piece)) if time_ns == record.time_ns => piece + 1,
            _ => 0,
        };
        *last = Some((record.time_ns, piece));
        let mark = StoredMark {
            stream: record.stream,
            time_ns: record.time_ns,
            piece,
            text_hash: xxhash_rust::xxh3::xxh3_64(record.text),
        };
        match self.state {
            State::Found => Had::After(mark),
            State::LaterThan(time_ns) if record.time_ns > time_ns => {
                self.state = State::Found;
                Had::After(mark)
            }
            State::LaterThan(_) => Had::Before,
            State::Seeking(place) => {
                // A line may have begun before the answer does, whatever the other stream has
                // in front of it. A record that ends its line is either alone or, being shorter
                // than the pieces before it, not to be taken for one of them.
                let miscounted = first_of_stream && (first || !record.newline);
                self.seek(place, mark, first, miscounted)
            }
        }
    }

    fn seek(&mut self, place: StoredMark, mark: StoredMark, first: bool, miscounted: bool) -> Had {
        let cut = first && self.tail != Tail::All;
        let in_line = (mark.stream, mark.time_ns) == (place.stream, place.time_ns);
        if in_line && miscounted && self.tail != Tail::All {
            return Had::NotHere;
        }
        if mark == place {
            self.state = State::Found;
            for (last, had) in self.last.iter_mut().zip(self.had) {
                *last = had.or(*last);
            }
            return Had::Before;
        }
        let later = if cut { 0 } else { DISORDER_NS };
        if mark.time_ns > place.time_ns.saturating_add(later) && self.tail != Tail::All {
            return Had::NotHere;
        }
        Had::Before
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::StdStream::{self, Stderr, Stdout};

    fn record<'a>(stream: StdStream, time_ns: i64, text: &'a str) -> EngineRecord<'a> {
        EngineRecord { stream, time_ns, text: text.as_bytes(), newline: true }
    }

    /// Reads `log[from..]` as an answer; the texts that are new, or None: not here.
    fn read(seek: &mut Seek, log: &[EngineRecord<'_>], from: usize) -> Option<Vec<StoredMark>> {
        let mut new = Vec::new();
        for record in &log[from..] {
            match seek.next(record) {
                Had::Before => {}
                Had::After(mark) => new.push(mark),
                Had::NotHere => return None,
            }
        }
        seek.found().then_some(new)
    }

    fn marks(log: &[EngineRecord<'_>]) -> Vec<StoredMark> {
        read(&mut Seek::new(None, Tail::All), log, 0).unwrap()
    }

    #[test]
    fn the_place_is_found_though_the_other_stream_is_stored_with_an_older_time() {
        let log = [record(Stdout, 10, "a"), record(Stderr, 8, "b"), record(Stdout, 12, "c")];
        let marks = marks(&log);
        let mut seek = Seek::new(Some(marks[0]), Tail::All);
        assert_eq!(read(&mut seek, &log, 0), Some(marks[1..].to_vec()));
    }

    #[test]
    fn a_line_cut_by_the_answer_behind_the_other_stream_is_not_taken_for_the_place() {
        let piece = EngineRecord { newline: false, ..record(Stdout, 5, "xxxx") };
        let log = [piece, record(Stderr, 4, "between"), piece, record(Stdout, 5, "end")];
        let marks = marks(&log);
        assert_eq!(read(&mut Seek::new(Some(marks[0]), Tail::Records(3)), &log, 1), None);
        let mut seek = Seek::new(Some(marks[0]), Tail::All);
        assert_eq!(read(&mut seek, &log, 0), Some(marks[1..].to_vec()));
    }

    #[test]
    fn equal_pieces_of_one_line_are_told_apart_by_their_number() {
        let log = [5, 5, 5, 5].map(|t| record(Stdout, t, "xxxx"));
        let marks = marks(&log);
        let mut seek = Seek::new(Some(marks[1]), Tail::All);
        assert_eq!(read(&mut seek, &log, 0), Some(marks[2..].to_vec()));
        // An answer that begins in the middle of that line cannot count them.
        assert_eq!(read(&mut Seek::new(Some(marks[1]), Tail::Records(2)), &log, 2), None);
    }

    #[test]
    fn an_answer_that_begins_after_the_place_is_too_short() {
        let log = [1, 2, 3, 4].map(|t| record(Stdout, t, "x"));
        let marks = marks(&log);
        assert_eq!(read(&mut Seek::new(Some(marks[0]), Tail::Records(2)), &log, 2), None);
        let mut seek = Seek::lost(marks[1]);
        assert_eq!(read(&mut seek, &log, 0).map(|new| new.len()), Some(2));
    }

    #[test]
    fn tails_grow_to_all() {
        assert_eq!(Tail::covering(0), Tail::Records(1_000));
        assert_eq!(Tail::covering(u64::MAX), Tail::All);
        let mut tail = Tail::covering(0);
        let steps = std::iter::from_fn(|| {
            tail = tail.wider();
            Some(tail)
        });
        let tails: Vec<_> = steps.take(4).map(Tail::query).collect();
        assert_eq!(tails, ["10000", "100000", "1000000", "all"]);
    }

    proptest! {
        /// Whatever the log and wherever the reader stopped: reading again with tails that grow
        /// gives exactly the records after the place.
        #[test]
        fn reading_again_gives_what_is_after_the_place(
            steps in proptest::collection::vec((any::<bool>(), -3i64..6, 0u8..3), 2..60),
            place: prop::sample::Index,
            first_tail in 1usize..10,
        ) {
            // A piece that does not end its line has 16 KiB, the last one less: their texts differ.
            let (texts, pieces) = (["a", "b", "c"], ["aaaa", "bbbb", "cccc"]);
            let (mut clock, mut last) = (1_000i64, [0i64; 2]);
            let mut log = Vec::new();
            for (out, step, text) in steps {
                let stream = if out { Stdout } else { Stderr };
                clock += step.max(0);
                // Times rise within a stream; 0 stands for a further piece of the same line.
                let time = (clock + step).max(last[stream.index()] + i64::from(step != 0));
                last[stream.index()] = time;
                // A further piece: the one before it in its stream did not end the line.
                let before = log.iter_mut().rev().find(|r: &&mut EngineRecord| r.stream == stream);
                if let Some(before) = before.filter(|r| r.time_ns == time) {
                    before.newline = false;
                    let text = texts.iter().position(|t| t.as_bytes() == before.text);
                    before.text = text.map_or(before.text, |i| pieces[i].as_bytes());
                }
                log.push(record(stream, time, texts[usize::from(text)]));
            }
            let marks = marks(&log);
            let place = place.index(log.len());
            let mut tail = first_tail;
            loop {
                let whole = tail >= log.len();
                let from = log.len().saturating_sub(tail);
                let asked = if whole { Tail::All } else { Tail::Records(tail as u64) };
                let mut had: Numbers = [None; 2];
                for mark in &marks[..=place] {
                    had[mark.stream.index()] = Some((mark.time_ns, mark.piece));
                }
                let mut seek = Seek::new(Some(marks[place]), asked).with_numbers(had);
                match read(&mut seek, &log, from) {
                    Some(new) => {
                        prop_assert_eq!(&new[..], &marks[place + 1..]);
                        break;
                    }
                    None => prop_assert!(!whole, "not found in all"),
                }
                tail *= 10;
            }
        }
    }
}
