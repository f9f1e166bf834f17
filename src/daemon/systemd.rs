//! systemd's notification protocol (sd_notify(3)), by hand: a datagram to `$NOTIFY_SOCKET`.
//!
//! Owns the socket and the watchdog's interval; who says what when is up to `main` (READY,
//! STOPPING) and `monitor` (WATCHDOG). The socket never blocks: a datagram that finds no room
//! is an error, not a wait.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to the service manager.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    manager: SocketAddr,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// None when nobody asked to be notified.
    ///
    /// # Errors
    /// When `$NOTIFY_SOCKET` is of a kind that we do not speak, or no socket can be made.
    pub fn from_env() -> io::Result<Option<Self>> {
        let Some(address) = env::var_os("NOTIFY_SOCKET").filter(|a| !a.is_empty()) else {
            return Ok(None);
        };
        let address = address.to_string_lossy();
        let var = |name| env::var(name).ok();
        let watchdog = watchdog(var("WATCHDOG_USEC"), var("WATCHDOG_PID"), std::process::id());
        Self::new(&address, watchdog).map(Some)
    }

    /// # Errors
    /// As [`Self::from_env`].
    pub fn new(address: &str, watchdog: Option<Duration>) -> io::Result<Self> {
        let manager = if let Some(name) = address.strip_prefix('@') {
            SocketAddr::from_abstract_name(name)?
        } else if address.starts_with('/') {
            SocketAddr::from_pathname(address)?
        } else {
            let text = format!("NOTIFY_SOCKET {address} is neither a path nor an abstract name");
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, manager, watchdog })
    }

    /// How often the manager wants to hear from us at least; feed at half of it.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    fn send(&self, state: &str) -> io::Result<()> {
        self.socket.send_to_addr(state.as_bytes(), &self.manager).map(|_| ())
    }

    /// Everything is started.
    ///
    /// # Errors
    /// As sendto(2).
    pub fn ready(&self, status: &str) -> io::Result<()> {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)))
    }

    /// A stop was asked for.
    ///
    /// # Errors
    /// As sendto(2).
    pub fn stopping(&self) -> io::Result<()> {
        self.send("STOPPING=1\nSTATUS=draining")
    }

    /// What `systemctl status` shows.
    ///
    /// # Errors
    /// As sendto(2).
    pub fn status(&self, status: &str) -> io::Result<()> {
        self.send(&format!("STATUS={}", one_line(status)))
    }

    /// No busy thread is stalled.
    ///
    /// # Errors
    /// As sendto(2).
    pub fn feed(&self) -> io::Result<()> {
        self.send("WATCHDOG=1")
    }
}

/// Assignments are parted by newlines: a text must not bring its own.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// `WATCHDOG_USEC`, when it is meant for this process (sd_watchdog_enabled(3)).
fn watchdog(usec: Option<String>, for_pid: Option<String>, pid: u32) -> Option<Duration> {
    if for_pid.is_some_and(|p| p.parse() != Ok(pid)) {
        return None;
    }
    let usec: u64 = usec?.parse().ok()?;
    (usec > 0).then(|| Duration::from_micros(usec))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut buf = [0u8; 256];
        let n = socket.recv(&mut buf).unwrap();
        String::from_utf8(buf[..n].to_vec()).unwrap()
    }

    #[test]
    fn states_arrive_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("log-capturer-test-{}", std::process::id());
        let bound = SocketAddr::from_abstract_name(&name).unwrap();
        let ways = [
            (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
            (UnixDatagram::bind_addr(&bound).unwrap(), format!("@{name}")),
        ];
        for (manager, address) in ways {
            let notifier = Notifier::new(&address, None).unwrap();
            notifier.ready("16 threads\nSTOPPING=1").unwrap();
            assert_eq!(received(&manager), "READY=1\nSTATUS=16 threads STOPPING=1");
            notifier.feed().unwrap();
            assert_eq!(received(&manager), "WATCHDOG=1");
            notifier.stopping().unwrap();
            assert_eq!(received(&manager), "STOPPING=1\nSTATUS=draining");
        }
        assert!(Notifier::new("vsock:2:1234", None).is_err());
    }

    #[test]
    fn the_watchdog_counts_only_for_the_process_it_names() {
        let some = |s: &str| Some(s.to_owned());
        let second = Some(Duration::from_secs(1));
        for (usec, pid, want) in [
            (None, None, None),
            (some("1000000"), None, second),
            (some("1000000"), some("7"), second),
            (some("1000000"), some("8"), None),
            (some("0"), some("7"), None),
            (some("soon"), None, None),
        ] {
            assert_eq!(watchdog(usec.clone(), pid.clone(), 7), want, "{usec:?} {pid:?}");
        }
    }
}
