//! What the kernel says of this process, and the `process_*` metrics that are made of it.
//!
//! Read from /proc/self when somebody asks, on the asker's thread. A figure that cannot be read
//! is 0, since a scrape that fails would hide all the others.

use std::fs;
use std::sync::OnceLock;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::process::{Resource, getrlimit};

/// Figures of this process at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessFigures {
    /// User and system time.
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    /// The most that `resident_bytes` ever was.
    pub resident_peak_bytes: u64,
    /// The part of `resident_bytes` that no file backs: what the daemon allocated.
    pub anonymous_bytes: u64,
    pub virtual_bytes: u64,
    pub open_fds: u64,
    /// `RLIMIT_NOFILE`, the soft one.
    pub max_fds: u64,
    /// Since 1970 UTC.
    pub start_time_seconds: f64,
    pub threads: u64,
}

impl ProcessFigures {
    /// Reads them all.
    pub fn sample() -> Self {
        let mut figures = Self { open_fds: open_fds(), ..Self::default() };
        figures.take_status(&fs::read_to_string("/proc/self/status").unwrap_or_default());
        figures.take_stat(&fs::read_to_string("/proc/self/stat").unwrap_or_default());
        figures.max_fds = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        figures
    }

    /// proc_pid_status(5): sizes are in kB, which are KiB.
    fn take_status(&mut self, status: &str) {
        for line in status.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let number = value.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
            let Some(number) = number else { continue };
            match key {
                "VmSize" => self.virtual_bytes = number << 10,
                "VmRSS" => self.resident_bytes = number << 10,
                "VmHWM" => self.resident_peak_bytes = number << 10,
                "RssAnon" => self.anonymous_bytes = number << 10,
                "Threads" => self.threads = number,
                _ => {}
            }
        }
    }

    /// proc_pid_stat(5): fields 14 and 15 are processor time, 22 is the start after boot, all
    /// in clock ticks. The name in parentheses may itself hold spaces and parentheses.
    fn take_stat(&mut self, stat: &str) {
        let Some((_, rest)) = stat.rsplit_once(')') else { return };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        let ticks = rustix::param::clock_ticks_per_second().max(1) as f64;
        self.cpu_seconds = (field(14) + field(15)) as f64 / ticks;
        self.start_time_seconds = boot_time_seconds() + field(22) as f64 / ticks;
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> std::fmt::Result {
        let cpu = ConstCounter::new(self.cpu_seconds);
        cpu.encode(encoder.encode_descriptor(
            "process_cpu_seconds",
            "User and system processor time",
            None,
            ConstCounter::<f64>::TYPE,
        )?)?;
        let gauges = [
            ("process_resident_memory_bytes", "Resident memory", self.resident_bytes as f64),
            ("process_virtual_memory_bytes", "Virtual memory", self.virtual_bytes as f64),
            ("process_open_fds", "Open file descriptors", self.open_fds as f64),
            ("process_max_fds", "File descriptors allowed", self.max_fds as f64),
            (
                "process_start_time_seconds",
                "Start of the process since 1970 UTC",
                self.start_time_seconds,
            ),
            ("process_threads", "Threads of the process", self.threads as f64),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                ConstGauge::<f64>::TYPE,
            )?)?;
        }
        Ok(())
    }
}

/// Entries of /proc/self/fd, less the descriptor that lists them.
fn open_fds() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1) as u64)
}

/// `btime` of proc_stat(5): does not change but for steps of the clock, so it is read once.
fn boot_time_seconds() -> f64 {
    static BOOT: OnceLock<f64> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = stat.lines().find_map(|l| l.strip_prefix("btime "));
        line.and_then(|seconds| seconds.trim().parse().ok()).unwrap_or(0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_has_figures() {
        let f = ProcessFigures::sample();
        assert!(f.resident_bytes > 0 && f.resident_peak_bytes >= f.resident_bytes, "{f:?}");
        assert!(f.open_fds >= 3 && f.max_fds >= f.open_fds && f.threads >= 1, "{f:?}");
        // Later than 2020 and not in the future.
        let now = std::time::SystemTime::now();
        let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(f.start_time_seconds > 1.577e9 && f.start_time_seconds <= now + 2.0, "{f:?}");
    }

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let mut f = ProcessFigures::default();
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 3 0 100 1 1";
        f.take_stat(stat);
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(f.cpu_seconds, 200.0 / ticks);
    }
}
