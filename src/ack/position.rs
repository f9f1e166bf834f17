//! What is remembered of a source across restarts: who it is and how far it is delivered.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::record::Place;

/// Hash of the first bytes of a file; the count grows with the file up to a bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// How many bytes from the first on are hashed.
    pub bytes: u32,
    /// xxh3 of them.
    pub hash: u64,
}

/// How a file is known again, whatever its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Name of the source in the config.
    pub source: String,
    /// The name it had last.
    #[serde(with = "path_text")]
    pub path: PathBuf,
    pub device: u64,
    pub inode: u64,
    pub fingerprint: Fingerprint,
    /// Id of the container whose json-file log it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

/// A container whose log is read through the engine's API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerIdentity {
    /// Name of the source in the config.
    pub source: String,
    /// 64 hexadecimal digits.
    pub id: String,
    /// The name it had last, for people.
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Identity {
    File(FileIdentity),
    Container(ContainerIdentity),
}

/// One line of the positions file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    #[serde(flatten)]
    pub identity: Identity,
    /// Everything before it is delivered, or diverted, in every required sink.
    pub place: Place,
    /// When the source was seen to be gone (ns since 1970); forgotten some days later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_since_ns: Option<i64>,
}

/// Paths as text: UTF-8 as it is, other bytes as `\xHH`, a backslash doubled.
mod path_text {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        let mut text = String::new();
        for chunk in path.as_os_str().as_bytes().utf8_chunks() {
            text.push_str(&chunk.valid().replace('\\', "\\\\"));
            for byte in chunk.invalid() {
                text.push_str(&format!("\\x{byte:02x}"));
            }
        }
        to.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        let text = String::deserialize(from)?;
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((&first, after)) = rest.split_first() {
            if first != b'\\' {
                bytes.push(first);
                rest = after;
                continue;
            }
            let (byte, used) = match after {
                [b'\\', ..] => (b'\\', 1),
                [b'x', h, l, ..] => {
                    let digits = [*h, *l];
                    let digits = std::str::from_utf8(&digits).map_err(de::Error::custom)?;
                    (u8::from_str_radix(digits, 16).map_err(de::Error::custom)?, 3)
                }
                _ => return Err(de::Error::custom("a lone backslash in a path")),
            };
            bytes.push(byte);
            rest = &after[used..];
        }
        Ok(OsString::from_vec(bytes).into())
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn a_position_survives_its_line_whatever_bytes_its_path_has() {
        let path = PathBuf::from(OsStr::from_bytes(b"/var/log/a\\b\xff\n\xc3\xa9.log"));
        let position = Position {
            identity: Identity::File(FileIdentity {
                source: "system".into(),
                path,
                device: 1,
                inode: u64::MAX,
                fingerprint: Fingerprint { bytes: 3, hash: 4 },
                container: None,
            }),
            place: Place::at(5),
            gone_since_ns: None,
        };
        let text = serde_json::to_string(&position).unwrap();
        assert_eq!(serde_json::from_str::<Position>(&text).unwrap(), position, "{text}");
    }
}
