//! The one integration binary. Each module is a subject; its line says why it is here.

// Doubles of the outside world start threads and programs as they like.
#![allow(clippy::disallowed_methods)]

mod cli; // the command line from outside: exit codes, tables of `check`
mod config; // config files, good and bad; the manual's table of keys
mod daemon; // the real daemon on real files: rotation, bad days, kill, stop
mod docker_ctl; // what docker-ctl tells the lanes of a real Docker Engine
mod engine; // the real daemon on a real Docker Engine
mod loki; // the Loki double answers as a real Loki was recorded to answer
mod sender; // sender threads against the double: stored once or dead letters once
mod support; // what the tests share: doubles, waiting
mod tidy; // the rules of the code base, as code
