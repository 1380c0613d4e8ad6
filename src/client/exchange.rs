//! The exchange of one attempt: the command goes out on a checked-out connection, and its reply comes back.
//!
//! Session, driver's fields, limits, events, faults and cluster time, between check-out and check-in. Imports nothing of the
//! shared client. Does not decide which server and connection it is (`attempt`), nor whether a failure is retried (`executor`).

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bson::RawDocumentBuf;

use super::checkout::CheckedOutConn;
use super::errors::no_runtime;
use super::sessions::{SessionInUse, Sessions};
use super::time_limits::TimeLimits;
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind, LimitValue, Result, Stage};
use crate::io::clock;
use crate::io::conn::Conn;
use crate::observe::events::{EVENT_DOCUMENT_SIZE_MAX, Event};
use crate::operation::failure::ConnFate;
use crate::operation::{Command, CommandEvent, DriverFields, Failure, Reply, ReplyHead, command_error, is_sensitive};
use crate::topology::Fault;
use crate::wire::{Flags, Message, Request};

/// A command on a checked-out connection.
pub(super) struct Exchange {
    began: Instant,
    request_id: i32,
    /// Set from the start event to the end event: each start has one end, also if the caller drops the future.
    told: Option<CommandEnd>,
    limit: Option<ExchangeLimit>,
}

/// The parts of the client that an exchange uses.
#[derive(Clone, Copy)]
pub(super) struct ExchangeScope<'a> {
    pub(super) limits: &'a TimeLimits,
    pub(super) sessions: &'a Arc<Sessions>,
    pub(super) database: &'a Arc<str>,
}

/// The outcome of an attempt. A failure is rare and boxed; a reply is neither.
pub(super) type Attempted = std::result::Result<Answer, Box<Failure>>;

/// A successful reply.
pub(super) struct Answer {
    pub(super) reply: Reply,
    /// Whether the reply has a cursor.
    pub(super) has_cursor: bool,
    /// When it came.
    pub(super) at: Instant,
}

/// The data of a command's end event.
struct CommandEnd {
    name: Arc<str>,
    is_secret: bool,
}

/// The limit of an exchange.
struct ExchangeLimit {
    over: Pin<Box<dyn Future<Output = Deadline> + Send>>,
    /// Whether it is the socket's, and costs the connection.
    is_sockets: bool,
}

impl Exchange {
    /// Takes a session, where the server has sessions, and encodes the command into the connection's buffer.
    ///
    /// A session that is in `session` already is used as it is.
    #[inline]
    pub(super) fn start(
        scope: ExchangeScope<'_>,
        command: &mut dyn Command,
        session: &mut Option<SessionInUse>,
        conn: &mut CheckedOutConn,
        deadline: Option<Deadline>,
        began: Instant,
    ) -> Result<Self> {
        let limit = limit(scope.limits, deadline, began).map_err(|error| error.on(conn.host()))?;
        let mut cache = scope.sessions.thread_caches.own();
        if session.is_none()
            && command.rules().session.is_implicit()
            && conn.facts().has_sessions
            && let Some(timeout) = conn.of().description().session_timeout()
        {
            *session = Some(scope.sessions.take(&mut cache, timeout, began)?);
        }
        scope.sessions.newest_cluster_time.tell(&mut cache.cluster_time);
        let cluster_time = Arc::clone(&cache.cluster_time);
        // Other threads use the cache: a large command is not encoded under its lock.
        drop(cache);
        let selected = conn.of();
        let read_preference = command.read_preference().document(selected.description().kind(), selected.kind());
        let fields = DriverFields {
            database: scope.database,
            lsid: session.as_ref().map(|in_use| in_use.session.lsid().as_ref()),
            cluster_time: cluster_time.document(),
            read_preference: read_preference.as_deref(),
        };
        let request_id = queue(command, conn, &fields).map_err(|error| error.on(conn.host()))?;
        let mut exchange = Self { began, request_id, told: None, limit };
        exchange.tell_start(conn, scope.database, command);
        Ok(exchange)
    }

    /// Sends the command and waits for the reply, until its limit.
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

    /// Classifies the outcome, and applies it to the cluster time and the topology.
    ///
    /// The session stays where it is, unless the reply did not come.
    #[inline]
    pub(super) fn finish(
        &mut self,
        scope: ExchangeScope<'_>,
        command: &dyn Command,
        session: &mut Option<SessionInUse>,
        conn: &mut CheckedOutConn,
        outcome: Result<Message>,
        now: Instant,
    ) -> Attempted {
        let message = match outcome {
            Ok(message) => message,
            Err(error) => return Err(self.unanswered(scope, command, session, conn, error, now)),
        };
        let reply = Reply::new(message.into_body(), conn.host().clone());
        let head = ReplyHead::read(reply.bytes());
        if let Some(time) = head.cluster_time {
            scope.sessions.newest_cluster_time.hear(time);
        }
        if !head.succeeded || head.has_write_concern_error {
            if let Some(fault) = Fault::in_reply(conn.host(), reply.document(), conn.generation()) {
                conn.of().driver().fault(conn.host(), fault.of_service(conn.facts().service_id));
            }
            if let Some(error) = command_error(reply.document()) {
                return Err(self.refused(command, conn, error, reply, now));
            }
        }
        self.tell_success(conn, &reply, now);
        let has_cursor = head.has_cursor;
        Ok(Answer { reply, has_cursor, at: now })
    }

    /// Ends an exchange without a reply.
    #[cold]
    fn unanswered(
        &mut self,
        scope: ExchangeScope<'_>,
        command: &dyn Command,
        session: &mut Option<SessionInUse>,
        conn: &mut CheckedOutConn,
        error: Error,
        now: Instant,
    ) -> Box<Failure> {
        let elapsed = now.saturating_duration_since(self.began);
        let error = error.on(conn.host()).with_address(conn.address()).after(elapsed);
        let failure = failure_without_reply(error, conn, command);
        self.tell_failure(conn, command, &failure.error, now);
        let fault = Fault::new(failure.error.clone(), conn.generation()).of_service(conn.facts().service_id);
        conn.of().driver().fault(conn.host(), fault);
        scope.sessions.abandon(conn, session.take(), now);
        Box::new(failure)
    }

    /// Ends an exchange with an error reply.
    #[cold]
    fn refused(&mut self, command: &dyn Command, conn: &CheckedOutConn, error: Error, reply: Reply, now: Instant) -> Box<Failure> {
        let elapsed = now.saturating_duration_since(self.began);
        let error = error.on(conn.host()).with_address(conn.address()).after(elapsed);
        let failure = Failure::refused(error, reply, conn.facts().wire_version, command.request());
        self.tell_failure(conn, command, &failure.error, now);
        Box::new(failure)
    }

    /// Records that the caller dropped the future before the reply came.
    pub(super) fn abandon(
        &mut self,
        sessions: &Arc<Sessions>,
        command: &dyn Command,
        session: &mut Option<SessionInUse>,
        conn: &mut CheckedOutConn,
    ) {
        let error = Error::new(ErrorKind::Interrupted, "the caller went away").at(conn.stage()).on(conn.host());
        let (failure, now) = (failure_without_reply(error, conn, command), clock::now());
        self.tell_failure(conn, command, &failure.error, now);
        sessions.abandon(conn, session.take(), now);
    }

    #[inline]
    fn tell_start(&mut self, conn: &CheckedOutConn, database: &Arc<str>, command: &dyn Command) {
        tracing::debug!(host = %conn.host(), command = %command.name(), request = self.request_id, "command sent");
        conn.of().pool().events().send(|| {
            let (name, request) = (command.name(), command.request());
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

    #[cold]
    fn tell_failure(&mut self, conn: &CheckedOutConn, command: &dyn Command, error: &Error, now: Instant) {
        let is_secret = is_sensitive(command.name(), command.request().body.document());
        let redacted = is_secret.then(|| error.redacted());
        let error = redacted.as_ref().unwrap_or(error);
        tracing::debug!(host = %conn.host(), command = %command.name(), request = self.request_id, %error, "command failed");
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

/// Creates the failure of a command without reply, from the state of the connection.
#[cold]
pub(super) fn failure_without_reply(error: Error, conn: &Conn, command: &dyn Command) -> Failure {
    let fate = if conn.is_broken() { ConnFate::Closed } else { ConnFate::Kept };
    Failure::unanswered(error, conn.sent(), fate, conn.facts().wire_version, command.request())
}

/// Returns the limit of one exchange. `socketTimeoutMS` costs the connection; the operation's own deadline replaces it and does
/// not.
#[inline]
fn limit(limits: &TimeLimits, deadline: Option<Deadline>, now: Instant) -> Result<Option<ExchangeLimit>> {
    let Some(limit) = limits.exchange(deadline, now) else { return Ok(None) };
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(no_runtime());
    }
    let over = Box::pin(async move {
        clock::sleep_until(Some(limit.at)).await;
        limit
    });
    Ok(Some(ExchangeLimit { over, is_sockets: deadline.is_none() }))
}

/// Builds the request and encodes it into the connection's buffer. Returns the number of the message.
#[inline]
fn queue(command: &mut dyn Command, conn: &mut CheckedOutConn, fields: &DriverFields<'_>) -> Result<i32> {
    let facts = *conn.facts();
    let request = command.build(&facts)?;
    let request_id = conn.queue(Flags::default(), request, fields);
    check_message_size(conn)?;
    Ok(request_id)
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

#[cfg(all(test, feature = "sandbox"))]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::task::Poll;

    use bson::{doc, rawdoc};

    /// A command of 100,000 documents, each of which is copied when it is encoded.
    #[tokio::test]
    async fn thread_cache_is_unlocked_while_a_large_command_is_encoded() {
        let sandbox = crate::Sandbox::builder().members(1).start().await.expect("sandbox");
        let client = crate::Client::new(sandbox.uri()).expect("client");
        client.warm_up().await.expect("warm");
        let caches = &client.core().sessions.thread_caches;
        let all = caches.count();
        let document = rawdoc! { "text": "x".repeat(100) };
        let (ends, looks, held) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        for _ in 0..100 {
            let insert = client.database("test").run_command(doc! { "insert": "things" });
            let mut insert = insert.documents("documents", vec![document.clone(); 100_000]).into_future();
            ends.store(false, Ordering::SeqCst);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !ends.load(Ordering::SeqCst) {
                        let idle = caches.idle().count();
                        looks.fetch_add(1, Ordering::SeqCst);
                        held.fetch_add(u64::from(idle < all), Ordering::SeqCst);
                    }
                });
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                // Encodes the command and writes as much of it as the socket accepts.
                assert!(matches!(std::pin::Pin::new(&mut insert).poll(&mut context), Poll::Pending));
                ends.store(true, Ordering::SeqCst);
            });
            drop(insert);
            if looks.load(Ordering::SeqCst) >= 100 {
                break;
            }
        }
        let (looks, held) = (looks.into_inner(), held.into_inner());
        assert!(looks >= 100 && held < looks / 4, "held at {held} of {looks} looks");
        client.shutdown().await;
    }
}
