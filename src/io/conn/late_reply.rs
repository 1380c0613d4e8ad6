//! What outlives an abandoned command: how much of it was sent, and the receiver of its reply.

use crate::operation::CommandFields;
use crate::wire::{Message, Request};

/// How much of a command was passed to the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sent {
    /// No byte.
    Nothing,
    /// A part: the server can't execute it unless the rest follows.
    Partly,
    /// The whole command.
    Whole,
}

/// The receiver of an abandoned command's reply. Dropped if the connection breaks before the reply.
pub(crate) trait LateReply: Send + Sync {
    /// Handles a reply. Returns the next command for the same connection, whose reply is handled as well; `None` if there is
    /// none.
    fn handle_reply(&mut self, reply: Message) -> Option<Request>;

    /// Returns the driver's fields of the next command.
    fn fields(&self) -> CommandFields<'_>;
}
