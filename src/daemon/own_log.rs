//! Our own log: formatted by whoever speaks, written by the thread `log`.
//!
//! env_logger filters and formats; whole lines go into a bounded ring, so that a stalled
//! journal or pipe never stops a lane. What finds the ring full is counted, and the count is a
//! line of its own later. Before the thread runs and after it has ended, lines go to stderr
//! directly, each within a bounded time.

use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use log::Level;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use time::OffsetDateTime;
use time::macros::format_description;

use super::beat::{Beat, Waits};
use crate::config::checked::{Log, LogFormat};
use crate::limits;

/// poll(2) says "writable" of a pipe when PIPE_BUF bytes fit, so that much never blocks.
const WRITE_BYTES: usize = 4096;

/// How our lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// `2026-01-02T03:04:05.678Z INFO  ack: text`
    Text,
    /// `<6>ack: text`: the journal keeps time and priority itself.
    Journal,
    Json,
}

/// What the logger and the thread share.
struct Shared {
    /// The thread takes from the ring.
    running: AtomicBool,
    dropped: AtomicU64,
    look: Look,
}

/// Ends the thread `log` when the daemon stops. Clones are the same.
#[derive(Clone)]
pub struct OwnLog {
    shared: Arc<Shared>,
    end: Sender<()>,
}

/// The end of the ring that the thread `log` reads.
pub struct OwnLogInbox {
    shared: Arc<Shared>,
    lines: Receiver<Box<[u8]>>,
    end: Receiver<()>,
}

/// Makes `log`'s macros speak to us. Once a process.
///
/// The level is the config's for our own modules; those of libraries are heard from WARN up.
/// `LOG_CAPTURER_LOG` replaces it, in the way of `RUST_LOG`: `debug`, or
/// `log_capturer=debug,ureq=info`.
///
/// # Errors
/// When a logger is set already.
pub fn init(config: &Log) -> Result<(OwnLog, OwnLogInbox), log::SetLoggerError> {
    let look = match config.format {
        LogFormat::Json => Look::Json,
        LogFormat::Text if stderr_is_journal() => Look::Journal,
        LogFormat::Text => Look::Text,
    };
    let (lines_tx, lines) = bounded(limits::LOG_RING_LINES);
    let (end_tx, end) = bounded(1);
    let shared =
        Arc::new(Shared { running: AtomicBool::new(false), dropped: AtomicU64::new(0), look });
    let ring = Ring { shared: shared.clone(), lines: lines_tx };
    let mut builder = env_logger::Builder::new();
    match std::env::var("LOG_CAPTURER_LOG").ok().filter(|f| !f.is_empty()) {
        Some(filters) => builder.parse_filters(&filters),
        None => builder
            .filter_level(config.level.min(log::LevelFilter::Warn))
            .filter_module("log_capturer", config.level),
    };
    builder
        .format(move |out, record| io::Write::write_all(out, line_of(look, record).as_bytes()))
        .target(env_logger::Target::Pipe(Box::new(ring)))
        .try_init()?;
    Ok((OwnLog { shared: shared.clone(), end: end_tx }, OwnLogInbox { shared, lines, end }))
}

impl OwnLog {
    /// Lets the thread write what the ring holds, for at most [`limits::LOG_FLUSH`], and end.
    pub fn finish(&self) {
        // Full means that it was said before.
        let _ = self.end.try_send(());
    }

    /// Lines that found the ring full and are not yet told of.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

/// Panics become one ERROR line each instead of several bare ones on stderr.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        log::error!("panic at {place}: {}", text.unwrap_or("no text"));
    }));
}

/// The thread `log`: writes the ring's lines to stderr until [`OwnLog::finish`].
pub fn run(inbox: &OwnLogInbox, beat: &Beat) {
    inbox.shared.running.store(true, Ordering::Release);
    let stderr = io::stderr();
    pump(inbox, stderr.as_fd(), beat);
    inbox.shared.running.store(false, Ordering::Release);
    // What came between the last look and the store above.
    drain(inbox, stderr.as_fd(), Instant::now() + limits::LOG_FLUSH);
}

fn pump(inbox: &OwnLogInbox, fd: BorrowedFd<'_>, beat: &Beat) {
    loop {
        beat.waits(Waits::Events);
        let line = crossbeam_channel::select! {
            recv(inbox.lines) -> line => line,
            recv(inbox.end) -> _ => {
                drain(inbox, fd, Instant::now() + limits::LOG_FLUSH);
                return;
            }
        };
        let Ok(line) = line else { return };
        beat.waits(Waits::Peer);
        tell_dropped(&inbox.shared, fd, None);
        let ended = write_until_end(fd, &line, inbox);
        beat.busy();
        if ended {
            return;
        }
    }
}

/// Writes a line however long stderr's reader takes, but not past the end of the daemon.
/// True when the daemon ended first.
fn write_until_end(fd: BorrowedFd<'_>, line: &[u8], inbox: &OwnLogInbox) -> bool {
    let mut rest = line;
    loop {
        rest = write_within(fd, rest, Some(Instant::now() + limits::LOG_FLUSH));
        if rest.is_empty() {
            return false;
        }
        if inbox.end.try_recv().is_ok() {
            return true;
        }
    }
}

fn drain(inbox: &OwnLogInbox, fd: BorrowedFd<'_>, deadline: Instant) {
    while let Ok(line) = inbox.lines.try_recv() {
        tell_dropped(&inbox.shared, fd, Some(deadline));
        if !write_within(fd, &line, Some(deadline)).is_empty() {
            return;
        }
    }
    tell_dropped(&inbox.shared, fd, Some(deadline));
}

/// Says how many lines are missing at this place, if any.
fn tell_dropped(shared: &Shared, fd: BorrowedFd<'_>, deadline: Option<Instant>) {
    let n = shared.dropped.swap(0, Ordering::Relaxed);
    if n > 0 {
        let text = format!("{n} lines of this log were dropped here: it is read too slowly");
        let line = line_from(shared.look, Level::Warn, "log", module_path!(), &text);
        let deadline = deadline.unwrap_or_else(|| Instant::now() + limits::LOG_FLUSH);
        write_within(fd, line.as_bytes(), Some(deadline));
    }
}

/// Writes as much as goes until the deadline; returns what is left. A reader that is gone
/// counts as written: there is nobody to tell.
fn write_within<'a>(fd: BorrowedFd<'_>, bytes: &'a [u8], deadline: Option<Instant>) -> &'a [u8] {
    let mut rest = bytes;
    while !rest.is_empty() {
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|l| Timespec::try_from(l).ok());
        match poll(&mut [PollFd::new(&fd, PollFlags::OUT)], timeout.as_ref()) {
            Ok(0) => return rest,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return &[],
        }
        match rustix::io::write(fd, &rest[..rest.len().min(WRITE_BYTES)]) {
            Ok(n) => rest = &rest[n..],
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {
                if left.is_some_and(|l| l.is_zero()) {
                    return rest;
                }
            }
            Err(_) => return &[],
        }
    }
    rest
}

/// env_logger's target: gets one whole line a call.
struct Ring {
    shared: Arc<Shared>,
    lines: Sender<Box<[u8]>>,
}

impl io::Write for Ring {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !self.shared.running.load(Ordering::Acquire) {
            let deadline = Instant::now() + limits::LOG_FLUSH;
            write_within(io::stderr().as_fd(), line, Some(deadline));
            return Ok(line.len());
        }
        match self.lines.try_send(line.into()) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn line_of(look: Look, record: &log::Record<'_>) -> String {
    let mut text = String::new();
    let _ = write!(text, "{}", record.args());
    let thread = std::thread::current();
    line_from(look, record.level(), thread.name().unwrap_or("-"), record.target(), &text)
}

/// One line with its line end, no control characters, at most `LOG_LINE_BYTES_MAX` of text.
fn line_from(look: Look, level: Level, thread: &str, target: &str, text: &str) -> String {
    let text = cut(text);
    let mut line = String::with_capacity(text.len() + 64);
    match look {
        Look::Text => {
            let _ = write!(line, "{} {level:<5} {thread}: ", now());
            escape_into(&mut line, text);
        }
        Look::Journal => {
            // Priorities of syslog(3).
            let priority = match level {
                Level::Error => 3,
                Level::Warn => 4,
                Level::Info => 6,
                Level::Debug | Level::Trace => 7,
            };
            let _ = write!(line, "<{priority}>{thread}: ");
            escape_into(&mut line, text);
        }
        Look::Json => {
            let object = serde_json::json!({
                "time": now(), "level": level.as_str(), "thread": thread, "target": target,
                "message": text,
            });
            let _ = write!(line, "{object}");
        }
    }
    line.push('\n');
    line
}

fn cut(text: &str) -> &str {
    let text = text.trim_end();
    let mut end = text.len().min(limits::LOG_LINE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Control characters as escapes: a file name or an answer of a peer must neither forge a line
/// nor move a terminal's cursor.
fn escape_into(line: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\n' => line.push_str("\\n"),
            '\t' => line.push_str("\\t"),
            '\r' => line.push_str("\\r"),
            c if c.is_control() => {
                let _ = write!(line, "\\u{{{:x}}}", c as u32);
            }
            c => line.push(c),
        }
    }
}

/// RFC 3339 in UTC, to the millisecond.
fn now() -> String {
    let format =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::from(SystemTime::now()).format(format).unwrap_or_default()
}

/// Whether stderr is the journal's stream: `JOURNAL_STREAM` names it by device and inode
/// (systemd.exec(5)); the variable alone is inherited by everything a service starts.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", stat.st_dev(), stat.st_ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    fn pair(ring: usize) -> (Ring, OwnLog, OwnLogInbox) {
        let (tx, lines) = bounded(ring);
        let (end_tx, end) = bounded(1);
        let shared = Arc::new(Shared {
            running: AtomicBool::new(true),
            dropped: AtomicU64::new(0),
            look: Look::Journal,
        });
        let ring = Ring { shared: shared.clone(), lines: tx };
        (ring, OwnLog { shared: shared.clone(), end: end_tx }, OwnLogInbox { shared, lines, end })
    }

    #[test]
    fn lines_are_cut_and_cannot_forge_other_lines() {
        let text = format!("a\nERROR b\x1b[2J\u{85}{}\n", "é".repeat(limits::LOG_LINE_BYTES_MAX));
        let line = line_from(Look::Journal, Level::Warn, "ack", "t", &text);
        assert!(line.starts_with("<4>ack: a\\nERROR b\\u{1b}[2J\\u{85}é"), "{}", &line[..60]);
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.len() < limits::LOG_LINE_BYTES_MAX + 64);
        let line = line_from(Look::Text, Level::Info, "main", "t", "x");
        assert!(line.ends_with("Z INFO  main: x\n") && line.len() == 39, "{line}");
        let line = line_from(Look::Json, Level::Error, "main", "t", "a\"\n\u{1}b");
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(json["message"], "a\"\n\u{1}b");
        assert_eq!((&json["level"], line.matches('\n').count()), (&"ERROR".into(), 1));
    }

    #[test]
    fn a_full_ring_drops_counts_and_tells() {
        let (mut ring, _, inbox) = pair(2);
        for i in 0..5 {
            ring.write_all(format!("line {i}\n").as_bytes()).unwrap();
        }
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        drain(&inbox, ours.as_fd(), Instant::now() + Duration::from_secs(5));
        drop(ours);
        let mut text = String::new();
        theirs.read_to_string(&mut text).unwrap();
        let told = "<4>log: 3 lines of this log were dropped here: it is read too slowly\n";
        assert_eq!(text, format!("{told}line 0\nline 1\n"));
    }

    #[test]
    fn a_reader_that_stopped_delays_the_end_by_a_bounded_time() {
        let (mut ring, own_log, inbox) = pair(64);
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let line = vec![b'x'; 64 << 10];
        while write_within(ours.as_fd(), &line, Some(Instant::now())).is_empty() {}
        ring.write_all(b"nobody reads this\n").unwrap();
        own_log.finish();
        let start = Instant::now();
        pump(&inbox, ours.as_fd(), &Beat::new());
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
