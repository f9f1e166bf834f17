//! log-capturer: log files and containers' logs to Grafana Loki, nothing lost, threads fixed.

// Unit tests start threads as they like; the code itself is checked by the build without tests.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod ack;
pub mod admin;
pub mod batch;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod dead_letter;
pub mod disk;
pub mod health;
pub mod limits;
pub mod metrics;
pub mod queue;
pub mod record;
pub mod sender;
pub mod sink;
pub mod source;
pub mod units;
