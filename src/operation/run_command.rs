//! A generic command: the user's document, sent as it is.
//!
//! run-command. Does not decide how the reply is decoded.

use std::sync::Arc;

use bson::RawDocumentBuf;

use super::{Command, Operation, ReadPreferenceField, Reply, RetryClass, Rules, ServerFacts, SessionRule, check_size, command_name};
use crate::error::Error;
use crate::host::ServerAddress;
use crate::selection::{Criteria, ReadPreference};
use crate::wire::{InputDocument, Request};

/// A command of the user's. Goes to the primary, unless a read preference or a server is set.
#[derive(Debug)]
pub struct GenericCommand {
    request: Request,
    criteria: Option<Arc<Criteria>>,
    read_preference: ReadPreferenceField,
}

impl GenericCommand {
    /// Makes the operation of a command.
    pub fn new(command: RawDocumentBuf) -> Self {
        Self { request: Request::from(command), criteria: None, read_preference: ReadPreferenceField::Primary }
    }

    /// Sets the read preference.
    pub fn set_read_preference(&mut self, preference: ReadPreference) {
        self.read_preference = match preference == ReadPreference::primary() {
            true => ReadPreferenceField::Primary,
            false => ReadPreferenceField::Of(Box::new(preference)),
        };
    }

    /// Sets the server that the command is sent to.
    pub fn set_server(&mut self, host: ServerAddress) {
        self.criteria = Some(Arc::new(Criteria::server(host)));
    }

    /// Adds a sequence of documents beside the command (OP_MSG, kind 1).
    pub fn add_documents(&mut self, identifier: String, documents: Vec<RawDocumentBuf>) {
        self.request.sequences.push((identifier, documents.into_iter().map(InputDocument::from).collect()));
    }

    /// Derives the target from read preference and server, once both are known.
    #[must_use]
    pub fn targeted(mut self) -> Self {
        match (&self.criteria, &self.read_preference) {
            // A named server must answer, whatever it is.
            (Some(_), ReadPreferenceField::Primary) => {
                self.read_preference = ReadPreferenceField::Of(Box::new(ReadPreference::primary_preferred()));
            }
            (None, ReadPreferenceField::Of(preference)) => self.criteria = Some(Arc::new(Criteria::read((**preference).clone()))),
            (Some(_) | None, _) => {}
        }
        self
    }
}

impl Command for GenericCommand {
    #[inline]
    fn name(&self) -> &str {
        command_name(self.request.body.document())
    }

    #[inline]
    fn rules(&self) -> Rules {
        Rules { retry: RetryClass::Overload, session: SessionRule::Implicit }
    }

    #[inline]
    fn target(&self) -> Option<&Arc<Criteria>> {
        self.criteria.as_ref()
    }

    #[inline]
    fn read_preference(&self) -> &ReadPreferenceField {
        &self.read_preference
    }

    #[inline]
    fn build(&mut self, facts: &ServerFacts) -> Result<&Request, Error> {
        check_size(&self.request, facts.document_size_bytes_max)?;
        Ok(&self.request)
    }

    #[inline]
    fn request(&self) -> &Request {
        &self.request
    }
}

impl Operation for GenericCommand {
    type Output = Reply;

    #[inline]
    fn parse(&mut self, reply: Reply) -> Result<Reply, Error> {
        Ok(reply)
    }
}
