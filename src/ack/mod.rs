//! Acknowledgement: from outcomes that come in any order to one watermark per source.
//!
//! The only place where a position advances. Lanes announce what they sealed, senders what
//! became of it; the thread `ack` commits, per source, the place before which every record
//! is delivered or diverted in every required sink.

mod port;
mod position;
mod positions_file;
mod thread;
mod watermark;

pub use port::{AckEvent, AckPort, Outcome};
pub use position::{ContainerIdentity, FileIdentity, Fingerprint, Identity, Position};
pub use positions_file::{PositionsError, PositionsFile};
pub use thread::{Ack, run};
pub use watermark::Watermarks;
