//! Where lines come from: files and Docker containers.

pub mod file;
