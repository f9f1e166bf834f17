//! The admin interface: metrics, health, readiness and a status page over HTTP.
//!
//! `admin-0` is one epoll loop over all its sockets and never blocks; what takes time goes to
//! `admin-1`. Nothing here shows lines of logs or secrets, and over TCP nothing changes the
//! daemon without a token.

mod connection;
mod figures;
mod health;
mod http;
mod page;
mod routes;
mod server;
mod worker;

pub use figures::{Figures, QueueGauge};
pub use routes::Routes;
pub use server::{Admin, bind, run};
pub use worker::{Reply, Request, Task, Worker, run as run_worker};
