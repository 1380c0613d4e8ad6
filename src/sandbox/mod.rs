//! What would real servers do?
//!
//! A fake mongod, and a fake replica set of them, as pure rules: facts and the time go in, replies and closed connections
//! come out, so that a simulation can drive it on virtual time and `io::sandbox` can serve it on sockets. Roles,
//! elections, step-downs, `topologyVersion` with awaitable and exhaust hello, cluster time, a small store, SCRAM and
//! `failCommand` are served, and several routers, also as services behind a load balancer; replication is instant, and
//! nothing is kept on disk. It does not decide anything for the client.

mod admin;
mod balancer;
mod call;
mod cluster;
mod config;
mod crud;
mod dispatch;
mod election;
mod failpoint;
mod failure;
mod hello;
mod member;
mod query;
mod reconfigure;
mod retried;
mod scram_server;
mod sessions;
mod store;
mod time;

pub use cluster::{FakeDeployment, SandboxAction, SandboxEvent};
pub use config::{Config, MemberConfig};
#[cfg(feature = "internals")]
pub use config::{MemberKind, User};

/// How many members a set may have.
pub const MEMBERS_MAX: usize = 50;

/// How many connections one member takes; the next one is closed at once.
pub const CONNECTIONS_MAX: usize = 10_000;

/// How many bytes one connection may send ahead of their being answered, above one whole message.
pub const READ_AHEAD_MAX: usize = 1024 * 1024;

/// How many documents the store takes.
pub const STORE_DOCUMENTS_MAX: usize = 200_000;

/// How many bytes of documents the store takes.
pub const STORE_SIZE_MAX: usize = 256 * 1024 * 1024;

/// How many collections the store takes.
pub const COLLECTIONS_MAX: usize = 1000;

/// How many cursors one member keeps open.
pub const CURSORS_MAX: usize = 10_000;

/// How many sessions with retryable writes are remembered; the one that wrote first is forgotten first.
pub const SESSIONS_MAX: usize = 10_000;

/// How many open sessions are counted.
pub const OPEN_SESSIONS_MAX: usize = 100_000;

/// How many levels a command and its documents may have: with what a reply puts around them, no more than clients take.
pub const DEPTH_MAX: usize = 190;

/// How many names of commands are counted for each member.
pub const COMMAND_NAMES_MAX: usize = 256;

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
