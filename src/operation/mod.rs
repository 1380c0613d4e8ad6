//! What does a command carry besides what its caller wrote?
//!
//! The driver's own fields (run-command, sessions, causal consistency), the deadline of a call, and how an error reply is
//! told from a good one. Which server a command goes to is decided in `selection`, how its bytes look in `wire`.

pub mod cluster_time;
mod command;
pub mod document;
mod event;
pub mod execution;
pub mod json;
pub mod session;
pub mod write_error;

pub use crate::reply::{ReplyHead, command_error};
pub use command::{CommandFields, check_name, check_size, command_name};
pub use event::{CommandEvent, is_sensitive};

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
