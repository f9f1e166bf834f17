//! Newline-delimited JSON, the format of `local_file`: one object a record.
//!
//! `{"time":"2026-11-25T01:02:03.000000004Z","labels":{"job":"x"},"line":"text"}`, with
//! `"metadata":{...}` where there is any. Pure.

use std::io::Write as _;

use time::OffsetDateTime;

/// Appends the part of an object that follows its labels: time, line, metadata. The labels are
/// known per stream and are written by [`put_head`].
pub fn put_record(
    out: &mut Vec<u8>,
    head: &str,
    timestamp_ns: i64,
    line: &[u8],
    metadata: &[(&str, &str)],
) {
    out.extend_from_slice(b"{\"time\":\"");
    put_time(out, timestamp_ns);
    out.extend_from_slice(b"\",");
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(b",\"line\":");
    put_string(out, &String::from_utf8_lossy(line));
    for (i, (name, value)) in metadata.iter().enumerate() {
        out.extend_from_slice(if i == 0 { b",\"metadata\":{" } else { b"," });
        put_string(out, name);
        out.push(b':');
        put_string(out, value);
    }
    if !metadata.is_empty() {
        out.push(b'}');
    }
    out.extend_from_slice(b"}\n");
}

/// The `"labels":{...}` member of a stream's objects.
pub fn head(pairs: &[(String, String)]) -> String {
    let mut out = b"\"labels\":{".to_vec();
    for (i, (name, value)) in pairs.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        put_string(&mut out, name);
        out.push(b':');
        put_string(&mut out, value);
    }
    out.push(b'}');
    String::from_utf8(out).unwrap_or_default()
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    // Writing to a Vec cannot fail, and a str always serializes.
    let _ = serde_json::to_writer(out, text);
}

/// RFC 3339 in UTC with nine digits, whatever the process's time zone.
pub fn put_time(out: &mut Vec<u8>, timestamp_ns: i64) {
    let seconds = timestamp_ns.div_euclid(1_000_000_000);
    let nanos = timestamp_ns.rem_euclid(1_000_000_000);
    let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let _ = write!(
        out,
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{nanos:09}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_json_object_on_one_line() {
        let head = head(&[("a".into(), "x\"y".into())]);
        let mut out = Vec::new();
        put_record(&mut out, &head, 1_000_000_002, b"li\"ne\n\xff", &[("id", "7")]);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "{\"time\":\"1970-01-01T00:00:01.000000002Z\",\"labels\":{\"a\":\"x\\\"y\"},\
             \"line\":\"li\\\"ne\\n\u{fffd}\",\"metadata\":{\"id\":\"7\"}}\n"
        );
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
    }
}
