//! Finding one's place again in a container's log: the resume machine of the API way.
//!
//! A position is "this record in stored order", known by stream, time, piece number and a hash of
//! its text; it is not "everything up to this time", since stdout and stderr are stored out of
//! order by some milliseconds. Pure: handed each record of an answer in stored order, it says
//! whether the record was had. Runs on a Docker lane.

use super::pieces::PIECE_BYTES;
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

/// The smallest answer asked for, but for a mere look, and the largest before `all`.
const TAIL_LEAST: u64 = 16;
const TAIL_LAST: u64 = 1_000_000;

impl Tail {
    /// To see whether anything is new; it costs the engine 0.25 ms.
    pub const LOOK: Self = Self::Records(1);
    /// To learn the last record. Room for the pieces of a long line, so that they are counted.
    pub const MARK: Self = Self::Records(64);

    /// Enough for `expected` new records and some that were had.
    pub fn covering(expected: u64) -> Self {
        match expected.saturating_mul(2).max(TAIL_LEAST) {
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
    last: [Option<(i64, u32)>; 2],
    /// That line may have begun before the answer, so that its pieces are counted wrongly.
    uncounted: [bool; 2],
}

impl Seek {
    /// For an answer of `tail` records. `place` is the last record had, if any was.
    pub fn new(place: Option<StoredMark>, tail: Tail) -> Self {
        let state = place.map_or(State::Found, State::Seeking);
        Self { state, tail, records: 0, last: [None; 2], uncounted: [false; 2] }
    }

    /// For an answer that follows a whole one without the place in it: it is lost.
    pub fn lost(place: StoredMark) -> Self {
        let state = State::LaterThan(place.time_ns);
        Self { state, tail: Tail::All, records: 0, last: [None; 2], uncounted: [false; 2] }
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
        let stream = record.stream.index();
        let piece = match self.last[stream] {
            Some((time_ns, piece)) if time_ns == record.time_ns => piece + 1,
            last => {
                self.uncounted[stream] = last.is_none() && self.tail != Tail::All;
                0
            }
        };
        self.last[stream] = Some((record.time_ns, piece));
        let mark = StoredMark {
            stream: record.stream,
            time_ns: record.time_ns,
            piece,
            text_hash: xxhash_rust::xxh3::xxh3_64(record.text),
        };
        // A line's last piece, short and with its newline, is known without a number.
        let last = record.newline && record.text.len() < PIECE_BYTES;
        let uncounted = self.uncounted[stream] && !last;
        match self.state {
            State::Found if uncounted => Had::NotHere,
            State::Found => Had::After(mark),
            State::LaterThan(time_ns) if record.time_ns > time_ns => {
                self.state = State::Found;
                Had::After(mark)
            }
            State::LaterThan(_) => Had::Before,
            State::Seeking(place) => {
                let same_line = (mark.stream, mark.time_ns) == (place.stream, place.time_ns);
                let known = same_line && last && mark.text_hash == place.text_hash;
                if known || mark == place && !uncounted {
                    self.state = State::Found;
                    return Had::Before;
                }
                if same_line && self.uncounted[stream] {
                    return Had::NotHere;
                }
                self.beyond(place, mark, first)
            }
        }
    }

    /// A record that is not the place: does it stand behind it?
    fn beyond(&self, place: StoredMark, mark: StoredMark, first: bool) -> Had {
        let Tail::Records(asked) = self.tail else { return Had::Before };
        let later_ns = if first { 0 } else { DISORDER_NS };
        // More than were asked for are those that a follow stream brings as they are written.
        let over = self.records > asked;
        if over || mark.time_ns > place.time_ns.saturating_add(later_ns) {
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
        let long = "x".repeat(PIECE_BYTES);
        let log = [5, 5, 5, 5].map(|t| record(Stdout, t, &long));
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
    fn a_place_that_is_the_first_record_of_an_answer_is_found() {
        let log = [record(Stdout, 1, "a"), record(Stderr, 1, "a"), record(Stdout, 2, "b")];
        let marks = marks(&log);
        for (place, from) in [(0, 0), (2, 2)] {
            let mut seek = Seek::new(Some(marks[place]), Tail::Records(3));
            assert_eq!(read(&mut seek, &log, from), Some(marks[place + 1..].to_vec()));
        }
    }

    #[test]
    fn pieces_counted_from_the_middle_of_a_line_are_not_believed() {
        let long = "x".repeat(PIECE_BYTES);
        let pieces = [5, 5, 5].map(|t| record(Stdout, t, &long));
        let log = [pieces[0], pieces[1], record(Stderr, 4, "e"), pieces[2]];
        let place = marks(&log)[0];
        // The answer begins with the other stream; the piece behind it would count as the first.
        assert_eq!(read(&mut Seek::new(Some(place), Tail::Records(2)), &log, 2), None);
    }

    #[test]
    fn a_follow_stream_without_the_place_is_not_read_for_ever() {
        // The clock was set back: no record is later than the place.
        let log = [9, 1, 2, 3].map(|t| record(Stdout, t, "x"));
        let place = marks(&log)[0];
        assert_eq!(read(&mut Seek::new(Some(place), Tail::Records(2)), &log, 1), None);
    }

    #[test]
    fn tails_grow_to_all() {
        assert_eq!(Tail::covering(0), Tail::Records(TAIL_LEAST));
        assert_eq!(Tail::covering(u64::MAX), Tail::All);
        let mut tail = Tail::covering(500);
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
            // Only the last piece of a line is short.
            let texts = ["a".repeat(PIECE_BYTES), "b".repeat(PIECE_BYTES), "c".to_owned()];
            let (mut clock, mut last, mut ended) = (1_000i64, [0i64; 2], [true; 2]);
            let mut log = Vec::new();
            for (out, step, text) in steps {
                let stream = if out { Stdout } else { Stderr };
                clock += step.max(0);
                // Times rise within a stream; 0 stands for a further piece of the same line.
                let new = step != 0 || ended[stream.index()];
                let before = last[stream.index()];
                let time = if new { (clock + step).max(before + 1) } else { before };
                last[stream.index()] = time;
                ended[stream.index()] = text == 2;
                let newline = text == 2;
                let whole = record(stream, time, &texts[usize::from(text)]);
                log.push(EngineRecord { newline, ..whole });
            }
            let marks = marks(&log);
            let place = place.index(log.len());
            let mut tail = first_tail;
            loop {
                let whole = tail >= log.len();
                let from = log.len().saturating_sub(tail);
                let asked = if whole { Tail::All } else { Tail::Records(tail as u64) };
                match read(&mut Seek::new(Some(marks[place]), asked), &log, from) {
                    Some(new) => {
                        // An answer that begins in a line may count its last piece wrongly.
                        let plain = |(m, r): (&StoredMark, &EngineRecord<'_>)| {
                            StoredMark { piece: if r.newline { 0 } else { m.piece }, ..*m }
                        };
                        let rest = || log[place + 1..].iter();
                        let got: Vec<_> = new.iter().zip(rest()).map(plain).collect();
                        let after = marks[place + 1..].iter();
                        let all: Vec<_> = after.zip(rest()).map(plain).collect();
                        prop_assert_eq!(new.len(), rest().len());
                        prop_assert_eq!(got, all);
                        break;
                    }
                    None => prop_assert!(!whole, "not found in all"),
                }
                tail *= 10;
            }
        }
    }
}
