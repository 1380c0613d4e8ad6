//! The handshake of a new connection: hello and authentication.
//!
//! The first hello with the client's metadata, the server's reply, and the authentication (mongodb-handshake, auth), as a
//! [`Conversation`] that consumes itself. Does not send commands or watch deadlines (`io`), nor decide what a failure means for
//! the topology (`topology::fault`).

mod command;
mod conversation;
mod driver_info;
pub mod hello;
mod login;
mod metadata;
mod sasl;

pub use command::monitor_hello;
#[cfg(feature = "internals")]
pub use command::{FirstHello, hello_command};
pub use conversation::{Conversation, ConversationConfig, HandshakeCommand, HandshakeStep, HandshakeWork, HandshakeWorkResult};
pub use driver_info::{DriverInfo, DriverInfos};
#[cfg(feature = "internals")]
pub use driver_info::{LIBRARIES_MAX, LIBRARY_TEXT_SIZE_MAX};
pub use hello::{HELLO_SIZE_MAX, HelloReply, NAMES_MAX, TopologyVersion, UnusableHost};
#[cfg(feature = "internals")]
pub use hello::{TEXT_SIZE_MAX, UNUSABLE_HOSTS_MAX};
pub use metadata::{ClientMetadata, Environment};
#[cfg(feature = "internals")]
pub use metadata::{METADATA_SIZE_MAX, Variables};

#[cfg(test)]
mod tests;
