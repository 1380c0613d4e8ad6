//! The topology: server discovery and monitoring.
//!
//! The rules of server-discovery-and-monitoring: `server` and `description` are the state, `update` is the table by which it
//! changes, `fault` the effect of an application's error, `liveness` the effect of silence, and `machine` issues the actions
//! for monitors and pools. Does not decide which server a command goes to (`selection`), nor how a connection is opened (`io`).

mod action;
mod change;
mod config;
mod description;
mod events;
mod fault;
pub mod liveness;
mod log_limits;
mod machine;
pub mod monitor;
mod pace;
pub mod rtt;
mod server;
mod suspension;
mod update;
mod waiters;

pub use action::TopologyAction;
pub use config::TopologyConfig;
pub use description::{TopologyDescription, TopologyType};
pub use events::TopologyEvent;
pub use fault::Fault;
#[cfg(feature = "internals")]
pub use fault::StateChange;
pub use liveness::ProbeId;
pub use machine::Topology;
pub use monitor::{Monitor, MonitorAction, MonitorConfig, MonitorEvent};
pub use rtt::RoundTrips;
pub use server::{ServerDescription, ServerType};
pub use suspension::Suspension;
pub use waiters::SelectId;

/// The oldest supported wire version: MongoDB 4.2.
pub const MIN_WIRE_VERSION: i32 = 8;

/// The newest supported wire version.
pub const MAX_WIRE_VERSION: i32 = 29;

/// The server version of [`MIN_WIRE_VERSION`].
pub const MIN_SERVER_VERSION: &str = "4.2";

/// The maximum number of members in a hello reply; a replica set has at most 50.
pub const SERVERS_MAX: usize = 1024;

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
