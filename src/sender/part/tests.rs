//! Arithmetic of parts: nothing is lost or doubled by cutting, whatever is cut.

use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::batch::{BatchId, OpenBatch};
use crate::record::Record;

/// A batch of streams `{s="0"}`, `{s="1"}`, ... with an entry for each (stream, time).
pub fn batch(entries: &[(usize, i64, &[u8])]) -> SealedBatch {
    let mut open = OpenBatch::new(Format::LokiPush, Instant::now());
    let labels: Vec<_> =
        (0..8).map(|s| StreamLabels::new([("s".to_owned(), s.to_string())])).collect();
    for (stream, time, line) in entries {
        let record = Record { timestamp_ns: *time, line, labels: &labels[*stream], metadata: &[] };
        open.push(&record, None);
    }
    open.seal(BatchId(1), 0, 0, &mut Default::default())
}

fn refusal(stream: usize, cause: Cause, count: usize) -> Refusal {
    let labels = vec![
        ("s".to_owned(), stream.to_string()),
        ("service_name".to_owned(), "unknown_service".to_owned()),
    ];
    Refusal { labels, cause, count, text: "x".to_owned() }
}

fn decode(body: &[u8]) -> Vec<(String, Vec<Vec<u8>>)> {
    let raw = snap::raw::Decoder::new().decompress_vec(body).unwrap();
    let mut found = Vec::new();
    let mut rest = &raw[..];
    while !rest.is_empty() {
        let (labels, entries) = loki_push::split_stream(rest).unwrap();
        let end = entries.as_ptr() as usize + entries.len() - rest.as_ptr() as usize;
        let lines = loki_push::entries(entries).map(|e| e.line.to_vec()).collect();
        found.push((labels.to_owned(), lines));
        rest = &rest[end..];
    }
    found
}

#[test]
fn the_refused_are_found_by_second_length_and_count() {
    let s = NS_PER_SECOND;
    let batch = batch(&[
        (0, 10 * s, b"a"),
        (0, 10 * s + 5, b"b"),
        (0, 11 * s, b"long"),
        (1, 10 * s, b"c"),
        (1, 99 * s, b"d"),
        (1, 99 * s + 1, b"e"),
    ]);
    let index = Index::new(&batch);
    let check = |stream, cause, count, expected: &[u32]| {
        let found = find_refused(&index, &Part::whole(&batch), &[refusal(stream, cause, count)]);
        let entries: Vec<_> = found.iter().map(|c| c.id.entry).collect();
        assert_eq!(entries, expected);
        assert!(found.iter().all(|c| c.id.stream == stream));
    };
    check(0, Cause::TooOld { second: 10 }, 2, &[0, 1]);
    check(0, Cause::TooOld { second: 10 }, 1, &[0]);
    check(0, Cause::TooOld { second: 12 }, 1, &[]);
    check(1, Cause::TooNew { second: 99 }, 1, &[2]);
    check(0, Cause::LineTooLong { len: 4 }, 1, &[2]);
    check(1, Cause::Labels, 1, &[0, 1, 2]);
    check(0, Cause::MetadataDisallowed, 1, &[]);
    let behind = |ignored, total, listed_ns, oldest_second| Cause::TooFarBehind {
        ignored,
        total,
        listed_ns,
        oldest_second,
    };
    check(0, behind(2, 3, vec![], 0), 2, &[0, 1]);
    check(0, behind(1, 2, vec![10 * s], 11), 1, &[0, 1]);
    check(5, Cause::Labels, 1, &[]);
}

#[test]
fn a_whole_part_is_the_batch_itself() {
    let batch = batch(&[(0, 1, b"a"), (1, 2, b"b"), (0, 3, b"c")]);
    let index = Index::new(&batch);
    let mut part = Part::whole(&batch);
    assert!(part.is_whole(&batch));
    let raw_bytes = batch.raw_bytes;
    assert_eq!(part.body(&index), (&batch.body[..], raw_bytes));
}

proptest! {
    #[test]
    fn cutting_loses_and_doubles_nothing(
        list in proptest::collection::vec((0usize..4, 0i64..50), 1..60),
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..4), 0..30),
        refused in proptest::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let lines: Vec<Vec<u8>> =
            (0..list.len()).map(|i| format!("line {i}").into_bytes()).collect();
        let entries: Vec<_> =
            list.iter().zip(&lines).map(|((s, t), line)| (*s, *t, &line[..])).collect();
        let batch = batch(&entries);
        let index = Index::new(&batch);
        let mut parts = vec![Part::whole(&batch)];
        for (at, how) in cuts {
            let at = at.index(parts.len());
            let part = parts.remove(at);
            let cut = match how {
                0 => part.halves(&index, false).map(|(a, b)| vec![a, b]),
                1 => part.halves_by_stream().map(|(a, b)| vec![a, b]),
                2 => Ok(part.by_stream()),
                _ => Ok(vec![Part::joined([part])]),
            };
            let cut = cut.unwrap_or_else(|part| vec![*part]);
            prop_assert!(cut.iter().all(|p| !p.is_empty()));
            parts.splice(at..at, cut);
        }
        let all: Vec<EntryId> = Part::whole(&batch).ids().collect();
        let refused: BTreeSet<_> = refused.iter().map(|i| all[i.index(all.len())]).collect();
        let parts: Vec<_> = parts.into_iter().map(|p| p.without(&refused)).collect();
        let mut sent = Vec::new();
        for mut part in parts.into_iter().filter(|p| !p.is_empty()) {
            let count = part.count();
            let decoded = decode(part.body(&index).0);
            prop_assert_eq!(decoded.iter().map(|(_, lines)| lines.len()).sum::<usize>(), count);
            sent.extend(decoded.into_iter().flat_map(|(_, lines)| lines));
        }
        let mut expected: Vec<_> = all
            .iter()
            .filter(|id| !refused.contains(id))
            .map(|id| index.entry(*id).line.to_vec())
            .collect();
        prop_assert_eq!(sent.len() + refused.len(), batch.entries as usize);
        sent.sort();
        expected.sort();
        prop_assert_eq!(sent, expected);
    }
}
