//! How does one command go out, and its reply come back?
//!
//! Strictly in turns: select, check out, send, receive. Whoever drops the future at any of these leaves a connection
//! that goes back by itself, and a session that is not used again. Nothing is retried here: that is left to the caller.

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::RawDocument;
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::exchange::Exchange;
use super::pin::Pinned;
use super::running::Inner;
use crate::error::{Error, Result, Stage};
use crate::host::HostKey;
use crate::io::clock;
use crate::io::entropy::entropy;
use crate::io::log;
use crate::io::pool::CheckedOut;
use crate::io::snapshot::Selected;
use crate::op::command_name;
use crate::op::deadline::Deadline;
use crate::op::session::{END_SESSIONS_MAX, ServerSession};
use crate::selection::{Criteria, ReadPreference};
use crate::wire::Request;

/// Is a server's reply: its bytes as they came, and where they came from.
#[derive(Clone, Debug)]
pub struct Reply {
    body: Bytes,
    host: HostKey,
}

impl Reply {
    pub(super) fn new(body: Bytes, host: HostKey) -> Self {
        Self { body, host }
    }

    /// Returns the document.
    pub fn document(&self) -> &RawDocument {
        // The wire layer has checked length and terminator.
        RawDocument::from_bytes(&self.body).expect("checked when it was read")
    }

    /// Returns the document's bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.body
    }

    /// Returns the server that answered.
    pub fn host(&self) -> &HostKey {
        &self.host
    }

    /// Reads the document as a type.
    ///
    /// # Errors
    /// [`Bson`](crate::ErrorKind::Bson) if it doesn't fit.
    pub fn deserialize<T: DeserializeOwned>(&self) -> Result<T> {
        bson::deserialize_from_slice(&self.body).map_err(|error| Error::from(error).at(Stage::Read).on(&self.host))
    }
}

/// Is one call: what to send, to whom, by when.
pub(super) struct Call {
    pub(super) request: Request,
    /// Where it may go; to the primary if nothing is said.
    pub(super) criteria: Option<Arc<Criteria>>,
    /// What the server is told of the read preference, where its kind asks for that.
    pub(super) preference: Preference,
    /// The time the caller gives it, and since when.
    pub(super) deadline: Option<Deadline>,
    /// The session it runs in.
    pub(super) session: InSession,
    /// Whether the reply opens a cursor, which keeps the connection behind a load balancer.
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

/// Says in which session a call runs.
pub(super) enum InSession {
    /// In one of its own, where the server has sessions.
    Implicit,
    /// In the one of the cursor it belongs to, if that has one.
    Cursor(Option<Session>),
    /// In none.
    None,
}

/// Is an implicit session in use; goes back to the pool when dropped, unless what it was used for was left unfinished.
pub(super) struct Session<I: Borrow<Arc<Inner>> = Arc<Inner>> {
    session: Option<ServerSession>,
    /// Whether it is part of something unfinished.
    pub(super) dirty: bool,
    timeout: Option<Duration>,
    inner: I,
}

/// Is the outcome of a call: the reply, and the session it ran in if that goes on.
pub(super) struct Outcome<'a> {
    pub(super) reply: Reply,
    pub(super) session: Option<Session<&'a Arc<Inner>>>,
    /// The connection, for a cursor behind a load balancer.
    pub(super) pin: Option<Box<Pinned>>,
}

impl<'a> Session<&'a Arc<Inner>> {
    /// Takes the session that this thread used last, or else another thread did, or makes one.
    pub(super) fn take(inner: &'a Arc<Inner>, timeout: Duration, now: Instant) -> Result<Self> {
        let own = inner.sessions.own().take(timeout, now);
        let kept = own.or_else(|| inner.sessions.each().find_map(|mut sessions| sessions.take(timeout, now)));
        let session = match kept {
            Some(session) => session,
            None => ServerSession::new(entropy()?, now),
        };
        Ok(Self { session: Some(session), dirty: false, timeout: Some(timeout), inner })
    }

    /// Keeps it for longer than the call.
    pub(super) fn keep(mut self) -> Session {
        Session { session: self.session.take(), dirty: self.dirty, timeout: self.timeout, inner: Arc::clone(self.inner) }
    }
}

impl Session {
    /// Lends it for one call.
    pub(super) fn lend(mut self, inner: &Arc<Inner>) -> Session<&Arc<Inner>> {
        Session { session: self.session.take(), dirty: self.dirty, timeout: self.timeout, inner }
    }
}

impl<I: Borrow<Arc<Inner>>> Session<I> {
    /// Returns the `lsid` to send.
    pub(super) fn lsid(&self) -> Option<&RawDocument> {
        self.session.as_ref().map(|session| session.lsid().as_ref())
    }

    /// Gives it back.
    pub(super) fn put(&mut self, now: Instant) {
        if let Some(session) = self.session.take() {
            self.inner.borrow().sessions.own().put(session, self.dirty, self.timeout, now);
        }
    }
}

impl<I: Borrow<Arc<Inner>>> Drop for Session<I> {
    fn drop(&mut self) {
        if self.session.is_some() {
            self.put(clock::now());
        }
    }
}

impl Inner {
    /// Makes the deadline of a call: its own limit, or the client's.
    pub(super) fn call_deadline(&self, limit: Option<Duration>) -> Option<Deadline> {
        let (name, limit) = match limit {
            Some(limit) => ("timeout", limit),
            None => ("timeoutMS", self.options().timeout_or_default()?),
        };
        Some(Deadline::new(name, limit, clock::now()))
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

    /// Runs a command on a database. Can be dropped at any moment.
    ///
    /// What has to wait is boxed, so that what need not stays small.
    pub(super) async fn run<'a>(self: &'a Arc<Self>, database: &Arc<str>, call: &mut Call) -> Result<Outcome<'a>> {
        let session = std::mem::replace(&mut call.session, InSession::None);
        let call = &*call;
        // Found out before anybody waits for anything.
        let name = command_name(call.request.body.document())?;
        let (deadline, criteria) = (call.deadline, &call.criteria);
        let criteria = criteria.as_ref().unwrap_or(&self.primary);
        let is_logged = log::wants_selections();
        if is_logged {
            log::selection_started(name, criteria, &self.description());
        }
        let found = match self.select_now(criteria) {
            Ok(Some(selected)) => Ok(selected),
            Ok(None) => Box::pin(self.select_later(name, criteria, deadline)).await,
            Err(error) => Err(error),
        };
        if is_logged {
            self.log_selection(name, criteria, &found);
        }
        let selected = found?;
        let now = clock::now();
        selected.cluster().look_at_clocks(now);
        let mut conn = selected.pool().checkout(self.checkout_deadline(deadline, now), now).await?;
        let began = conn.lent_at();
        let (mut outcome, now) = self.exchange(&selected, &mut conn, began, (database, name), call, session).await?;
        if call.pins && conn.facts().service_id.is_some() {
            outcome.pin = Some(Box::new(Pinned::new(conn, selected)));
        } else {
            conn.give_back(now);
        }
        Ok(outcome)
    }

    /// Logs what came of looking for a server.
    fn log_selection(&self, operation: &str, criteria: &Criteria, found: &Result<Selected>) {
        match found {
            Ok(selected) => log::selection_succeeded(operation, criteria, selected.description(), selected.pool().host()),
            Err(error) => log::selection_failed(operation, criteria, &self.description(), error),
        }
    }

    /// Sends a command on a connection and reads its reply; says when it had come.
    pub(super) async fn exchange<'a>(
        self: &'a Arc<Self>,
        selected: &Selected,
        conn: &mut CheckedOut,
        began: Instant,
        (database, name): (&Arc<str>, &str),
        call: &Call,
        session: InSession,
    ) -> Result<(Outcome<'a>, Instant)> {
        let Call { request, preference, deadline, .. } = call;
        let mut exchange = Exchange::new(self, selected, conn, name, request.body.document(), session, began)?;
        exchange.queue(database, request, preference)?;
        let outcome = match self.exchange_deadline(*deadline, began) {
            None => exchange.conn.exchange().await,
            Some(limit) => Box::pin(exchange.within(limit, deadline.is_none())).await,
        };
        exchange.finish(outcome)
    }

    /// The limits of one exchange: `socketTimeoutMS` costs the connection; the call's own deadline, which it yields to, does
    /// not.
    fn exchange_deadline(&self, call: Option<Deadline>, now: Instant) -> Option<Deadline> {
        call.or_else(|| Some(Deadline::new("socketTimeoutMS", self.options().socket_timeout_or_default()?, now)))
    }

    /// Tells the servers which sessions are used no more (sessions, "endSessions"); what they answer does not matter.
    pub(super) async fn end_sessions(self: &Arc<Self>) {
        let sessions: Vec<_> = self.sessions.each().flat_map(|mut sessions| sessions.drain()).collect();
        if sessions.is_empty() {
            return;
        }
        let admin = Arc::from("admin");
        for chunk in sessions.chunks(END_SESSIONS_MAX) {
            let mut ids = bson::RawArrayBuf::new();
            for session in chunk {
                ids.push(session.lsid().clone());
            }
            let mut call = Call {
                request: Request::from(bson::rawdoc! { "endSessions": ids }),
                criteria: Some(Arc::new(Criteria::any_readable())),
                preference: Preference::Untold,
                deadline: Some(Deadline::new("END_SESSIONS_LIMIT", END_SESSIONS_LIMIT, clock::now())),
                session: InSession::None,
                pins: false,
            };
            if let Err(error) = self.run(&admin, &mut call).await {
                tracing::debug!(%error, "sessions could not be ended");
                return;
            }
        }
    }
}

/// How long shutting down waits for a server to hear which sessions end.
const END_SESSIONS_LIMIT: Duration = Duration::from_secs(1);

/// Waits for a future until a deadline.
pub(super) async fn within<T>(deadline: Option<Deadline>, stage: Stage, future: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(deadline) = deadline else { return future.await };
    match tokio::time::timeout_at(tokio::time::Instant::from_std(deadline.at), future).await {
        Ok(outcome) => outcome,
        Err(_) => Err(deadline.error(stage, clock::now())),
    }
}
