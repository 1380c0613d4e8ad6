//! What do we know of the deployment, and what follows from it?
//!
//! The rules of server-discovery-and-monitoring: `server` and `description` hold what is known, `update` is the table by
//! which it changes, `fault` says what an application's error proves, `sign_of_life` what silence does, and `machine` gives
//! the orders to monitors and pools. Which server a command goes to is decided in `selection`, how a connection is opened in `io`.

mod action;
mod change;
mod config;
mod description;
mod events;
mod fault;
mod machine;
pub mod monitor;
mod pace;
pub mod rtt;
mod server;
pub mod sign_of_life;
mod suspension;
mod told;
mod update;
mod waiters;

pub use action::TopologyAction;
pub use config::TopologyConfig;
pub use description::{TopologyDescription, TopologyType};
pub use events::TopologyEvent;
pub use fault::{Fault, StateChange};
pub use machine::Topology;
pub use monitor::{Action as MonitorAction, Monitor, MonitorConfig, MonitorEvent};
pub use rtt::RoundTrips;
pub use server::{ServerDescription, ServerType};
pub use sign_of_life::ProbeId;
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
