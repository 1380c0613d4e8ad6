//! The tokio shell: sockets, tasks, clocks and the operating system's random bytes.
//!
//! One file per pure part; carries out the actions of the state machines. Does not decide any rule of the protocol.

pub(crate) mod clock;
pub(crate) mod conn;
mod demand;
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
mod sync;
pub(crate) mod tasks;
mod tcp;
pub(crate) mod tls;
pub(crate) mod topology;
