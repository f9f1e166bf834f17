//! Label sets as Loki reads and writes them: `{a="b", c="d"}`.
//!
//! Pure text work, shared by the push path (label strings) and the query path (selectors).

use std::fmt::Write;

/// Names and values, sorted by name (stable: of equal names the one sent first comes first).
pub type Labels = Vec<(String, String)>;

/// Reads a label string. An empty string is an empty label set.
pub fn parse(text: &[u8]) -> Result<Labels, String> {
    if text.is_empty() {
        return Ok(Labels::new());
    }
    let (labels, rest) = parse_prefix(text)?;
    if rest.iter().any(|c| !c.is_ascii_whitespace()) {
        return Err(error(text.len() - rest.len(), "unexpected input after label set"));
    }
    Ok(labels)
}

/// Reads a label set at the beginning of `text`; returns what follows it, too.
pub fn parse_prefix(text: &[u8]) -> Result<(Labels, &[u8]), String> {
    let mut s = Scanner { text, at: 0 };
    let mut labels = Labels::new();
    s.expect(b'{')?;
    loop {
        s.blanks();
        if s.take(b'}') {
            break;
        }
        let name = if s.peek() == Some(b'"') { s.string()? } else { s.name()? };
        s.blanks();
        s.expect(b'=')?;
        s.blanks();
        let value = s.string()?;
        labels.push((name, value));
        s.blanks();
        if !s.take(b',') && s.peek() != Some(b'}') {
            return Err(error(s.at, "expected \",\" or \"}\""));
        }
    }
    labels.sort_by(|a, b| a.0.cmp(&b.0));
    Ok((labels, &text[s.at..]))
}

/// Writes a label set the way Loki names a stream in its messages.
pub fn display(labels: &[(String, String)]) -> String {
    let mut out = String::from("{");
    for (i, (name, value)) in labels.iter().enumerate() {
        out.push_str(if i == 0 { "" } else { ", " });
        out.push_str(name);
        out.push_str("=\"");
        for c in value.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                c if u32::from(c) < 0x20 || c == '\x7f' => {
                    let _ = write!(out, "\\x{:02x}", u32::from(c));
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
    out.push('}');
    out
}

fn error(at: usize, what: &str) -> String {
    format!("couldn't parse labels: 1:{}: parse error: {what}", at + 1)
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self, c: u8) -> bool {
        let found = self.peek() == Some(c);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, c: u8) -> Result<(), String> {
        let found = self.take(c);
        found.then_some(()).ok_or_else(|| error(self.at, &format!("expected {:?}", c as char)))
    }

    fn blanks(&mut self) {
        while self.peek().is_some_and(|c| c.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn name(&mut self) -> Result<String, String> {
        let from = self.at;
        while self.peek().is_some_and(|c| {
            c == b'_' || c.is_ascii_alphabetic() || (self.at > from && c.is_ascii_digit())
        }) {
            self.at += 1;
        }
        if from == self.at {
            return Err(error(self.at, "unexpected character inside braces"));
        }
        Ok(String::from_utf8_lossy(&self.text[from..self.at]).into_owned())
    }

    /// A string in double or single quotes with Go's escapes, or a raw one in backquotes.
    fn string(&mut self) -> Result<String, String> {
        let quote = match self.peek() {
            Some(c @ (b'"' | b'\'' | b'`')) => c,
            _ => return Err(error(self.at, "expected string")),
        };
        self.at += 1;
        let mut out = Vec::new();
        loop {
            let c = self.peek().ok_or_else(|| error(self.at, "unterminated quoted string"))?;
            self.at += 1;
            match c {
                c if c == quote => break,
                b'\n' if quote != b'`' => return Err(error(self.at, "unterminated quoted string")),
                b'\\' if quote != b'`' => self.escape(&mut out)?,
                c => out.push(c),
            }
        }
        String::from_utf8(out).map_err(|_| error(self.at, "invalid UTF-8 rune"))
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), String> {
        let bad = error(self.at, "unknown escape sequence");
        let c = self.peek().ok_or_else(|| bad.clone())?;
        self.at += 1;
        let byte = match c {
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            b'\\' | b'\'' | b'"' => c,
            b'x' => return self.hex_escape(2, out),
            b'u' => return self.hex_escape(4, out),
            b'U' => return self.hex_escape(8, out),
            _ => return Err(bad),
        };
        out.push(byte);
        Ok(())
    }

    /// `\xHH` is a byte, the longer forms a character.
    fn hex_escape(&mut self, digits: usize, out: &mut Vec<u8>) -> Result<(), String> {
        let bad = error(self.at, "unknown escape sequence");
        let hex = self.text.get(self.at..self.at + digits).ok_or_else(|| bad.clone())?;
        let hex = std::str::from_utf8(hex).map_err(|_| bad.clone())?;
        let code = u32::from_str_radix(hex, 16).map_err(|_| bad.clone())?;
        self.at += digits;
        if digits == 2 {
            out.push(code as u8);
        } else {
            let c = char::from_u32(code).ok_or(bad)?;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Ok(())
    }
}

#[test]
fn label_strings_are_read_as_loki_reads_them_and_written_back_sorted() {
    let check = |text: &str, want: Option<&str>| {
        assert_eq!(parse(text.as_bytes()).ok().map(|l| display(&l)).as_deref(), want, "{text}");
    };
    check("", Some("{}"));
    check("{}", Some("{}"));
    check(r#"{b="2",a="1"}"#, Some(r#"{a="1", b="2"}"#));
    check(r#"{ a = 'x' , }"#, Some(r#"{a="x"}"#));
    check(r#"{a="q\"\\\n\u00e9\x41"}"#, Some(r#"{a="q\"\\\néA"}"#));
    check("{a=`\\`}", Some(r#"{a="\\"}"#));
    for bad in ["{", "a=\"b\"", "{a=b}", "{a=~\"b\"}", "{1a=\"b\"}", "{a-b=\"c\"}", "{=\"c\"}"] {
        check(bad, None);
    }
    for bad in ["{a=\"b\" c=\"d\"}", "{a=\"\\q\"}", "{a=\"x\ny\"}", "{a=\"b\"} x", "{été=\"c\"}"]
    {
        check(bad, None);
    }
}
