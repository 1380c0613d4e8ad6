//! What is known of a deployment: its type, its servers, their round-trip times.
//!
//! The TopologyDescription and ServerDescription of server-discovery-and-monitoring, and the parts that rest on them alone. Does not
//! decide how a description changes (`topology`), nor which server a command goes to (`selection`).

mod selector;
mod server;
mod topology;
mod window;

pub use selector::ServerSelector;
pub use server::{ServerDescription, ServerType};
pub use topology::{TopologyDescription, TopologyType};
pub(crate) use window::Window;

/// The oldest supported wire version: MongoDB 4.2.
pub const MIN_WIRE_VERSION: i32 = 8;

/// The newest supported wire version.
pub const MAX_WIRE_VERSION: i32 = 29;

/// The server version of [`MIN_WIRE_VERSION`].
pub const MIN_SERVER_VERSION: &str = "4.2";

/// The maximum number of members in a hello reply; a replica set has at most 50.
pub const SERVERS_MAX: usize = 1024;
