//! Secrets: kept out of every display, read again when their file changes.

use std::fmt;
use std::path::PathBuf;

/// A password, token or header value, or where to find it.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// Written in the config or taken from the environment.
    Value(String),
    /// `file:PATH` or `credential:NAME` (under `$CREDENTIALS_DIRECTORY`): read when used.
    File(PathBuf),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(_) => f.write_str("<secret>"),
            Self::File(path) => write!(f, "<secret in {}>", path.display()),
        }
    }
}
