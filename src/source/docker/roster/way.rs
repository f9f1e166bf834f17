//! By which way a container is read, and what its lane needs to know of it.
//!
//! Decided from an inspection, the source's `read` and the way of the position on file; asks
//! the disk by the caller's `probe` only. Runs on `docker-ctl`.

use std::io;
use std::path::{Path, PathBuf};

use super::{Known, Outcome, Roster, Way};
use crate::config::checked::{Endpoint, ReadWay};
use crate::source::ContainerLog;
use crate::source::docker::ApiContainer;
use crate::source::docker::filter::{self, LeftOut};
use crate::source::docker::inspect::{self, Inspected};

impl Roster {
    pub(super) fn decide(
        &self,
        found: &Inspected,
        known: &Known,
        probe: impl Fn(&Path) -> io::Result<()>,
    ) -> (Way, Outcome) {
        let left_out = |why: &str| (Way::LeftOut, Outcome::LeftOut { why: why.to_owned() });
        match filter::left_out(&self.source, found) {
            Some(LeftOut::OptedOut) => return left_out("its label log-capturer.enable says so"),
            Some(LeftOut::NotIncluded | LeftOut::Excluded) => {
                return (Way::LeftOut, Outcome::Quiet);
            }
            None => {}
        }
        if found.driver() == inspect::NONE {
            return left_out("its log driver is none: nothing is kept that could be read");
        }
        let api = || (Way::Api(self.api(found)), Outcome::Followed { way: "the engine's API" });
        let placed = self.placed.get(&found.id).copied().unwrap_or_default();
        let demanded = match self.source.read {
            ReadWay::Api => return api(),
            // The path is one on the engine's host, the place is one in its API.
            ReadWay::Auto if matches!(self.source.endpoint, Endpoint::Tcp { .. }) => return api(),
            ReadWay::Auto if placed.api && !placed.file => return api(),
            ReadWay::Auto => false,
            ReadWay::JsonFile => true,
        };
        if found.driver() != inspect::JSON_FILE {
            let why = format!("its log driver is {}, and `read` is json_file", found.driver());
            return if demanded { left_out(&why) } else { api() };
        }
        let Some(path) = found.log_path() else { return (Way::NotStarted, Outcome::Quiet) };
        match probe(&path) {
            Ok(()) => {
                (Way::File(self.log(found, path)), Outcome::Followed { way: "its json-file log" })
            }
            // Between the two renames of a rotation there is no such file.
            Err(e) if e.kind() == io::ErrorKind::NotFound && !known.missing => {
                (Way::Unknown, Outcome::Again)
            }
            Err(cause) if demanded => (Way::Unreadable, Outcome::Unreadable { path, cause }),
            Err(cause) => (api().0, Outcome::FellBack { path, cause }),
        }
    }

    pub(super) fn log(&self, found: &Inspected, path: PathBuf) -> Box<ContainerLog> {
        Box::new(ContainerLog {
            source: self.name.clone(),
            id: found.id.clone(),
            name: found.name().to_owned(),
            path,
            labels: found.stream_labels(&self.source.labels),
            metadata: found.metadata(),
            line_bytes_max: self.source.line_bytes_max.bytes(),
            long_lines: self.source.long_lines,
            partial_wait: self.source.partial_wait,
            start_at: self.start_at(&found.id),
            sinks: self.sinks.clone(),
            tty: found.tty(),
        })
    }

    pub(super) fn api(&self, found: &Inspected) -> Box<ApiContainer> {
        Box::new(ApiContainer {
            engine: self.engine,
            api_version: self.api_version.clone(),
            source: self.name.clone(),
            id: found.id.clone(),
            name: found.name().to_owned(),
            tty: found.tty(),
            driver: found.driver().to_owned(),
            rotates: found.rotates(),
            auto_remove: found.auto_remove(),
            running: found.is_running(),
            labels: found.stream_labels(&self.source.labels),
            metadata: found.metadata(),
            line_bytes_max: self.source.line_bytes_max.bytes(),
            long_lines: self.source.long_lines,
            partial_wait: self.source.partial_wait,
            start_at: self.start_at(&found.id),
            sinks: self.sinks.clone(),
        })
    }
}
