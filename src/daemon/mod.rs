//! The only place that creates channels and threads: wiring, registry, signals, shutdown.

pub mod auditor;
pub mod beat;
pub mod core;
pub mod data_dir;
mod heap;
pub mod monitor;
pub mod own_log;
pub mod plan;
pub mod registry;
mod run;
pub mod signals;
pub mod stop;
pub mod systemd;
#[cfg(feature = "test-hooks")]
pub mod test_hooks;
mod wiring;

pub use beat::{Beat, Waits};
pub use registry::{Registered, Registry};
pub use run::{RunError, run};
pub use stop::Stop;
