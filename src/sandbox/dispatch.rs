//! The path of a request: parsing, fail points, authentication, the member's role, the command, encoding.
//!
//! Does not execute the commands (`hello`, `crud`, `admin`).

use std::time::Instant;

use bson::spec::BinarySubtype;
use bson::{Binary, Document, RawDocumentBuf, doc, rawdoc};

use super::call::{ReceivedCommand, ReplyForm, ReplyShape};
use super::cluster::{At, FakeDeployment, SandboxAction};
use super::failpoint::FailPointEffect;
use super::failure::{CommandRefusal, code};
use super::member::{Activity, Awaiting, Role};
use crate::wire::legacy::encode_reply;
use crate::wire::{COMMAND_OVERHEAD_MAX, DOCUMENT_SIZE_MAX, Flags, Frame, Request, WriteBuffer, encode_message};

/// The effect of a command.
pub(super) enum CommandEffect {
    Reply(Document),
    /// The reply comes later.
    Await(Awaiting),
    /// The first reply has been sent, and others will follow.
    Streams,
}

impl FakeDeployment {
    /// Answers the requests of the connections that are ready.
    pub(super) fn settle(&mut self, now: Instant) {
        while let Some(at) = self.ready.pop_front() {
            while let Some(frame) = self.next_frame(at) {
                self.take_frame(at, frame, now);
            }
        }
    }

    /// Answers hellos and executes held commands that are due, and closes idle cursors.
    pub(super) fn run_deadlines(&mut self, member: usize, now: Instant) {
        while let Some(place) = self.members.get_mut(member).filter(|member| member.runs()) {
            place.cursors.sweep(now);
            let Some((_, conn)) = place.next_deadline().filter(|(due, _)| *due <= now) else { return };
            let at = At { member, conn };
            let waits = place.connections.get(&conn).is_some_and(|open| matches!(open.activity, Activity::Awaiting(_)));
            if waits {
                self.answer_awaiting(at, now);
            } else {
                self.release(at, now);
            }
        }
    }

    /// Sends a reply, and returns its number.
    pub(super) fn reply(&mut self, at: At, answer: ReplyShape, more: bool, mut document: Document, now: Instant) -> i32 {
        let number = self.number();
        if answer.form == ReplyForm::Silent {
            return number;
        }
        self.stamp(&mut document, now);
        let body = RawDocumentBuf::try_from(&document)
            .unwrap_or_else(|_| rawdoc! { "ok": 0.0, "code": 1, "codeName": "InternalError", "errmsg": "reply is no BSON" });
        let mut bytes = Vec::with_capacity(body.as_bytes().len() + 64);
        match answer.form {
            ReplyForm::Legacy => encode_reply(&mut bytes, number, answer.to, &body),
            ReplyForm::Message | ReplyForm::Exhaust | ReplyForm::Silent => {
                let flags = if more { Flags::MORE_TO_COME } else { Flags::default() };
                let mut out = WriteBuffer::default();
                encode_message(&mut out, number, answer.to, flags, &Request::from(body), |_| {});
                bytes = out.to_bytes();
            }
        }
        self.actions.push_back(SandboxAction::Reply { member: at.member, conn: at.conn, bytes });
        number
    }

    /// Takes the next request of an idle connection, on a running member.
    fn next_frame(&mut self, at: At) -> Option<Frame> {
        let member = self.members.get_mut(at.member).filter(|member| member.runs())?;
        let connection = member.connections.get_mut(&at.conn)?;
        if !matches!(connection.activity, Activity::Idle) {
            return None;
        }
        match connection.decoder.next_frame() {
            Ok(frame) => frame,
            Err(error) => {
                tracing::debug!(member = at.member, conn = at.conn, %error, "sandbox closes a connection");
                self.close(at);
                None
            }
        }
    }

    fn take_frame(&mut self, at: At, frame: Frame, now: Instant) {
        let call = match ReceivedCommand::parse(frame) {
            Ok(call) => call,
            Err(error) => {
                tracing::debug!(member = at.member, conn = at.conn, %error, "sandbox closes a connection");
                return self.close(at);
            }
        };
        let Some(member) = self.members.get_mut(at.member) else { return };
        member.count(&call.name);
        self.sessions.note(&call);
        let known = member.connections.get(&at.conn).and_then(|connection| connection.app_name.as_deref());
        let app_name = call.app_name().or(known);
        let verdict = match &mut member.fail_point {
            Some(fail_point) => fail_point.effect_on(&call.name, app_name, &mut self.random),
            None => FailPointEffect::default(),
        };
        match verdict.delay {
            Some(delay) => member.set_activity(at.conn, Activity::Held { due: now + delay, call: Box::new(call), verdict }),
            None => self.perform(at, call, &verdict, now),
        }
    }

    /// Executes a command that a fail point has held.
    fn release(&mut self, at: At, now: Instant) {
        let Some(member) = self.members.get_mut(at.member) else { return };
        if let Some(Activity::Held { call, verdict, .. }) = member.take_activity(at.conn) {
            self.perform(at, *call, &verdict, now);
            self.ready.push_back(at);
        }
    }

    fn perform(&mut self, at: At, mut call: ReceivedCommand, verdict: &FailPointEffect, now: Instant) {
        if verdict.close {
            return self.close(at);
        }
        let answer = call.answer;
        let retryable = call.is_retryable();
        let outcome = match verdict.failure() {
            Some(failure) => Err(failure),
            None => self.execute(at, &mut call, now),
        };
        let mut document = match outcome {
            Ok(CommandEffect::Reply(document)) => document,
            Ok(CommandEffect::Await(awaiting)) => {
                if let Some(member) = self.members.get_mut(at.member) {
                    member.set_activity(at.conn, Activity::Awaiting(awaiting));
                }
                return;
            }
            Ok(CommandEffect::Streams) => return,
            Err(failure) => self.refuse(at, failure, retryable && verdict.labels.is_none()),
        };
        if let Some(error) = &verdict.write_concern_error {
            document.insert("writeConcernError", error.clone());
            if let Some(labels) = &verdict.labels {
                document.insert("errorLabels", labels.clone());
            }
        }
        self.reply(at, answer, false, document, now);
    }

    fn refuse(&self, at: At, failure: CommandRefusal, retryable: bool) -> Document {
        let state_change = failure.is_state_change();
        let mut document = failure.into_document(retryable);
        if state_change && let Some(version) = self.topology_version(at.member) {
            document.insert("topologyVersion", version);
        }
        document
    }

    fn execute(&mut self, at: At, call: &mut ReceivedCommand, now: Instant) -> Result<CommandEffect, CommandRefusal> {
        if matches!(call.name.as_str(), "hello" | "isMaster" | "ismaster") {
            return self.run_hello(at, call, now);
        }
        if call.answer.form == ReplyForm::Legacy {
            let text = format!("Unsupported OP_QUERY command: {}. The client driver may require an upgrade.", call.name);
            return Err(CommandRefusal::new(code::UNSUPPORTED_OP_QUERY, text));
        }
        let size_max = usize::try_from(DOCUMENT_SIZE_MAX + COMMAND_OVERHEAD_MAX).unwrap_or(usize::MAX);
        if call.body_size > size_max {
            let text = format!("BSONObj size: {} is invalid. Size must be between 0 and {size_max}(16MB)", call.body_size);
            return Err(CommandRefusal::new(code::DOCUMENT_TOO_LARGE, text));
        }
        let missing = || CommandRefusal::new(code::MISSING_DATABASE, "OP_MSG requests require a $db argument");
        let database = call.database.clone().ok_or_else(missing)?;
        let kind = CommandKind::of(&call.name)
            .ok_or_else(|| CommandRefusal::new(code::COMMAND_NOT_FOUND, format!("no such command: '{}'", call.name)))?;
        if kind != CommandKind::Open && !self.users.is_empty() && self.user(at).is_none() {
            return Err(CommandRefusal::new(code::UNAUTHORIZED, format!("Command {} requires authentication", call.name)));
        }
        if kind == CommandKind::Admin && database != "admin" {
            return Err(CommandRefusal::new(code::UNAUTHORIZED, format!("{} may only be run against the admin database.", call.name)));
        }
        self.check_role(at, kind, call)?;
        let reply = match kind {
            CommandKind::Write => self.run_write(&database, call, now),
            CommandKind::Read | CommandKind::Cursor => self.run_read(at, &database, call, now),
            CommandKind::Open | CommandKind::Admin | CommandKind::Session => self.run_other(at, &database, call, now),
        };
        reply.map(CommandEffect::Reply)
    }

    /// Checks whether the member's role allows the command.
    fn check_role(&self, at: At, kind: CommandKind, call: &ReceivedCommand) -> Result<(), CommandRefusal> {
        let Some(member) = self.members.get(at.member).filter(|_| self.is_set()) else { return Ok(()) };
        let newest = member.view.term == self.term;
        match (kind, member.role) {
            (CommandKind::Write, Role::Primary) if newest => Ok(()),
            // A primary that is stepping down can't commit writes any more.
            (CommandKind::Write, Role::Primary) => {
                Err(CommandRefusal::new(code::PRIMARY_STEPPED_DOWN, "primary stepped down while waiting for replication"))
            }
            (CommandKind::Write, Role::Secondary | Role::Arbiter) => Err(CommandRefusal::new(code::NOT_WRITABLE_PRIMARY, "not primary")),
            (CommandKind::Read, Role::Secondary) if !takes_secondary(&call.body) => {
                Err(CommandRefusal::new(code::NO_SECONDARY_OK, "not primary and secondaryOk=false"))
            }
            (CommandKind::Read | CommandKind::Cursor, Role::Arbiter) => {
                Err(CommandRefusal::new(code::NOT_PRIMARY_OR_SECONDARY, "node is not in primary or recovering state"))
            }
            (CommandKind::Read | CommandKind::Cursor, Role::Primary | Role::Secondary) => Ok(()),
            (CommandKind::Open | CommandKind::Admin | CommandKind::Session, Role::Primary | Role::Secondary | Role::Arbiter) => Ok(()),
        }
    }

    /// Adds the fields that every reply of a replica set has.
    fn stamp(&mut self, document: &mut Document, now: Instant) {
        if self.is_set() {
            let time = self.time.current(now);
            let hash = Binary { subtype: BinarySubtype::Generic, bytes: vec![0; 20] };
            document.insert("$clusterTime", doc! { "clusterTime": time, "signature": { "hash": hash, "keyId": 0_i64 } });
            document.insert("operationTime", time);
        }
    }
}

/// What a command requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CommandKind {
    /// Nothing, not even authentication.
    Open,
    Write,
    Read,
    /// A cursor that was opened on this member.
    Cursor,
    /// The database `admin`.
    Admin,
    Session,
}

impl CommandKind {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "ping" | "buildInfo" | "buildinfo" | "connectionStatus" | "saslStart" | "saslContinue" | "logout" => Self::Open,
            "insert" | "update" | "delete" | "drop" => Self::Write,
            "find" | "count" | "listCollections" => Self::Read,
            "getMore" | "killCursors" => Self::Cursor,
            "configureFailPoint" | "replSetStepDown" | "replSetGetStatus" => Self::Admin,
            "endSessions" => Self::Session,
            _ => return None,
        })
    }
}

fn takes_secondary(body: &Document) -> bool {
    body.get_document("$readPreference").and_then(|preference| preference.get_str("mode")).is_ok_and(|mode| mode != "primary")
}
