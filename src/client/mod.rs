//! The public API: [`Client`], its [`Database`]s, and the operations on them.
//!
//! A client does nothing until it is first used: then tasks of the runtime that it is used on find and monitor its servers.
//! This file only names the modules: none of them imports from it.

mod abandoned;
mod attempt;
mod builder;
mod checkout;
mod config;
mod cursor;
mod database;
mod decode;
mod ending;
mod errors;
mod exchange;
mod executor;
mod handle;
mod newest_cluster_time;
mod pin;
mod probe;
mod running;
mod sessions;
mod thread_cache;
mod time_limits;
mod watch;

pub use builder::ClientBuilder;
pub use cursor::{Cursor, TryNext};
pub use database::{CommandFuture, Database, IntoCommand, RunCommand, RunCursorCommand};
pub use decode::FromReply;
pub use handle::Client;
pub use probe::Probe;
pub use watch::{Events, TopologyWatch};

pub use crate::operation::Reply;
