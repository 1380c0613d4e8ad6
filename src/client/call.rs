//! How does one command go out, and its reply come back?
//!
//! Strictly in turns: select, check out, send, receive. Whoever drops the future at any of these leaves a connection
//! that goes back by itself, and a session that is not used again. Nothing is retried here: that is left to the caller.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use bson::{RawDocument, RawDocumentBuf};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::pin::Pinned;
use super::running::{Inner, no_runtime};
use crate::error::{Error, ErrorKind, LimitValue, Result, Stage};
use crate::host::HostKey;
use crate::io::clock;
use crate::io::entropy::entropy;
use crate::io::events::{EVENT_DOCUMENT_SIZE_MAX, Event};
use crate::io::pool::CheckedOut;
use crate::io::snapshot::Selected;
use crate::io::topology::Cluster;
use crate::op::deadline::Deadline;
use crate::op::session::{END_SESSIONS_MAX, ServerSession};
use crate::op::{CommandEvent, CommandFields, ReplyHead, check_size, command_error, command_name, is_sensitive};
use crate::selection::{Criteria, ReadPreference, read_preference_to_send};
use crate::topology::Fault;
use crate::wire::{Flags, Message, Request};

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
    /// [`Bson`](ErrorKind::Bson) if it doesn't fit.
    pub fn deserialize<T: DeserializeOwned>(&self) -> Result<T> {
        bson::deserialize_from_slice(&self.body).map_err(|error| Error::from(error).at(Stage::Read).on(&self.host))
    }
}

/// Is one call: what to send, to whom, by when.
pub(super) struct Call {
    pub(super) database: Arc<str>,
    pub(super) request: Request,
    pub(super) criteria: Arc<Criteria>,
    /// What the server is told of the read preference, where its kind asks for that; nothing for what belongs to a cursor.
    pub(super) read_preference: Option<ReadPreference>,
    /// The time the caller gives it, and since when.
    pub(super) deadline: Option<Deadline>,
    /// The session it runs in.
    pub(super) session: InSession,
    /// Whether the reply opens a cursor, which keeps the connection behind a load balancer.
    pub(super) pins: bool,
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
pub(super) struct Session {
    session: Option<ServerSession>,
    dirty: bool,
    timeout: Option<Duration>,
    inner: Arc<Inner>,
}

/// Is the outcome of a call: the reply, and the session it ran in.
pub(super) struct Outcome {
    pub(super) reply: Reply,
    pub(super) session: Option<Session>,
    /// The connection, for a cursor behind a load balancer.
    pub(super) pin: Option<Box<Pinned>>,
}

impl Session {
    fn take(inner: &Arc<Inner>, timeout: Duration, now: Instant) -> Result<Self> {
        let kept = inner.sessions.lock().unwrap_or_else(PoisonError::into_inner).take(timeout, now);
        let session = match kept {
            Some(session) => session,
            None => ServerSession::new(entropy()?, now),
        };
        Ok(Self { session: Some(session), dirty: false, timeout: Some(timeout), inner: Arc::clone(inner) })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let mut sessions = self.inner.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            sessions.put(session, self.dirty, self.timeout, clock::now());
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
    pub(super) fn checkout_deadline(&self, call: Option<Deadline>) -> Option<Deadline> {
        call.or_else(|| Some(Deadline::new("waitQueueTimeoutMS", self.options().wait_queue_timeout_or_default()?, clock::now())))
    }

    /// Runs a command. Can be dropped at any moment.
    pub(super) async fn run(self: &Arc<Self>, mut call: Call) -> Result<Outcome> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(no_runtime());
        }
        // Found out before anybody waits for anything.
        command_name(&call.request.body)?;
        // What has to wait is boxed, so that what need not stays small.
        let cluster = match self.cluster_now() {
            Some(cluster) => cluster,
            None => Box::pin(within(call.deadline, Stage::Selection, self.cluster())).await?,
        };
        cluster.look_at_clocks();
        let selected = match cluster.choose(&call.criteria)? {
            Some(selected) => selected,
            None => Box::pin(cluster.select(&call.criteria, self.selection_deadline(call.deadline))).await?,
        };
        let pool = selected.pool();
        let _operation = pool.operation();
        let mut conn = pool.checkout(self.checkout_deadline(call.deadline)).await?;
        let mut outcome = self.exchange(&cluster, &selected, &mut conn, &mut call).await.map_err(|error| error.on(pool.host()))?;
        if call.pins {
            outcome.pin = Pinned::new(conn, &selected, &cluster);
        }
        Ok(outcome)
    }

    /// Sends a command on a connection and reads its reply.
    pub(super) async fn exchange(
        self: &Arc<Self>,
        cluster: &Arc<Cluster>,
        selected: &Selected,
        conn: &mut CheckedOut,
        call: &mut Call,
    ) -> Result<Outcome> {
        let Call { database, request, read_preference, deadline, session, .. } = call;
        let name = command_name(&request.body)?;
        let host = selected.pool().host();
        let began = clock::now();
        let mut session = match std::mem::replace(session, InSession::None) {
            InSession::Cursor(session) => session,
            InSession::Implicit => match (selected.description().session_timeout(), conn.facts().has_sessions) {
                (Some(timeout), true) => Some(Session::take(self, timeout, began)?),
                _ => None,
            },
            InSession::None => None,
        };
        let time = self.cluster_time();
        let preference = read_preference
            .take()
            .and_then(|preference| read_preference_to_send(selected.description().kind(), selected.kind(), &Criteria::read(preference)))
            .and_then(|preference| RawDocumentBuf::try_from(&preference.to_document()).ok());
        let fields = CommandFields {
            database,
            lsid: session.as_ref().and_then(|session| session.session.as_ref()).map(|session| session.lsid().as_ref()),
            cluster_time: time.as_deref(),
            read_preference: preference.as_deref(),
        };
        check_size(request, conn.facts().document_size_bytes_max)?;
        let request_id = conn.queue(Flags::default(), request, &fields);
        check_message_size(conn)?;
        let service_id = conn.facts().service_id;
        let mut told =
            Told { inner: self, name, host, connection_id: conn.id(), service_id, request_id, began, body: &request.body, ended: false };
        told.started(conn, database, request);
        if let Some(session) = session.as_mut() {
            session.dirty = true;
        }
        let outcome = self.send_and_receive(conn, *deadline).await;
        let message = match outcome {
            Ok(message) => message,
            Err(error) => {
                let error = error.after(clock::now().saturating_duration_since(began));
                told.failed(&error);
                cluster.fault(host, Fault::new(error.clone(), conn.generation()).of_service(service_id));
                return Err(error);
            }
        };
        if let Some(session) = session.as_mut() {
            session.dirty = false;
        }
        let body = message.into_body();
        let reply = Reply { body, host: host.clone() };
        let head = ReplyHead::read(reply.document());
        if let Some(time) = head.cluster_time {
            self.gossip(time);
        }
        if !head.succeeded || head.has_write_concern_error {
            if let Some(fault) = Fault::in_reply(host, reply.document(), conn.generation()) {
                cluster.fault(host, fault.of_service(service_id));
            }
            if let Some(error) = command_error(reply.document()) {
                let error = error.on(host).with_address(conn.address()).after(clock::now().saturating_duration_since(began));
                told.failed(&error);
                return Err(error);
            }
        }
        told.succeeded(reply.document());
        Ok(Outcome { reply, session, pin: None })
    }

    /// The limits of one exchange: `socketTimeoutMS` costs the connection; the call's own deadline, which it yields to, does
    /// not.
    async fn send_and_receive(&self, conn: &mut CheckedOut, deadline: Option<Deadline>) -> Result<Message> {
        let socket = self.options().socket_timeout_or_default().filter(|_| deadline.is_none());
        let limit = deadline.or_else(|| Some(Deadline::new("socketTimeoutMS", socket?, clock::now())));
        let outcome = match limit {
            None => conn.exchange().await,
            // Boxed, so that an exchange without a limit stays small.
            Some(limit) => match Box::pin(tokio::time::timeout_at(limit.at.into(), conn.exchange())).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    let error = limit.error(conn.stage(), clock::now());
                    if socket.is_some() {
                        conn.spoil();
                    }
                    Err(error)
                }
            },
        };
        outcome.map_err(|error| error.on(conn.host()).with_address(conn.address()))
    }

    /// Tells the servers which sessions are used no more (sessions, "endSessions"); what they answer does not matter.
    pub(super) async fn end_sessions(self: &Arc<Self>) {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner).drain();
        if sessions.is_empty() {
            return;
        }
        for chunk in sessions.chunks(END_SESSIONS_MAX) {
            let mut ids = bson::RawArrayBuf::new();
            for session in chunk {
                ids.push(session.lsid().clone());
            }
            let call = Call {
                database: Arc::from("admin"),
                request: Request::from(bson::rawdoc! { "endSessions": ids }),
                criteria: Arc::new(Criteria::any_readable()),
                read_preference: None,
                deadline: Some(Deadline::new("END_SESSIONS_LIMIT", END_SESSIONS_LIMIT, clock::now())),
                session: InSession::None,
                pins: false,
            };
            if let Err(error) = self.run(call).await {
                tracing::debug!(%error, "sessions could not be ended");
                return;
            }
        }
    }
}

/// How long shutting down waits for a server to hear which sessions end.
const END_SESSIONS_LIMIT: Duration = Duration::from_secs(1);

/// Tells the events of one command: each start has one end, also when its caller goes away.
struct Told<'a> {
    inner: &'a Inner,
    name: &'a str,
    host: &'a HostKey,
    connection_id: u64,
    service_id: Option<ObjectId>,
    request_id: i32,
    began: Instant,
    body: &'a RawDocument,
    ended: bool,
}

impl Told<'_> {
    fn is_sensitive(&self) -> bool {
        is_sensitive(self.name, self.body)
    }

    fn started(&self, conn: &CheckedOut, database: &Arc<str>, request: &Request) {
        tracing::debug!(host = %self.host, command = %self.name, request = self.request_id, "command sent");
        self.inner.events().send(|| {
            let sent = if self.is_sensitive() { None } else { sent_command(conn.queued(), request) };
            Event::Command(CommandEvent::Started {
                host: self.host.clone(),
                connection_id: self.connection_id,
                service_id: self.service_id,
                server_connection_id: conn.facts().connection_id,
                request_id: self.request_id,
                database: Arc::clone(database),
                name: Arc::from(self.name),
                command: sent.unwrap_or_default(),
            })
        });
    }

    fn succeeded(&mut self, reply: &RawDocument) {
        self.ended = true;
        self.inner.events().send(|| {
            Event::Command(CommandEvent::Succeeded {
                host: self.host.clone(),
                connection_id: self.connection_id,
                service_id: self.service_id,
                request_id: self.request_id,
                name: Arc::from(self.name),
                duration: clock::now().saturating_duration_since(self.began),
                reply: if self.is_sensitive() || reply.as_bytes().len() > EVENT_DOCUMENT_SIZE_MAX {
                    RawDocumentBuf::new()
                } else {
                    reply.to_owned()
                },
            })
        });
    }

    fn failed(&mut self, error: &Error) {
        self.ended = true;
        let duration = clock::now().saturating_duration_since(self.began);
        let redacted = self.is_sensitive().then(|| error.redacted());
        let error = redacted.as_ref().unwrap_or(error);
        tracing::debug!(host = %self.host, command = %self.name, request = self.request_id, %error, "command failed");
        self.inner.events().send(|| {
            Event::Command(CommandEvent::Failed {
                host: self.host.clone(),
                connection_id: self.connection_id,
                service_id: self.service_id,
                request_id: self.request_id,
                name: Arc::from(self.name),
                duration,
                error: error.clone(),
            })
        });
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.failed(&Error::new(ErrorKind::Interrupted, "the caller went away").at(Stage::Read).on(self.host));
        }
    }
}

/// Returns the command as it was sent, its document sequences as arrays; nothing if it is too large for an event.
fn sent_command(message: &[u8], request: &Request) -> Option<RawDocumentBuf> {
    if message.len() > EVENT_DOCUMENT_SIZE_MAX {
        return None;
    }
    // Header, flags and section kind come before the body.
    let body = message.get(21..)?;
    let length = body.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize)?;
    let mut command = RawDocumentBuf::from_bytes(body.get(..length)?.to_vec()).ok()?;
    for (identifier, documents) in &request.sequences {
        let array: bson::RawArrayBuf = documents.iter().map(|document| bson::RawBson::Document(document.clone())).collect();
        command.append(<&bson::raw::CStr>::try_from(identifier.as_str()).ok()?, array);
    }
    Some(command)
}

fn check_message_size(conn: &mut CheckedOut) -> Result<()> {
    let limit = conn.facts().message_size_bytes_max;
    let size = conn.queued_bytes() as u64;
    if size > u64::from(limit) {
        conn.unqueue();
        return Err(Error::new(ErrorKind::InvalidArgument, format!("message of {size} bytes"))
            .at(Stage::Write)
            .against("maxMessageSizeBytes", LimitValue::Bytes(limit.into())));
    }
    Ok(())
}

/// Waits for a future until a deadline.
pub(super) async fn within<T>(deadline: Option<Deadline>, stage: Stage, future: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(deadline) = deadline else { return future.await };
    match tokio::time::timeout_at(tokio::time::Instant::from_std(deadline.at), future).await {
        Ok(outcome) => outcome,
        Err(_) => Err(deadline.error(stage, clock::now())),
    }
}
