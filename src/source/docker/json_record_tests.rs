//! Tests of the json-file record decoder: tables, the recorded files, serde_json as a model.
//! Pure; run by `cargo test`.

use proptest::prelude::*;

use super::*;

const TIME: &str = r#""stream":"stdout","time":"1970-01-01T00:00:01Z"}"#;

fn recording(name: &str) -> Vec<u8> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/docker/recordings/");
    std::fs::read(format!("{dir}{name}")).unwrap()
}

fn check(json_text: &str, log: &[u8], has_newline: bool) {
    let line = format!(r#"{{"log":"{json_text}",{TIME}"#);
    let mut scratch = Vec::new();
    let record = decode(line.as_bytes(), &mut scratch).unwrap_or_else(|e| panic!("{line}: {e}"));
    assert_eq!(record.log, log, "{line}");
    assert_eq!(record.has_newline, has_newline, "{line}");
    assert_eq!(record.time_ns, 1_000_000_000);
}

fn check_refused(line: &[u8], error: JsonRecordError) {
    let mut scratch = Vec::new();
    let text = String::from_utf8_lossy(line).into_owned();
    assert_eq!(decode(line, &mut scratch), Err(error), "{text}");
}

#[test]
fn escapes_are_resolved() {
    check("plain\\n", b"plain", true);
    check("piece", b"piece", false);
    check("", b"", false);
    check("\\n", b"", true);
    check("a\\nb\\n", b"a\nb", true);
    check(r#"q\" b\\ s\/ t\t r\r\n"#, b"q\" b\\ s/ t\t r\r", true);
    check(r"\u0000\u0041\u00e9\u20ac\n", "\0A\u{e9}\u{20ac}".as_bytes(), true);
    check(r"\ud83d\ude00", "\u{1f600}".as_bytes(), false);
    check(r"ends in backslash\\", b"ends in backslash\\", false);
}

#[test]
fn a_lone_surrogate_becomes_the_replacement_character() {
    check(r"\ud83d", "\u{fffd}".as_bytes(), false);
    check(r"\ude00x", "\u{fffd}x".as_bytes(), false);
    check(r"\ud83d\u0041", "\u{fffd}A".as_bytes(), false);
    check(r"\ud83d\ud83d\ude00", "\u{fffd}\u{1f600}".as_bytes(), false);
}

#[test]
fn keys_come_in_any_order_and_unknown_ones_are_skipped() {
    let line = br#" { "time" : "1970-01-01T00:00:00.000000007Z", "x":[1,{"y":"]"}], "n":null,
        "stream":"stderr", "attrs":{"tag":"a}b"}, "log":"l\n" } "#;
    let mut scratch = Vec::new();
    let record = decode(line, &mut scratch).unwrap();
    assert_eq!(record.log, b"l");
    assert_eq!((record.time_ns, record.stream), (7, StdStream::Stderr));
    assert_eq!(record.attrs, Some(&br#"{"tag":"a}b"}"#[..]));
}

#[test]
fn damage_is_an_error() {
    use JsonRecordError::{Missing, Nul, Syntax};
    check_refused(b"", Syntax { at: 0 });
    check_refused(b"\0\0\0{\"log\":\"x\"}", Nul { at: 0 });
    check_refused(br#"{"log":"torn"#, Syntax { at: 12 });
    check_refused(br#"{"log":"torn{"log":"x\n","#, Syntax { at: 14 });
    check_refused(br#"{}"#, Syntax { at: 1 });
    check_refused(br#"{"log":"x\n"}"#, Missing { key: "stream" });
    check_refused(
        br#"{"log":"x","stream":"stdin","time":"1970-01-01T00:00:00Z"}"#,
        Missing { key: "stream" },
    );
    check_refused(br#"{"log":"x","stream":"stdout","time":"yesterday"}"#, Missing { key: "time" });
    check_refused(
        br#"{"log":"\q","stream":"stdout","time":"1970-01-01T00:00:00Z"}"#,
        Syntax { at: 8 },
    );
    check_refused(
        b"{\"log\":\"a\0\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:00Z\"}",
        Nul { at: 9 },
    );
    check_refused(
        br#"{"log":"x","stream":"stdout","time":"1970-01-01T00:00:00Z"} junk"#,
        Syntax { at: 60 },
    );
}

#[test]
fn a_good_record_behind_damage_is_found() {
    let good = format!(r#"{{"log":"good\n",{TIME}"#);
    for damage in ["\0\0\0\0", r#"{"log":"torn"#, r#"{"log":"a","stream":"st"#] {
        let line = format!("{damage}{good}");
        assert!(decode(line.as_bytes(), &mut Vec::new()).is_err());
        assert_eq!(recover(line.as_bytes()), Some(good.as_bytes()));
    }
    assert_eq!(recover(good.as_bytes()), None);
    assert_eq!(recover(b"\0\0 no record"), None);
}

#[test]
fn the_recorded_file_of_odd_bytes_is_what_the_api_sends() {
    let file = recording("07-bytes-json-file.file");
    let http = recording("07-bytes-json-file.http");
    let mut expected = Vec::new();
    let mut scratch = Vec::new();
    for line in file.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        let record = decode(line, &mut scratch).unwrap();
        let newline: &[u8] = if record.has_newline { b"\n" } else { b"" };
        let payload = [record.log, newline].concat();
        expected.extend_from_slice(&[1, 0, 0, 0]);
        expected.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        expected.extend_from_slice(&payload);
    }
    let mut body = Vec::new();
    let mut rest = &http[memchr::memmem::find(&http, b"\r\n\r\n").unwrap() + 4..];
    while let Some(end) = memchr::memmem::find(rest, b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 4 + size..];
        if size == 0 {
            break;
        }
    }
    assert_eq!(body, expected);
}

#[test]
fn the_recorded_shapes_are_decoded() {
    let mut scratch = Vec::new();
    for name in ["10-json-file-shape.file", "10-json-file-attrs.file"] {
        let file = recording(name);
        for line in file.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            let record = decode(line, &mut scratch).unwrap();
            assert!(record.has_newline && !record.log.is_empty());
            assert_eq!(record.attrs.is_some(), name.contains("attrs"));
        }
    }
}

#[test]
fn the_record_behind_a_hole_of_nuls_is_recovered() {
    let file = recording("10-json-file-truncated-by-hand.file");
    let first = file.split(|b| *b == b'\n').next().unwrap();
    let mut scratch = Vec::new();
    assert!(matches!(decode(first, &mut scratch), Err(JsonRecordError::Nul { .. })));
    let good = recover(first).unwrap();
    assert!(decode(good, &mut scratch).unwrap().has_newline);
}

proptest! {
    #[test]
    fn any_text_that_serde_json_writes_is_read_back(text in ".*", stderr: bool, newline: bool) {
        let stream = if stderr { "stderr" } else { "stdout" };
        let stored = if newline { format!("{text}\n") } else { text.clone() };
        let time = "1970-01-01T00:00:00Z";
        let line = serde_json::json!({"log": stored, "stream": stream, "time": time}).to_string();
        let mut scratch = Vec::new();
        let record = decode(line.as_bytes(), &mut scratch).unwrap();
        prop_assert_eq!(record.has_newline, stored.ends_with('\n'));
        prop_assert_eq!(record.log, stored.strip_suffix('\n').unwrap_or(&stored).as_bytes());
    }

    #[test]
    fn what_is_accepted_is_what_serde_json_accepts(
        text in r#"(\\[nrt"\\/bfu]|\\u[0-9a-f]{4}|\\ud[89a-f][0-9a-f]{2}|[a-z]|é)*"#,
    ) {
        let line = format!(r#"{{"log":"{text}",{TIME}"#);
        let mut scratch = Vec::new();
        let ours = decode(line.as_bytes(), &mut scratch);
        if let Ok(model) = serde_json::from_str::<serde_json::Value>(&line) {
            let model = model["log"].as_str().unwrap().to_owned();
            let ours = ours.unwrap();
            prop_assert_eq!(ours.log, model.strip_suffix('\n').unwrap_or(&model).as_bytes());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes, &mut Vec::new());
        let _ = recover(&bytes);
    }

    #[test]
    fn a_cut_or_damaged_record_never_panics(cut in 0_usize..80, at in 0_usize..80, byte: u8) {
        let mut line = format!(r#"{{"log":"a\u00e9\n","attrs":{{"a":[1]}},{TIME}"#).into_bytes();
        let last = line.len() - 1;
        line[at.min(last)] = byte;
        line.truncate(cut);
        let _ = decode(&line, &mut Vec::new());
    }
}
