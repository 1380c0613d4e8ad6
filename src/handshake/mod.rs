//! How does a fresh connection introduce itself?
//!
//! The first hello with the client's metadata, what the server says of itself, and the login (mongodb-handshake, auth),
//! as a [`Conversation`] that consumes itself. Who sends the commands, on which deadline, is the shell's business; what a
//! failure means for the topology is decided in `topology::fault`.

mod command;
mod conversation;
mod driver_info;
pub mod hello;
mod login;
mod metadata;
mod sasl;

pub use command::{FirstHello, hello_command, monitor_hello};
pub use conversation::{Conversation, ConversationConfig, HandshakeCommand, HandshakeStep};
pub use driver_info::{DriverInfo, DriverInfos, LIBRARIES_MAX, LIBRARY_TEXT_SIZE_MAX};
pub use hello::{HELLO_SIZE_MAX, HelloReply, NAMES_MAX, TEXT_SIZE_MAX, TopologyVersion, UNUSABLE_HOSTS_MAX, UnusableHost};
pub use metadata::{ClientMetadata, Environment, METADATA_SIZE_MAX, Variables};

#[cfg(test)]
mod tests;
