//! The decoder for one record of a json-file log: `{"log":..,"stream":..,"attrs":..,"time":..}`.
//!
//! Owns the JSON of that one shape, in any order of keys, with speed in mind: the usual record
//! (no escape but the newline at its end) is decoded without a copy. A record that is damaged is
//! an error; the caller skips to the next newline and counts it, after `recover` has looked for a
//! good record behind the damage on the same line. Joining of pieces belongs to `pieces`.
//! Pure: no clock, no I/O. Runs on a file lane (framing `docker_json`).

use std::fmt;

use memchr::{memchr, memchr2};

use super::record::{StdStream, parse_time_ns};

/// How every record that the engine writes begins. Inside a JSON string its quotes would be
/// escaped, so these bytes are the start of a record wherever they stand.
const RECORD_START: &[u8] = br#"{"log":""#;

/// Depth of nested values that a skipped value may have; the engine's own `attrs` has one level.
const NESTING_MAX: u32 = 32;

/// A decoded record. The slices point into the line, or into the scratch buffer when the text
/// had escapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonRecord<'a> {
    /// What the program wrote, without the newline that ended it.
    pub log: &'a [u8],
    /// Whether the stored text ended in a newline. If not, it is a piece of a long line or the
    /// unterminated end of a run (see `pieces`).
    pub has_newline: bool,
    pub stream: StdStream,
    /// UTC nanoseconds since 1970.
    pub time_ns: i64,
    /// The raw JSON object of `attrs`, which log options label, env and tag make.
    pub attrs: Option<&'a [u8]>,
}

/// Why a line is not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonRecordError {
    /// Not the JSON of an object, at this byte.
    Syntax { at: usize },
    /// A NUL byte, which the engine never writes: a hole left by a power cut or a truncation.
    Nul { at: usize },
    /// The object has no text, no stream or no time that is understood.
    Missing { key: &'static str },
}

impl fmt::Display for JsonRecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JsonRecordError::Syntax { at } => write!(f, "record is no JSON object at byte {at}"),
            JsonRecordError::Nul { at } => write!(f, "record has a NUL at byte {at}"),
            JsonRecordError::Missing { key } => write!(f, "record has no valid {key:?}"),
        }
    }
}

impl std::error::Error for JsonRecordError {}

/// Decodes one line of a json-file log, given without its newline.
///
/// # Errors
/// See [`JsonRecordError`]; nothing of the line is to be used then.
pub fn decode<'a>(
    line: &'a [u8],
    scratch: &'a mut Vec<u8>,
) -> Result<JsonRecord<'a>, JsonRecordError> {
    let fields = parse_fields(line)?;
    let log = fields.log.ok_or(JsonRecordError::Missing { key: "log" })?;
    let stream = match fields.stream.map(|text| text.raw) {
        Some(b"stdout") => StdStream::Stdout,
        Some(b"stderr") => StdStream::Stderr,
        _ => return Err(JsonRecordError::Missing { key: "stream" }),
    };
    let time_ns = fields
        .time
        .and_then(|text| parse_time_ns(text.raw))
        .ok_or(JsonRecordError::Missing { key: "time" })?;
    if let Some(at) = memchr(0, log.raw) {
        return Err(JsonRecordError::Nul { at: log.at + at });
    }
    let (log, has_newline) = unescaped(log, scratch)?;
    Ok(JsonRecord { log, has_newline, stream, time_ns, attrs: fields.attrs })
}

/// The part of a damaged line that may be a good record: what begins at the last start of a
/// record behind the damage (a torn record, or NULs, directly followed by a whole one).
pub fn recover(line: &[u8]) -> Option<&[u8]> {
    let start = memchr::memmem::rfind(line, RECORD_START)?;
    (start > 0).then(|| &line[start..])
}

/// A JSON string's content as it stands in the line.
#[derive(Clone, Copy)]
struct RawText<'a> {
    raw: &'a [u8],
    at: usize,
    /// Where the first backslash is, relative to `raw`.
    first_escape: Option<usize>,
}

#[derive(Default)]
struct Fields<'a> {
    log: Option<RawText<'a>>,
    stream: Option<RawText<'a>>,
    time: Option<RawText<'a>>,
    attrs: Option<&'a [u8]>,
}

fn parse_fields(line: &[u8]) -> Result<Fields<'_>, JsonRecordError> {
    let mut cursor = Cursor { line, at: 0 };
    let mut fields = Fields::default();
    cursor.skip_space();
    cursor.expect(b'{')?;
    loop {
        cursor.skip_space();
        let key = cursor.string()?;
        cursor.skip_space();
        cursor.expect(b':')?;
        cursor.skip_space();
        match key.raw {
            b"log" => fields.log = Some(cursor.string()?),
            b"stream" => fields.stream = Some(cursor.string()?),
            b"time" => fields.time = Some(cursor.string()?),
            b"attrs" => fields.attrs = Some(cursor.skip_value()?),
            _ => drop(cursor.skip_value()?),
        }
        cursor.skip_space();
        match cursor.next()? {
            b',' => {}
            b'}' => break,
            _ => return Err(JsonRecordError::Syntax { at: cursor.at - 1 }),
        }
    }
    cursor.skip_space();
    if cursor.at < line.len() { Err(cursor.error()) } else { Ok(fields) }
}

struct Cursor<'a> {
    line: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn error(&self) -> JsonRecordError {
        match self.line.get(self.at) {
            Some(0) => JsonRecordError::Nul { at: self.at },
            _ => JsonRecordError::Syntax { at: self.at },
        }
    }

    fn next(&mut self) -> Result<u8, JsonRecordError> {
        let byte = *self.line.get(self.at).ok_or_else(|| self.error())?;
        self.at += 1;
        Ok(byte)
    }

    fn expect(&mut self, byte: u8) -> Result<(), JsonRecordError> {
        if self.line.get(self.at) != Some(&byte) {
            return Err(self.error());
        }
        self.at += 1;
        Ok(())
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.line.get(self.at) {
            self.at += 1;
        }
    }

    fn string(&mut self) -> Result<RawText<'a>, JsonRecordError> {
        self.expect(b'"')?;
        let start = self.at;
        let mut first_escape = None;
        loop {
            let rest = &self.line[self.at..];
            let Some(found) = memchr2(b'"', b'\\', rest) else {
                self.at = self.line.len();
                return Err(self.error());
            };
            self.at += found + 1;
            if rest[found] == b'"' {
                let raw = &self.line[start..self.at - 1];
                return Ok(RawText { raw, at: start, first_escape });
            }
            first_escape.get_or_insert(self.at - 1 - start);
            // The byte after a backslash never ends the string.
            self.next()?;
        }
    }

    /// Goes over any JSON value and returns its bytes. Brackets have to balance; what stands
    /// between them is not looked at more closely.
    fn skip_value(&mut self) -> Result<&'a [u8], JsonRecordError> {
        let start = self.at;
        let mut depth = 0_u32;
        loop {
            match self.line.get(self.at) {
                Some(b'"') => drop(self.string()?),
                Some(b'{' | b'[') if depth < NESTING_MAX => {
                    depth += 1;
                    self.at += 1;
                }
                Some(b'}' | b']') if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                Some(byte) if byte.is_ascii_alphanumeric() || b"+-.".contains(byte) => {
                    self.at += 1;
                    let more = self.line.get(self.at);
                    if more.is_some_and(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b)) {
                        continue;
                    }
                }
                Some(b',' | b':' | b' ' | b'\t') if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                _ => return Err(self.error()),
            }
            if depth == 0 {
                return Ok(&self.line[start..self.at]);
            }
        }
    }
}

/// The text of a string, and whether a newline was cut from its end.
fn unescaped<'a>(
    text: RawText<'a>,
    scratch: &'a mut Vec<u8>,
) -> Result<(&'a [u8], bool), JsonRecordError> {
    let RawText { raw, at, first_escape } = text;
    match first_escape {
        None => Ok((raw, false)),
        Some(first) if &raw[first..] == br"\n" => Ok((&raw[..first], true)),
        Some(first) => {
            scratch.clear();
            unescape_into(raw, first, scratch)
                .map_err(|offset| JsonRecordError::Syntax { at: at + offset })?;
            match scratch.strip_suffix(b"\n") {
                Some(line) => Ok((line, true)),
                None => Ok((scratch, false)),
            }
        }
    }
}

/// Copies `raw` with its escapes resolved; the error is the offset of a bad escape.
fn unescape_into(raw: &[u8], first_escape: usize, out: &mut Vec<u8>) -> Result<(), usize> {
    let mut escape = first_escape;
    let mut copied = 0;
    loop {
        out.extend_from_slice(&raw[copied..escape]);
        let byte = match raw.get(escape + 1).ok_or(escape)? {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'b' => 8,
            b'f' => 12,
            plain @ (b'"' | b'\\' | b'/') => *plain,
            b'u' => 0,
            _ => return Err(escape),
        };
        copied = escape + 2;
        if raw[escape + 1] == b'u' {
            copied = push_unicode(raw, escape, out)?;
        } else {
            out.push(byte);
        }
        match memchr(b'\\', &raw[copied..]) {
            Some(found) => escape = copied + found,
            None => break,
        }
    }
    out.extend_from_slice(&raw[copied..]);
    Ok(())
}

/// Pushes the character of the `\uXXXX` at `escape`, with its low surrogate if it is a high one;
/// a lone surrogate becomes U+FFFD. Returns the offset behind it.
fn push_unicode(raw: &[u8], escape: usize, out: &mut Vec<u8>) -> Result<usize, usize> {
    let unit = hex4(raw, escape + 2).ok_or(escape)?;
    let mut next = escape + 6;
    let mut code = unit;
    if (0xd800..0xdc00).contains(&unit) && raw[next..].starts_with(br"\u") {
        let low = hex4(raw, next + 2).ok_or(next)?;
        if (0xdc00..0xe000).contains(&low) {
            code = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
            next += 6;
        }
    }
    let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    Ok(next)
}

fn hex4(raw: &[u8], at: usize) -> Option<u32> {
    let mut value = 0;
    for byte in raw.get(at..at + 4)? {
        value = value * 16 + char::from(*byte).to_digit(16)?;
    }
    Some(value)
}

#[cfg(test)]
#[path = "json_record_tests.rs"]
mod tests;
