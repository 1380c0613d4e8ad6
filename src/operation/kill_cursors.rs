//! killCursors: ends an open cursor on the server that holds it.
//!
//! find_getmore_killcursors_commands. The reply is not read: cursors that could not be killed end by the server's time-out.

use std::sync::Arc;

use super::{Command, Operation, ReadPreferenceField, Reply, RetryClass, Rules, ServerFacts, SessionRule};
use crate::cursor::CursorState;
use crate::error::Error;
use crate::host::ServerAddress;
use crate::selection::Criteria;
use crate::wire::Request;

/// A killCursors in the cursor's own session.
#[derive(Debug)]
pub struct KillCursors {
    request: Request,
    criteria: Arc<Criteria>,
}

impl KillCursors {
    /// Makes the operation for a cursor on a server.
    pub fn new(cursor: &CursorState, host: ServerAddress) -> Self {
        Self { request: Request::from(cursor.kill()), criteria: Arc::new(Criteria::server(host)) }
    }
}

impl Command for KillCursors {
    fn name(&self) -> &str {
        "killCursors"
    }

    fn rules(&self) -> Rules {
        Rules { retry: RetryClass::Never, session: SessionRule::OfCursor }
    }

    fn target(&self) -> Option<&Arc<Criteria>> {
        Some(&self.criteria)
    }

    fn read_preference(&self) -> &ReadPreferenceField {
        &ReadPreferenceField::NotSent
    }

    fn build(&mut self, _facts: &ServerFacts) -> Result<&Request, Error> {
        Ok(&self.request)
    }

    fn request(&self) -> &Request {
        &self.request
    }
}

impl Operation for KillCursors {
    type Output = ();

    fn parse(&mut self, _reply: Reply) -> Result<(), Error> {
        Ok(())
    }
}
