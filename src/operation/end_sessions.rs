//! endSessions: tells a server which sessions are not used any more.
//!
//! sessions ("endSessions"): to any server that takes reads, in no session of its own, and without regard to the reply.

use std::sync::Arc;

use bson::{RawArrayBuf, RawDocumentBuf, rawdoc};

use super::{Command, Operation, ReadPreferenceField, Reply, RetryClass, Rules, ServerFacts, SessionRule};
use crate::error::Error;
use crate::selection::Criteria;
use crate::wire::Request;

/// An endSessions for at most [`END_SESSIONS_MAX`](super::session::END_SESSIONS_MAX) sessions.
#[derive(Debug)]
pub struct EndSessions {
    request: Request,
    criteria: Arc<Criteria>,
}

impl EndSessions {
    /// Makes the operation for the `lsid`s of sessions.
    pub fn new<'a>(lsids: impl Iterator<Item = &'a RawDocumentBuf>) -> Self {
        let mut ids = RawArrayBuf::new();
        lsids.for_each(|lsid| ids.push(lsid.clone()));
        Self { request: Request::from(rawdoc! { "endSessions": ids }), criteria: Arc::new(Criteria::any_readable()) }
    }
}

impl Command for EndSessions {
    fn name(&self) -> &str {
        "endSessions"
    }

    fn rules(&self) -> Rules {
        Rules { retry: RetryClass::Never, session: SessionRule::None }
    }

    fn target(&self) -> Option<&Arc<Criteria>> {
        Some(&self.criteria)
    }

    fn read_preference(&self) -> &ReadPreferenceField {
        &ReadPreferenceField::NotSent
    }

    fn build(&mut self, facts: &ServerFacts) -> Result<&Request, Error> {
        super::check_size(&self.request, facts.document_size_bytes_max)?;
        Ok(&self.request)
    }

    fn request(&self) -> &Request {
        &self.request
    }
}

impl Operation for EndSessions {
    type Output = ();

    fn parse(&mut self, _reply: Reply) -> Result<(), Error> {
        Ok(())
    }
}
