//! The receiver of an abandoned command's reply.

use crate::operation::DriverFields;
use crate::wire::{Message, Request};

/// The receiver of an abandoned command's reply. Dropped if the connection breaks before the reply.
pub(crate) trait LateReply: Send + Sync {
    /// Handles a reply. Returns the next command for the same connection, whose reply is handled as well; `None` if there is
    /// none.
    fn handle_reply(&mut self, reply: Message) -> Option<Request>;

    /// Returns the driver's fields of the next command.
    fn fields(&self) -> DriverFields<'_>;
}
