//! Signals as bytes on pipes that `main` polls; no thread of their own.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

/// What woke `main`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
    /// SIGUSR1: own log to be reopened.
    ReopenLog,
    /// SIGUSR2: state dump to the log.
    DumpState,
    /// A thread ended that should not have.
    ThreadEnded,
    /// The deadline came.
    Deadline,
}

struct Pipe {
    read: UnixStream,
    means: Woken,
}

/// The pipes that `main` waits on.
pub struct Signals {
    pipes: Vec<Pipe>,
    ended: UnixStream,
}

fn pair() -> io::Result<(UnixStream, UnixStream)> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    write.set_nonblocking(true)?;
    Ok((read, write))
}

impl Signals {
    /// Takes the signals over.
    ///
    /// # Errors
    /// When a pipe or a handler cannot be made.
    pub fn install() -> io::Result<Self> {
        let mut pipes = Vec::new();
        let table = [
            (SIGTERM, Woken::Stop),
            (SIGINT, Woken::Stop),
            (SIGHUP, Woken::Reload),
            (SIGUSR1, Woken::ReopenLog),
            (SIGUSR2, Woken::DumpState),
        ];
        for (signal, means) in table {
            let (read, write) = pair()?;
            signal_hook::low_level::pipe::register(signal, write)?;
            pipes.push(Pipe { read, means });
        }
        let (read, ended) = pair()?;
        pipes.push(Pipe { read, means: Woken::ThreadEnded });
        Ok(Self { pipes, ended })
    }

    /// A function that wakes `main` because a thread ended.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub fn ended_waker(&self) -> io::Result<impl Fn() + Send + Sync + 'static> {
        let end = self.ended.try_clone()?;
        Ok(move || {
            // A full pipe already wakes.
            let _ = io::Write::write(&mut &end, b"!");
        })
    }

    /// Waits for the next signal, or until `deadline`.
    ///
    /// # Errors
    /// As poll(2), but for EINTR.
    pub fn wait(&self, deadline: Option<Instant>) -> io::Result<Woken> {
        loop {
            for pipe in &self.pipes {
                let mut byte = [0u8; 64];
                match (&pipe.read).read(&mut byte) {
                    Ok(n) if n > 0 => return Ok(pipe.means),
                    _ => {}
                }
            }
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            if left.is_some_and(|l| l.is_zero()) {
                return Ok(Woken::Deadline);
            }
            let fds: Vec<BorrowedFd<'_>> = self.pipes.iter().map(|p| p.read.as_fd()).collect();
            let mut fds: Vec<PollFd<'_>> =
                fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            let timeout = left.and_then(|l| Timespec::try_from(l).ok());
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}
