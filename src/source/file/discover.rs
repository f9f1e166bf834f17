//! Which files the patterns name: one directory at a time, within bounds.
//!
//! A pattern is taken apart at its slashes; a directory is looked into only when some pattern
//! can still match below it. The lane keeps the states of the directories it has seen, so that
//! a change of names costs one listing. Runs on the thread `file-N`.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use globset::{GlobBuilder, GlobMatcher};

use crate::config::checked::FileSource;
use crate::limits;

/// One component of a pattern.
enum Part {
    Name(OsString),
    Glob(GlobMatcher),
    /// `**`: any number of directories.
    Any,
}

/// How far a pattern has been followed down to a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pattern: usize,
    part: usize,
    /// Levels below a `**`.
    depth: usize,
}

/// A file that a source matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub path: PathBuf,
    /// Index of the source it belongs to.
    pub source: usize,
    /// The name is a symlink, to be opened only when [`link_allowed`].
    pub link: bool,
    /// As the directory tells it; of a symlink, its own.
    pub inode: u64,
}

/// What one directory holds.
#[derive(Debug, Default)]
pub struct Listing {
    pub device: u64,
    /// Inode and time of birth: another directory under the old name has others.
    pub born: (u64, Option<SystemTime>),
    pub found: Vec<Found>,
    /// All names that are no directories.
    pub names: Vec<(OsString, u64)>,
    /// Directories to go on with.
    pub below: Vec<(PathBuf, Vec<State>)>,
    /// New names here may matter.
    pub watch: bool,
}

/// The patterns of all sources.
pub struct Discovery {
    sources: Vec<Arc<FileSource>>,
    patterns: Vec<Vec<Part>>,
}

impl Discovery {
    /// All sources of the config in its order: a file belongs to the first that matches.
    pub fn new(sources: Vec<Arc<FileSource>>) -> Self {
        let texts = sources.iter().flat_map(|s| s.include.texts.iter());
        let patterns = texts.map(|text| parts(text)).collect();
        Self { sources, patterns }
    }

    /// The directory where all patterns begin.
    pub fn roots(&self) -> Vec<(PathBuf, Vec<State>)> {
        let states: Vec<_> =
            (0..self.patterns.len()).map(|pattern| State { pattern, part: 0, depth: 0 }).collect();
        if states.is_empty() { Vec::new() } else { vec![(PathBuf::from("/"), states)] }
    }

    /// The source that a path belongs to.
    pub fn source_of(&self, path: &Path) -> Option<usize> {
        let name = path.file_name().unwrap_or_default();
        self.sources.iter().position(|s| {
            s.include.set.is_match(path)
                && !s.exclude.set.is_match(path)
                && !s.exclude.set.is_match(name)
        })
    }

    /// Looks into one directory.
    ///
    /// # Errors
    /// As opendir(3); the directory is then left out.
    pub fn look(&self, dir: &Path, states: &[State]) -> io::Result<Listing> {
        let metadata = fs::metadata(dir)?;
        let born = (metadata.ino(), metadata.created().ok());
        let mut listing = Listing { device: metadata.dev(), born, ..Listing::default() };
        let states = self.spread(states);
        let mut list = false;
        for state in &states {
            let parts = &self.patterns[state.pattern];
            let last = state.part + 1 == parts.len();
            match &parts[state.part] {
                Part::Name(name) if !last => {
                    let path = dir.join(name);
                    if path.is_dir() {
                        put_below(&mut listing.below, path, state.next());
                    } else {
                        listing.watch = true;
                    }
                }
                _ => list = true,
            }
        }
        if list {
            listing.watch = true;
            self.list(dir, &states, &mut listing)?;
        }
        Ok(listing)
    }

    /// A `**` may also stand for no directory.
    fn spread(&self, states: &[State]) -> Vec<State> {
        let mut all: Vec<State> = Vec::new();
        for &state in states {
            let mut state = state;
            loop {
                if !all.contains(&state) {
                    all.push(state);
                }
                let parts = &self.patterns[state.pattern];
                if !matches!(parts[state.part], Part::Any) || state.part + 1 == parts.len() {
                    break;
                }
                state = state.next();
            }
        }
        all
    }

    fn list(&self, dir: &Path, states: &[State], listing: &mut Listing) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let Ok(entry) = entry else { continue };
            let (Ok(kind), name) = (entry.file_type(), entry.file_name()) else { continue };
            let path = dir.join(&name);
            if kind.is_dir() || (kind.is_symlink() && path.is_dir()) {
                self.descend(path, &name, kind.is_symlink(), states, &mut listing.below);
            } else if kind.is_file() || kind.is_symlink() {
                let inode = entry.ino();
                if let Some(source) = self.source_of(&path) {
                    let link = kind.is_symlink();
                    listing.found.push(Found { path, source, link, inode });
                }
                listing.names.push((name, inode));
            }
        }
        Ok(())
    }

    fn descend(
        &self,
        path: PathBuf,
        name: &OsStr,
        link: bool,
        states: &[State],
        below: &mut Vec<(PathBuf, Vec<State>)>,
    ) {
        for state in states {
            let parts = &self.patterns[state.pattern];
            let last = state.part + 1 == parts.len();
            match &parts[state.part] {
                // Not through links: they may lead in a circle.
                Part::Any if !link && state.depth < limits::WALK_DEPTH_MAX => {
                    let deeper = State { depth: state.depth + 1, ..*state };
                    put_below(below, path.clone(), deeper);
                }
                Part::Glob(glob) if !last && glob.is_match(name) => {
                    put_below(below, path.clone(), state.next());
                }
                _ => {}
            }
        }
    }
}

impl State {
    fn next(self) -> Self {
        Self { part: self.part + 1, depth: 0, ..self }
    }
}

fn put_below(below: &mut Vec<(PathBuf, Vec<State>)>, path: PathBuf, state: State) {
    match below.iter_mut().find(|(p, _)| *p == path) {
        Some((_, states)) if states.contains(&state) => {}
        Some((_, states)) => states.push(state),
        None => below.push((path, vec![state])),
    }
}

/// Takes a pattern apart. What cannot be told apart at slashes (alternatives that hold one)
/// counts as `**` from there on: the pattern as a whole decides in the end anyway.
fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let pieces: Vec<&str> = text.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    for piece in pieces {
        let odd = piece.matches('{').count() != piece.matches('}').count();
        let glob = GlobBuilder::new(piece).literal_separator(true).build();
        match glob {
            _ if odd => {
                parts.push(Part::Any);
                return parts;
            }
            _ if piece == "**" => parts.push(Part::Any),
            Ok(glob) if piece.contains(['*', '?', '[', '{', '\\']) => {
                parts.push(Part::Glob(glob.compile_matcher()));
            }
            _ => parts.push(Part::Name(piece.into())),
        }
    }
    parts
}

/// Whether a symlink may be followed: it is root's, or belongs to its target's owner. We may
/// run with the right to read everything.
pub fn link_allowed(link: &Metadata, target: &Metadata) -> bool {
    link.uid() == 0 || link.uid() == target.uid()
}

/// The names that rotation may give to the file `live`, as patterns of file names.
pub struct RotatedNames(Vec<GlobMatcher>);

impl RotatedNames {
    /// `globs` with `{name}` for the live file's name.
    pub fn of(live: &Path, globs: &[String]) -> Self {
        let name = live.file_name().unwrap_or_default().to_string_lossy();
        let name = globset::escape(&name);
        let build = |glob: &String| GlobBuilder::new(&glob.replace("{name}", &name)).build().ok();
        Self(globs.iter().filter_map(build).map(|g| g.compile_matcher()).collect())
    }

    pub fn matches(&self, name: &OsStr) -> bool {
        self.0.iter().any(|g| g.is_match(name))
    }
}

#[cfg(test)]
#[path = "discover_tests.rs"]
pub mod tests;
