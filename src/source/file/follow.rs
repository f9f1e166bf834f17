//! How chains begin, take in rotated and new files, and end.
//!
//! Decides, for a name with a file that is not followed yet, where reading begins and which
//! older generations come first; does the same again after a truncation or a rotation. Part of
//! the lane; runs on the thread `file-N`.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use super::chain::{Chain, Owner, Segment};
use super::identity::{self, FileId, Head};
use super::lane::{Dormant, Lane};
use super::rotate::{self, Sibling, open_regular};
use super::tail::Tail;
use crate::ack::{Fingerprint, Position};
use crate::config::checked::StartAt;
use crate::limits;
use crate::record::Place;

/// An empty file that may become the copy of another is given this long to do so.
const COPY_BEGINS_WITHIN_SECONDS: i64 = 10;

/// A file that is going to be a segment.
struct Planned {
    file: File,
    path: PathBuf,
    id: FileId,
    offset: u64,
}

/// What a file that nobody follows is.
#[derive(PartialEq, Eq)]
enum Stranger {
    New,
    /// It holds what a followed file held.
    Copy,
    /// Too short to tell yet, or the followed file of this chain was emptied and not looked at.
    Undecided(usize),
}

impl Lane {
    /// Follows the file under `path`, if nobody does; its older generations first. False when
    /// it is to be tried again soon.
    ///
    /// # Errors
    /// As open(2) of the live file.
    pub(super) fn begin(
        &mut self,
        owner: Owner,
        path: &Path,
        link: bool,
        now: Instant,
    ) -> io::Result<bool> {
        let (file, metadata) = open_regular(path, link)?;
        let id = FileId::of(&metadata);
        if self.by_inode.contains_key(&id) || self.dormant.contains_key(&id) {
            return Ok(true);
        }
        if self.known.get(owner.source(), id).is_none() {
            match self.stranger(path, &file, &metadata)? {
                Stranger::New => {}
                Stranger::Copy => {
                    self.copies.insert(id, path.to_owned());
                    return Ok(true);
                }
                Stranger::Undecided(key) => {
                    self.activate(key, now);
                    return Ok(false);
                }
            }
        }
        let mut planned = self.older(&owner, path, &file, id)?;
        let offset = match self.left_at(&owner, path, &file, id, metadata.len())? {
            Some(offset) => offset,
            None if planned.is_empty() && self.is_first_sweep(&owner) => {
                let from = start(owner.start_at(), &metadata);
                if from == 0 && owner.container_id().is_some() {
                    planned = self.all_older(&owner, path);
                }
                from
            }
            None => 0,
        };
        planned.push(Planned { file, path: path.to_owned(), id, offset });
        let mut chain = Chain::new(owner, path.to_owned(), now);
        chain.linked = link || metadata.nlink() > 1;
        let key = self.insert(chain);
        for file in planned {
            self.append(key, file, now)?;
        }
        let chain = self.chain(key);
        let first = chain.segments.front().map_or(0, |s| s.tail.place());
        log::info!("following {} from byte {first}", path.display());
        self.activate(key, now);
        Ok(true)
    }

    fn is_first_sweep(&self, owner: &Owner) -> bool {
        match owner {
            Owner::File(_) => !self.swept && !self.known.has_source(owner.source()),
            // Its start_at says so itself: "beginning" for what appeared after our start.
            Owner::Container(_) => true,
        }
    }

    /// Whether a file of an unknown inode is the copy of one that is followed.
    fn stranger(&self, path: &Path, file: &File, metadata: &fs::Metadata) -> io::Result<Stranger> {
        for key in self.perhaps_live_name_of(path) {
            let chain = self.chain(key);
            let name = path.file_name().unwrap_or_default();
            if !chain.owner.rotated_names(&chain.live).matches(name) {
                continue;
            }
            let Some(last) = chain.segments.back() else { continue };
            if last.print.bytes == 0 {
                continue;
            }
            match identity::compare(file, last.print)? {
                Head::Same => return Ok(Stranger::Copy),
                // The live file was emptied, perhaps more than once, and not yet looked at.
                Head::Other if !holds_still(last)? => return Ok(Stranger::Undecided(key)),
                Head::Other => {}
                Head::Shorter => {
                    let now_ns = self.cx.clock.wall_ns();
                    let age = now_ns / 1_000_000_000 - metadata.mtime();
                    let begins = metadata.len() > 0 && same_beginning(file, last)?;
                    if begins || (metadata.len() == 0 && age < COPY_BEGINS_WITHIN_SECONDS) {
                        return Ok(Stranger::Undecided(key));
                    }
                }
            }
        }
        Ok(Stranger::New)
    }

    /// Chains whose live name the name of `path` begins with.
    fn perhaps_live_name_of(&self, path: &Path) -> Vec<usize> {
        let Some(name) = path.file_name().map(|n| n.to_string_lossy()) else { return Vec::new() };
        let ends = name.char_indices().map(|(at, _)| at).skip(1);
        let live = ends.filter_map(|end| self.live.get(&path.with_file_name(&name[..end])));
        live.copied().collect()
    }

    /// Where the run before left the live file itself. None: it did not know it, or it holds
    /// something else now.
    fn left_at(
        &mut self,
        owner: &Owner,
        path: &Path,
        file: &File,
        id: FileId,
        size: u64,
    ) -> io::Result<Option<u64>> {
        let Some(left) = self.known.take(owner.source(), id) else { return Ok(None) };
        if identity::compare(file, left.identity.fingerprint)? != Head::Same {
            return Ok(Some(0));
        }
        if size == 0 && left.offset > 0 {
            return Ok(Some(0));
        }
        if left.offset > size {
            log::warn!(
                "{} has {size} bytes, fewer than the {} read before the restart, but the same \
                 beginning (a power cut?): going on at its end",
                path.display(),
                left.offset
            );
            self.cx.metrics.error("file", "shorter_than_position");
        }
        Ok(Some(left.offset.min(size)))
    }

    /// The generations before the file under `path` that the run before did not finish.
    fn older(
        &mut self,
        owner: &Owner,
        path: &Path,
        live: &File,
        live_id: FileId,
    ) -> io::Result<Vec<Planned>> {
        let source = owner.source().to_owned();
        if !self.known.any_in(&source, path.parent().unwrap_or(path)) {
            return Ok(Vec::new());
        }
        let siblings = rotate::siblings(path, &owner.rotated_names(path));
        let mut planned: Vec<Planned> = Vec::new();
        let mut latest = None;
        for sibling in &siblings {
            let Some(left) = self.known.get(&source, sibling.id) else { continue };
            let (offset, print) = (left.offset, left.identity.fingerprint);
            let Ok((file, _)) = open_regular(&sibling.path, false) else { continue };
            if identity::compare(&file, print)? != Head::Same {
                continue;
            }
            latest = Some(sibling.id);
            if offset < sibling.size && !self.is_followed(sibling.id) {
                self.known.take(&source, sibling.id);
                planned.push(plan(sibling, file, offset));
            }
        }
        if latest.is_none()
            && self.known.get(&source, live_id).is_none()
            && let Some(left) = self.known.last_named(&source, path)
            && identity::compare(live, left.identity.fingerprint)? != Head::Same
        {
            // It is compressed or removed by now, and those before it too: all others are newer.
            let new =
                |s: &&Sibling| !self.is_followed(s.id) && self.known.get(&source, s.id).is_none();
            let open = |s: &Sibling| Some(plan(s, open_regular(&s.path, false).ok()?.0, 0));
            return Ok(siblings.iter().filter(new).filter_map(open).collect());
        }
        // What the live inode held when it was emptied meanwhile.
        let emptied = match self.known.get(&source, live_id) {
            None => true,
            Some(left) => {
                let (print, offset) = (left.identity.fingerprint, left.offset);
                let same = identity::compare(live, print)? == Head::Same;
                let emptied = !same || (offset > 0 && live.metadata()?.len() == 0);
                let copy = rotate::find_copy(&siblings, print, offset)
                    .or_else(|| rotate::find_copy(&siblings, print, 0));
                if let Some((at, file)) = copy.filter(|_| emptied) {
                    let copy = &siblings[at];
                    latest = Some(copy.id);
                    if !self.is_followed(copy.id) && !planned.iter().any(|p| p.id == copy.id) {
                        planned.push(plan(copy, file, offset.min(copy.size)));
                    }
                }
                emptied
            }
        };
        if let Some(latest) = latest.filter(|_| emptied) {
            for sibling in rotate::newer_than(&siblings, latest) {
                let known = self.known.get(&source, sibling.id).is_some()
                    || planned.iter().any(|p| p.id == sibling.id);
                if known || self.is_followed(sibling.id) {
                    continue;
                }
                let Ok((file, _)) = open_regular(&sibling.path, false) else { continue };
                planned.push(plan(&sibling, file, 0));
            }
        }
        Ok(planned)
    }

    /// All rotated files of a container that is read from its beginning.
    fn all_older(&self, owner: &Owner, path: &Path) -> Vec<Planned> {
        let siblings = rotate::siblings(path, &owner.rotated_names(path));
        let open = |s: &Sibling| {
            let (file, _) = open_regular(&s.path, false).ok()?;
            Some(plan(s, file, 0))
        };
        siblings.iter().filter(|s| !self.is_followed(s.id)).filter_map(open).collect()
    }

    /// A dormant file becomes the only segment of a chain.
    pub(super) fn adopt(&mut self, key: usize, path: &Path, now: Instant) -> io::Result<()> {
        let (file, metadata) = open_regular(path, false)?;
        let id = FileId::of(&metadata);
        self.append(key, Planned { file, path: path.to_owned(), id, offset: 0 }, now)?;
        self.activate(key, now);
        Ok(())
    }

    fn is_followed(&self, id: FileId) -> bool {
        self.by_inode.contains_key(&id) || self.dormant.contains_key(&id)
    }

    /// Adds a file behind the segments of a chain.
    fn append(&mut self, key: usize, planned: Planned, now: Instant) -> io::Result<()> {
        let print = identity::fingerprint(&planned.file, limits::FINGERPRINT_BYTES_MAX)?;
        let Planned { file, path, id, offset } = planned;
        let before = self.dormant.remove(&id);
        self.by_inode.insert(id, key);
        let chain = self.chains[key].as_mut().unwrap_or_else(|| panic!("no chain {key}"));
        for older in &mut chain.segments {
            older.leaving.get_or_insert(now);
        }
        let offset = before.as_ref().map_or(offset, |d| d.read);
        let mut segment = Segment {
            id: crate::record::SourceId(u32::MAX),
            size: offset,
            file: Some(file),
            path,
            file_id: id,
            print,
            tail: Tail::at(offset),
            leaving: None,
            unlinked: false,
            modified: (0, 0),
            backlog: false,
            partial: None,
            looked: now,
        };
        let identity = segment.identity(&chain.owner);
        segment.id = match before {
            Some(dormant) => dormant.id,
            None => {
                let place = Place::at(offset);
                let position = Position { identity, place, gone_since_ns: None };
                self.cx.batcher.add_source(position, chain.sinks.clone())
            }
        };
        chain.segments.push_back(segment);
        self.open_files += 1;
        Ok(())
    }

    /// The live name of a chain leads to another file now: what rotation made in between, and
    /// the new file, are added.
    pub(super) fn rotated(&mut self, key: usize, link: bool, now: Instant) -> io::Result<()> {
        let chain = self.chain(key);
        let (live, names) = (chain.live.clone(), chain.owner.rotated_names(&chain.live));
        let (file, metadata) = open_regular(&live, link)?;
        let id = FileId::of(&metadata);
        if self.by_inode.contains_key(&id) {
            return Ok(());
        }
        let last = self.chain(key).segments.back().map(|s| s.file_id);
        let siblings = rotate::siblings(&live, &names);
        for sibling in last.map_or_else(Vec::new, |last| rotate::newer_than(&siblings, last)) {
            let other = self.is_followed(sibling.id) || self.copies.contains_key(&sibling.id);
            if other || sibling.id == id || self.finished.contains(&sibling.id) {
                continue;
            }
            if let Ok((file, _)) = open_regular(&sibling.path, false) {
                self.append(key, plan(&sibling, file, 0), now)?;
            }
        }
        self.append(key, Planned { file, path: live, id, offset: 0 }, now)?;
        self.activate(key, now);
        Ok(())
    }

    /// The live file was emptied: its copy is read from where we were, then what was copied
    /// since, then the file from its beginning.
    pub(super) fn truncated(&mut self, key: usize, now: Instant) -> io::Result<()> {
        let chain = self.chain(key);
        let siblings = rotate::siblings(&chain.live, &chain.owner.rotated_names(&chain.live));
        let Some(old) = chain.segments.back() else { return Ok(()) };
        let place = old.tail.place();
        // What was written behind a copy was read before the file was emptied: then the copy is
        // shorter. It holds what is not acknowledged, and is no new file.
        let known = |s: &Sibling| self.is_followed(s.id) || self.finished.contains(&s.id);
        let copy = rotate::find_copy(&siblings, old.print, place).or_else(|| {
            let shorter = rotate::find_copy(&siblings, old.print, 0);
            shorter.filter(|(at, _)| !known(&siblings[*at]))
        });
        let chain = self.chains[key].as_mut().unwrap_or_else(|| panic!("no chain {key}"));
        let Some(mut old) = chain.segments.pop_back() else { return Ok(()) };
        let (live_path, live_id, file) = (old.path.clone(), old.file_id, old.file.take());
        if let Some(json) = &mut chain.json {
            json.emptied(chain.segments.len());
        }
        self.open_files = self.open_files.saturating_sub(1);
        let mut newer = Vec::new();
        self.by_inode.remove(&live_id);
        match copy {
            Some((at, copy)) => {
                let sibling = &siblings[at];
                old.file = Some(copy);
                old.path = sibling.path.clone();
                old.file_id = sibling.id;
                old.tail.rewind(place);
                old.leaving = Some(now);
                old.partial = None;
                old.backlog = false;
                old.size = sibling.size;
                let identity = old.identity(&chain.owner);
                self.cx.batcher.identify(old.id, identity);
                chain.segments.push_back(old);
                self.open_files += 1;
                self.by_inode.insert(sibling.id, key);
                self.copies.remove(&sibling.id);
                newer = rotate::newer_than(&siblings, sibling.id);
                log::debug!(
                    "{} was emptied; its copy is {}",
                    live_path.display(),
                    sibling.path.display()
                );
            }
            None => {
                log::info!("{} was emptied at byte {place} or after", live_path.display());
                self.cx.metrics.error("file", "truncated_without_copy");
                self.cx.batcher.remove_source(old.id, true);
            }
        }
        for sibling in newer {
            if !self.is_followed(sibling.id)
                && !self.finished.contains(&sibling.id)
                && let Ok((file, _)) = open_regular(&sibling.path, false)
            {
                self.copies.remove(&sibling.id);
                self.append(key, plan(&sibling, file, 0), now)?;
            }
        }
        let file = match file {
            Some(file) => file,
            None => open_regular(&live_path, true)?.0,
        };
        self.append(key, Planned { file, path: live_path, id: live_id, offset: 0 }, now)
    }

    /// Lets go of segments that were rotated or deleted, read to their end and watched long
    /// enough, and of the chain when none is left.
    pub(super) fn finish(&mut self, key: usize, now: Instant) {
        let Some(chain) = self.chains[key].as_mut() else { return };
        let grace = chain.owner.rotated_grace();
        let mut at = 0;
        while at < chain.segments.len() {
            let segment = &chain.segments[at];
            let over = segment.leaving.is_some_and(|since| now.duration_since(since) >= grace);
            let open_line = chain.json.as_ref().is_some_and(|j| j.holds(at));
            let ended = chain.ending && chain.segments.len() == at + 1;
            let done = (over || ended) && segment.at_end() && segment.partial.is_none();
            if !done || open_line {
                at += 1;
                continue;
            }
            let Some(segment) = chain.segments.remove(at) else { return };
            if let Some(json) = &mut chain.json {
                json.segment_left(at);
            }
            self.open_files -= usize::from(segment.file.is_some());
            self.by_inode.remove(&segment.file_id);
            let named = self.discovery.source_of(&segment.path).is_some();
            let id = segment.id;
            if named && !segment.unlinked && chain.owner.container_id().is_none() {
                let read = segment.tail.place();
                let Owner::File(source) = &chain.owner else { unreachable!("a file's chain") };
                let dormant = Dormant { id, path: segment.path, read, source: source.clone() };
                self.dormant.insert(segment.file_id, dormant);
            } else {
                if self.finished.len() >= limits::FINISHED_FILES {
                    self.finished.pop_front();
                }
                if !segment.unlinked {
                    self.finished.push_back(segment.file_id);
                }
                self.cx.batcher.remove_source(id, segment.unlinked || chain.ending);
            }
        }
        if chain.segments.is_empty() {
            let live = chain.live.clone();
            log::info!("no longer following {}", live.display());
            self.remove(key);
        }
    }
}

fn plan(sibling: &Sibling, file: File, offset: u64) -> Planned {
    Planned { file, path: sibling.path.clone(), id: sibling.id, offset }
}

/// Where reading begins in a file that was there at its source's first sweep ever.
fn start(start_at: StartAt, metadata: &fs::Metadata) -> u64 {
    match start_at {
        StartAt::Beginning => 0,
        StartAt::End => metadata.len(),
        StartAt::Age(age) => {
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let old = SystemTime::now().duration_since(modified).unwrap_or_default();
            if old <= age { 0 } else { metadata.len() }
        }
    }
}

/// Whether a followed file holds what was read of it.
fn holds_still(segment: &Segment) -> io::Result<bool> {
    let Some(live) = &segment.file else { return Ok(true) };
    let size = live.metadata()?.len();
    Ok(!segment.tail.truncated(size) && identity::compare(live, segment.print)? == Head::Same)
}

/// Whether a shorter file begins as a followed one does now.
fn same_beginning(file: &File, segment: &Segment) -> io::Result<bool> {
    let Some(live) = &segment.file else { return Ok(false) };
    let head: Fingerprint = identity::fingerprint(file, limits::FINGERPRINT_BYTES_MAX)?;
    Ok(identity::compare(live, head)? == Head::Same)
}
