//! The failure of one attempt: its error, and whether the server may have executed the command.
//!
//! retryable-writes and client-backpressure ask how much of a command was sent, and what an error reply says of it. Both are
//! facts of the connection and of the reply; nothing is concluded from the error's kind once a command was written.
//! Does not decide whether an attempt is repeated (`retry`).

use super::Reply;
use super::execution::{execution_of, hint, is_idempotent_read};
use crate::error::{Error, Execution, RETRYABLE_ERROR};
use crate::host::ServerAddress;
use crate::wire::Request;

/// How much of a command was passed to the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sent {
    /// No byte.
    Nothing,
    /// A part: the server can't execute it unless the rest follows.
    Partly,
    /// The whole command.
    Whole,
}

/// What became of the connection of a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnFate {
    /// It stays open: what is left of the message is still sent, and the late reply is read.
    Kept,
    /// It is closed: a message that was cut off never executes.
    Closed,
}

/// The failure of one attempt.
#[derive(Debug)]
pub struct Failure {
    /// The error, with the [execution](Error::may_have_executed) of the command set.
    pub error: Error,
    /// How much of the command was sent.
    pub sent: Sent,
    /// The server that was asked, if there was one.
    pub server: Option<ServerAddress>,
    /// The server's `maxWireVersion`, if a connection was checked out.
    pub wire_version: Option<i32>,
    /// The error reply, if the server sent one.
    pub reply: Option<Reply>,
}

impl Failure {
    /// Makes the failure of an attempt that sent nothing: selection, check-out or the request itself failed.
    #[cold]
    pub fn before_sending(error: Error, request: &Request) -> Self {
        let server = error.host().cloned();
        Self { error, sent: Sent::Nothing, server, wire_version: None, reply: None }.settled(ConnFate::Kept, request)
    }

    /// Makes the failure of an attempt whose reply did not come.
    #[cold]
    pub fn unanswered(error: Error, sent: Sent, fate: ConnFate, wire_version: i32, request: &Request) -> Self {
        let is_unsent = sent == Sent::Nothing && error.is_network() && !error.is_timeout();
        let error = if is_unsent { error.with_label(RETRYABLE_ERROR) } else { error };
        let server = error.host().cloned();
        Self { error, sent, server, wire_version: Some(wire_version), reply: None }.settled(fate, request)
    }

    /// Makes the failure of an attempt that the server answered with an error.
    #[cold]
    pub fn refused(error: Error, reply: Reply, wire_version: i32, request: &Request) -> Self {
        let error = match hint(request.body.document(), &error) {
            Some(hint) => error.with_hint(hint),
            None => error,
        };
        let server = Some(reply.host().clone());
        Self { error, sent: Sent::Whole, server, wire_version: Some(wire_version), reply: Some(reply) }.settled(ConnFate::Kept, request)
    }

    /// Derives whether the server may have executed the command, and writes it into the error.
    fn settled(mut self, fate: ConnFate, request: &Request) -> Self {
        let execution = match (&self.reply, self.sent, fate) {
            (Some(_), ..) => execution_of(request, &self.error),
            (None, Sent::Nothing, _) | (None, Sent::Partly, ConnFate::Closed) => Execution::Never,
            (None, Sent::Partly, ConnFate::Kept) | (None, Sent::Whole, _) => Execution::Possible,
        };
        self.error = self.error.of_command(execution, is_idempotent_read(request.body.document()));
        self
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind as IoKind;

    use bson::{RawDocumentBuf, rawdoc};
    use bytes::Bytes;

    use super::*;
    use crate::error::Stage;
    use crate::operation::command_error;

    fn insert() -> Request {
        Request::from(rawdoc! { "insert": "a", "documents": [{}, {}] })
    }

    fn lost() -> Error {
        Error::io(Stage::Read, IoKind::ConnectionReset.into())
    }

    fn refused(reply: RawDocumentBuf, request: &Request) -> Failure {
        let error = command_error(&reply).expect("an error");
        let host = ServerAddress::parse("a.example").expect("a host");
        Failure::refused(error, Reply::new(Bytes::from(reply.into_bytes()), host), 21, request)
    }

    #[test]
    fn without_a_reply_what_was_sent_decides() {
        for (sent, fate, may) in [
            (Sent::Nothing, ConnFate::Kept, false),
            (Sent::Nothing, ConnFate::Closed, false),
            (Sent::Partly, ConnFate::Closed, false),
            (Sent::Partly, ConnFate::Kept, true),
            (Sent::Whole, ConnFate::Closed, true),
            (Sent::Whole, ConnFate::Kept, true),
        ] {
            let failure = Failure::unanswered(lost(), sent, fate, 21, &insert());
            assert_eq!((failure.error.may_have_executed(), failure.error.is_retryable()), (may, !may), "{sent:?} {fate:?}");
            assert_eq!(failure.error.has_label(RETRYABLE_ERROR), sent == Sent::Nothing, "{sent:?} {fate:?}");
            let read = Failure::unanswered(lost(), sent, fate, 21, &Request::from(rawdoc! { "find": "a" }));
            assert_eq!((read.error.may_have_executed(), read.error.is_retryable()), (may, true), "{sent:?} {fate:?}");
        }
    }

    #[test]
    fn failure_before_sending_was_not_executed() {
        let failure = Failure::before_sending(lost(), &insert());
        assert_eq!((failure.sent, failure.error.may_have_executed(), failure.wire_version), (Sent::Nothing, false, None));
        assert!(!failure.error.has_label(RETRYABLE_ERROR), "the label is for what a connection did not send");
    }

    #[test]
    fn error_reply_decides_by_code_and_labels() {
        let overloaded = rawdoc! { "ok": 0, "code": 462, "errorLabels": ["SystemOverloadedError", "RetryableError"] };
        for (reply, may) in [(rawdoc! { "ok": 0, "code": 91 }, true), (rawdoc! { "ok": 0, "code": 13 }, false), (overloaded, false)] {
            let failure = refused(reply.clone(), &insert());
            assert_eq!((failure.sent, failure.error.may_have_executed()), (Sent::Whole, may), "{reply:?}");
            assert_eq!(failure.server, ServerAddress::parse("a.example").ok());
        }
    }
}
