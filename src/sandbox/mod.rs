//! A fake deployment: mongod servers, replica sets, routers.
//!
//! Pure rules: facts and the time go in, replies and closed connections come out, so that a simulation can drive it on virtual
//! time and `io::sandbox` can serve it on sockets. Supports roles, elections, step-downs, `topologyVersion` with awaitable and
//! exhaust hello, cluster time, a small store, SCRAM, `failCommand`, and several routers, also as services behind a load
//! balancer; replication is instant, and nothing is stored on disk. Does not decide anything for the client.

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

/// The maximum number of members of a set.
pub const MEMBERS_MAX: usize = 50;

/// The maximum number of connections of a member; further ones are closed at once.
pub const CONNECTIONS_MAX: usize = 10_000;

/// The maximum number of unanswered bytes of a connection, above one whole message.
pub const READ_AHEAD_MAX: usize = 1024 * 1024;

/// The maximum number of documents in the store.
pub const STORE_DOCUMENTS_MAX: usize = 200_000;

/// The maximum size of all documents in the store, in bytes.
pub const STORE_SIZE_MAX: usize = 256 * 1024 * 1024;

/// The maximum number of collections in the store.
pub const COLLECTIONS_MAX: usize = 1000;

/// The maximum number of open cursors of a member.
pub const CURSORS_MAX: usize = 10_000;

/// The maximum number of remembered sessions with retryable writes; the oldest is forgotten first.
pub const SESSIONS_MAX: usize = 10_000;

/// The maximum number of open sessions that are counted.
pub const OPEN_SESSIONS_MAX: usize = 100_000;

/// The maximum depth of a command and its documents: a reply that wraps them stays within the limit of clients.
pub const DEPTH_MAX: usize = 190;

/// The maximum number of command names that are counted per member.
pub const COMMAND_NAMES_MAX: usize = 256;

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
