//! Log files: found by patterns, followed through rotation, read in chunks.
//!
//! `tail` cuts lines, `identity` knows a file again, `discover` finds names, `watch` hears of
//! changes, `chain` joins the generations of one name, `lane` is the thread `file-N` over all
//! of them. Containers' json-file logs go the same way with the framing of `container`.

mod chain;
mod container;
mod discover;
mod follow;
mod identity;
mod known;
pub mod lane;
mod logs;
mod names;
pub mod read;
mod rotate;
mod tail;
pub mod watch;

pub use lane::{FileLane, lane_of, run};
pub use read::{Divert, LongLine};
pub use watch::{LaneInbox, Watch, start};
