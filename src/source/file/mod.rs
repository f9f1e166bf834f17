//! Log files: found by patterns, followed through rotation, read in chunks.
//!
//! `tail` cuts lines, `identity` knows a file again, `discover` finds names, `watch` hears of
//! changes, `chain` joins the generations of one name, `lane` is the thread `file-N` over all
//! of them. Containers' json-file logs go the same way with the framing of `container`.

pub mod discover;
pub mod identity;
pub mod tail;
pub mod watch;
