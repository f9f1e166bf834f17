//! The command line: one clap definition feeds --help, the manual and the parser.
//!
//! Owns the definition and the dispatch; each subcommand has its own file. Runs on the
//! main thread, before any other exists.

pub mod budget;
pub mod check;
pub mod exit;
pub mod man;
pub mod run;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::defaults::CONFIG_PATH;
use exit::Exit;

/// Ships log files and the logs of Docker containers to Grafana Loki: nothing lost, a fixed
/// set of threads, memory with a ceiling.
#[derive(Debug, Parser)]
#[command(name = "log-capturer", version, arg_required_else_help = true)]
#[command(disable_help_subcommand = true)]
pub struct Cli {
    /// The config file, in YAML
    #[arg(short, long, global = true, value_name = "FILE", default_value = CONFIG_PATH)]
    pub config: PathBuf,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read the sources and send to the sinks until SIGTERM or SIGINT
    Run,
    /// Check the config; print the threads, memory, disk and file descriptors it needs
    Check {
        /// Print one JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Print the manual page, log-capturer(8), as roff
    #[command(hide = true)]
    Man,
}

/// The definition, for the manual.
pub fn definition() -> clap::Command {
    Cli::command()
}

/// Does what the arguments say; everything printed and the exit code are for people and
/// service managers.
pub fn main(args: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            // A closed pipe behind `--help | head` is no fault.
            let _ = e.print();
            return if e.use_stderr() { Exit::Usage } else { Exit::Ok };
        }
    };
    match cli.command {
        Command::Run => run::run(&cli.config),
        Command::Check { json } => check::check(&cli.config, json),
        Command::Man => man::print(),
    }
}
