//! Retryable writes: the last one of every session with its reply.
//!
//! The same transaction number again gets the same reply, and is not executed twice (retryable-writes).

use std::collections::{BTreeMap, VecDeque};

use bson::Document;

use super::SESSIONS_MAX;
use super::call::{ReceivedCommand, binary, integer};
use super::failure::{CommandRefusal, code};

/// The replies to retryable writes.
#[derive(Default)]
pub(super) struct Retried {
    sessions: BTreeMap<Vec<u8>, (i64, Document)>,
    order: VecDeque<Vec<u8>>,
}

/// The identity of a retryable write.
pub(super) struct RetryableWriteId {
    session: Vec<u8>,
    number: i64,
}

impl Retried {
    /// Returns the identity of a retryable write, if the command is one.
    pub(super) fn id_of(call: &ReceivedCommand) -> Result<Option<RetryableWriteId>, CommandRefusal> {
        if call.body.contains_key("startTransaction") || call.body.contains_key("autocommit") {
            return Err(CommandRefusal::unsupported("transactions"));
        }
        let Some(number) = call.body.get("txnNumber") else { return Ok(None) };
        let number = integer(number).ok_or_else(|| CommandRefusal::new(code::TYPE_MISMATCH, "txnNumber is no number"))?;
        let session = call.body.get_document("lsid").ok().and_then(|lsid| lsid.get("id")).and_then(binary);
        let session = session.ok_or_else(|| CommandRefusal::bad_value("txnNumber without lsid"))?;
        Ok(Some(RetryableWriteId { session: session.to_vec(), number }))
    }

    /// Returns the reply of the write's first execution.
    pub(super) fn reply(&self, id: &RetryableWriteId) -> Result<Option<Document>, CommandRefusal> {
        match self.sessions.get(&id.session) {
            Some((number, reply)) if *number == id.number => Ok(Some(reply.clone())),
            Some((number, _)) if *number > id.number => Err(CommandRefusal::new(
                code::TRANSACTION_TOO_OLD,
                format!("Retryable write with txnNumber {} is prohibited, a newer one with txnNumber {number} has started", id.number),
            )),
            Some(_) | None => Ok(None),
        }
    }

    /// Stores a reply.
    pub(super) fn remember(&mut self, id: RetryableWriteId, reply: &Document) {
        let RetryableWriteId { session, number } = id;
        if self.sessions.insert(session.clone(), (number, reply.clone())).is_none() {
            self.order.push_back(session);
        }
        if self.order.len() > SESSIONS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.sessions.remove(&oldest);
        }
    }
}
