//! The tail machine against a plain model: random writes, chunks, refusals, restarts.

use proptest::prelude::*;

use super::*;

fn framing(line_bytes_max: usize, long_lines: LongLines) -> Framing {
    Framing { line_bytes_max, long_lines }
}

/// All lines of `bytes` read in chunks of `chunk` bytes.
fn read(bytes: &[u8], chunk: usize, framing: Framing) -> (Vec<Vec<u8>>, Passed, Tail) {
    let mut tail = Tail::at(0);
    let (mut texts, mut sum) = (Vec::new(), Passed::default());
    loop {
        let from = tail.read_offset() as usize;
        let end = bytes.len().min(from + chunk);
        let mut lines = tail.lines(&bytes[from..end], framing);
        texts.extend(lines.by_ref().map(|l| l.text.to_vec()));
        sum.nul_bytes += lines.passed.nul_bytes;
        sum.long_lines += lines.passed.long_lines;
        sum.left_out_bytes += lines.passed.left_out_bytes;
        if tail.read_offset() as usize == from {
            return (texts, sum, tail);
        }
    }
}

fn check(bytes: &[u8], f: Framing, texts: &[&[u8]], place: u64) {
    for chunk in [f.line_bytes_max + 2, f.line_bytes_max + 3, 64, 4096] {
        if chunk >= f.line_bytes_max + 2 {
            let (found, _, tail) = read(bytes, chunk, f);
            assert_eq!(found, texts, "chunk {chunk} of {:?}", String::from_utf8_lossy(bytes));
            assert_eq!(tail.place(), place, "chunk {chunk}");
        }
    }
}

#[test]
fn lines_end_at_lf_or_cr_lf_and_nul_runs_at_their_start_are_left_out() {
    let f = framing(16, LongLines::Split);
    check(b"one\ntwo\r\n\n\r\nthree\nrest", f, &[b"one", b"two", b"", b"", b"three"], 18);
    check(b"\0\0\0one\n\0\n\0two\0x\n", f, &[b"one", b"", b"two\0x"], 16);
    check(b"a\rb\n\r\r\n", f, &[b"a\rb", b"\r"], 7);
    let (_, passed, _) = read(b"\n\r\n\0\0a\n", 64, f);
    assert_eq!(passed, Passed { nul_bytes: 2, ..Passed::default() });
}

#[test]
fn a_long_line_is_split_truncated_or_diverted() {
    let text = b"0123456789abcdef0123\r\nnext\n";
    check(text, framing(8, LongLines::Split), &[b"01234567", b"89abcdef", b"0123", b"next"], 27);
    check(text, framing(8, LongLines::Truncate), &[b"01234567", b"next"], 27);
    check(text, framing(8, LongLines::DeadLetter), &[b"01234567", b"next"], 27);
    check(b"01234567\r\n", framing(8, LongLines::Truncate), &[b"01234567"], 10);
    check(
        "aééé\n".as_bytes(),
        framing(4, LongLines::Split),
        &["aé".as_bytes(), "éé".as_bytes()],
        8,
    );
}

#[test]
fn the_rest_of_a_truncated_line_holds_the_place_at_the_lines_start() {
    let f = framing(8, LongLines::Truncate);
    let (texts, passed, tail) = read(b"ab\n0123456789abcdefgh", 10, f);
    assert_eq!(texts, [b"ab".to_vec(), b"01234567".to_vec()]);
    assert_eq!((tail.place(), tail.read_offset()), (3, 21));
    assert_eq!((passed.long_lines, passed.left_out_bytes), (1, 10));
}

#[test]
fn an_unterminated_line_is_handed_out_once_asked_for() {
    let f = framing(8, LongLines::Split);
    let mut tail = Tail::at(0);
    let mut lines = tail.lines(b"ab\ncd", f);
    assert_eq!(lines.next().map(|l| l.text), Some(&b"ab"[..]));
    assert_eq!(lines.next(), None);
    let last = Line { before: 3, after: 5, text: b"cd", cut: Cut::Unterminated };
    assert_eq!(lines.unterminated(), Some(last));
    assert_eq!(tail, Tail::at(5));
    assert_eq!(tail.lines(b"", f).unterminated(), None);
}

#[test]
fn only_plain_lines_stop_at_the_first_that_needs_care() {
    let mut tail = Tail::at(0);
    let mut lines = tail.lines(b"ok\nb\xffd\nok2\n", framing(8, LongLines::Split));
    lines.only_plain(4);
    assert_eq!(lines.by_ref().map(|l| l.text).collect::<Vec<_>>(), [b"ok"]);
    lines.all();
    assert_eq!(lines.map(|l| l.text.len()).collect::<Vec<_>>(), [3, 3]);
}

#[test]
fn a_gibibyte_without_newline_passes_through_one_chunk() {
    let chunk = vec![b'x'; 256 << 10];
    for mode in [LongLines::Split, LongLines::Truncate] {
        let (mut tail, f) = (Tail::at(0), framing(200 << 10, mode));
        let mut parts = 0u64;
        while tail.read_offset() < 1 << 30 {
            let before = tail.read_offset();
            let mut lines = tail.lines(&chunk, f);
            parts += lines.by_ref().map(|l| assert!(l.text.len() <= 200 << 10)).count() as u64;
            assert!(tail.read_offset() > before);
        }
        assert_eq!(parts, if mode == LongLines::Split { (1 << 30) / (200 << 10) + 1 } else { 1 });
    }
}

/// What a file comes to, without any of the machine's steps.
fn model(bytes: &[u8], f: Framing) -> Vec<Vec<u8>> {
    let mut texts = Vec::new();
    let Some(last) = bytes.iter().rposition(|&b| b == b'\n') else { return texts };
    for line in bytes[..last].split(|&b| b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let nuls = line.iter().take_while(|&&b| b == 0).count();
        let mut rest = &line[nuls..];
        let mut whole = true;
        while rest.len() > f.line_bytes_max {
            let mut cut = f.line_bytes_max;
            while rest[cut] & 0xc0 == 0x80 && cut > f.line_bytes_max - 3 {
                cut -= 1;
            }
            if rest[cut] & 0xc0 == 0x80 {
                cut = f.line_bytes_max;
            }
            texts.push(rest[..cut].to_vec());
            rest = if f.long_lines == LongLines::Split { &rest[cut..] } else { b"" };
            whole = false;
        }
        if whole || !rest.is_empty() {
            texts.push(rest.to_vec());
        }
    }
    texts
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<u8>),
    Read {
        chunk: usize,
        refuse_at: Option<usize>,
    },
    Restart,
    /// The file begins again; all that was there had been read.
    Truncate,
}

fn step() -> impl Strategy<Value = Step> {
    let byte = prop_oneof![
        4 => Just(b'\n'), 1 => Just(b'\r'), 2 => Just(0xc3), 2 => Just(0xa9), 10 => b'a'..=b'e'
    ];
    prop_oneof![
        4 => prop::collection::vec(byte, 0..60).prop_map(Step::Write),
        6 => (0usize..40, prop::option::of(0usize..6))
            .prop_map(|(chunk, refuse_at)| Step::Read { chunk, refuse_at }),
        1 => Just(Step::Restart),
        1 => Just(Step::Truncate),
    ]
}

struct Reader {
    file: Vec<u8>,
    tail: Tail,
    f: Framing,
    /// Texts with the places before and after them.
    had: Vec<(u64, u64, Vec<u8>)>,
}

impl Reader {
    fn read(&mut self, chunk: usize, refuse_at: Option<usize>) {
        let from = self.tail.read_offset() as usize;
        let end = self.file.len().min(from + self.f.line_bytes_max + 2 + chunk);
        let mut lines = self.tail.lines(&self.file[from..end], self.f);
        let mut n = 0;
        while let Some(line) = lines.next() {
            if refuse_at == Some(n) {
                lines.refused(line.before);
                break;
            }
            n += 1;
            self.had.push((line.before, line.after, line.text.to_vec()));
        }
    }

    /// As after a crash: what lies behind the place is read again.
    fn restart(&mut self) {
        let place = self.tail.place();
        self.tail = Tail::at(place);
        self.had.retain(|(before, after, _)| *before < place && *after <= place);
    }

    fn read_all(&mut self) {
        loop {
            let before = self.tail.read_offset();
            self.read(0, None);
            if self.tail.read_offset() == before {
                return;
            }
        }
    }

    fn agree(&self) -> Result<(), TestCaseError> {
        let had: Vec<_> = self.had.iter().map(|(_, _, text)| text.clone()).collect();
        prop_assert_eq!(had, model(&self.file, self.f));
        Ok(())
    }
}

proptest! {
    #[test]
    fn nothing_is_missing_and_nothing_comes_twice(
        steps in prop::collection::vec(step(), 1..40),
        line_bytes_max in 4usize..20,
        split in any::<bool>(),
    ) {
        let long_lines = if split { LongLines::Split } else { LongLines::Truncate };
        let f = framing(line_bytes_max, long_lines);
        let mut r = Reader { file: Vec::new(), tail: Tail::at(0), f, had: Vec::new() };
        for step in steps {
            match step {
                Step::Write(bytes) => r.file.extend(bytes),
                Step::Read { chunk, refuse_at } => r.read(chunk, refuse_at),
                Step::Restart => r.restart(),
                Step::Truncate => {
                    r.file.push(b'\n');
                    r.read_all();
                    r.agree()?;
                    let size = r.file.len() as u64;
                    prop_assert!(!r.tail.truncated(size) && r.tail.truncated(size - 1));
                    r = Reader { file: Vec::new(), tail: Tail::at(0), f, had: Vec::new() };
                }
            }
        }
        r.file.push(b'\n');
        r.read_all();
        r.agree()?;
        prop_assert_eq!(r.tail.place(), r.file.len() as u64);
    }
}
