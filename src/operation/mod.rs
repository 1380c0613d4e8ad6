//! The operation layer: what an operation is, and what the driver adds to its command.
//!
//! An [`Operation`] says what is sent, where it may go and how its reply is read; there is one file for each. The executor in
//! `client::executor` selects, checks out, builds, exchanges and classifies, and asks the [`RetryPolicy`] about each failure.
//! Follows run-command, sessions, retryable-reads, retryable-writes and client-backpressure.
//! Does not decide which server suits (`selection`), nor how bytes look (`wire`).

pub mod cluster_time;
mod command;
mod command_reply;
pub mod document;
mod end_sessions;
mod event;
pub mod execution;
mod facts;
pub mod failure;
mod fields;
mod get_more;
pub mod json;
mod kill_cursors;
mod ping;
pub mod retry;
mod run_command;
mod run_cursor_command;
pub mod session;
pub mod write_error;

use std::sync::Arc;

pub use crate::reply::{ReplyHead, command_error};
pub use command::{check_name, check_size, command_name};
pub use command_reply::Reply;
pub use end_sessions::EndSessions;
pub use event::{CommandEvent, is_sensitive};
pub use facts::ServerFacts;
pub use failure::{Failure, Sent};
pub use fields::{DriverFields, ReadPreferenceField};
pub use get_more::{CursorBatch, GetMore};
pub use kill_cursors::KillCursors;
pub use ping::Ping;
pub use retry::{AttemptHistory, RetryPolicy, Verdict};
pub use run_command::GenericCommand;
pub use run_cursor_command::GenericCursorCommand;

use crate::error::Error;
use crate::selection::Criteria;
use crate::wire::Request;

/// The sending side of an operation: all that one attempt needs. Object safe, so that attempts are compiled once.
pub trait Command: Send {
    /// Returns the command's name, for events and errors.
    fn name(&self) -> &str;

    /// Returns the fixed rules of the operation.
    fn rules(&self) -> Rules;

    /// Returns which servers suit; `None` for the server that takes writes.
    fn target(&self) -> Option<&Arc<Criteria>>;

    /// Returns the read preference that the server may have to be sent.
    fn read_preference(&self) -> &ReadPreferenceField;

    /// Builds the request for the server of a checked-out connection. Called for each attempt.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) if the server can't take the request.
    fn build(&mut self, facts: &ServerFacts) -> Result<&Request, Error>;

    /// Returns the request as it was built last.
    fn request(&self) -> &Request;
}

/// An operation: a command, and how its reply is read.
pub trait Operation: Command {
    /// What a successful reply becomes.
    type Output;

    /// Reads a successful reply.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`](crate::ErrorKind::Protocol) if the reply lacks what the operation asks for.
    fn parse(&mut self, reply: Reply) -> Result<Self::Output, Error>;
}

/// The fixed rules of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Which failures may be retried.
    pub retry: RetryClass,
    /// Which session the command runs in.
    pub session: SessionRule,
}

/// Which failures of an operation may be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryClass {
    /// None, not even those of an overloaded server: repeating would skip documents, or nobody waits.
    Never,
    /// Those in which an overloaded server refused the command (run-command; client-backpressure).
    Overload,
}

/// The session that a command runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionRule {
    /// An implicit session for this command alone, where the server has sessions.
    Implicit,
    /// An implicit session, which the cursor keeps that the reply opens.
    OpensCursor,
    /// The session of the cursor that the command belongs to, if it has one.
    OfCursor,
    /// No session.
    None,
}

impl SessionRule {
    /// Returns whether an attempt takes an implicit session.
    #[inline]
    pub fn is_implicit(self) -> bool {
        matches!(self, Self::Implicit | Self::OpensCursor)
    }

    /// Returns whether the session stays in use while the reply has an open cursor.
    #[inline]
    pub fn is_of_cursor(self) -> bool {
        matches!(self, Self::OpensCursor | Self::OfCursor)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
