//! A real Docker Engine of the tests' own: a dockerd on a scratch directory and socket.
//!
//! The host's engine and its containers are left alone. Needs root and Debian's docker.io and
//! busybox-static. Where they are missing a test says so and passes, unless
//! `LOG_CAPTURER_TEST_DOCKER=required`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::wait::wait_until;

/// An engine may take long to start or stop on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The image of all test containers: busybox, imported.
pub const IMAGE: &str = "lc-test:busybox";

const APPLETS: [&str; 9] = ["sh", "seq", "awk", "sleep", "cat", "head", "true", "yes", "printf"];

pub struct Engine {
    dir: tempfile::TempDir,
    dockerd: Option<Child>,
    names: AtomicU32,
}

/// Why no engine can be had, if so.
fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".into());
    }
    let found = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(name).exists())
    };
    let programs = ["dockerd", "docker"].into_iter().find(|name| !found(name));
    programs.map(|name| format!("no {name} on the path")).or_else(|| {
        (!Path::new("/bin/busybox").exists()).then(|| "no /bin/busybox (busybox-static)".into())
    })
}

impl Engine {
    /// Starts an engine; None where none can be had and none is required.
    pub fn start() -> Option<Engine> {
        if let Some(why) = missing() {
            let required = std::env::var("LOG_CAPTURER_TEST_DOCKER").is_ok_and(|v| v == "required");
            assert!(!required, "a Docker Engine is required: {why}");
            eprintln!("left out, no Docker Engine can be started: {why}");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("lc-dockerd").tempdir().expect("a directory");
        let mut engine = Engine { dir, dockerd: None, names: AtomicU32::new(0) };
        engine.up();
        engine.import();
        Some(engine)
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts dockerd and waits until it answers.
    pub fn up(&mut self) {
        assert!(self.dockerd.is_none(), "the engine runs");
        let log = fs::File::options().create(true).append(true).open(self.path("dockerd.log"));
        let log = log.expect("the engine's log");
        let _ = fs::remove_file(self.path("pid"));
        let child = Command::new("dockerd")
            .arg("--data-root")
            .arg(self.path("root"))
            .arg("--exec-root")
            .arg(self.path("exec"))
            .arg("--pidfile")
            .arg(self.path("pid"))
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .args(["--bridge=none", "--iptables=false", "--ip-masq=false"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.dockerd = Some(child.expect("dockerd is started"));
        wait_until(PATIENCE, "the engine to answer", || self.docker(&["version"]).is_ok());
    }

    /// Stops dockerd, and with it all containers.
    pub fn down(&mut self) {
        let Some(mut child) = self.dockerd.take() else { return };
        let pid = rustix::process::Pid::from_child(&child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        wait_until(PATIENCE, "the engine to end", || child.try_wait().is_ok_and(|s| s.is_some()));
    }

    fn import(&self) {
        let bin = self.path("rootfs/bin");
        fs::create_dir_all(&bin).expect("a root file system");
        fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox");
        for applet in APPLETS {
            symlink("busybox", bin.join(applet)).expect("an applet");
        }
        let tar = self.path("rootfs.tar");
        let status = Command::new("tar")
            .arg("-C")
            .arg(self.path("rootfs"))
            .arg("-cf")
            .arg(&tar)
            .arg(".")
            .status();
        assert!(status.is_ok_and(|s| s.success()), "tar packs the image");
        self.docker(&["import", &tar.display().to_string(), IMAGE]).expect("the image");
    }

    /// Runs a docker command on this engine; its output, or its error text.
    pub fn docker(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new("docker")
            .arg("-H")
            .arg(format!("unix://{}", self.socket().display()))
            .args(args)
            .output()
            .map_err(|e| e.to_string())?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Starts a container in the background that runs a shell script; its name.
    pub fn run(&self, options: &[&str], script: &str) -> String {
        let name = format!("lc-test-{}", self.names.fetch_add(1, Ordering::Relaxed));
        let mut args = vec!["run", "-d", "--network", "none", "--init=false", "--name", &name];
        args.extend_from_slice(options);
        args.extend_from_slice(&[IMAGE, "sh", "-c", script]);
        self.docker(&args).expect("the container is started");
        name
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path("dockerd.log")).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(30).collect();
            eprintln!("--- dockerd");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        if self.dockerd.is_some()
            && let Ok(ids) = self.docker(&["ps", "-aq"])
        {
            let mut args = vec!["rm", "-f"];
            args.extend(ids.lines());
            let _ = self.docker(&args);
        }
        self.down();
        // Mounts that the engine left would keep the directory.
        let _ = Command::new("umount").arg("-q").arg(self.path("root")).status();
    }
}
