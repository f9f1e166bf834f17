//! Tests of joining: tables of the rules, and a plain model for arbitrary lines.
//! Pure; run by `cargo test`.

use proptest::prelude::*;

use super::*;
use LineEnd::{Split, Unfinished, Whole};
use StdStream::{Stderr, Stdout};

/// (stream, time, text, newline)
type Given<'a> = (StdStream, i64, &'a str, bool);
/// (stream, time, text, part, end, from)
type Expected<'a> = (StdStream, i64, &'a str, u32, LineEnd, u64);

fn run(
    joiner: &mut Joiner,
    given: &[Given<'_>],
) -> Vec<(StdStream, i64, String, u32, LineEnd, u64)> {
    let mut lines = Vec::new();
    let mut sink = |l: Line<'_>| {
        let text = String::from_utf8(l.text.to_vec()).unwrap();
        lines.push((l.stream, l.time_ns, text, l.part, l.end, l.from));
    };
    for (at, &(stream, time_ns, text, newline)) in given.iter().enumerate() {
        let at = at as u64;
        joiner.push(Piece { stream, time_ns, text: text.as_bytes(), newline, at }, &mut sink);
    }
    joiner.flush(&mut sink);
    lines
}

fn check(rule: PieceRule, line_bytes_max: usize, given: &[Given<'_>], expected: &[Expected<'_>]) {
    let lines = run(&mut Joiner::new(rule, line_bytes_max), given);
    let lines: Vec<Expected<'_>> = lines
        .iter()
        .map(|(s, t, text, part, end, from)| (*s, *t, &**text, *part, *end, *from))
        .collect();
    assert_eq!(lines, expected);
}

#[test]
fn whole_lines_pass_through() {
    check(
        PieceRule::Newline,
        100,
        &[(Stdout, 1, "a", true), (Stderr, 2, "", true)],
        &[(Stdout, 1, "a", 0, Whole, 0), (Stderr, 2, "", 0, Whole, 1)],
    );
}

#[test]
fn pieces_of_one_time_are_one_line_with_the_other_stream_between() {
    let given = [
        (Stdout, 5, "aa", false),
        (Stderr, 6, "between", true),
        (Stdout, 5, "bb", false),
        (Stdout, 5, "cc", true),
        (Stdout, 7, "next", true),
    ];
    check(
        PieceRule::Newline,
        100,
        &given,
        &[
            (Stderr, 6, "between", 0, Whole, 1),
            (Stdout, 5, "aabbcc", 0, Whole, 0),
            (Stdout, 7, "next", 0, Whole, 4),
        ],
    );
}

#[test]
fn another_time_or_the_end_closes_an_unterminated_record() {
    let given = [(Stdout, 1, "unfinished", false), (Stdout, 9, "unfinished", false)];
    check(
        PieceRule::Newline,
        100,
        &given,
        &[(Stdout, 1, "unfinished", 0, Unfinished, 0), (Stdout, 9, "unfinished", 0, Unfinished, 1)],
    );
}

#[test]
fn with_the_size_rule_a_short_piece_is_the_last() {
    let full = "x".repeat(PIECE_BYTES);
    let joined = format!("{full}{full}end");
    let given = [
        (Stdout, 1, &*full, false),
        (Stdout, 1, &*full, false),
        (Stdout, 1, "end", false),
        (Stdout, 2, &*full, false),
        (Stdout, 2, "", false),
        (Stdout, 3, "no newline at exit", false),
    ];
    check(
        PieceRule::Size,
        100_000,
        &given,
        &[
            (Stdout, 1, &joined, 0, Whole, 0),
            (Stdout, 2, &full, 0, Whole, 3),
            (Stdout, 3, "no newline at exit", 0, Whole, 5),
        ],
    );
}

#[test]
fn a_line_above_the_bound_comes_in_numbered_parts() {
    check(
        PieceRule::Newline,
        4,
        &[(Stdout, 1, "abcdef", false), (Stdout, 1, "ghi", true)],
        &[
            (Stdout, 1, "abcd", 0, Split, 0),
            (Stdout, 1, "efgh", 1, Split, 0),
            (Stdout, 1, "i", 2, Whole, 0),
        ],
    );
    check(
        PieceRule::Newline,
        4,
        &[(Stdout, 1, "abcd", true), (Stdout, 1, "e", true)],
        &[(Stdout, 1, "abcd", 0, Whole, 0), (Stdout, 1, "e", 0, Whole, 1)],
    );
}

#[test]
fn what_follows_a_flush_is_a_further_part() {
    let mut joiner = Joiner::new(PieceRule::Newline, 100);
    assert_eq!(run(&mut joiner, &[(Stdout, 1, "abc", false)]).len(), 1);
    assert_eq!(joiner.oldest_open(), None);
    let lines = run(&mut joiner, &[(Stdout, 1, "def", true), (Stdout, 1, "g", true)]);
    assert_eq!(lines[0], (Stdout, 1, "def".into(), 1, Whole, 0));
    assert_eq!(lines[1], (Stdout, 1, "g".into(), 0, Whole, 1));
    assert_eq!(run(&mut joiner, &[(Stderr, 1, "abc", false)]).len(), 1);
    assert_eq!(run(&mut joiner, &[(Stderr, 1, "", true)]), []);
}

#[test]
fn the_oldest_open_piece_holds_the_position() {
    let mut joiner = Joiner::new(PieceRule::Newline, 100);
    let mut sink = |_: Line<'_>| {};
    let mut push = |joiner: &mut Joiner, stream, time_ns, newline, at| {
        joiner.push(Piece { stream, time_ns, text: b"x", newline, at }, &mut sink);
        joiner.oldest_open()
    };
    assert_eq!(push(&mut joiner, Stdout, 1, true, 1), None);
    assert_eq!(push(&mut joiner, Stderr, 2, false, 2), Some(2));
    assert_eq!(push(&mut joiner, Stdout, 3, false, 3), Some(2));
    assert_eq!(push(&mut joiner, Stderr, 2, true, 4), Some(3));
    assert_eq!(push(&mut joiner, Stdout, 3, true, 5), None);
}

/// Lines as a program writes them, cut as the engine cuts them, at `piece_bytes`.
fn cut(lines: &[(bool, Vec<u8>)], piece_bytes: usize) -> Vec<(StdStream, i64, Vec<u8>, bool)> {
    let mut records = Vec::new();
    for (number, (stderr, text)) in lines.iter().enumerate() {
        let stream = if *stderr { Stderr } else { Stdout };
        let mut rest = &text[..];
        while rest.len() >= piece_bytes {
            let (piece, more) = rest.split_at(piece_bytes);
            records.push((stream, number as i64, piece.to_vec(), false));
            rest = more;
        }
        records.push((stream, number as i64, rest.to_vec(), true));
    }
    records
}

proptest! {
    #[test]
    fn joining_undoes_cutting_within_the_bound(
        lines in proptest::collection::vec(
            (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..20),
        piece_bytes in 1_usize..10,
        line_bytes_max in 1_usize..50,
    ) {
        let mut joiner = Joiner::new(PieceRule::Newline, line_bytes_max);
        let mut joined = vec![Vec::new(); lines.len()];
        let mut whole = vec![0; lines.len()];
        let records = cut(&lines, piece_bytes);
        for (at, (stream, time_ns, text, newline)) in records.iter().enumerate() {
            let (stream, time_ns, newline) = (*stream, *time_ns, *newline);
            joiner.push(Piece { stream, time_ns, text, newline, at: at as u64 }, &mut |line| {
                assert!(line.text.len() <= line_bytes_max);
                let number = line.time_ns as usize;
                joined[number].extend_from_slice(line.text);
                whole[number] += usize::from(line.end == Whole);
            });
        }
        prop_assert_eq!(joiner.oldest_open(), None);
        for (number, (_, text)) in lines.iter().enumerate() {
            prop_assert_eq!(&joined[number], text);
            prop_assert_eq!(whole[number], 1);
        }
    }
}
