//! Senders.
pub mod backoff;
pub mod http;
pub mod refusal;
pub mod resolver;
pub mod tls;
pub mod transport;
pub mod verdict;
