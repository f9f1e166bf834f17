//! The only place that creates channels and threads: wiring, registry, signals, shutdown.

pub mod beat;
pub mod data_dir;
pub mod plan;
pub mod registry;
pub mod signals;
pub mod stop;

pub use beat::{Beat, Waits};
pub use registry::{Registered, Registry};
pub use stop::Stop;
