//! What do we know of the deployment, and what follows from it?
//!
//! The rules of server-discovery-and-monitoring: `server` and `description` hold what is known, `update` is the table by
//! which it changes, `fault` says what an application's error proves, `liveness` what silence does, and `machine` gives
//! the orders to monitors and pools. Which server a command goes to is decided in `selection`, how a connection is opened in `io`.

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

/// The oldest wire version that is spoken: MongoDB 4.2.
pub const MIN_WIRE_VERSION: i32 = 8;

/// The newest wire version that is known.
pub const MAX_WIRE_VERSION: i32 = 29;

/// The server version that [`MIN_WIRE_VERSION`] stands for, in words.
pub const MIN_SERVER_VERSION: &str = "4.2";

/// The most members that a hello reply may name; a replica set has at most 50.
pub const SERVERS_MAX: usize = 1024;

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
