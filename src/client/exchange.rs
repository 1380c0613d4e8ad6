//! How does a command that has its connection go out, and what becomes of the reply?
//!
//! Everything between check-out and check-in but these: session, driver's fields, limits, events, faults, cluster time. The waiting
//! is `io::conn`'s; which server and connection it is, is settled before, in `run`.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bson::{RawDocument, RawDocumentBuf};

use super::call::{Call, InSession, Outcome, Preference, Reply, Session, SessionInUse};
use super::run::CheckedOutConn;
use super::running::{ClientCore, no_runtime};
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind, Execution, LimitValue, RETRYABLE_ERROR, Result, Stage};
use crate::io::clock;
use crate::io::conn::Sent;
use crate::io::topology::select::SelectedServer;
use crate::observe::events::{EVENT_DOCUMENT_SIZE_MAX, Event};
use crate::operation::execution::{execution_of, hint, is_idempotent_read};
use crate::operation::{CommandEvent, CommandFields, ReplyHead, check_size, command_error, command_name, is_sensitive};
use crate::selection::{Criteria, ReadPreference, read_preference_to_send};
use crate::topology::{Fault, TopologyType};
use crate::wire::{Flags, Message, Request};

/// Is a command that has its connection.
pub(super) struct Exchange {
    session: Option<SessionInUse>,
    /// Whether a cursor that is left open keeps the session.
    is_cursors: bool,
    began: Instant,
    request_id: i32,
    /// Its start has been told, and not yet its end: each start has one end, also when its caller goes away.
    told: Option<CommandEnd>,
    limit: Option<ExchangeLimit>,
}

/// Is what the end of a command is told by.
struct CommandEnd {
    name: Arc<str>,
    is_secret: bool,
}

/// Is the limit of an exchange, which ends when it is over.
struct ExchangeLimit {
    over: Pin<Box<dyn Future<Output = Deadline> + Send>>,
    /// Whether it is the socket's, and costs the connection.
    is_sockets: bool,
}

impl Exchange {
    /// Takes a session, where the server has sessions, and encodes the command into the connection's buffer.
    #[inline]
    pub(super) fn new(
        core: &Arc<ClientCore>,
        database: &Arc<str>,
        call: &mut Call,
        conn: &mut CheckedOutConn,
        deadline: Option<Deadline>,
        began: Instant,
    ) -> Result<Self> {
        let is_cursors = call.pins || matches!(call.session, InSession::Cursor(_));
        let limit = limit(core, deadline, began).map_err(|error| error.on(conn.host()))?;
        let mut thread_cache = core.thread_caches.own();
        let mut session = match std::mem::replace(&mut call.session, InSession::None) {
            InSession::Cursor(session) => session.and_then(|mut session| session.in_use.take()),
            InSession::Implicit => match (conn.of().description().session_timeout(), conn.facts().has_sessions) {
                (Some(timeout), true) => Some(core.take_session(&mut thread_cache, timeout, began)?),
                _ => None,
            },
            InSession::None => None,
        };
        core.newest_cluster_time.tell(&mut thread_cache.cluster_time);
        let cluster_time = Arc::clone(&thread_cache.cluster_time);
        // Other threads use the thread_cache: a large command is not encoded under its lock.
        drop(thread_cache);
        match queue(database, call, conn, session.as_ref(), cluster_time.document()) {
            Ok(request_id) => {
                let mut exchange = Self { session, is_cursors, began, request_id, told: None, limit };
                exchange.tell_start(conn, database, &call.request);
                Ok(exchange)
            }
            Err(error) => {
                // Nothing of it is sent.
                session.take().into_iter().for_each(|session| core.put_session(session, began));
                Err(error.on(conn.host()))
            }
        }
    }

    /// Sends it and waits for the reply, until its limit.
    #[inline]
    pub(super) fn poll(&mut self, conn: &mut CheckedOutConn, context: &mut Context<'_>) -> Poll<Result<Message>> {
        if let Poll::Ready(outcome) = conn.poll_exchange(context) {
            return Poll::Ready(outcome);
        }
        let Some(ExchangeLimit { over, is_sockets }) = &mut self.limit else { return Poll::Pending };
        let deadline = ready!(over.as_mut().poll(context));
        let error = deadline.error(conn.stage(), clock::now());
        if *is_sockets {
            conn.spoil();
        }
        Poll::Ready(Err(error))
    }

    /// Sees what came of it.
    #[inline]
    pub(super) fn finish(
        &mut self,
        core: &Arc<ClientCore>,
        call: &Call,
        conn: &mut CheckedOutConn,
        outcome: Result<Message>,
        now: Instant,
    ) -> Result<Outcome> {
        let selected = conn.of();
        let (began, host, service_id) = (self.began, conn.host(), conn.facts().service_id);
        let elapsed = || now.saturating_duration_since(began);
        let message = match outcome {
            Ok(message) => message,
            Err(error) => {
                let error = unanswered(error.on(host).with_address(conn.address()).after(elapsed()), conn, call);
                self.tell_failure(conn, call, &error, now);
                selected.driver().fault(host, Fault::new(error.clone(), conn.generation()).of_service(service_id));
                core.abandon(conn, self.session.take(), now);
                return Err(error);
            }
        };
        let reply = Reply::new(message.into_body(), host.clone());
        let head = ReplyHead::read(reply.bytes());
        let mut session = None;
        if let Some(in_use) = self.session.take() {
            if head.has_cursor && self.is_cursors {
                session = Some(Box::new(Session { in_use: Some(in_use), core: Arc::clone(core) }));
            } else {
                core.put_session(in_use, now);
            }
        }
        if let Some(time) = head.cluster_time {
            core.newest_cluster_time.hear(time);
        }
        if !head.succeeded || head.has_write_concern_error {
            if let Some(fault) = Fault::in_reply(host, reply.document(), conn.generation()) {
                selected.driver().fault(host, fault.of_service(service_id));
            }
            if let Some(error) = command_error(reply.document()) {
                let error = refused(error.on(host).with_address(conn.address()).after(elapsed()), &call.request);
                self.tell_failure(conn, call, &error, now);
                return Err(error);
            }
        }
        self.tell_success(conn, &reply, now);
        Ok(Outcome { reply, session })
    }

    /// Records that the caller dropped the future before the reply came.
    pub(super) fn abandon(&mut self, core: &Arc<ClientCore>, conn: &mut CheckedOutConn, call: &Call) {
        let error = Error::new(ErrorKind::Interrupted, "the caller went away").at(conn.stage()).on(conn.host());
        let (error, now) = (unanswered(error, conn, call), clock::now());
        self.tell_failure(conn, call, &error, now);
        core.abandon(conn, self.session.take(), now);
    }

    #[inline]
    fn tell_start(&mut self, conn: &CheckedOutConn, database: &Arc<str>, request: &Request) {
        tracing::debug!(host = %conn.host(), command = %name_of(request), request = self.request_id, "command sent");
        conn.of().pool().events().send(|| {
            let name = name_of(request);
            let (name, is_secret) = (Arc::from(name), is_sensitive(name, request.body.document()));
            self.told = Some(CommandEnd { name: Arc::clone(&name), is_secret });
            let sent = if is_secret { None } else { sent_command(conn, request) };
            Event::Command(CommandEvent::Started {
                host: conn.host().clone(),
                connection_id: conn.id(),
                service_id: conn.facts().service_id,
                server_connection_id: conn.facts().connection_id,
                request_id: self.request_id,
                database: Arc::clone(database),
                name,
                command: sent.unwrap_or_default(),
            })
        });
    }

    #[inline]
    fn tell_success(&mut self, conn: &CheckedOutConn, reply: &Reply, now: Instant) {
        let Some(CommandEnd { name, is_secret }) = self.told.take() else { return };
        conn.of().pool().events().send(|| {
            let is_left_out = is_secret || reply.bytes().len() > EVENT_DOCUMENT_SIZE_MAX;
            Event::Command(CommandEvent::Succeeded {
                host: conn.host().clone(),
                connection_id: conn.id(),
                service_id: conn.facts().service_id,
                request_id: self.request_id,
                name,
                duration: now.saturating_duration_since(self.began),
                reply: if is_left_out { RawDocumentBuf::new() } else { reply.document().to_owned() },
            })
        });
    }

    fn tell_failure(&mut self, conn: &CheckedOutConn, call: &Call, error: &Error, now: Instant) {
        let redacted = is_secret(&call.request).then(|| error.redacted());
        let error = redacted.as_ref().unwrap_or(error);
        tracing::debug!(host = %conn.host(), command = %name_of(&call.request), request = self.request_id, %error, "command failed");
        let Some(CommandEnd { name, .. }) = self.told.take() else { return };
        conn.of().pool().events().send(|| {
            Event::Command(CommandEvent::Failed {
                host: conn.host().clone(),
                connection_id: conn.id(),
                service_id: conn.facts().service_id,
                request_id: self.request_id,
                name,
                duration: now.saturating_duration_since(self.began),
                error: error.clone(),
            })
        });
    }
}

/// Adds to the error of a command without reply whether the server may have executed the command.
#[cold]
fn unanswered(error: Error, conn: &CheckedOutConn, call: &Call) -> Error {
    let execution = if conn.may_execute() { Execution::Possible } else { Execution::Never };
    let retryable = conn.sent() == Sent::Nothing && error.is_network() && !error.is_timeout();
    let error = error.of_command(execution, is_idempotent_read(call.request.body.document()));
    if retryable { error.with_label(RETRYABLE_ERROR) } else { error }
}

/// Adds to an error reply what it says of the command's execution, and what its caller can do.
#[cold]
fn refused(error: Error, request: &Request) -> Error {
    let error = match hint(request.body.document(), &error) {
        Some(hint) => error.with_hint(hint),
        None => error,
    };
    let execution = execution_of(request, &error);
    error.of_command(execution, is_idempotent_read(request.body.document()))
}

fn name_of(request: &Request) -> &str {
    command_name(request.body.document())
}

fn is_secret(request: &Request) -> bool {
    is_sensitive(name_of(request), request.body.document())
}

/// Makes the limit of one exchange: `socketTimeoutMS` costs the connection; the call's own deadline, which it yields to, does not.
#[inline]
fn limit(core: &ClientCore, deadline: Option<Deadline>, now: Instant) -> Result<Option<ExchangeLimit>> {
    let Some(limit) = core.exchange_deadline(deadline, now) else { return Ok(None) };
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(no_runtime());
    }
    let over = Box::pin(async move {
        clock::sleep_until(Some(limit.at)).await;
        limit
    });
    Ok(Some(ExchangeLimit { over, is_sockets: deadline.is_none() }))
}

/// Encodes a command into the connection's buffer; returns its number.
#[inline]
fn queue(
    database: &Arc<str>,
    call: &Call,
    conn: &mut CheckedOutConn,
    session: Option<&SessionInUse>,
    cluster_time: Option<&RawDocument>,
) -> Result<i32> {
    let selected = conn.of();
    let preference = match &call.preference {
        Preference::Untold => None,
        Preference::Primary if selected.description().kind() != TopologyType::Single => None,
        Preference::Primary => to_send(selected, ReadPreference::primary()),
        Preference::Of(preference) => to_send(selected, (**preference).clone()),
    };
    check_size(&call.request, conn.facts().document_size_bytes_max)?;
    let lsid = session.map(|in_use| in_use.session.lsid().as_ref());
    let fields = CommandFields { database, lsid, cluster_time, read_preference: preference.as_deref() };
    let request_id = conn.queue(Flags::default(), &call.request, &fields);
    check_message_size(conn)?;
    Ok(request_id)
}

/// Returns the `$readPreference` that a server is told.
fn to_send(selected: &SelectedServer, preference: ReadPreference) -> Option<RawDocumentBuf> {
    let preference = read_preference_to_send(selected.description().kind(), selected.kind(), &Criteria::read(preference))?;
    RawDocumentBuf::try_from(&preference.to_document()).ok()
}

/// Returns the command as it was sent, its document sequences as arrays; nothing if it is too large for an event.
fn sent_command(conn: &CheckedOutConn, request: &Request) -> Option<RawDocumentBuf> {
    let out = conn.queued();
    if out.len() > EVENT_DOCUMENT_SIZE_MAX {
        return None;
    }
    let whole = out.whole().map_or_else(|| Cow::Owned(out.to_bytes()), Cow::Borrowed);
    let message = &*whole;
    // Header, flags and section kind come before the body.
    let body = message.get(21..)?;
    let length = body.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize)?;
    let mut command = RawDocumentBuf::from_bytes(body.get(..length)?.to_vec()).ok()?;
    for (identifier, documents) in &request.sequences {
        let array: bson::RawArrayBuf = documents.iter().map(|document| bson::RawBson::Document(document.document().to_owned())).collect();
        command.append(<&bson::raw::CStr>::try_from(identifier.as_str()).ok()?, array);
    }
    Some(command)
}

#[inline]
fn check_message_size(conn: &mut CheckedOutConn) -> Result<()> {
    let limit = conn.facts().message_size_bytes_max;
    let size = conn.queued().len() as u64;
    if size > u64::from(limit) {
        conn.unqueue();
        return Err(Error::new(ErrorKind::InvalidArgument, format!("message of {size} bytes"))
            .at(Stage::Write)
            .against("maxMessageSizeBytes", LimitValue::Bytes(limit.into())));
    }
    Ok(())
}
