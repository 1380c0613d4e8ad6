//! The topology: server discovery and monitoring.
//!
//! The rules of server-discovery-and-monitoring: `server` and `description` are the state, `update` is the table by which it
//! changes, `fault` the effect of an application's error, `liveness` the effect of silence, and `machine` issues the actions
//! for monitors and pools. Does not decide which server a command goes to (`selection`), nor how a connection is opened (`io`).

mod action;
mod change;
mod config;
mod events;
mod fault;
pub mod liveness;
mod log_limits;
mod machine;
pub mod monitor;
mod pace;
pub mod rtt;
mod suspension;
mod update;
mod waiters;

pub use crate::description::{SERVERS_MAX, ServerDescription, ServerType, TopologyDescription, TopologyType};
pub use action::TopologyAction;
pub use config::TopologyConfig;
pub use events::TopologyEvent;
pub use fault::Fault;
#[cfg(feature = "internals")]
pub use fault::StateChange;
pub use liveness::ProbeId;
pub use machine::Topology;
pub use monitor::{Monitor, MonitorAction, MonitorConfig, MonitorEvent};
pub use rtt::RoundTrips;
pub use suspension::Suspension;
pub use waiters::SelectId;

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
