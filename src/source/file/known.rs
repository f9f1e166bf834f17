//! The positions of the run before, until their files are found again.
//!
//! Only a store with two ways in: by device and inode, and by directory. Runs on the thread
//! `file-N`.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::identity::FileId;
use crate::ack::{FileIdentity, Identity, Position};

/// Where a file was left by the run before.
#[derive(Clone, Debug)]
pub struct Left {
    pub identity: FileIdentity,
    pub offset: u64,
}

/// See the module's head.
#[derive(Default)]
pub struct Known {
    by_id: HashMap<(String, FileId), Left>,
    by_dir: HashMap<PathBuf, Vec<(String, FileId)>>,
    sources: HashSet<String>,
}

impl Known {
    pub fn new(positions: Vec<Position>) -> Self {
        let mut known = Self::default();
        for position in positions {
            let Identity::File(identity) = position.identity else { continue };
            let id = FileId { device: identity.device, inode: identity.inode };
            let key = (identity.source.clone(), id);
            known.sources.insert(identity.source.clone());
            if let Some(dir) = identity.path.parent() {
                known.by_dir.entry(dir.to_owned()).or_default().push(key.clone());
            }
            known.by_id.insert(key, Left { identity, offset: position.place.offset });
        }
        known
    }

    /// Whether a source left any position: then it is not its first sweep ever.
    pub fn has_source(&self, source: &str) -> bool {
        self.sources.contains(source)
    }

    pub fn get(&self, source: &str, id: FileId) -> Option<&Left> {
        self.by_id.get(&(source.to_owned(), id))
    }

    /// The file is followed from now on.
    pub fn take(&mut self, source: &str, id: FileId) -> Option<Left> {
        self.by_id.remove(&(source.to_owned(), id))
    }

    /// The file not found again that had this name when the run before ended.
    pub fn last_named(&self, source: &str, path: &Path) -> Option<&Left> {
        let keys = self.by_dir.get(path.parent()?)?;
        let of_source = keys.iter().filter(|key| key.0 == source);
        of_source.filter_map(|key| self.by_id.get(key)).find(|left| left.identity.path == path)
    }

    /// Whether files of a source that are not found again were in this directory.
    pub fn any_in(&self, source: &str, dir: &Path) -> bool {
        let keys = self.by_dir.get(dir);
        keys.is_some_and(|k| k.iter().any(|key| key.0 == source && self.by_id.contains_key(key)))
    }
}
