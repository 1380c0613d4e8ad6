//! Hello replies of members.
//!
//! Replies to hello and isMaster: at once, when the state changes, or in a stream (server discovery and monitoring, "Streaming
//! Protocol").

use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};

use super::call::{ReceivedCommand, ReplyForm, integer, truth};
use super::cluster::{At, FakeDeployment};
use super::config::MemberKind;
use super::dispatch::CommandEffect;
use super::failure::{CommandRefusal, code};
use super::member::{Activity, Awaiting, Member, Role};
use crate::wire::{DOCUMENT_SIZE_MAX, MESSAGE_SIZE_MAX};

/// The longest and shortest time that a hello waits for a change.
const PATIENCE_MAX: Duration = Duration::from_secs(24 * 3600);
const PATIENCE_MIN: Duration = Duration::from_millis(1);

/// The longest application name that a server keeps, in bytes.
const APP_NAME_SIZE_MAX: usize = 128;

/// The maximum number of operations in one write.
pub(super) const WRITE_BATCH_MAX: usize = 100_000;

const SESSION_TIMEOUT_MINUTES: i32 = 30;

impl FakeDeployment {
    pub(super) fn run_hello(&mut self, at: At, call: &mut ReceivedCommand, now: Instant) -> Result<CommandEffect, CommandRefusal> {
        if let Some(name) = call.app_name().filter(|name| name.len() <= APP_NAME_SIZE_MAX).map(str::to_owned)
            && let Some(connection) = self.connection(at)
        {
            connection.app_name = Some(name);
        }
        self.ask_service(at, call)?;
        let legacy = call.name != "hello";
        let streams = call.answer.form == ReplyForm::Exhaust;
        if let Some((patience, current)) = self.awaits(at.member, &call.body)? {
            let awaiting = Awaiting { deadline: now + patience, patience, answer: call.answer, legacy };
            if current {
                return Ok(CommandEffect::Await(awaiting));
            }
            if streams {
                if let Some(member) = self.members.get_mut(at.member) {
                    member.set_activity(at.conn, Activity::Awaiting(awaiting));
                }
                self.answer_awaiting(at, now);
                return Ok(CommandEffect::Streams);
            }
        }
        let mut reply = self.describe(at, legacy, now);
        reply.extend(self.describe_service(at));
        if call.body.get("helloOk").is_some_and(truth) {
            reply.insert("helloOk", true);
        }
        if let Ok(name) = call.body.get_str("saslSupportedMechs")
            && let Some(("admin", user)) = name.split_once('.')
            && self.users.knows(user)
        {
            reply.insert("saslSupportedMechs", vec!["SCRAM-SHA-1", "SCRAM-SHA-256"]);
        }
        if let Ok(start) = call.body.get_document("speculativeAuthenticate").cloned()
            && let Ok(begun) = self.begin_login(at, start.get_str("db").unwrap_or_default(), &start)
        {
            reply.insert("speculativeAuthenticate", begun);
        }
        Ok(CommandEffect::Reply(reply))
    }

    /// Answers a waiting hello; one of a stream continues to wait.
    pub(super) fn answer_awaiting(&mut self, at: At, now: Instant) {
        let Some(member) = self.members.get_mut(at.member) else { return };
        let Some(Activity::Awaiting(awaiting)) = member.take_activity(at.conn) else { return };
        let reply = self.describe(at, awaiting.legacy, now);
        let streams = awaiting.answer.form == ReplyForm::Exhaust;
        let number = self.reply(at, awaiting.answer, streams, reply, now);
        if !streams {
            self.ready.push_back(at);
            return;
        }
        // Each reply of a stream answers the one before it.
        let mut next = awaiting;
        next.answer.to = number;
        next.deadline = now + next.patience;
        if let Some(member) = self.members.get_mut(at.member) {
            member.set_activity(at.conn, Activity::Awaiting(next));
        }
    }

    /// Returns the version of a member's state.
    pub(super) fn topology_version(&self, member: usize) -> Option<Document> {
        let member = self.members.get(member)?;
        Some(doc! { "processId": member.process_id, "counter": member.changes })
    }

    /// Reads whether a hello has to wait, for how long, and whether it has the current version.
    fn awaits(&self, member: usize, body: &Document) -> Result<Option<(Duration, bool)>, CommandRefusal> {
        let (version, patience) = match (body.get("topologyVersion"), body.get("maxAwaitTimeMS")) {
            (None, None) => return Ok(None),
            (Some(version), Some(patience)) => (version, patience),
            (Some(_), None) | (None, Some(_)) => {
                let text = "A request with a 'topologyVersion' must include 'maxAwaitTimeMS', and the reverse";
                return Err(CommandRefusal::new(code::AWAIT_WITHOUT_VERSION, text));
            }
        };
        let malformed = || CommandRefusal::new(code::TYPE_MISMATCH, "topologyVersion or maxAwaitTimeMS is malformed");
        let patience = integer(patience).and_then(|millis| u64::try_from(millis).ok()).ok_or_else(malformed)?;
        let patience = Duration::from_millis(patience).clamp(PATIENCE_MIN, PATIENCE_MAX);
        let version = version.as_document().ok_or_else(malformed)?;
        let process = version.get_object_id("processId").map_err(|_| malformed())?;
        let counter = version.get("counter").and_then(integer).ok_or_else(malformed)?;
        let current = self.members.get(member).is_some_and(|own| own.process_id == process && own.changes == counter);
        Ok(Some((patience, current)))
    }

    fn describe(&mut self, at: At, legacy: bool, now: Instant) -> Document {
        let time = self.time.current(now);
        let version = self.topology_version(at.member).unwrap_or_default();
        let Some(member) = self.members.get(at.member) else { return Document::new() };
        let writable = if legacy { "ismaster" } else { "isWritablePrimary" };
        let takes_writes = member.role == Role::Primary || self.config.mongos;
        let mut out = doc! { "topologyVersion": version, writable: takes_writes };
        if let Some(name) = &self.config.set_name {
            self.describe_set(&mut out, name, member, at.member);
            let written = doc! { "ts": time, "t": member.view.term };
            let date = DateTime::from_millis(self.time.last_write_millis);
            out.insert(
                "lastWrite",
                doc! { "opTime": written.clone(), "lastWriteDate": date, "majorityOpTime": written, "majorityWriteDate": date },
            );
        }
        if self.config.mongos {
            out.insert("msg", "isdbgrid");
        }
        out.insert("maxBsonObjectSize", i32::try_from(DOCUMENT_SIZE_MAX).unwrap_or(i32::MAX));
        out.insert("maxMessageSizeBytes", i32::try_from(MESSAGE_SIZE_MAX).unwrap_or(i32::MAX));
        out.insert("maxWriteBatchSize", i32::try_from(WRITE_BATCH_MAX).unwrap_or(i32::MAX));
        out.insert("localTime", DateTime::from_millis(self.time.wall_millis(now)));
        out.insert("logicalSessionTimeoutMinutes", SESSION_TIMEOUT_MINUTES);
        let number = member.connections.get(&at.conn).map_or(0, |connection| connection.number);
        out.insert("connectionId", number);
        out.insert("minWireVersion", member.wire_versions.0);
        out.insert("maxWireVersion", member.wire_versions.1);
        out.insert("readOnly", false);
        out.insert("ok", 1.0);
        out
    }

    fn describe_set(&self, out: &mut Document, name: &str, member: &Member, index: usize) {
        if member.view.hosts.get(index).is_some_and(String::is_empty) {
            out.insert("isreplicaset", true);
            return;
        }
        let named = |kind: MemberKind| -> Vec<Bson> {
            let meant = |place: usize| self.members.get(place).is_some_and(|member| member.kind == kind);
            let hosts = member.view.hosts.iter().enumerate();
            hosts.filter(|(place, host)| !host.is_empty() && meant(*place)).map(|(_, host)| Bson::from(host.as_str())).collect()
        };
        out.insert("hosts", named(MemberKind::Voter));
        for (field, kind) in [("passives", MemberKind::Passive), ("arbiters", MemberKind::Arbiter)] {
            let hosts = named(kind);
            if !hosts.is_empty() {
                out.insert(field, hosts);
            }
        }
        out.insert("setName", name);
        out.insert("setVersion", i32::try_from(member.view.set_version).unwrap_or(i32::MAX));
        out.insert("secondary", member.role == Role::Secondary);
        match member.kind {
            MemberKind::Voter => {}
            MemberKind::Passive => drop(out.insert("passive", true)),
            MemberKind::Hidden => {
                out.insert("passive", true);
                out.insert("hidden", true);
            }
            MemberKind::Arbiter => drop(out.insert("arbiterOnly", true)),
        }
        let host = |place: usize| member.view.hosts.get(place).cloned();
        if let Some(primary) = member.view.primary.and_then(host) {
            out.insert("primary", primary);
        }
        if let Some(me) = host(index) {
            out.insert("me", me);
        }
        if !member.tags.is_empty() {
            let tags: Document = member.tags.iter().map(|(key, value)| (key.clone(), Bson::from(value.as_str()))).collect();
            out.insert("tags", tags);
        }
        if member.role == Role::Primary {
            out.insert("electionId", election_id(member.view.term));
        }
    }
}

/// Returns the id of an election, as in mongod: later ones compare greater.
fn election_id(term: i64) -> ObjectId {
    let mut bytes = [0; 12];
    let (era, number) = bytes.split_at_mut(4);
    era.copy_from_slice(&0x7fff_ffff_u32.to_be_bytes());
    number.copy_from_slice(&term.to_be_bytes());
    ObjectId::from_bytes(bytes)
}
