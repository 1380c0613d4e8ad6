//! ping: asks a server for an answer.
//!
//! Sent on a connection that is being probed. Does not decide on which connection, nor how long the answer may take.

use std::sync::Arc;

use bson::rawdoc;

use super::{Command, Operation, ReadPreferenceField, Reply, RetryClass, Rules, ServerFacts, SessionRule};
use crate::error::Error;
use crate::selection::Criteria;
use crate::wire::Request;

/// A ping without a session.
#[derive(Debug)]
pub struct Ping(Request);

impl Ping {
    /// Makes the operation.
    pub fn new() -> Self {
        Self(Request::from(rawdoc! { "ping": 1 }))
    }
}

impl Default for Ping {
    fn default() -> Self {
        Self::new()
    }
}

impl Command for Ping {
    fn name(&self) -> &str {
        "ping"
    }

    fn rules(&self) -> Rules {
        Rules { retry: RetryClass::Never, session: SessionRule::None }
    }

    fn target(&self) -> Option<&Arc<Criteria>> {
        None
    }

    fn read_preference(&self) -> &ReadPreferenceField {
        &ReadPreferenceField::NotSent
    }

    fn build(&mut self, _facts: &ServerFacts) -> Result<&Request, Error> {
        Ok(&self.0)
    }

    fn request(&self) -> &Request {
        &self.0
    }
}

impl Operation for Ping {
    type Output = ();

    fn parse(&mut self, _reply: Reply) -> Result<(), Error> {
        Ok(())
    }
}
