//! The real daemon as a child process: a scratch directory, a config, its log, signals.
//!
//! When a test fails everything that is known of the daemon is printed.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::wait::{wait_for, wait_until};

/// How long anything may take before a test gives up. Generous: machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon with its scratch directory. Killed when dropped.
pub struct Daemon {
    pub dir: tempfile::TempDir,
    pub admin_port: u16,
    child: Option<Child>,
    starts: u32,
    environment: Vec<(String, String)>,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

impl Daemon {
    /// Writes the config and starts nothing. In `config`, `{dir}` stands for the scratch
    /// directory; `data_dir` and `server` are added.
    pub fn new(config: &str) -> Daemon {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let daemon = Daemon {
            dir,
            admin_port: free_port(),
            child: None,
            starts: 0,
            environment: Vec::new(),
        };
        daemon.write_config(config);
        daemon
    }

    pub fn write_config(&self, config: &str) {
        let dir = self.path("").display().to_string();
        let text = format!(
            "data_dir: {dir}data\nserver: {{ listen: \"127.0.0.1:{}\" }}\n{}",
            self.admin_port,
            config.replace("{dir}", dir.trim_end_matches('/'))
        );
        fs::write(self.path("config.yaml"), text).expect("the config is written");
    }

    pub fn environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.into(), value.into()));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn binary() -> &'static str {
        env!("CARGO_BIN_EXE_log-capturer")
    }

    /// Starts the daemon without waiting for it.
    pub fn launch(&mut self) {
        assert!(self.child.is_none(), "the daemon runs already");
        let log = File::options().create(true).append(true).open(self.path("daemon.log"));
        let child = Command::new(Self::binary())
            .args(["run", "--config"])
            .arg(self.path("config.yaml"))
            .envs(self.environment.iter().cloned())
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("its log is opened"))
            .spawn()
            .expect("the daemon is started");
        self.child = Some(child);
        self.starts += 1;
    }

    /// Starts the daemon and waits until it says that it is ready.
    pub fn start(&mut self) -> &mut Daemon {
        self.launch();
        wait_until(PATIENCE, "the daemon to be ready", || {
            if let Some(status) = self.child.as_mut().and_then(|c| c.try_wait().ok().flatten()) {
                panic!("the daemon ended with {status}");
            }
            self.get("/ready").is_some_and(|(status, _)| status == 200)
        });
        self
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).expect("a process id");
        rustix::process::kill_process(pid, signal).expect("the daemon is signalled");
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the daemon runs");
        wait_for(PATIENCE, "the daemon to end", || child.try_wait().expect("its state"))
    }

    /// Status and body of a GET on the admin port; None when nobody answers.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        http_get(self.admin_port, path)
    }

    /// The value of a metric, given as it stands in the text with its labels; 0 when absent.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").expect("the metrics");
        let line = text.lines().find(|l| l.strip_prefix(name).is_some_and(|r| r.starts_with(' ')));
        line.and_then(|l| l.rsplit(' ').next()).map_or(0.0, |v| v.parse().expect("a number"))
    }

    /// Threads of the process as the kernel counts them.
    pub fn threads(&self) -> usize {
        count(&format!("/proc/{}/task", self.pid()))
    }

    pub fn descriptors(&self) -> usize {
        count(&format!("/proc/{}/fd", self.pid()))
    }

    /// Peak resident memory in KiB.
    pub fn peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("status");
        let line = status.lines().find(|l| l.starts_with("VmHWM:")).expect("VmHWM");
        line.split_whitespace().nth(1).and_then(|v| v.parse().ok()).expect("a number")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }
}

fn count(dir: &str) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

/// Status and body of a GET on a port of this host.
pub fn http_get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- daemon (started {} times) in {}",
                self.starts,
                self.dir.path().display()
            );
            for what in ["/health", "/metrics"] {
                let text = self.child.as_ref().and_then(|_| self.get(what));
                eprintln!("--- {what}: {}", text.map_or("no answer".into(), |(_, body)| body));
            }
            let log = self.log();
            let tail = log.len().saturating_sub(20_000);
            let tail = (tail..=log.len()).find(|i| log.is_char_boundary(*i)).unwrap_or(0);
            eprintln!("--- log\n{}", &log[tail..]);
            eprintln!("--- config\n{}", read(&self.path("config.yaml")));
        }
        self.kill();
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
