//! Decodes the body of a push: snappy protobuf or JSON, with or without gzip or deflate.
//!
//! An error here means that nothing of the request is stored. What a stream or an entry may
//! contain is decided in rules.rs.

use super::http::Request;
use super::labels;
use super::limits::Limits;
use serde::Deserialize;
use serde_json::Value;
use std::io::Read;

/// A refused request: the status and the body, without its final newline.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub status: u16,
    pub body: String,
}

pub fn refuse(status: u16, body: impl Into<String>) -> Refusal {
    Refusal { status, body: body.into() }
}

/// A time as sent. It may lie outside of what fits in 64-bit nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub seconds: i64,
    pub nanos: u32,
}

impl Stamp {
    /// Go's zero time, which stands for a missing one.
    const MISSING: Stamp = Stamp { seconds: -62_135_596_800, nanos: 0 };

    pub fn from_ns(ns: i64) -> Stamp {
        Stamp { seconds: ns.div_euclid(1_000_000_000), nanos: ns.rem_euclid(1_000_000_000) as u32 }
    }

    /// Nanoseconds since 1970, wrapping like Go's.
    pub fn ns(self) -> i64 {
        self.seconds.wrapping_mul(1_000_000_000).wrapping_add(i64::from(self.nanos))
    }
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub stamp: Stamp,
    pub line: Vec<u8>,
    pub metadata: Vec<(String, String)>,
}

impl Entry {
    /// What the rate limits charge for it.
    pub fn charged_bytes(&self) -> usize {
        self.line.len() + self.metadata_bytes()
    }

    pub fn metadata_bytes(&self) -> usize {
        self.metadata.iter().map(|(n, v)| n.len() + v.len()).sum()
    }
}

/// A stream of a request. The label string is not parsed yet.
#[derive(Debug)]
pub struct PushStream {
    pub labels: Vec<u8>,
    pub entries: Vec<Entry>,
}

/// Decodes the body according to Content-Type, Content-Encoding and the path.
pub fn decode(request: &Request, limits: &Limits) -> Result<Vec<PushStream>, Refusal> {
    let json = is_json(request)?;
    let body = unwrap_encoding(request, json, limits)?;
    match (json, request.path == "/api/prom/push") {
        (false, _) => protobuf(&unsnap(&body, limits)?).map_err(|what| refuse(400, what)),
        (true, false) => json_push(&body).map_err(|what| refuse(400, what)),
        (true, true) => legacy_json_push(&body).map_err(|what| refuse(400, what)),
    }
}

/// `application/json`, in any case and with parameters, is JSON; any other type is protobuf.
pub fn is_json(request: &Request) -> Result<bool, Refusal> {
    let full = request.header("content-type").unwrap_or("");
    let kind = full.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if kind.is_empty() {
        return Err(refuse(400, "mime: no media type"));
    }
    if kind.ends_with('/') {
        return Err(refuse(400, "mime: expected token after slash"));
    }
    Ok(kind == "application/json")
}

fn unwrap_encoding(request: &Request, json: bool, limits: &Limits) -> Result<Vec<u8>, Refusal> {
    let too_large = |n: usize, max: usize, what: &str| {
        let text = format!("request body too large: {what} size too large than max ({n} vs {max})");
        refuse(413, text)
    };
    let body = &request.body;
    if body.len() > limits.max_recv_msg_size {
        return Err(too_large(limits.max_recv_msg_size + 1, limits.max_recv_msg_size, "message"));
    }
    let max = limits.max_decompressed_size;
    let inflate = |source: &mut dyn Read, bad: &str| {
        let mut out = Vec::new();
        source.take(max as u64 + 1).read_to_end(&mut out).map_err(|_| refuse(400, bad))?;
        if out.len() > max {
            return Err(too_large(max + 1, max, "decompressed message"));
        }
        Ok(out)
    };
    match request.header("content-encoding").unwrap_or("") {
        "" | "snappy" => Ok(body.clone()),
        "gzip" => inflate(&mut flate2::read::GzDecoder::new(&body[..]), "gzip: invalid header"),
        "deflate" => inflate(
            &mut flate2::read::DeflateDecoder::new(&body[..]),
            if json { "EOF" } else { "flate: corrupt input" },
        ),
        other => Err(refuse(400, format!("Content-Encoding \"{other}\" not supported"))),
    }
}

fn unsnap(body: &[u8], limits: &Limits) -> Result<Vec<u8>, Refusal> {
    let corrupt = |_| refuse(400, "snappy: corrupt input");
    let declared = snap::raw::decompress_len(body).map_err(corrupt)?;
    if body.is_empty() {
        return Err(refuse(400, "snappy: corrupt input"));
    }
    let max = limits.max_decompressed_size;
    if declared > max {
        return Err(refuse(
            413,
            format!(
                "request body too large: decompressed message size too large than max \
                 ({declared} vs {max})"
            ),
        ));
    }
    snap::raw::Decoder::new().decompress_vec(body).map_err(corrupt)
}

// ------------------------------------------------------------------ protobuf

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(b: &[u8], at: &mut usize) -> Result<u64, String> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let c = *b.get(*at).ok_or("unexpected EOF")?;
        *at += 1;
        value |= u64::from(c & 0x7f) << shift;
        if c & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("proto: integer overflow".into())
}

/// Calls `found` for each field of a message that is a varint or has a length; skips the others.
fn fields<'a>(
    b: &'a [u8],
    mut found: impl FnMut(u64, Field<'a>) -> Result<(), String>,
) -> Result<(), String> {
    let mut at = 0;
    let slice = |at: &mut usize, n: usize| {
        let end = at.checked_add(n).filter(|end| *end <= b.len()).ok_or("unexpected EOF")?;
        Ok::<_, String>(&b[std::mem::replace(at, end)..end])
    };
    while at < b.len() {
        let key = varint(b, &mut at)?;
        if key >> 3 == 0 {
            return Err(format!("proto: PushRequest: illegal tag 0 (wire type {})", key & 7));
        }
        match key & 7 {
            0 => found(key >> 3, Field::Number(varint(b, &mut at)?))?,
            1 => drop(slice(&mut at, 8)?),
            2 => {
                let n = varint(b, &mut at)?;
                let n = usize::try_from(n).map_err(|_| "unexpected EOF")?;
                found(key >> 3, Field::Bytes(slice(&mut at, n)?))?;
            }
            5 => drop(slice(&mut at, 4)?),
            kind => return Err(format!("proto: illegal wireType {kind}")),
        }
    }
    Ok(())
}

fn protobuf(b: &[u8]) -> Result<Vec<PushStream>, String> {
    let mut streams = Vec::new();
    fields(b, |number, field| {
        match (number, field) {
            (1, Field::Bytes(b)) => streams.push(protobuf_stream(b)?),
            (1, _) => return Err("proto: wrong wireType = 0 for field Streams".into()),
            _ => {}
        }
        Ok(())
    })?;
    Ok(streams)
}

fn protobuf_stream(b: &[u8]) -> Result<PushStream, String> {
    let mut stream = PushStream { labels: Vec::new(), entries: Vec::new() };
    fields(b, |number, field| {
        match (number, field) {
            (1, Field::Bytes(b)) => stream.labels = b.to_vec(),
            (2, Field::Bytes(b)) => stream.entries.push(protobuf_entry(b)?),
            (1 | 2, _) => return Err("proto: wrong wireType = 0 for field of Stream".into()),
            _ => {}
        }
        Ok(())
    })?;
    Ok(stream)
}

fn protobuf_entry(b: &[u8]) -> Result<Entry, String> {
    let mut entry = Entry { stamp: Stamp::MISSING, line: Vec::new(), metadata: Vec::new() };
    fields(b, |number, field| {
        match (number, field) {
            (1, Field::Bytes(b)) => entry.stamp = protobuf_stamp(b)?,
            (2, Field::Bytes(b)) => entry.line = b.to_vec(),
            (3, Field::Bytes(b)) => {
                let mut pair = (String::new(), String::new());
                fields(b, |number, field| {
                    match (number, field) {
                        (1, Field::Bytes(b)) => pair.0 = go_text(b, ' '),
                        (2, Field::Bytes(b)) => pair.1 = go_text(b, ' '),
                        _ => {}
                    }
                    Ok(())
                })?;
                entry.metadata.push(pair);
            }
            (1..=3, _) => return Err("proto: wrong wireType = 0 for field of Entry".into()),
            _ => {}
        }
        Ok(())
    })?;
    Ok(entry)
}

fn protobuf_stamp(b: &[u8]) -> Result<Stamp, String> {
    let (mut seconds, mut nanos) = (0, 0);
    fields(b, |number, field| {
        match (number, field) {
            (1, Field::Number(n)) => seconds = n as i64,
            (2, Field::Number(n)) => nanos = n as i64,
            _ => {}
        }
        Ok(())
    })?;
    // The range of the protobuf Timestamp: years 1 to 9999.
    if !(-62_135_596_800..253_402_300_800).contains(&seconds)
        || !(0..1_000_000_000).contains(&nanos)
    {
        return Err(format!(
            "timestamp: &types.Timestamp{{Seconds: {seconds},\nNanos: {nanos},\n}} out of range"
        ));
    }
    Ok(Stamp { seconds, nanos: nanos as u32 })
}

/// Text of bytes that may be no UTF-8; each bad byte becomes `stand_in`, as Go does it.
pub fn go_text(bytes: &[u8], stand_in: char) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|_| stand_in));
    }
    out
}

// ---------------------------------------------------------------------- JSON

/// The streams of a JSON body; what follows the first value is ignored.
fn json_streams(body: &[u8]) -> Result<Vec<Value>, String> {
    let text = go_text(body, '\u{fffd}');
    let mut reader = serde_json::Deserializer::from_str(&text);
    match Value::deserialize(&mut reader).map_err(|e| format!("readObjectStart: {e}"))? {
        Value::Null => Ok(Vec::new()),
        Value::Object(mut object) => match object.remove("streams") {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(streams)) => Ok(streams),
            Some(other) => Err(format!("loghttp.PushRequest.Streams: expect [, found {other}")),
        },
        other => Err(format!("readObjectStart: expect {{ or n, but found {other}")),
    }
}

fn json_push(body: &[u8]) -> Result<Vec<PushStream>, String> {
    let mut out = Vec::new();
    for stream in json_streams(body)? {
        let mut pairs = labels::Labels::new();
        for (name, value) in stream["stream"].as_object().into_iter().flatten() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            pairs.push((name.clone(), value));
        }
        let mut entries = Vec::new();
        for value in stream["values"].as_array().into_iter().flatten() {
            entries.push(json_entry(value).ok_or_else(|| {
                format!("loghttp.PushRequest.Streams: unmarshalerDecoder: bad value {value}")
            })?);
        }
        out.push(PushStream { labels: labels::display(&pairs).into_bytes(), entries });
    }
    Ok(out)
}

fn json_entry(value: &Value) -> Option<Entry> {
    let value = value.as_array()?;
    let stamp = Stamp::from_ns(value.first()?.as_str()?.parse().ok()?);
    let line = match value.get(1) {
        None => Vec::new(),
        Some(line) => line.as_str()?.as_bytes().to_vec(),
    };
    let mut metadata = Vec::new();
    if let Some(object) = value.get(2) {
        for (name, value) in object.as_object()? {
            metadata.push((name.clone(), value.as_str()?.to_owned()));
        }
    }
    Some(Entry { stamp, line, metadata })
}

/// The JSON form of `/api/prom/push`: label strings, times in RFC 3339.
fn legacy_json_push(body: &[u8]) -> Result<Vec<PushStream>, String> {
    let rfc3339 = &time::format_description::well_known::Rfc3339;
    let mut out = Vec::new();
    for stream in json_streams(body)? {
        let mut entries = Vec::new();
        for entry in stream["entries"].as_array().into_iter().flatten() {
            let text = entry["ts"].as_str().unwrap_or("");
            let when = time::OffsetDateTime::parse(text, rfc3339).map_err(|e| e.to_string())?;
            let line = entry["line"].as_str().unwrap_or("").as_bytes().to_vec();
            let stamp = Stamp { seconds: when.unix_timestamp(), nanos: when.nanosecond() };
            entries.push(Entry { stamp, line, metadata: Vec::new() });
        }
        let labels = stream["labels"].as_str().unwrap_or("").as_bytes().to_vec();
        out.push(PushStream { labels, entries });
    }
    Ok(out)
}

#[test]
fn a_protobuf_push_is_read_field_by_field_and_a_torn_one_refused() {
    let stamp = [&[0x08, 5, 0x10, 7][..]].concat();
    let entry =
        [&[0x0a, stamp.len() as u8][..], &stamp, b"\x12\x02hi\x1a\x06\x0a\x01k\x12\x01v"].concat();
    let stream = [b"\x0a\x02{}\x12", &[entry.len() as u8][..], &entry].concat();
    let push = [b"\x0a", &[stream.len() as u8][..], &stream].concat();
    let read = protobuf(&push).unwrap();
    assert_eq!(read[0].labels, b"{}");
    let e = &read[0].entries[0];
    assert_eq!((e.stamp.ns(), &e.line[..]), (5_000_000_007, &b"hi"[..]));
    assert_eq!(e.metadata, [("k".to_owned(), "v".to_owned())]);
    assert!(protobuf(&push[..push.len() - 1]).is_err());
    assert_eq!(protobuf_entry(b"\x12\x01x").unwrap().stamp, Stamp::MISSING);
}
