//! How are the sandbox's wishes carried out?
//!
//! Its replies go out on the net, where harm may come to them; hellos of members that lie are changed on their way. The
//! rules of servers are the sandbox's.

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Document, RawDocumentBuf};
use mongolink::ServerAddress;
use mongolink::sandbox::{FakeDeployment, SandboxAction};
use mongolink::wire::{Decoder, Flags, MESSAGE_SIZE_MAX, Message, Request, WriteBuffer, encode_message};
use std::time::Instant;

use super::excess::{Excess, exceed};
use super::net::Place;
use super::plan::{Harm, Lie};
use super::queue::{Parcel, Timer};
use super::world::World;

/// The deployment, and what is untrue about it.
pub(crate) struct Servers {
    pub(crate) cluster: FakeDeployment,
    /// By member.
    pub(crate) lies: Vec<Option<(Lie, Instant)>>,
    /// By member, too.
    pub(crate) excess: Vec<Option<(Excess, Instant)>>,
    /// How many replies came out of an excess.
    pub(crate) exceeded: u64,
}

/// The end of a fault of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Start(usize),
    Thaw(usize),
    Restore(usize),
}

/// The names of a member: two spellings of one name, and two of another.
pub(crate) fn names(member: usize) -> Vec<String> {
    let unicode = format!("bücher{member}.sim:27017");
    let ascii = ServerAddress::parse(&unicode).expect("a name").canonical().to_owned();
    vec![unicode, ascii, format!("host{member}.sim:27017"), format!("HOST{member}.Sim.:27017")]
}

impl World {
    /// Sends what the servers say, and sets their timer.
    pub(crate) fn drain_servers(&mut self) {
        while let Some(action) = self.servers.cluster.poll_action() {
            match action {
                SandboxAction::Reply { member, conn, bytes } => self.reply(member, conn, bytes),
                SandboxAction::Close { conn, reset, .. } => {
                    let Some(place) = self.net.conns.get_mut(&conn) else { continue };
                    place.server_closed = true;
                    let parcel = if reset { Parcel::Reset } else { Parcel::Fin };
                    self.send_to_client(conn, parcel, Duration::ZERO);
                }
                other => unreachable!("an action that nobody carries out: {other:?}"),
            }
        }
        while let Some(event) = self.servers.cluster.poll_event() {
            self.note(|_| format!("servers: {event:?}"));
        }
        let due = self.servers.cluster.poll_timeout().map(|(at, _)| at.max(self.now));
        self.queue.arm(Timer::Servers, due);
    }

    fn reply(&mut self, member: usize, id: u64, mut bytes: Vec<u8>) {
        let Some(conn) = self.net.conns.get(&id).filter(|conn| !conn.server_closed) else { return };
        let client = conn.client;
        if let Some((lie, until)) = self.servers.lies[member]
            && until > self.now
        {
            bytes = distort(bytes, |body| change_election(body, lie));
        }
        if self.is_disguised(member, id) {
            bytes = distort(bytes, disguise);
        }
        let mut following = Vec::new();
        if let Some((excess, until)) = self.servers.excess[member]
            && until > self.now
        {
            self.servers.exceeded += 1;
            (bytes, following) = exceed(bytes, excess, self.servers.exceeded);
        }
        let Some(harm) = self.net.links[client][member].harms.pop_front() else {
            self.send_bytes_to_client(id, bytes, Duration::ZERO);
            return following.into_iter().for_each(|bytes| self.send_bytes_to_client(id, bytes, Duration::ZERO));
        };
        self.note(|_| format!("conn {id}: a reply of {} bytes comes to harm: {harm:?}", bytes.len()));
        match harm {
            Harm::ResetAt(at) => {
                bytes.truncate(at);
                self.send_bytes_to_client(id, bytes, Duration::ZERO);
                self.send_to_client(id, Parcel::Reset, Duration::ZERO);
                self.reset(id);
            }
            Harm::CutAt(at) => {
                bytes.truncate(at.min(bytes.len() - 1));
                self.send_bytes_to_client(id, bytes, Duration::ZERO);
                self.send_to_client(id, Parcel::Fin, Duration::ZERO);
                self.reset(id);
            }
            Harm::Oversized => {
                bytes[..4].copy_from_slice(&(MESSAGE_SIZE_MAX + 1).to_le_bytes());
                self.send_bytes_to_client(id, bytes, Duration::ZERO);
            }
            Harm::Twice => {
                self.send_bytes_to_client(id, bytes.clone(), Duration::ZERO);
                self.send_bytes_to_client(id, bytes, Duration::ZERO);
            }
            Harm::Late(by) => self.send_bytes_to_client(id, bytes, by),
        }
    }

    /// Where an address of a member leads from now on: its connections go on, new ones do not.
    pub(crate) fn leave_addresses(&mut self, member: usize, silent: bool) {
        let left = self.plan.place_of(member);
        for place in self.net.places.values_mut().filter(|place| **place == left) {
            *place = if silent { Place::Nowhere } else { Place::NobodyListens };
        }
    }
}

/// Changes the body of a message, if the change finds what it looks for.
fn distort(bytes: Vec<u8>, change: impl FnOnce(&mut Document) -> Option<()>) -> Vec<u8> {
    let changed = (|| {
        let mut decoder = Decoder::new(MESSAGE_SIZE_MAX);
        decoder.buffer().extend_from_slice(&bytes);
        let message = Message::parse(decoder.next_frame().ok()??).ok()?;
        let mut body = Document::try_from(message.body()).ok()?;
        change(&mut body)?;
        let body = RawDocumentBuf::try_from(&body).ok()?;
        let more = if message.flags.has(Flags::MORE_TO_COME) { Flags::MORE_TO_COME } else { Flags::default() };
        let mut out = WriteBuffer::default();
        encode_message(&mut out, message.request_id, message.response_to, more, &Request::from(body), |_| {});
        Some(out.to_bytes())
    })();
    changed.unwrap_or(bytes)
}

/// Makes a hello tell of an older election.
fn change_election(body: &mut Document, lie: Lie) -> Option<()> {
    let election = body.get_object_id("electionId").ok()?;
    let version = body.get_i32("setVersion").ok()?;
    let elections_first = body.get_i32("maxWireVersion").is_ok_and(|newest| newest >= 17);
    match lie {
        Lie::OldElection => {
            body.insert("electionId", older(election)?);
        }
        Lie::Swapped if elections_first => {
            body.insert("electionId", older(election)?);
            body.insert("setVersion", version + 1);
        }
        Lie::Swapped => {
            body.insert("electionId", newer(election)?);
            body.insert("setVersion", version - 1);
        }
        // Without an election an older server's configuration counts alone, and that is the true one.
        Lie::NoElection => {
            body.remove("electionId");
        }
    }
    Some(())
}

/// Makes a hello that of an arbiter.
fn disguise(body: &mut Document) -> Option<()> {
    body.get_i32("maxWireVersion").ok()?;
    body.insert("arbiterOnly", true);
    Some(())
}

fn older(id: ObjectId) -> Option<ObjectId> {
    moved(id, |term| term.checked_sub(1))
}

fn newer(id: ObjectId) -> Option<ObjectId> {
    moved(id, |term| term.checked_add(1))
}

/// The term is in the last eight bytes of an election's id.
fn moved(id: ObjectId, by: impl Fn(u64) -> Option<u64>) -> Option<ObjectId> {
    let mut bytes = id.bytes();
    let term = by(u64::from_be_bytes(bytes[4..].try_into().ok()?))?;
    bytes[4..].copy_from_slice(&term.to_be_bytes());
    Some(ObjectId::from_bytes(bytes))
}
