//! The parsing of messages into commands.
//!
//! An invalid message is an error that closes the connection. Does not execute commands (`dispatch`).

use bson::{Bson, Document, RawDocument};

use super::DEPTH_MAX;
use crate::error::{Error, ErrorKind, LimitValue};
use crate::operation::document;
use crate::wire::depth::is_deeper;
use crate::wire::legacy::Query;
use crate::wire::{Flags, Frame, Message, op_code};

/// A command, parsed from its frame.
pub(super) struct ReceivedCommand {
    pub(super) name: String,
    /// The database; `None` if the message has none.
    pub(super) database: Option<String>,
    pub(super) body: Document,
    pub(super) body_size: usize,
    pub(super) sequences: Vec<(String, Vec<Document>)>,
    pub(super) answer: ReplyShape,
}

/// The form of a reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplyShape {
    /// The number of the message that it answers.
    pub(super) to: i32,
    pub(super) form: ReplyForm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyForm {
    /// One OP_MSG.
    Message,
    /// OP_MSGs, as many as the command produces.
    Exhaust,
    /// OP_REPLY.
    Legacy,
    /// No reply.
    Silent,
}

impl ReceivedCommand {
    /// Parses a frame.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] or [`ErrorKind::Unsupported`] for a frame without a valid command.
    pub(super) fn parse(frame: Frame) -> Result<Self, Error> {
        if frame.op_code == op_code::QUERY {
            return Self::parse_legacy(&frame);
        }
        let message = Message::parse(frame)?;
        let body = read(message.body())?;
        let mut sequences = Vec::with_capacity(message.sequences.len());
        for sequence in &message.sequences {
            let documents = sequence.documents.iter().map(|bytes| read(RawDocument::from_bytes(bytes)?)).collect::<Result<Vec<_>, _>>()?;
            sequences.push((sequence.identifier.clone(), documents));
        }
        let form = if message.flags.has(Flags::MORE_TO_COME) {
            ReplyForm::Silent
        } else if message.flags.has(Flags::EXHAUST_ALLOWED) {
            ReplyForm::Exhaust
        } else {
            ReplyForm::Message
        };
        let database = body.get_str("$db").ok().map(str::to_owned);
        let answer = ReplyShape { to: message.request_id, form };
        let body_size = message.body().as_bytes().len();
        Self::assemble(database, body, body_size, sequences, answer)
    }

    fn parse_legacy(frame: &Frame) -> Result<Self, Error> {
        let query = Query::parse(frame).ok_or_else(|| protocol("OP_QUERY that is no command"))?;
        let body = read(RawDocument::from_bytes(&query.body)?)?;
        // Mongos style: the command is in `$query`, beside `$readPreference`.
        let wrapped = body.get_document("$query").ok().cloned();
        let body = wrapped.unwrap_or(body);
        let answer = ReplyShape { to: frame.request_id, form: ReplyForm::Legacy };
        Self::assemble(Some(query.database), body, query.body.len(), Vec::new(), answer)
    }

    fn assemble(
        database: Option<String>,
        body: Document,
        body_size: usize,
        sequences: Vec<(String, Vec<Document>)>,
        answer: ReplyShape,
    ) -> Result<Self, Error> {
        let name = body.keys().next().cloned().ok_or_else(|| protocol("command without a name"))?;
        Ok(Self { name, database, body, body_size, sequences, answer })
    }

    /// Takes a list of documents out of the command: a kind-1 section, or an array in the body.
    pub(super) fn take_documents(&mut self, key: &str) -> Option<Vec<Document>> {
        if let Some(place) = self.sequences.iter().position(|(identifier, _)| identifier == key) {
            return Some(self.sequences.swap_remove(place).1);
        }
        let Some(Bson::Array(values)) = self.body.remove(key) else { return None };
        values.into_iter().map(|value| if let Bson::Document(document) = value { Some(document) } else { None }).collect()
    }

    /// Returns the command's session.
    pub(super) fn session(&self) -> Option<&[u8]> {
        self.body.get_document("lsid").ok()?.get("id").and_then(binary)
    }

    /// Returns whether this is a retryable write.
    pub(super) fn is_retryable(&self) -> bool {
        self.body.contains_key("txnNumber")
    }

    /// Returns the application's name, if the command has one.
    pub(super) fn app_name(&self) -> Option<&str> {
        self.body.get_document("client").ok()?.get_document("application").ok()?.get_str("name").ok()
    }
}

/// Reads a number of any type, as servers do for arguments.
pub(super) fn integer(value: &Bson) -> Option<i64> {
    let whole = |number: f64| (number.fract() == 0.0 && number.abs() < DOUBLE_INTEGER_MAX).then_some(number as i64);
    value.as_i64().or_else(|| value.as_i32().map(i64::from)).or_else(|| value.as_f64().and_then(whole))
}

/// Reads a number or a boolean as a boolean.
pub(super) fn truth(value: &Bson) -> bool {
    value.as_bool().unwrap_or_else(|| integer(value).is_some_and(|number| number != 0))
}

/// Reads binary data of any subtype.
pub(super) fn binary(value: &Bson) -> Option<&[u8]> {
    if let Bson::Binary(binary) = value { Some(&binary.bytes) } else { None }
}

/// The largest bound below which every integer is exact as a double.
const DOUBLE_INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

/// Reads a document whose depth leaves room for the fields around it in a reply.
fn read(raw: &RawDocument) -> Result<Document, Error> {
    if is_deeper(raw.as_bytes(), DEPTH_MAX)? {
        let limit = u64::try_from(DEPTH_MAX).unwrap_or(u64::MAX);
        return Err(protocol("document nested too deeply").against("DEPTH_MAX", LimitValue::Count(limit)));
    }
    document::read(raw)
}

fn protocol(message: &str) -> Error {
    Error::new(ErrorKind::Protocol, message)
}
