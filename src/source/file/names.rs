//! What directories tell the lane: new names, moved names, names that are gone.
//!
//! A change of names marks its directory; it is listed a moment later and compared with the
//! chains there. The sweep does so with all directories, as a safety net for lost events. Part
//! of the lane; runs on the thread `file-N`.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::chain::Owner;
use super::discover::{Found, Listing, State};
use super::identity::FileId;
use super::lane::Lane;
use super::watch::{Interest, Watched};
use crate::limits;

/// Listing a directory may take one part in this many of the lane's time.
const LISTING_SHARE: u32 = 20;

/// A small file that may become a copy is looked at again after this.
const UNDECIDED_AGAIN: Duration = Duration::from_secs(1);

/// File systems on which other machines write without inotify telling: NFS, SMB (two), FUSE, 9P.
const BLIND_FILE_SYSTEMS: [u64; 5] = [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x6573_5546, 0x0102_1997];

/// A directory that the patterns reach or a followed file lies in.
#[derive(Default)]
pub(super) struct Dir {
    pub states: Vec<State>,
    pub chains: Vec<usize>,
    /// How many of them are active.
    pub active: usize,
    pub names_watched: bool,
    pub data_watched: bool,
    /// inotify tells nothing here of what other machines write.
    blind: Option<bool>,
    /// Which directory it was when last listed.
    born: Option<(u64, Option<SystemTime>)>,
    due: Option<Instant>,
    cost: Duration,
    seen: bool,
}

impl Lane {
    /// Something happened to the names of a directory.
    pub(super) fn names_changed(&mut self, path: &Path, now: Instant) {
        let Some(dir) = self.dirs.get_mut(path) else { return };
        let due = now + limits::NAMES_SETTLE.max(dir.cost * LISTING_SHARE);
        let due = *dir.due.get_or_insert(due);
        self.names_due = Some(self.names_due.map_or(due, |d| d.min(due)));
    }

    /// Data was written to a file of a directory whose files were all idle.
    pub(super) fn data_in(&mut self, path: &Path, now: Instant) {
        if let Some(&key) = self.live.get(path) {
            self.activate(key, now);
        } else if let Some(id) =
            self.dormant.iter().find(|(_, d)| d.path == path).map(|(id, _)| *id)
        {
            self.revive(id, now);
        }
    }

    /// Lists the directories whose time has come.
    pub(super) fn look_at_names(&mut self, now: Instant) {
        let due = |d: &Dir| d.due.is_some_and(|due| due <= now);
        let paths: Vec<_> =
            self.dirs.iter().filter(|(_, d)| due(d)).map(|(path, _)| path.clone()).collect();
        for path in paths {
            let Some(dir) = self.dirs.get_mut(&path) else { continue };
            dir.due = None;
            let states = dir.states.clone();
            if !path.is_dir() {
                self.sweep_due = now;
                continue;
            }
            self.look_into(vec![(path, states)], now, false);
        }
        self.names_due = self.dirs.values().filter_map(|d| d.due).min();
    }

    /// Looks at all names, and at all files.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.dirs.values_mut().for_each(|dir| {
            dir.seen = false;
            dir.due = None;
        });
        let mut roots = self.discovery.roots();
        let containers = self.dirs.iter().filter(|(_, d)| d.states.is_empty());
        roots.extend(containers.map(|(path, _)| (path.clone(), Vec::new())));
        self.look_into(roots, now, true);
        self.forget_vanished();
        for key in 0..self.chains.len() {
            self.queue(key);
        }
        self.sweep_dormant(now);
        self.swept = true;
        self.names_due = self.dirs.values().filter_map(|d| d.due).min();
        let blind = self.watch.is_none()
            || self.limit_said
            || self.dirs.values().any(|d| d.blind == Some(true) && !d.chains.is_empty());
        let interval = if blind { limits::SWEEP_INTERVAL_BLIND } else { limits::SWEEP_INTERVAL };
        self.sweep_due = self.cx.clock.now() + interval;
    }

    /// Directories that are gone; their files are still read to the end.
    fn forget_vanished(&mut self) {
        let gone: Vec<PathBuf> =
            self.dirs.iter().filter(|(_, d)| !d.seen).map(|(path, _)| path.clone()).collect();
        for path in gone {
            let Some(dir) = self.dirs.get_mut(&path) else { continue };
            let (names, data) = (dir.names_watched, dir.data_watched);
            (dir.names_watched, dir.data_watched) = (false, false);
            let empty = dir.chains.is_empty();
            self.unwatch(&path, names, data, !path.is_dir());
            if empty {
                self.dirs.remove(&path);
            }
        }
    }

    pub(super) fn unwatch(&self, path: &Path, names: bool, data: bool, vanished: bool) {
        let Some(watch) = &self.watch else { return };
        for (is, what) in [(names, Interest::Names), (data, Interest::Data)] {
            if is {
                watch.remove(what, path, vanished);
            }
        }
    }

    /// `all`: every directory is gone into, not only those not seen before.
    fn look_into(&mut self, from: Vec<(PathBuf, Vec<State>)>, now: Instant, all: bool) {
        let mut listings = Vec::new();
        let mut queue = from;
        let mut walked: HashSet<PathBuf> = HashSet::new();
        // One level after the other, so that a directory is watched before it is listed.
        while !queue.is_empty() {
            let mut below: Vec<(PathBuf, Vec<State>)> = Vec::new();
            for (path, states) in std::mem::take(&mut queue) {
                match self.look(&path, &states) {
                    Ok(mut listing) => {
                        self.clear_trouble(&path);
                        below.append(&mut listing.below);
                        listings.push((path, listing));
                    }
                    Err(e) => self.trouble(&path, &e, None),
                }
            }
            for (path, states) in below {
                let new = !self.dirs.contains_key(&path);
                if (all || new)
                    && walked.len() < limits::WALK_DIRECTORIES_MAX
                    && walked.insert(path.clone())
                {
                    queue.push((path, states));
                }
            }
        }
        for (path, listing) in listings {
            self.apply(&path, listing, now);
        }
    }

    /// Lists a directory, and watches its names first if they matter.
    pub(super) fn look(&mut self, path: &Path, states: &[State]) -> io::Result<Listing> {
        let dir = self.dirs.entry(path.to_owned()).or_default();
        for state in states {
            if !dir.states.contains(state) {
                dir.states.push(*state);
            }
        }
        dir.seen = true;
        let states = dir.states.clone();
        let wanted = states.is_empty() || !dir.chains.is_empty();
        let begun = self.cx.clock.now();
        let mut listing = self.discovery.look(path, &states)?;
        let cost = self.cx.clock.now().duration_since(begun);
        let dir = self.dirs.entry(path.to_owned()).or_default();
        if dir.born.replace(listing.born).is_some_and(|born| born != listing.born) {
            // Removed and made anew: the kernel's watches went with the old one.
            let names = std::mem::take(&mut dir.names_watched);
            let data = std::mem::take(&mut dir.data_watched);
            self.unwatch(path, names, data, true);
        }
        let watched = self.dirs.get(path).is_some_and(|d| d.names_watched);
        if !watched && (wanted || listing.watch) && self.watch_names(path) {
            // What appeared before the watch was set.
            listing = self.discovery.look(path, &states)?;
        }
        if let Some(dir) = self.dirs.get_mut(path) {
            dir.cost = cost;
        }
        Ok(listing)
    }

    fn watch_names(&mut self, path: &Path) -> bool {
        let (Some(dir), Some(watch)) = (self.dirs.get_mut(path), &self.watch) else {
            return false;
        };
        match watch.add(Interest::Names, path) {
            Watched::Yes => dir.names_watched = true,
            Watched::No => {}
            Watched::LimitReached => self.say_limit(),
        }
        self.dirs.get(path).is_some_and(|d| d.names_watched)
    }

    fn say_limit(&mut self) {
        if !std::mem::replace(&mut self.limit_said, true) {
            log::warn!(
                "no more inotify watches can be had: names are looked through every 10 s and idle \
                 files every second (raise fs.inotify.max_user_watches)"
            );
        }
    }

    /// Data events are wanted of a directory whose files are all idle; true when they have
    /// just begun.
    pub(super) fn watch_data(&mut self, path: &Path) -> bool {
        let (Some(dir), Some(watch)) = (self.dirs.get_mut(path), &self.watch) else {
            return false;
        };
        let blind = *dir.blind.get_or_insert_with(|| is_blind(path));
        if dir.data_watched || blind {
            return false;
        }
        match watch.add(Interest::Data, path) {
            Watched::Yes => dir.data_watched = true,
            Watched::No => {}
            Watched::LimitReached => self.say_limit(),
        }
        self.dirs.get(path).is_some_and(|d| d.data_watched)
    }

    /// Compares a directory's names with the chains there.
    fn apply(&mut self, path: &Path, mut listing: Listing, now: Instant) {
        let keys = self.dirs.get(path).map(|d| d.chains.clone()).unwrap_or_default();
        if listing.names.is_empty() && !keys.is_empty() {
            listing.names = names_in(path);
        }
        let inodes: HashMap<&OsStr, u64> =
            listing.names.iter().map(|(name, inode)| (name.as_os_str(), *inode)).collect();
        let mut displaced = Vec::new();
        for key in keys {
            let chain = self.chain(key);
            let Some(last) = chain.segments.back() else { continue };
            let Some(name) = chain.live.file_name() else { continue };
            let inode = inodes.get(name).copied();
            if chain.linked && inode.is_some() {
                // The directory does not tell where a symlink leads.
                let id = std::fs::metadata(&chain.live).ok().map(|m| FileId::of(&m));
                if id != Some(last.file_id) {
                    displaced.push((key, id.is_some()));
                }
            } else if inode != Some(last.file_id.inode) || last.path != chain.live {
                displaced.push((key, inode.is_some()));
            }
        }
        self.move_segments(path, &listing.names, &displaced, now);
        for (key, replaced) in displaced {
            if !replaced || self.chains[key].is_none() {
                continue;
            }
            let link = self.chain(key).linked;
            if let Err(e) = self.rotated(key, link, now) {
                let owner = self.chain(key).owner.clone();
                let live = self.chain(key).live.clone();
                self.trouble(&live, &e, Some(&owner));
            }
        }
        listing.found.sort_by(|a, b| a.path.cmp(&b.path));
        for found in listing.found {
            self.found(found, listing.device, now);
        }
        let awaited = self.awaited.keys().filter(|p| p.parent() == Some(path)).cloned();
        for log in awaited.collect::<Vec<_>>() {
            if let Some(owner) = self.awaited.remove(&log) {
                self.begin_container(owner, &log, now);
            }
        }
    }

    /// Segments whose names changed learn their new ones; all of them are on their way out.
    fn move_segments(
        &mut self,
        dir: &Path,
        names: &[(std::ffi::OsString, u64)],
        displaced: &[(usize, bool)],
        now: Instant,
    ) {
        if displaced.is_empty() {
            return;
        }
        let by_inode: HashMap<u64, &OsStr> =
            names.iter().map(|(name, inode)| (*inode, name.as_os_str())).collect();
        for &(key, _) in displaced {
            let Some(chain) = self.chains[key].as_mut() else { continue };
            let owner = chain.owner.clone();
            for segment in &mut chain.segments {
                let name = by_inode.get(&segment.file_id.inode);
                let path = name.map_or_else(|| segment.path.clone(), |name| dir.join(name));
                if path == chain.live && name.is_some() {
                    segment.leaving = None;
                } else {
                    segment.leaving.get_or_insert(now);
                }
                if path != segment.path {
                    segment.path = path;
                    let identity = segment.identity(&owner);
                    self.cx.batcher.identify(segment.id, identity);
                }
            }
            self.activate(key, now);
        }
    }

    /// A name that a source of this lane matches.
    fn found(&mut self, found: Found, device: u64, now: Instant) {
        if !self.mine[found.source] || self.live.contains_key(&found.path) {
            return;
        }
        let id = FileId { device, inode: found.inode };
        if !found.link {
            if let Some(dormant) = self.dormant.get_mut(&id) {
                dormant.path = found.path;
                return;
            }
            if self.copies.contains_key(&id) || self.finished.contains(&id) {
                return;
            }
            if let Some(&key) = self.by_inode.get(&id) {
                return self.renamed(key, id, &found, now);
            }
        }
        if self.live.len() >= limits::FILES_MAX {
            if !std::mem::replace(&mut self.files_max_said, true) {
                log::warn!("more than {} files match: the others wait", limits::FILES_MAX);
            }
            return;
        }
        let owner = Owner::File(self.sources[found.source].clone());
        match self.begin(owner.clone(), &found.path, found.link, now) {
            Ok(true) => {
                self.clear_trouble(&found.path);
            }
            Ok(false) => {
                let dir = found.path.parent().and_then(|d| self.dirs.get_mut(d));
                if let Some(dir) = dir {
                    let due = *dir.due.get_or_insert(now + UNDECIDED_AGAIN);
                    self.names_due = Some(self.names_due.map_or(due, |d| d.min(due)));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => self.trouble(&found.path, &e, Some(&owner)),
        }
    }

    /// A followed file has a name that a source matches and that rotation does not explain: it
    /// is that name's file from now on.
    fn renamed(&mut self, key: usize, id: FileId, found: &Found, now: Instant) {
        let chain = self.chain(key);
        let name = found.path.file_name().unwrap_or_default();
        if chain.live == found.path
            || chain.live.exists() && FileId::of_path(&chain.live) == Some(id)
            || chain.owner.rotated_names(&chain.live).matches(name)
            || chain.owner.container_id().is_some()
        {
            return;
        }
        let Some(chain) = self.chains[key].as_mut() else { return };
        let Some(at) = chain.segments.iter().position(|s| s.file_id == id) else { return };
        let Some(mut segment) = chain.segments.remove(at) else { return };
        log::info!("{} is {} now", chain.live.display(), found.path.display());
        let owner = Owner::File(self.sources[found.source].clone());
        let mut new = super::chain::Chain::new(owner, found.path.clone(), now);
        new.end_ns = chain.end_ns;
        segment.leaving = None;
        segment.path = found.path.clone();
        self.cx.batcher.identify(segment.id, segment.identity(&new.owner));
        new.segments.push_back(segment);
        let empty = chain.segments.is_empty();
        if empty {
            self.remove(key);
        }
        let key = self.insert(new);
        self.by_inode.insert(id, key);
        self.activate(key, now);
    }

    /// A finished file grew: it is followed again, under its present name.
    fn revive(&mut self, id: FileId, now: Instant) {
        let Some(dormant) = self.dormant.get(&id) else { return };
        let Ok(metadata) = std::fs::metadata(&dormant.path) else { return };
        if FileId::of(&metadata) != id || metadata.len() <= dormant.read {
            return;
        }
        let (path, owner) = (dormant.path.clone(), Owner::File(dormant.source.clone()));
        if self.live.contains_key(&path) {
            return;
        }
        let key = self.insert(super::chain::Chain::new(owner, path.clone(), now));
        if let Err(e) = self.adopt(key, &path, now) {
            log::debug!("reading {} again: {e}", path.display());
            self.remove(key);
        }
    }

    fn sweep_dormant(&mut self, now: Instant) {
        let ids: Vec<FileId> = self.dormant.keys().copied().collect();
        for id in ids {
            let path = &self.dormant[&id].path;
            if FileId::of_path(path) == Some(id) {
                self.revive(id, now);
            } else if let Some(dormant) = self.dormant.remove(&id) {
                self.cx.batcher.remove_source(dormant.id, true);
            }
        }
        self.copies.retain(|id, path| FileId::of_path(path) == Some(*id));
    }
}

impl FileId {
    fn of_path(path: &Path) -> Option<Self> {
        std::fs::symlink_metadata(path).ok().map(|m| Self::of(&m))
    }
}

fn is_blind(path: &Path) -> bool {
    let Ok(found) = rustix::fs::statfs(path) else { return true };
    BLIND_FILE_SYSTEMS.contains(&(found.f_type as u64 & 0xffff_ffff))
}

/// All names of a directory that are no directories.
fn names_in(path: &Path) -> Vec<(std::ffi::OsString, u64)> {
    use std::os::unix::fs::DirEntryExt as _;
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    let entries = entries.filter_map(Result::ok);
    entries.map(|e| (e.file_name(), e.ino())).collect()
}
