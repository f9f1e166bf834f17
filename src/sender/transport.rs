//! TCP for ureq with one deadline for the whole request, and a way to interrupt it.
//!
//! ureq's own transport gives each partial write its timeout anew, so that a trickling peer
//! holds a request for as long as it likes; here every poll(2) waits for the same instant.
//! A peer that answers before it has read the whole body (413) and closes has its answer
//! read all the same: a failed write is remembered, not returned, until reading fails too.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
};

/// What one sender's transport shares with whoever may interrupt it.
struct Shared {
    /// Of the request that runs.
    deadline: Mutex<Instant>,
    cancelled: AtomicBool,
    /// The request that runs did not get as far as a connection.
    connect_failed: AtomicBool,
    socket: Mutex<Weak<TcpStream>>,
}

/// Interrupts a sender that sits in a request; for `main`, at the end of the drain.
#[derive(Clone)]
pub struct Cancel(Arc<Shared>);

impl Default for Cancel {
    fn default() -> Self {
        Self(Arc::new(Shared {
            deadline: Mutex::new(Instant::now()),
            cancelled: AtomicBool::new(false),
            connect_failed: AtomicBool::new(false),
            socket: Mutex::new(Weak::new()),
        }))
    }
}

impl Cancel {
    /// Ends the request that runs, if any, and fails all later ones.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        let socket = self.0.socket.lock().unwrap_or_else(|e| e.into_inner()).upgrade();
        if let Some(socket) = socket {
            // Wakes a poll(2) on it, while connecting too. An error means that it is closed.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    pub fn cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Before a request: no operation of it lasts beyond `deadline`.
    pub(super) fn begin(&self, deadline: Instant) {
        *self.0.deadline.lock().unwrap_or_else(|e| e.into_inner()) = deadline;
        self.0.connect_failed.store(false, Ordering::SeqCst);
    }

    pub(super) fn connect_failed(&self) -> bool {
        self.0.connect_failed.load(Ordering::SeqCst)
    }

    pub(super) fn deadline(&self) -> Instant {
        *self.0.deadline.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// From now on `cancel` reaches `socket`.
    fn watch(&self, socket: &Arc<TcpStream>) -> io::Result<()> {
        *self.0.socket.lock().unwrap_or_else(|e| e.into_inner()) = Arc::downgrade(socket);
        // After the store: a cancel in between either sees the socket or is seen here.
        if self.cancelled() { Err(stopped()) } else { Ok(()) }
    }
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "interrupted by the stop")
}

/// Opens TCP connections for ureq's chain.
pub struct TcpConnector {
    pub(super) cancel: Cancel,
    pub(super) connect_timeout: Duration,
}

impl fmt::Debug for TcpConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TcpConnector")
    }
}

impl<In: Transport> Connector<In> for TcpConnector {
    type Out = Either<In, TcpTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        if chained.is_some() {
            // A tunnel through a proxy stands already.
            return Ok(chained.map(Either::A));
        }
        let deadline = self.cancel.deadline().min(Instant::now() + self.connect_timeout);
        let stream = self.connect_any(&details.addrs, deadline).map_err(|e| {
            self.cancel.0.connect_failed.store(true, Ordering::SeqCst);
            ureq::Error::Io(e)
        })?;
        let config = details.config;
        Ok(Some(Either::B(TcpTransport {
            stream,
            buffers: LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size()),
            cancel: self.cancel.clone(),
            // Bytes that wait before the answer are TLS's own (session tickets) there.
            answers_early: !details.needs_tls(),
            early: false,
            write_error: None,
        })))
    }
}

impl TcpConnector {
    /// Tries the addresses in turn; each gets an equal share of the time that is left.
    fn connect_any(
        &self,
        addresses: &[SocketAddr],
        deadline: Instant,
    ) -> io::Result<Arc<TcpStream>> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
        for (i, address) in addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / (addresses.len() - i) as u32;
            match self.connect_one(*address, Instant::now() + share) {
                Ok(stream) => return Ok(stream),
                Err(e) => last = io::Error::new(e.kind(), format!("{address}: {e}")),
            }
            if self.cancel.cancelled() {
                break;
            }
        }
        Err(last)
    }

    fn connect_one(&self, address: SocketAddr, deadline: Instant) -> io::Result<Arc<TcpStream>> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        let stream = Arc::new(TcpStream::from(socket));
        self.cancel.watch(&stream)?;
        match connect(&stream, &address) {
            Ok(()) => {}
            Err(rustix::io::Errno::INPROGRESS) => {
                wait(&stream, PollFlags::OUT, deadline)?;
                sockopt::socket_error(&stream)??;
            }
            Err(e) => return Err(e.into()),
        }
        if self.cancel.cancelled() {
            return Err(stopped());
        }
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Waits for one of `events`, at most until `deadline`.
fn wait(stream: &TcpStream, events: PollFlags, deadline: Instant) -> io::Result<PollFlags> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut fds = [PollFd::from_borrowed_fd(stream.as_fd(), events)];
        match poll(&mut fds, Some(&left)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(fds[0].revents()),
            Err(e) => return Err(e.into()),
        }
    }
}

/// One connection.
pub struct TcpTransport {
    stream: Arc<TcpStream>,
    buffers: LazyBuffers,
    cancel: Cancel,
    answers_early: bool,
    /// The peer answered before it took all of the body: what is left is not sent.
    early: bool,
    /// Why writing failed; what is left is not sent, but an answer may wait.
    write_error: Option<io::Error>,
}

impl fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TcpTransport({:?})", self.stream.peer_addr().ok())
    }
}

impl TcpTransport {
    /// The request's deadline, or ureq's own if that is sooner.
    fn deadline(&self, timeout: NextTimeout) -> Instant {
        let deadline = self.cancel.deadline();
        if timeout.after.is_not_happening() {
            return deadline;
        }
        deadline.min(Instant::now() + *timeout.after)
    }

    fn write_some(&mut self, from: usize, amount: usize, deadline: Instant) -> io::Result<usize> {
        loop {
            match (&*self.stream).write(&self.buffers.output()[from..amount]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => return Ok(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let events = wait(&self.stream, PollFlags::OUT | PollFlags::IN, deadline)?;
                    if events == PollFlags::IN {
                        if self.answers_early {
                            self.early = true;
                            return Ok(amount - from);
                        }
                        wait(&self.stream, PollFlags::OUT, deadline)?;
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }
}

fn timed_out(timeout: NextTimeout) -> ureq::Error {
    ureq::Error::Timeout(timeout.reason)
}

impl Transport for TcpTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let deadline = self.deadline(timeout);
        let mut sent = 0;
        while sent < amount && !self.early && self.write_error.is_none() {
            match self.write_some(sent, amount, deadline) {
                Ok(n) => sent += n,
                Err(e) if e.kind() == io::ErrorKind::TimedOut => return Err(timed_out(timeout)),
                Err(e) => self.write_error = Some(e),
            }
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let deadline = self.deadline(timeout);
        loop {
            match (&*self.stream).read(self.buffers.input_append_buf()) {
                Ok(n) => {
                    if let Some(e) = self.write_error.take_if(|_| n == 0) {
                        return Err(e.into());
                    }
                    self.buffers.input_appended(n);
                    return Ok(n > 0);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    match wait(&self.stream, PollFlags::IN, deadline) {
                        Ok(_) => {}
                        Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                            return Err(timed_out(timeout));
                        }
                        Err(e) => return Err(e.into()),
                    }
                }
                Err(e) => return Err(self.write_error.take().unwrap_or(e).into()),
            }
        }
    }

    fn is_open(&mut self) -> bool {
        if self.early || self.write_error.is_some() || self.cancel.cancelled() {
            return false;
        }
        // Nothing may be readable between requests: neither the end nor unasked bytes.
        let mut byte = [0u8];
        let probe = (&*self.stream).read(&mut byte);
        matches!(probe, Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}
