//! A server's reply to a command: its bytes, and the server that sent them.
//!
//! Does not decide whether the reply reports success (`reply`), nor how it is decoded (`client::decode`).

use bson::RawDocument;
use bytes::Bytes;

use super::write_error::{WriteConcernFailure, WriteError, write_concern_failure, write_errors};
use crate::host::ServerAddress;

/// A server's reply: its bytes as they came, and the server that sent them.
///
/// A reply means that the command was run. Writes in it may have been refused all the same: see
/// [`write_errors`](Self::write_errors) and [`write_concern_error`](Self::write_concern_error).
#[derive(Clone, Debug)]
pub struct Reply {
    body: Bytes,
    host: ServerAddress,
}

impl Reply {
    pub(crate) fn new(body: Bytes, host: ServerAddress) -> Self {
        Self { body, host }
    }

    /// Returns the document, of which only the frame has been checked.
    ///
    /// It may nest to any depth: [`deserialize`](Self::deserialize) reads it without recursion or refuses it, while the
    /// conversion of a `RawDocument` into a `Document` recurses.
    pub fn document(&self) -> &RawDocument {
        // The wire layer has checked length and terminator.
        RawDocument::from_bytes(&self.body).expect("checked when it was read")
    }

    /// Returns the document's bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.body
    }

    /// Returns the server that answered.
    pub fn host(&self) -> &ServerAddress {
        &self.host
    }

    /// Returns the writes that the server refused (`writeErrors`), which a reply with `ok: 1` may have.
    pub fn write_errors(&self) -> Vec<WriteError> {
        write_errors(self.document())
    }

    /// Returns why the writes were not acknowledged as their write concern asks for (`writeConcernError`), which a reply with
    /// `ok: 1` may have.
    pub fn write_concern_error(&self) -> Option<WriteConcernFailure> {
        write_concern_failure(self.document())
    }
}
