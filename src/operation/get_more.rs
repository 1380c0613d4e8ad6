//! getMore: the next batch of a cursor, from the server that holds it.
//!
//! find_getmore_killcursors_commands; never retried (retryable-reads, "Unsupported Read Operations").
//! Does not decide when the next batch is fetched.

use std::sync::Arc;

use super::{Command, Operation, ReadPreferenceField, Reply, RetryClass, Rules, ServerFacts, SessionRule, check_size};
use crate::cursor::{Batch, CursorState, GetMoreOptions};
use crate::error::Error;
use crate::host::ServerAddress;
use crate::selection::Criteria;
use crate::wire::Request;

/// A getMore in the cursor's own session.
#[derive(Debug)]
pub struct GetMore {
    request: Request,
    criteria: Arc<Criteria>,
}

/// A batch of a cursor, and the state of the cursor after it.
#[derive(Debug)]
pub struct CursorBatch {
    /// The cursor; its id is 0 once the server has closed it.
    pub cursor: CursorState,
    /// The documents.
    pub batch: Batch,
    /// The server that holds the cursor.
    pub host: ServerAddress,
}

impl GetMore {
    /// Makes the operation for a cursor on a server.
    pub fn new(cursor: &CursorState, options: &GetMoreOptions, host: ServerAddress) -> Self {
        Self { request: Request::from(cursor.get_more(options)), criteria: Arc::new(Criteria::server(host)) }
    }
}

impl CursorBatch {
    /// Reads the cursor and the batch of a reply.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`](crate::ErrorKind::Protocol) if the reply has no cursor.
    pub(super) fn read(reply: &Reply) -> Result<Self, Error> {
        let (cursor, batch) = CursorState::parse(reply.bytes().clone()).map_err(|error| error.on(reply.host()))?;
        Ok(Self { cursor, batch, host: reply.host().clone() })
    }
}

impl Command for GetMore {
    fn name(&self) -> &str {
        "getMore"
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

    fn build(&mut self, facts: &ServerFacts) -> Result<&Request, Error> {
        check_size(&self.request, facts.document_size_bytes_max)?;
        Ok(&self.request)
    }

    fn request(&self) -> &Request {
        &self.request
    }
}

impl Operation for GetMore {
    type Output = CursorBatch;

    fn parse(&mut self, reply: Reply) -> Result<CursorBatch, Error> {
        CursorBatch::read(&reply)
    }
}
