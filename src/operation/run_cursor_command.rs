//! A generic command whose reply is a cursor.
//!
//! run-command ("runCursorCommand"). Does not decide when the next batch is fetched.

use std::sync::Arc;

use super::{Command, CursorBatch, GenericCommand, Operation, ReadPreferenceField, Reply, RetryClass, Rules, ServerFacts, SessionRule};
use crate::error::Error;
use crate::selection::Criteria;
use crate::wire::Request;

/// A command of the user's that opens a cursor. The cursor keeps its session.
#[derive(Debug)]
pub struct GenericCursorCommand(GenericCommand);

impl GenericCursorCommand {
    /// Makes the operation of a command.
    pub fn new(command: GenericCommand) -> Self {
        Self(command)
    }
}

impl Command for GenericCursorCommand {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn rules(&self) -> Rules {
        Rules { retry: RetryClass::Overload, session: SessionRule::OpensCursor }
    }

    fn target(&self) -> Option<&Arc<Criteria>> {
        self.0.target()
    }

    fn read_preference(&self) -> &ReadPreferenceField {
        self.0.read_preference()
    }

    fn build(&mut self, facts: &ServerFacts) -> Result<&Request, Error> {
        self.0.build(facts)
    }

    fn request(&self) -> &Request {
        self.0.request()
    }
}

impl Operation for GenericCursorCommand {
    type Output = CursorBatch;

    fn parse(&mut self, reply: Reply) -> Result<CursorBatch, Error> {
        CursorBatch::read(&reply)
    }
}
