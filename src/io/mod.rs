//! How are the rules' wishes carried out?
//!
//! The tokio shell: one file per pure part. It holds no rule of the protocol; clocks, sockets, tasks and the operating
//! system's randomness are touched here only.

pub(crate) mod clock;
pub(crate) mod conn;
pub(crate) mod derive;
pub(crate) mod dial;
pub(crate) mod entropy;
pub(crate) mod environment;
pub(crate) mod interrupt;
mod liveness;
mod local;
mod monitor;
pub(crate) mod open;
mod os_lookup;
pub(crate) mod pool;
mod reports;
pub mod resolver;
mod retired_pools;
#[cfg(feature = "sandbox")]
pub mod sandbox;
pub(crate) mod shards;
mod shell;
pub(crate) mod snapshot;
pub(crate) mod srv_poll;
mod stream;
pub(crate) mod tasks;
mod tcp;
pub(crate) mod tls;
pub(crate) mod topology;
