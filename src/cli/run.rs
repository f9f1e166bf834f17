//! `log-capturer run`: a valid config, then the daemon.
//!
//! A bad config is printed whole and ends the process with its own exit code, so that the
//! unit's RestartPreventExitStatus can tell it from faults that a restart may cure.

use std::path::Path;

use super::check::print_diagnostics;
use super::exit::Exit;
use crate::config::{self, Config, SystemEnv};

/// Runs until a signal ends it.
pub fn run(path: &Path) -> Exit {
    match config::load(path, &SystemEnv) {
        Ok(loaded) => {
            print_diagnostics(&loaded.warnings);
            start(loaded.config)
        }
        Err(diagnostics) => {
            print_diagnostics(&diagnostics);
            Exit::BadConfig
        }
    }
}

fn start(config: Config) -> Exit {
    match crate::daemon::run(config) {
        Ok(()) => Exit::Ok,
        Err(e) => {
            eprintln!("log-capturer: {e}");
            Exit::Failure
        }
    }
}
