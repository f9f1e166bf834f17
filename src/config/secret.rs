//! Secrets: kept out of every display, read again when their file changes.
//!
//! Where a secret comes from is fixed when the config is read; its value, when it
//! lives in a file, is read at each use, so that a rotated password needs no restart.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes of a secret's file. Tokens are some KiB; the bound guards against a mistaken path.
pub const SECRET_BYTES_MAX: u64 = 64 << 10;

/// A password, token or header value, or where to find it.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// Written in the config or taken from the environment.
    Value(String),
    /// `file:PATH` or `credential:NAME` (under `$CREDENTIALS_DIRECTORY`): read when used.
    File(PathBuf),
}

/// Why a secret cannot be read; never shows what was read.
#[derive(Debug)]
pub enum SecretError {
    Read(PathBuf, io::Error),
    /// Larger than [`SECRET_BYTES_MAX`].
    TooLarge(PathBuf),
    NotText(PathBuf),
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, e) => write!(f, "cannot read the secret in {}: {e}", path.display()),
            Self::TooLarge(path) => {
                write!(f, "the secret in {} is larger than 64KiB", path.display())
            }
            Self::NotText(path) => {
                write!(f, "the secret in {} is not UTF-8 or has control characters", path.display())
            }
        }
    }
}

impl std::error::Error for SecretError {}

impl Secret {
    /// The value as of now. Of a file, one newline at its end is not part of it.
    ///
    /// # Errors
    /// The file cannot be read, is too large, or holds what no header can carry.
    pub fn read(&self) -> Result<String, SecretError> {
        match self {
            Self::Value(value) => Ok(value.clone()),
            Self::File(path) => read_file(path),
        }
    }
}

fn read_file(path: &Path) -> Result<String, SecretError> {
    let failed = |e| SecretError::Read(path.to_owned(), e);
    // O_NONBLOCK: opening a FIFO without writer would hang for ever.
    let nonblock = libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    let mut bytes = Vec::new();
    file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(SecretError::TooLarge(path.to_owned()));
    }
    let mut text = String::from_utf8(bytes).map_err(|_| SecretError::NotText(path.to_owned()))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.chars().any(char::is_control) {
        return Err(SecretError::NotText(path.to_owned()));
    }
    Ok(text)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(_) => f.write_str("<secret>"),
            Self::File(path) => write!(f, "<secret in {}>", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_and_loses_one_newline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let secret = Secret::File(path.clone());
        for (content, want) in
            [("abc", "abc"), ("abc\n", "abc"), ("abc\r\n", "abc"), ("", ""), (" x ", " x ")]
        {
            std::fs::write(&path, content).unwrap();
            assert_eq!(secret.read().unwrap(), want, "{content:?}");
        }
    }

    #[test]
    fn faults_name_the_file_and_never_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let secret = Secret::File(path.clone());
        assert!(matches!(secret.read(), Err(SecretError::Read(..))));
        assert!(matches!(Secret::File(dir.path().into()).read(), Err(SecretError::Read(..))));
        for content in [&b"hunter2\n\n"[..], b"hunter2\xff", &[b'a'; (64 << 10) + 1]] {
            std::fs::write(&path, content).unwrap();
            let text = secret.read().unwrap_err().to_string();
            assert!(text.contains("token") && !text.contains("hunter2"), "{text}");
        }
        assert!(!format!("{:?}", Secret::Value("hunter2".into())).contains("hunter2"));
    }
}
