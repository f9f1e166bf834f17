//! The real daemon as a process, on real files, against the Loki double.

mod bad_days;
mod files;
#[cfg(feature = "test-hooks")]
mod hooks;
mod life;
mod rotation;

use crate::support::daemon::{Daemon, PATIENCE};
use crate::support::loki::LokiDouble;
use crate::support::wait::wait_until;

/// A daemon that reads `{dir}/logs/*.log` from the beginning into `double`.
fn daemon_for(double: &LokiDouble, more: &str) -> Daemon {
    let daemon = Daemon::new(&format!(
        "shutdown_timeout: 10s\n\
         sources:\n  files:\n    - name: logs\n      include: [\"{{dir}}/logs/*.log\"]\n      \
         labels: {{ job: logs }}\n      start_at: beginning\n{more}\
         sinks:\n  - name: loki\n    type: loki\n    url: {}\n    \
         timeout: {{ connect: 2s, request: 3s }}\n    retry: {{ initial: 50ms, max: 500ms }}\n    \
         batch: {{ bytes: 64KiB, wait: 200ms }}\n",
        double.url()
    ));
    std::fs::create_dir(daemon.path("logs")).expect("the directory of logs");
    daemon
}

/// Waits until `lines` lines of each of `files` files are there, then checks that nothing is
/// missing and that nothing was sent twice.
fn expect_once(double: &LokiDouble, files: u32, lines: u64) {
    wait_until(PATIENCE, "all lines", || double.account().unique >= u64::from(files) * lines);
    let account = double.account_for(files, lines);
    assert_eq!((account.missing, account.duplicates), (0, 0), "{account:?}");
}
