//! log-capturer.

pub mod clock;
pub mod config;
pub mod units;
