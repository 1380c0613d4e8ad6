//! What is called for, in which session, by when, and what comes of it?
//!
//! How a call goes through its stages is in `run`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::RawDocument;
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::decode::decode;
use super::running::ClientCore;
use crate::deadline::Deadline;
use crate::error::{Error, Result, SOCKET_TIMEOUT, Stage};
use crate::host::ServerAddress;
use crate::io::clock;
use crate::operation::session::ServerSession;
use crate::operation::write_error::{WriteConcernFailure, WriteError, write_concern_failure, write_errors};
use crate::selection::{Criteria, ReadPreference};
use crate::wire::Request;

/// Is a server's reply: its bytes as they came, and where they came from.
///
/// A reply says that the command was run. Writes in it may have been refused all the same: see
/// [`write_errors`](Self::write_errors) and [`write_concern_error`](Self::write_concern_error).
#[derive(Clone, Debug)]
pub struct Reply {
    body: Bytes,
    host: ServerAddress,
}

impl Reply {
    pub(super) fn new(body: Bytes, host: ServerAddress) -> Self {
        Self { body, host }
    }

    /// Returns the document, of which nothing but the frame has been looked at.
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

    /// Reads the document as a type.
    ///
    /// What nests deeper than a few levels is read on a thread of its own, whose stack suffices, unless the type is
    /// [`Document`](bson::Document).
    ///
    /// # Errors
    /// [`Bson`](crate::ErrorKind::Bson) if it doesn't fit; [`Protocol`](crate::ErrorKind::Protocol) if it nests deeper than
    /// `NESTING_DEPTH_MAX`.
    pub fn deserialize<T: DeserializeOwned + Send + 'static>(&self) -> Result<T> {
        decode(&self.body).map_err(|error: Error| error.at(Stage::Read).on(&self.host))
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

/// Is one call: what to send, to whom, by when.
pub(super) struct Call {
    pub(super) request: Request,
    /// Where it may go; to the primary if nothing is said.
    pub(super) criteria: Option<Arc<Criteria>>,
    /// What the server is told of the read preference, where its kind asks for that.
    pub(super) preference: Preference,
    /// The time it is given.
    pub(super) time: Time,
    /// The session it runs in.
    pub(super) session: InSession,
    /// Whether the reply opens a cursor, which keeps the session, and the connection behind a load balancer.
    pub(super) pins: bool,
}

/// Says which read preference a server may have to be told.
pub(super) enum Preference {
    /// None: what belongs to a cursor is read where the cursor is.
    Untold,
    /// `primary`, which only a single server is told, in its own way.
    Primary,
    /// This one.
    Of(Box<ReadPreference>),
}

/// Says how long a call may take.
pub(super) enum Time {
    /// As long as the client's `timeoutMS` says, from its first poll on.
    Default,
    /// As long as its caller says, from its first poll on.
    Limit(Duration),
    /// Until a moment.
    Until(Box<Deadline>),
}

/// Says in which session a call runs.
pub(super) enum InSession {
    /// In one of its own, where the server has sessions.
    Implicit,
    /// In the one of the cursor it belongs to, if that has one.
    Cursor(Option<Box<Session>>),
    /// In none.
    None,
}

/// Is an implicit session that is kept between calls; goes back to the pool when dropped.
pub(super) struct Session {
    pub(super) in_use: Option<SessionInUse>,
    pub(super) core: Arc<ClientCore>,
}

/// Is a server session in use, and how long servers keep one.
pub(super) struct SessionInUse {
    pub(super) session: ServerSession,
    pub(super) timeout: Duration,
}

/// Is the outcome of a call: the reply, and the session it ran in if that goes on.
pub(super) struct Outcome {
    pub(super) reply: Reply,
    pub(super) session: Option<Box<Session>>,
}

impl From<Option<Duration>> for Time {
    fn from(limit: Option<Duration>) -> Self {
        limit.map_or(Self::Default, Self::Limit)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(in_use) = self.in_use.take() {
            self.core.put_session(in_use, clock::now());
        }
    }
}

impl ClientCore {
    /// Makes the deadline of a call: its own limit, or the client's.
    pub(super) fn call_deadline(&self, time: &Time, now: Instant) -> Option<Deadline> {
        let (name, limit) = match time {
            Time::Limit(limit) => ("timeout", *limit),
            Time::Default => ("timeoutMS", self.options().timeout_or_default()?),
            Time::Until(deadline) => return Some(**deadline),
        };
        Some(Deadline::new(name, limit, now))
    }

    /// Makes the deadline of a selection: the earlier of its own and the call's.
    pub(super) fn selection_deadline(&self, call: Option<Deadline>) -> Deadline {
        let own = Deadline::new("serverSelectionTimeoutMS", self.options().server_selection_timeout_or_default(), clock::now());
        Deadline::earliest(Some(own), call).unwrap_or(own)
    }

    /// Makes the deadline of a check-out: `waitQueueTimeoutMS` counts only where no limit is set for the whole call.
    pub(super) fn checkout_deadline(&self, call: Option<Deadline>, now: Instant) -> Option<Deadline> {
        call.or_else(|| Some(Deadline::new("waitQueueTimeoutMS", self.options().wait_queue_timeout_or_default()?, now)))
    }

    /// Makes the deadline of one exchange: `socketTimeoutMS` counts only where no limit is set for the whole call.
    pub(super) fn exchange_deadline(&self, call: Option<Deadline>, now: Instant) -> Option<Deadline> {
        call.or_else(|| Some(Deadline::new(SOCKET_TIMEOUT, self.options().socket_timeout_or_default()?, now)))
    }
}

/// Waits for a future until a deadline.
pub(super) async fn within<T>(deadline: Option<Deadline>, stage: Stage, future: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(deadline) = deadline else { return future.await };
    match clock::until(deadline.at, future).await {
        Some(outcome) => outcome,
        None => Err(deadline.error(stage, clock::now())),
    }
}
