//! Loki's push request as protobuf: the only file that knows the wire format.
//!
//! Pure: no clock, no I/O. Message layout from Loki's pkg/push/push.proto:
//! `PushRequest{1: StreamAdapter{1: labels, 2: EntryAdapter{1: Timestamp{1: seconds,
//! 2: nanos}, 2: line, 3: LabelPairAdapter{1: name, 2: value}}}}`.

use std::ops::Range;

const PUSH_STREAM: u8 = 0x0a;
const STREAM_LABELS: u8 = 0x0a;
const STREAM_ENTRY: u8 = 0x12;
const ENTRY_TIMESTAMP: u8 = 0x0a;
const ENTRY_LINE: u8 = 0x12;
const ENTRY_METADATA: u8 = 0x1a;
const TIME_SECONDS: u8 = 0x08;
const TIME_NANOS: u8 = 0x10;
const PAIR_NAME: u8 = 0x0a;
const PAIR_VALUE: u8 = 0x12;

/// Longest varint of a 64-bit number.
const VARINT_BYTES_MAX: usize = 10;

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

const fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Reads a varint at `at`; None when it is cut short or too long.
fn get_varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..VARINT_BYTES_MAX * 7).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f).checked_shl(shift as u32)?;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn pair_len(name: &str, value: &str) -> usize {
    2 + varint_len(name.len() as u64) + name.len() + varint_len(value.len() as u64) + value.len()
}

/// Appends one entry, with its tag and length, to a stream's buffer.
pub fn put_entry(out: &mut Vec<u8>, timestamp_ns: i64, line: &[u8], metadata: &[(&str, &str)]) {
    let seconds = timestamp_ns.div_euclid(1_000_000_000) as u64;
    let nanos = timestamp_ns.rem_euclid(1_000_000_000) as u64;
    let time_len = 2 + varint_len(seconds) + varint_len(nanos);
    let mut body_len = 2 + time_len + 1 + varint_len(line.len() as u64) + line.len();
    for (name, value) in metadata {
        let pair = pair_len(name, value);
        body_len += 1 + varint_len(pair as u64) + pair;
    }
    out.reserve(body_len + 2 + VARINT_BYTES_MAX);
    out.push(STREAM_ENTRY);
    put_varint(out, body_len as u64);
    out.push(ENTRY_TIMESTAMP);
    out.push(time_len as u8);
    out.push(TIME_SECONDS);
    put_varint(out, seconds);
    out.push(TIME_NANOS);
    put_varint(out, nanos);
    out.push(ENTRY_LINE);
    put_varint(out, line.len() as u64);
    out.extend_from_slice(line);
    for (name, value) in metadata {
        out.push(ENTRY_METADATA);
        put_varint(out, pair_len(name, value) as u64);
        out.push(PAIR_NAME);
        put_varint(out, name.len() as u64);
        out.extend_from_slice(name.as_bytes());
        out.push(PAIR_VALUE);
        put_varint(out, value.len() as u64);
        out.extend_from_slice(value.as_bytes());
    }
}

/// Appends one stream (labels and the entries already encoded) to a request, and returns where
/// it lies.
pub fn put_stream(out: &mut Vec<u8>, labels: &str, entries: &[u8]) -> Range<u32> {
    let start = out.len() as u32;
    let len = 1 + varint_len(labels.len() as u64) + labels.len() + entries.len();
    out.push(PUSH_STREAM);
    put_varint(out, len as u64);
    out.push(STREAM_LABELS);
    put_varint(out, labels.len() as u64);
    out.extend_from_slice(labels.as_bytes());
    out.extend_from_slice(entries);
    start..out.len() as u32
}

/// One entry cut out of an encoded stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntrySlice<'a> {
    /// With tag and length: may be appended to another stream's entries as it is.
    pub raw: &'a [u8],
    pub timestamp_ns: i64,
    pub line: &'a [u8],
    /// Encoded metadata pairs, empty when there are none.
    pub metadata: &'a [u8],
}

/// The label string and the encoded entries of one stream span.
pub fn split_stream(span: &[u8]) -> Option<(&str, &[u8])> {
    let mut at = 0;
    (*span.first()? == PUSH_STREAM).then_some(())?;
    at += 1;
    let len = get_varint(span, &mut at)? as usize;
    let body = span.get(at..at.checked_add(len)?)?;
    (*body.first()? == STREAM_LABELS).then_some(())?;
    let mut at = 1;
    let len = get_varint(body, &mut at)? as usize;
    let end = at.checked_add(len)?;
    Some((std::str::from_utf8(body.get(at..end)?).ok()?, body.get(end..)?))
}

/// Walks encoded entries. Ends early on bytes that [`put_entry`] does not write.
pub fn entries(encoded: &[u8]) -> impl Iterator<Item = EntrySlice<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let slice = entry_at(encoded, at)?;
        at += slice.raw.len();
        Some(slice)
    })
}

fn entry_at(encoded: &[u8], start: usize) -> Option<EntrySlice<'_>> {
    let mut at = start;
    (*encoded.get(at)? == STREAM_ENTRY).then_some(())?;
    at += 1;
    let len = get_varint(encoded, &mut at)? as usize;
    let end = at.checked_add(len)?;
    let body = encoded.get(at..end)?;
    let raw = encoded.get(start..end)?;
    let mut at = 2;
    (*body.first()? == ENTRY_TIMESTAMP && *body.get(2)? == TIME_SECONDS).then_some(())?;
    at += 1;
    let seconds = get_varint(body, &mut at)? as i64;
    (*body.get(at)? == TIME_NANOS).then_some(())?;
    at += 1;
    let nanos = get_varint(body, &mut at)? as i64;
    (*body.get(at)? == ENTRY_LINE).then_some(())?;
    at += 1;
    let line_len = get_varint(body, &mut at)? as usize;
    let line_end = at.checked_add(line_len)?;
    Some(EntrySlice {
        raw,
        timestamp_ns: seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos),
        line: body.get(at..line_end)?,
        metadata: body.get(line_end..)?,
    })
}

/// Decodes the metadata pairs of an entry.
pub fn metadata_pairs(encoded: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        (*encoded.get(at)? == ENTRY_METADATA).then_some(())?;
        at += 1;
        let len = get_varint(encoded, &mut at)? as usize;
        let end = at.checked_add(len)?;
        let pair = encoded.get(at..end)?;
        at = end;
        let mut p = 1;
        let name_len = get_varint(pair, &mut p)? as usize;
        let name = pair.get(p..p.checked_add(name_len)?)?;
        p += name_len + 1;
        let value_len = get_varint(pair, &mut p)? as usize;
        let value = pair.get(p..p.checked_add(value_len)?)?;
        Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_entry_is_encoded_as_protobuf_has_it() {
        let mut out = Vec::new();
        put_entry(&mut out, 1_000_000_002, b"hi", &[("k", "v")]);
        let entry = [
            0x12, 0x12, // entry, 18 bytes
            0x0a, 0x04, 0x08, 0x01, 0x10, 0x02, // 1 s, 2 ns
            0x12, 0x02, b'h', b'i', // line
            0x1a, 0x06, 0x0a, 0x01, b'k', 0x12, 0x01, b'v', // k=v
        ];
        assert_eq!(out, entry);
        let mut request = Vec::new();
        let span = put_stream(&mut request, "{}", &out);
        assert_eq!(span, 0..request.len() as u32);
        assert_eq!(&request[..6], [0x0a, 4 + 20, 0x0a, 2, b'{', b'}']);
        assert_eq!(split_stream(&request), Some(("{}", &entry[..])));
    }

    proptest! {
        #[test]
        fn what_is_put_is_found_again(
            list in proptest::collection::vec(
                (0i64..i64::MAX, proptest::collection::vec(any::<u8>(), 0..300), "[a-z]{0,9}"),
                0..20,
            )
        ) {
            let mut encoded = Vec::new();
            for (time, line, value) in &list {
                put_entry(&mut encoded, *time, line, &[("name", value)]);
            }
            let found: Vec<_> = entries(&encoded).collect();
            prop_assert_eq!(found.len(), list.len());
            let joined: Vec<u8> = found.iter().flat_map(|e| e.raw.to_vec()).collect();
            prop_assert_eq!(&joined, &encoded);
            for (slice, (time, line, value)) in found.iter().zip(&list) {
                prop_assert_eq!(slice.timestamp_ns, *time);
                prop_assert_eq!(slice.line, &line[..]);
                let pairs: Vec<_> = metadata_pairs(slice.metadata).collect();
                prop_assert_eq!(pairs, vec![("name", value.as_str())]);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = split_stream(&bytes);
            let _ = entries(&bytes).count();
            let _ = metadata_pairs(&bytes).count();
        }
    }
}
