//! How does a command that has its connection go out, and what becomes of the reply?
//!
//! Everything between check-out and check-in but these: session, driver's fields, limits, events, faults, cluster time. The waiting
//! is `io::conn`'s; which server and connection it is, is settled before, in `call`.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use bson::oid::ObjectId;
use bson::{RawDocument, RawDocumentBuf};

use super::call::{InSession, Outcome, Preference, Reply, Session};
use super::running::{Inner, no_runtime};
use crate::error::{Error, ErrorKind, LimitValue, Result, Stage};
use crate::host::HostKey;
use crate::io::clock;
use crate::io::events::{EVENT_DOCUMENT_SIZE_MAX, Event};
use crate::io::pool::CheckedOut;
use crate::io::snapshot::Selected;
use crate::op::deadline::Deadline;
use crate::op::{CommandEvent, CommandFields, ReplyHead, check_size, command_error, is_sensitive};
use crate::selection::{Criteria, ReadPreference, read_preference_to_send};
use crate::topology::{Fault, TopologyType};
use crate::wire::{Flags, Message, Request};

/// Is a command that has its connection.
pub(super) struct Exchange<'a, 'c> {
    pub(super) conn: &'c mut CheckedOut,
    selected: &'c Selected,
    session: Option<Session<&'a Arc<Inner>>>,
    told: Told<'a, 'c>,
}

impl<'a, 'c> Exchange<'a, 'c> {
    /// Takes a session for it, where the server has sessions.
    pub(super) fn new(
        inner: &'a Arc<Inner>,
        selected: &'c Selected,
        conn: &'c mut CheckedOut,
        name: &'c str,
        body: &'c RawDocument,
        session: InSession,
        began: Instant,
    ) -> Result<Self> {
        let session = match session {
            InSession::Cursor(session) => session.map(|session| session.lend(inner)),
            InSession::Implicit => match (selected.description().session_timeout(), conn.facts().has_sessions) {
                (Some(timeout), true) => Some(Session::take(inner, timeout, began)?),
                _ => None,
            },
            InSession::None => None,
        };
        let host = selected.pool().host();
        let told = Told {
            inner,
            name,
            host,
            connection_id: conn.id(),
            service_id: conn.facts().service_id,
            request_id: 0,
            began,
            body,
            ended: true,
        };
        Ok(Self { conn, selected, session, told })
    }

    /// Encodes it into the connection's buffer.
    pub(super) fn queue(&mut self, database: &Arc<str>, request: &Request, preference: &Preference) -> Result<()> {
        let Self { conn, selected, session, told, .. } = self;
        let preference = match preference {
            Preference::Untold => None,
            Preference::Primary if selected.description().kind() != TopologyType::Single => None,
            Preference::Primary => to_send(selected, ReadPreference::primary()),
            Preference::Of(preference) => to_send(selected, (**preference).clone()),
        };
        check_size(request, conn.facts().document_size_bytes_max).map_err(|error| error.on(told.host))?;
        let lsid = session.as_ref().and_then(Session::lsid);
        told.request_id = told.inner.gossip.tell(|cluster_time| {
            let fields = CommandFields { database, lsid, cluster_time, read_preference: preference.as_deref() };
            conn.queue(Flags::default(), request, &fields)
        });
        check_message_size(conn).map_err(|error| error.on(told.host))?;
        told.started(conn, database, request);
        if let Some(session) = session {
            session.dirty = true;
        }
        Ok(())
    }

    /// Sends it and waits for the reply, until a limit that costs the connection if it is the socket's.
    pub(super) async fn within(&mut self, limit: Deadline, is_sockets: bool) -> Result<Message> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(no_runtime());
        }
        match tokio::time::timeout_at(limit.at.into(), self.conn.exchange()).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let error = limit.error(self.conn.stage(), clock::now());
                if is_sockets {
                    self.conn.spoil();
                }
                Err(error)
            }
        }
    }

    /// Sees what came of it; says when.
    pub(super) fn finish(self, outcome: Result<Message>) -> Result<(Outcome<'a>, Instant)> {
        let Self { conn, selected, mut session, mut told } = self;
        let now = clock::now();
        let (began, host, service_id) = (told.began, told.host, told.service_id);
        let elapsed = || now.saturating_duration_since(began);
        let message = match outcome {
            Ok(message) => message,
            Err(error) => {
                let error = error.on(host).with_address(conn.address()).after(elapsed());
                told.failed(&error);
                selected.cluster().fault(host, Fault::new(error.clone(), conn.generation()).of_service(service_id));
                return Err(error);
            }
        };
        let reply = Reply::new(message.into_body(), host.clone());
        let head = ReplyHead::read(reply.document());
        if let Some(session) = session.as_mut() {
            session.dirty = false;
            if !head.has_cursor {
                session.put(now);
            }
        }
        if let Some(time) = head.cluster_time {
            told.inner.gossip.hear(time);
        }
        if !head.succeeded || head.has_write_concern_error {
            if let Some(fault) = Fault::in_reply(host, reply.document(), conn.generation()) {
                selected.cluster().fault(host, fault.of_service(service_id));
            }
            if let Some(error) = command_error(reply.document()) {
                let error = error.on(host).with_address(conn.address()).after(elapsed());
                told.failed(&error);
                return Err(error);
            }
        }
        told.succeeded(reply.document(), now);
        Ok((Outcome { reply, session, pin: None }, now))
    }
}

/// Tells the events of one command: each start has one end, also when its caller goes away.
struct Told<'a, 'c> {
    inner: &'a Arc<Inner>,
    name: &'c str,
    host: &'c HostKey,
    connection_id: u64,
    service_id: Option<ObjectId>,
    request_id: i32,
    began: Instant,
    body: &'c RawDocument,
    /// Whether there is nothing more to tell.
    ended: bool,
}

impl Told<'_, '_> {
    fn is_sensitive(&self) -> bool {
        is_sensitive(self.name, self.body)
    }

    fn started(&mut self, conn: &CheckedOut, database: &Arc<str>, request: &Request) {
        self.ended = false;
        tracing::debug!(host = %self.host, command = %self.name, request = self.request_id, "command sent");
        self.inner.events().send(|| {
            let sent = if self.is_sensitive() { None } else { sent_command(conn, request) };
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

    fn succeeded(&mut self, reply: &RawDocument, now: Instant) {
        self.ended = true;
        self.inner.events().send(|| {
            Event::Command(CommandEvent::Succeeded {
                host: self.host.clone(),
                connection_id: self.connection_id,
                service_id: self.service_id,
                request_id: self.request_id,
                name: Arc::from(self.name),
                duration: now.saturating_duration_since(self.began),
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

impl Drop for Told<'_, '_> {
    fn drop(&mut self) {
        if !self.ended {
            self.failed(&Error::new(ErrorKind::Interrupted, "the caller went away").at(Stage::Read).on(self.host));
        }
    }
}

/// Returns the `$readPreference` that a server is told.
fn to_send(selected: &Selected, preference: ReadPreference) -> Option<RawDocumentBuf> {
    let preference = read_preference_to_send(selected.description().kind(), selected.kind(), &Criteria::read(preference))?;
    RawDocumentBuf::try_from(&preference.to_document()).ok()
}

/// Returns the command as it was sent, its document sequences as arrays; nothing if it is too large for an event.
fn sent_command(conn: &CheckedOut, request: &Request) -> Option<RawDocumentBuf> {
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

fn check_message_size(conn: &mut CheckedOut) -> Result<()> {
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
