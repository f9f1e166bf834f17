//! Tests of the store: what is put is found again, bounds hold, faults lose nothing.

use serde_json::Value;

use super::*;
use crate::disk::HostDisk;
use crate::record::StreamLabels;

const HOUR_NS: i64 = 3_600_000_000_000;

fn store(dir: &Path, bytes_max: u64, age_max: Duration) -> DeadLetters {
    let settings = Settings { path: dir.join(DIRECTORY), bytes_max, age_max };
    DeadLetters::new(settings, Arc::new(HostDisk), Arc::default(), Arc::default())
}

fn put(store: &DeadLetters, line: &[u8], now_ns: i64) {
    let labels = StreamLabels::new([("job".to_owned(), "x".to_owned())]);
    let letter = DeadLetter {
        labels: &labels,
        time_ns: 1,
        line,
        metadata: &[("id", "7")],
        cause: "too_old",
        reason: "entry \"too old\"",
        status: 400,
        sink: "loki",
        first_failure_ns: 2,
        attempts: 1,
        sources: &[],
    };
    store.put(&[letter], now_ns).unwrap();
}

fn lines(dir: &Path) -> Vec<Value> {
    let mut found = Vec::new();
    for path in HostDisk.list(&dir.join(DIRECTORY)).unwrap() {
        let text = std::fs::read_to_string(path).unwrap();
        found.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
    }
    found
}

#[test]
fn a_letter_has_all_that_is_known_of_the_line() {
    let dir = tempfile::tempdir().unwrap();
    put(&store(dir.path(), 1 << 20, Duration::from_secs(3600)), b"text", 5);
    let found = lines(dir.path());
    assert_eq!(found.len(), 1);
    let row = &found[0];
    assert_eq!(row["line"], "text");
    assert_eq!(row["labels"]["job"], "x");
    assert_eq!(row["metadata"]["id"], "7");
    assert_eq!(row["reason"], "entry \"too old\"");
    assert_eq!((row["status"].as_u64(), row["time_ns"].as_i64()), (Some(400), Some(1)));
    assert!(row.get("cut_from_bytes").is_none());
}

#[test]
fn a_line_over_the_bound_is_cut_at_a_character_and_marked() {
    let dir = tempfile::tempdir().unwrap();
    let line = "é".repeat(limits::DEAD_LETTER_LINE_BYTES_MAX);
    put(&store(dir.path(), 64 << 20, Duration::from_secs(3600)), line.as_bytes(), 5);
    let found = lines(dir.path());
    assert_eq!(found[0]["line"].as_str().unwrap().len(), limits::DEAD_LETTER_LINE_BYTES_MAX);
    assert_eq!(found[0]["cut_from_bytes"].as_u64(), Some(line.len() as u64));
}

#[test]
fn a_torn_tail_is_cut_and_the_rest_is_kept_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    put(&store(dir.path(), 1 << 20, Duration::from_secs(3600)), b"first", 5);
    let path = HostDisk.list(&dir.path().join(DIRECTORY)).unwrap().remove(0);
    let mut torn = std::fs::read(&path).unwrap();
    torn.extend_from_slice(b"{\"time\":\"20");
    std::fs::write(&path, torn).unwrap();
    put(&store(dir.path(), 1 << 20, Duration::from_secs(3600)), b"second", 6);
    let found = lines(dir.path());
    let texts: Vec<_> = found.iter().map(|row| row["line"].as_str().unwrap()).collect();
    assert_eq!(texts, ["first", "second"]);
}

#[test]
fn the_oldest_segments_leave_when_the_store_is_too_large() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 40_000, Duration::from_secs(3600));
    for i in 0..100 {
        put(&store, &[b'x'; 1000], i);
    }
    assert!(store.bytes() <= 40_000, "{}", store.bytes());
    let left = lines(dir.path()).len();
    assert!((20..40).contains(&left), "{left}");
    let evicted = super::count_evicted(&store.metrics);
    assert_eq!(evicted, 100 - left as u64);
}

#[test]
fn segments_leave_by_age_once_all_of_them_is_old() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 1 << 20, Duration::from_secs(8 * 3600));
    for hour in 0..20 {
        put(&store, b"x", hour * HOUR_NS);
    }
    let left = lines(dir.path()).len();
    assert!((8..=10).contains(&left), "{left}");
}

#[test]
fn a_store_that_cannot_be_written_says_so_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(DIRECTORY), "a file in the way").unwrap();
    let store = store(dir.path(), 1 << 20, Duration::from_secs(3600));
    let error = store.put(&[], 1).unwrap_err();
    assert!(error.to_string().starts_with("dead letters in "), "{error}");
    assert_eq!(store.health.worst(), Level::Unhealthy);
    std::fs::remove_file(dir.path().join(DIRECTORY)).unwrap();
    put(&store, b"x", 1);
    assert_eq!(store.health.worst(), Level::Healthy);
}
