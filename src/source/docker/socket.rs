//! Sockets to a Docker Engine, by unix socket or tcp: connected without blocking, every wait
//! within a deadline and ended by a stop.
//!
//! `UnixStream::connect` has no timeout, so connecting is done by hand. Waits are sliced, since
//! nothing else of a stop would reach them. What is said over a socket is `engine`'s and the
//! Docker lanes'. Runs on `docker-ctl` and on the Docker lanes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as start_connect, socket_with,
    sockopt,
};

use crate::config::checked::Endpoint;
use crate::daemon::Stop;
use crate::limits;
use crate::sender::resolver::Resolve;

/// Pause between tries at a unix socket whose backlog is full.
const BACKLOG_PAUSE: Duration = Duration::from_millis(20);

/// A connection to an engine: non-blocking, closed when dropped.
#[derive(Debug)]
pub enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(into),
            Self::Tcp(stream) => stream.read(into),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

// `polling` takes its sources by number.
impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// Connects to an engine. The socket is non-blocking.
///
/// # Errors
/// `NotFound`, `PermissionDenied`, `ConnectionRefused` as the system says; `TimedOut` at the
/// deadline, `Interrupted` when a stop was asked for.
pub fn connect(
    endpoint: &Endpoint,
    resolve: Option<&Resolve>,
    stop: &Stop,
    deadline: Instant,
) -> io::Result<Socket> {
    match endpoint {
        Endpoint::Unix(path) => {
            let address = SocketAddrUnix::new(path.as_path())?;
            connect_unix(&address, stop, deadline).map(Socket::Unix)
        }
        Endpoint::Tcp { host, port } => {
            let addresses = addresses(host, *port, resolve, deadline)?;
            connect_tcp(&addresses, stop, deadline).map(Socket::Tcp)
        }
    }
}

fn addresses(
    host: &str,
    port: u16,
    resolve: Option<&Resolve>,
    deadline: Instant,
) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let resolve = resolve.ok_or_else(|| io::Error::other("no resolver for host names"))?;
    resolve.addresses(host, port, deadline).map_err(io::Error::other)
}

fn connect_unix(
    address: &SocketAddrUnix,
    stop: &Stop,
    deadline: Instant,
) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    loop {
        match start_connect(&socket, address) {
            Ok(()) => return Ok(UnixStream::from(socket)),
            // A full backlog: there is nothing to poll for.
            Err(Errno::AGAIN) => {
                check_time(stop, deadline)?;
                poll_for(&mut [], BACKLOG_PAUSE)?;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Tries the addresses in turn; each gets an equal share of the time that is left.
fn connect_tcp(addresses: &[SocketAddr], stop: &Stop, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "no address");
    for (i, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - i).unwrap_or(u32::MAX);
        match connect_address(*address, stop, Instant::now() + share) {
            Ok(stream) => return Ok(stream),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn connect_address(address: SocketAddr, stop: &Stop, deadline: Instant) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = TcpStream::from(socket_with(family, SocketType::STREAM, flags, None)?);
    match start_connect(&stream, &address) {
        Ok(()) => {}
        Err(Errno::INPROGRESS) => {
            wait(stream.as_fd(), PollFlags::OUT, stop, deadline)?;
            sockopt::socket_error(&stream)??;
        }
        Err(e) => return Err(e.into()),
    }
    stream.set_nodelay(true)?;
    // An idle stream carries nothing: without probes a dead peer would look like silence.
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, limits::DOCKER_KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&stream, limits::DOCKER_KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&stream, limits::DOCKER_KEEPALIVE_PROBES)?;
    Ok(stream)
}

/// Writes all of `bytes`.
pub(super) fn write_all(
    socket: &mut Socket,
    mut bytes: &[u8],
    stop: &Stop,
    deadline: Instant,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                wait(socket.as_fd(), PollFlags::OUT, stop, deadline)?;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Waits for bytes; 0 at the connection's end.
pub(super) fn read_some(
    socket: &mut Socket,
    into: &mut [u8],
    stop: &Stop,
    deadline: Instant,
) -> io::Result<usize> {
    loop {
        // Before each read: a peer that trickles must not outlast the deadline.
        check_time(stop, deadline)?;
        match socket.read(into) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                wait(socket.as_fd(), PollFlags::IN, stop, deadline)?;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn check_time(stop: &Stop, deadline: Instant) -> io::Result<Duration> {
    if stop.asked() {
        return Err(io::ErrorKind::Interrupted.into());
    }
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn wait(fd: BorrowedFd<'_>, events: PollFlags, stop: &Stop, deadline: Instant) -> io::Result<()> {
    loop {
        let left = check_time(stop, deadline)?;
        let mut fds = [PollFd::from_borrowed_fd(fd, events)];
        if poll_for(&mut fds, left.min(limits::DOCKER_STOP_CHECK))? > 0 {
            return Ok(());
        }
    }
}

fn poll_for(fds: &mut [PollFd<'_>], time: Duration) -> io::Result<usize> {
    let time = Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    };
    match poll(fds, Some(&time)) {
        Err(Errno::INTR) => Ok(0),
        done => Ok(done?),
    }
}
