//! Containers' logs as the lane is told of them, and what is said of names that cannot be read.
//!
//! A container's log comes from the engine's thread with its path and its labels; one that is
//! not there yet is awaited. Part of the lane; runs on the thread `file-N`.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::chain::Owner;
use super::lane::Lane;
use crate::health::Level;
use crate::limits;
use crate::source::ContainerLog;

impl Lane {
    /// A container's log is to be followed, or its labels changed.
    pub(super) fn container(&mut self, log: ContainerLog, now: Instant) {
        let path = log.path.clone();
        let owner = Owner::Container(Arc::new(log));
        if let Some(&key) = self.live.get(&path) {
            if let Some(chain) = self.chains[key].as_mut() {
                chain.owner = owner;
                chain.labels = None;
                chain.ending = false;
                if let (Some(json), Owner::Container(log)) = (&mut chain.json, &chain.owner) {
                    json.relabel(log);
                }
            }
            return self.activate(key, now);
        }
        if let Some(dir) = path.parent()
            && let Err(e) = self.look(dir, &[])
        {
            self.trouble(dir, &e, Some(&owner));
        }
        self.begin_container(owner, &path, now);
    }

    pub(super) fn begin_container(&mut self, owner: Owner, path: &Path, now: Instant) {
        match self.begin(owner.clone(), path, false, now) {
            Ok(_) => self.clear_trouble(path),
            Err(e) => {
                self.trouble(path, &e, Some(&owner));
                self.awaited.insert(path.to_owned(), owner);
            }
        }
    }

    /// The engine says that a container is gone: its log is read to the end, then forgotten.
    pub(super) fn container_gone(&mut self, source: &str, id: &str, now: Instant) {
        let is = |owner: &Owner| owner.container_id() == Some(id) && owner.source() == source;
        let awaited = self.awaited.iter().find(|(_, o)| is(o)).map(|(path, _)| path.clone());
        if let Some(path) = awaited {
            self.awaited.remove(&path);
            path.parent().into_iter().for_each(|dir| self.drop_dir_of_container(dir));
        }
        let found = self.chains.iter().flatten().find(|c| is(&c.owner)).map(|c| c.live.clone());
        let Some(&key) = found.and_then(|live| self.live.get(&live)) else { return };
        if let Some(chain) = self.chains[key].as_mut() {
            chain.ending = true;
            for segment in &mut chain.segments {
                segment.leaving.get_or_insert(now);
            }
        }
        self.activate(key, now);
    }

    /// A directory that only a container's log was followed in is of no more interest.
    pub(super) fn drop_dir_of_container(&mut self, path: &Path) {
        let Some(dir) = self.dirs.get(path) else { return };
        if !dir.chains.is_empty() || !dir.states.is_empty() {
            return;
        }
        let Some(dir) = self.dirs.remove(path) else { return };
        self.unwatch(path, dir.names_watched, dir.data_watched, !path.is_dir());
    }

    /// Something cannot be read: said once, with the cure, and tried again.
    pub(super) fn trouble(&mut self, path: &Path, error: &io::Error, owner: Option<&Owner>) {
        let text = match error.kind() {
            io::ErrorKind::PermissionDenied => format!(
                "{}: {error} (let the daemon read it: group adm, or CAP_DAC_READ_SEARCH)",
                path.display()
            ),
            io::ErrorKind::NotFound => return,
            _ => format!("{}: {error}", path.display()),
        };
        let known = self.troubled.get(path) == Some(&text);
        if known || self.troubled.len() >= limits::FILES_MAX {
            return;
        }
        log::warn!("cannot read {text}; trying again at each sweep");
        self.cx.metrics.error("file", "unreadable");
        let source = owner.map_or("files", Owner::source);
        self.health.set("source", source, Level::Degraded, &format!("cannot read {text}"));
        self.troubled.insert(path.to_owned(), text);
    }

    pub(super) fn clear_trouble(&mut self, path: &Path) {
        if self.troubled.remove(path).is_none() {
            return;
        }
        log::info!("{} can be read now", path.display());
        if self.troubled.is_empty() {
            for (kind, name) in self.health.all().into_keys() {
                let mine = name == "files" || self.sources.iter().any(|s| s.name == name);
                if kind == "source" && mine {
                    self.health.ok("source", &name);
                }
            }
        }
    }
}
