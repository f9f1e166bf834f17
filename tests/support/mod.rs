//! What the integration tests share: doubles of the outside world and polling helpers.
//!
//! A module here serves many tests, and each test uses a part of it; an item that no test uses at
//! the moment is no mistake, hence the allowance.
#![allow(dead_code)]

pub mod daemon;
pub mod docker;
pub mod lines;
pub mod loki;
pub mod wait;
