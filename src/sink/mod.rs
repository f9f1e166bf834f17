//! What differs between destinations: Loki over HTTP, files on this host.
//!
//! Each implements `sender::Destination` and lives on a sender's thread.

pub mod local_file;
pub mod loki;
