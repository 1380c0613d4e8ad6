use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bson::{Bson, Document, RawDocumentBuf, doc};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use ring::{digest, hmac, pbkdf2};

use super::*;
use crate::wire::{Decoder, Flags, Message, Request, WriteBuffer, encode_message, op_code};

/// A deployment on virtual time, and its output.
struct World {
    cluster: FakeDeployment,
    now: Instant,
    next_conn: u64,
    next_request: i32,
    replies: Vec<Reply>,
    closed: Vec<(usize, u64)>,
    events: Vec<SandboxEvent>,
}

struct Reply {
    member: usize,
    conn: u64,
    id: i32,
    to: i32,
    more: bool,
    body: Document,
}

impl World {
    fn new(config: Config) -> Self {
        let now = Instant::now();
        let cluster = FakeDeployment::new(config, 1, now).expect("config");
        let mut world = Self { cluster, now, next_conn: 0, next_request: 0, replies: Vec::new(), closed: Vec::new(), events: Vec::new() };
        world.drain();
        world.events.clear();
        world
    }

    fn three() -> Self {
        Self::new(Config::replica_set("rs0", ["a:1", "b:2", "c:3"]))
    }

    fn connect(&mut self, member: usize) -> u64 {
        self.next_conn += 1;
        self.cluster.handle_connected(member, self.next_conn, self.now);
        self.drain();
        self.next_conn
    }

    fn send(&mut self, member: usize, conn: u64, flags: Flags, command: Document) -> i32 {
        self.next_request += 1;
        let bytes = encoded(self.next_request, flags, command);
        self.cluster.handle_bytes(member, conn, &bytes, self.now);
        self.drain();
        self.next_request
    }

    /// Sends a command on a connection and returns its reply, which must come at once.
    fn on(&mut self, member: usize, conn: u64, command: Document) -> Document {
        let id = self.send(member, conn, Flags::default(), command);
        let reply = self.replies.pop().expect("a reply");
        assert_eq!((reply.member, reply.conn, reply.to), (member, conn, id));
        reply.body
    }

    /// Sends a command on a new connection.
    fn ask(&mut self, member: usize, command: Document) -> Document {
        let conn = self.connect(member);
        self.on(member, conn, command)
    }

    fn hello(&mut self, member: usize) -> Document {
        self.ask(member, doc! { "hello": 1, "$db": "admin" })
    }

    fn ping(&mut self, member: usize) -> Document {
        self.ask(member, doc! { "ping": 1, "$db": "admin" })
    }

    /// Lets time pass, timer by timer.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some((due, name)) = self.cluster.poll_timeout().filter(|(due, _)| *due <= end) {
            self.now = self.now.max(due);
            self.cluster.handle_timeout(self.now);
            self.drain();
            assert!(self.cluster.poll_timeout().is_none_or(|(next, _)| next > self.now), "{name} is due again");
        }
        self.now = end;
    }

    fn drain(&mut self) {
        while let Some(action) = self.cluster.poll_action() {
            match action {
                SandboxAction::Reply { member, conn, bytes } => {
                    let mut decoder = Decoder::new(48_000_000);
                    decoder.buffer().extend_from_slice(&bytes);
                    let frame = decoder.next_frame().expect("frame").expect("whole frame");
                    assert!(decoder.is_empty());
                    if frame.op_code == op_code::REPLY {
                        let body = RawDocumentBuf::from_bytes(frame.payload[20..].to_vec()).expect("document");
                        let body = Document::try_from(body).expect("document");
                        self.replies.push(Reply { member, conn, id: frame.request_id, to: frame.response_to, more: false, body });
                        continue;
                    }
                    let message = Message::parse(frame).expect("message");
                    let body = Document::try_from(message.body()).expect("document");
                    let more = message.flags.has(Flags::MORE_TO_COME);
                    self.replies.push(Reply { member, conn, id: message.request_id, to: message.response_to, more, body });
                }
                SandboxAction::Close { member, conn, .. } => self.closed.push((member, conn)),
            }
        }
        while let Some(event) = self.cluster.poll_event() {
            self.events.push(event);
        }
    }
}

fn encoded(id: i32, flags: Flags, command: Document) -> Vec<u8> {
    let mut out = WriteBuffer::default();
    let body = RawDocumentBuf::try_from(&command).expect("document");
    encode_message(&mut out, id, 0, flags, &Request::from(body), |_| {});
    out.to_bytes()
}

fn code(reply: &Document) -> i32 {
    reply.get_i32("code").unwrap_or(0)
}

fn is_ok(reply: &Document) -> bool {
    reply.get_f64("ok").ok() == Some(1.0)
}

fn flag(reply: &Document, key: &str) -> bool {
    reply.get_bool(key).unwrap_or(false)
}

fn batch<'a>(reply: &'a Document, key: &str) -> (&'a Vec<Bson>, i64) {
    let cursor = reply.get_document("cursor").expect("cursor");
    (cursor.get_array(key).expect("batch"), cursor.get_i64("id").expect("id"))
}

fn await_hello(hello: &Document, millis: i64) -> Document {
    let version = hello.get_document("topologyVersion").expect("version").clone();
    doc! { "hello": 1, "topologyVersion": version, "maxAwaitTimeMS": millis, "$db": "admin" }
}

fn insert(values: impl IntoIterator<Item = i32>) -> Document {
    let documents: Vec<Document> = values.into_iter().map(|n| doc! { "_id": n }).collect();
    doc! { "insert": "things", "documents": documents, "$db": "test" }
}

const ELECTION: Duration = Duration::from_millis(300);

#[test]
fn hello_describes_a_replica_set() {
    let mut world = World::three();
    let (primary, secondary) = (world.hello(0), world.hello(1));
    assert!(flag(&primary, "isWritablePrimary") && !flag(&primary, "secondary"));
    assert!(!flag(&secondary, "isWritablePrimary") && flag(&secondary, "secondary"));
    assert_eq!(primary.get_array("hosts").expect("hosts").len(), 3);
    assert_eq!((secondary.get_str("me").ok(), secondary.get_str("primary").ok()), (Some("b:2"), Some("a:1")));
    assert!(primary.contains_key("electionId") && !secondary.contains_key("electionId"));
    assert!(primary.contains_key("$clusterTime") && primary.contains_key("operationTime"));
}

#[test]
fn legacy_hello_is_answered_in_its_own_form() {
    let mut world = World::three();
    let conn = world.connect(0);
    let body = RawDocumentBuf::try_from(&doc! { "isMaster": 1, "helloOk": true }).expect("document");
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&[0; 4]);
    for word in [9, 0, op_code::QUERY, 0] {
        bytes.extend_from_slice(&i32::to_le_bytes(word));
    }
    bytes.extend_from_slice(b"admin.$cmd\0");
    bytes.extend_from_slice(&[0, 0, 0, 0, 255, 255, 255, 255]);
    bytes.extend_from_slice(body.as_bytes());
    let length = u32::try_from(bytes.len()).expect("short");
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    world.cluster.handle_bytes(0, conn, &bytes, world.now);
    world.drain();
    let reply = world.replies.pop().expect("reply");
    assert_eq!(reply.to, 9);
    assert!(flag(&reply.body, "ismaster") && flag(&reply.body, "helloOk"));
}

#[test]
fn stopped_primary_is_replaced_after_the_election_timeout() {
    let mut world = World::three();
    let conn = world.connect(0);
    let before = world.hello(0).get_object_id("electionId").expect("election");
    world.cluster.stop(0, world.now);
    world.drain();
    assert!(world.closed.contains(&(0, conn)));
    let late = world.connect(0);
    assert!(world.closed.contains(&(0, late)));
    assert_eq!(world.cluster.poll_timeout(), Some((world.now + ELECTION, "election")));
    world.pass(ELECTION - Duration::from_millis(1));
    assert_eq!(world.cluster.primary(), None);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.cluster.primary(), Some(1));
    let hello = world.hello(1);
    assert!(hello.get_object_id("electionId").expect("election") > before);
    world.cluster.start(0, world.now);
    world.drain();
    assert_eq!(world.hello(0).get_str("primary").ok(), Some("b:2"));
}

#[test]
fn step_down_answers_awaiting_hellos_at_once() {
    let mut world = World::three();
    let hello = world.hello(0);
    let conn = world.connect(0);
    let id = world.send(0, conn, Flags::default(), await_hello(&hello, 10_000));
    assert!(world.replies.is_empty());
    assert_eq!(world.cluster.poll_timeout(), Some((world.now + Duration::from_secs(10), "connection")));
    world.cluster.step_down(world.now).expect("step down");
    world.drain();
    let reply = world.replies.iter().find(|reply| reply.conn == conn).expect("reply");
    assert_eq!(reply.to, id);
    assert!(flag(&reply.body, "secondary"));
    world.pass(Duration::from_millis(20));
    assert_ne!(world.cluster.primary(), Some(0));
    let stepped = SandboxEvent::SteppedDown { member: 0 };
    assert!(world.events.contains(&stepped) && world.events.contains(&SandboxEvent::Elected { member: 1, term: 2 }));
}

#[test]
fn awaiting_hello_is_answered_at_its_deadline() {
    let mut world = World::three();
    let hello = world.hello(1);
    let conn = world.connect(1);
    world.send(1, conn, Flags::default(), await_hello(&hello, 500));
    world.pass(Duration::from_millis(499));
    assert!(world.replies.is_empty());
    world.pass(Duration::from_millis(1));
    let reply = world.replies.pop().expect("reply");
    assert_eq!(reply.body.get_document("topologyVersion").ok(), hello.get_document("topologyVersion").ok());
}

#[test]
fn exhaust_hello_streams_and_each_reply_answers_the_one_before() {
    let mut world = World::three();
    let hello = world.hello(0);
    let conn = world.connect(0);
    let id = world.send(0, conn, Flags::EXHAUST_ALLOWED, await_hello(&hello, 100));
    world.pass(Duration::from_millis(200));
    world.cluster.step_down(world.now).expect("step down");
    world.drain();
    assert_eq!(world.replies.len(), 3);
    assert!(world.replies.iter().all(|reply| reply.more));
    assert_eq!(world.replies[0].to, id);
    assert_eq!(world.replies[1].to, world.replies[0].id);
    assert_eq!(world.replies[2].to, world.replies[1].id);
    assert!(flag(&world.replies[2].body, "secondary"));
    world.cluster.handle_closed(0, conn, world.now);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.replies.len(), 3);
}

#[test]
fn frozen_member_answers_nothing_until_it_thaws() {
    let mut world = World::three();
    world.cluster.freeze(1, world.now);
    let conn = world.connect(1);
    world.send(1, conn, Flags::default(), doc! { "ping": 1, "$db": "admin" });
    world.pass(Duration::from_secs(60));
    assert!(world.replies.is_empty() && world.closed.is_empty());
    world.cluster.thaw(1, world.now);
    world.drain();
    assert!(is_ok(&world.replies.pop().expect("reply").body));
}

#[test]
fn thawed_stale_primary_refuses_writes_and_steps_down_when_it_catches_up() {
    let mut world = World::three();
    world.cluster.freeze(0, world.now);
    world.pass(ELECTION);
    assert_eq!(world.cluster.primary(), Some(1));
    world.cluster.thaw(0, world.now);
    world.drain();
    let stale = world.hello(0);
    assert!(flag(&stale, "isWritablePrimary"));
    assert!(stale.get_object_id("electionId").expect("id") < world.hello(1).get_object_id("electionId").expect("id"));
    assert_eq!(code(&world.ask(0, insert([1]))), 189);
    assert_eq!(world.cluster.poll_timeout(), Some((world.now + Duration::from_millis(100), "notice")));
    world.pass(Duration::from_millis(100));
    let hello = world.hello(0);
    assert!(flag(&hello, "secondary"));
    assert_eq!(hello.get_str("primary").ok(), Some("b:2"));
}

#[test]
fn primary_that_thaws_before_the_election_stays_primary() {
    let mut world = World::three();
    world.cluster.freeze(0, world.now);
    world.pass(ELECTION / 2);
    world.cluster.thaw(0, world.now);
    world.pass(ELECTION);
    assert_eq!((world.cluster.primary(), world.cluster.term()), (Some(0), 1));
    assert_eq!(world.hello(1).get_str("primary").ok(), Some("a:1"));
}

#[test]
fn primary_without_majority_steps_down_without_successor() {
    let mut world = World::three();
    world.cluster.stop(1, world.now);
    world.cluster.stop(2, world.now);
    world.drain();
    assert_eq!(world.cluster.poll_timeout(), Some((world.now + ELECTION, "lostMajority")));
    world.pass(ELECTION * 10);
    assert_eq!(world.cluster.primary(), None);
    assert!(flag(&world.hello(0), "secondary"));
    world.cluster.start(2, world.now);
    world.pass(ELECTION);
    assert!(world.cluster.primary().is_some());
}

#[test]
fn lone_primary_does_not_step_down_unless_forced() {
    let mut world = World::three();
    world.cluster.stop(1, world.now);
    world.drain();
    world.cluster.freeze(2, world.now);
    world.cluster.step_down(world.now).expect_err("nobody could follow");
    world.cluster.thaw(2, world.now);
    assert_eq!(code(&world.ask(0, doc! { "replSetStepDown": 60, "$db": "test" })), 13);
    assert!(is_ok(&world.ask(0, doc! { "replSetStepDown": 60, "$db": "admin" })));
    world.pass(Duration::from_millis(20));
    assert_eq!(world.cluster.primary(), Some(2));
}

#[test]
fn rename_raises_the_set_version() {
    let mut world = World::three();
    world.cluster.rename(1, "Bücher.example:2", world.now).expect("rename");
    let hello = world.hello(0);
    assert_eq!(hello.get_i32("setVersion").ok(), Some(2));
    assert_eq!(hello.get_array("hosts").expect("hosts")[1], Bson::from("Bücher.example:2"));
    world.cluster.rename(3, "x", world.now).expect_err("no such member");
}

#[test]
fn writes_and_reads_follow_member_roles() {
    let mut world = World::three();
    let refused = world.ask(1, insert([1]));
    assert_eq!((code(&refused), refused.get_str("codeName").ok()), (10107, Some("NotWritablePrimary")));
    assert!(refused.contains_key("topologyVersion"));
    let mut retryable = insert([1]);
    retryable.insert("txnNumber", 1_i64);
    assert_eq!(world.ask(1, retryable).get_array("errorLabels").expect("labels")[0], Bson::from("RetryableWriteError"));
    assert!(is_ok(&world.ask(0, insert([1]))));
    let mut find = doc! { "find": "things", "filter": {}, "$db": "test" };
    assert_eq!(code(&world.ask(1, find.clone())), 13435);
    find.insert("$readPreference", doc! { "mode": "secondaryPreferred" });
    assert_eq!(batch(&world.ask(1, find), "firstBatch").0.len(), 1);
}

#[test]
fn retried_write_is_executed_once() {
    let mut world = World::three();
    let session = bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: vec![7; 16] };
    let command = |number: i64| {
        let documents = vec![doc! { "x": 1 }];
        doc! { "insert": "things", "documents": documents, "lsid": { "id": session.clone() }, "txnNumber": number, "$db": "test" }
    };
    let first = world.ask(0, command(5));
    assert_eq!(world.ask(0, command(5)).get_i32("n").ok(), first.get_i32("n").ok());
    let count = doc! { "count": "things", "$db": "test" };
    assert_eq!(world.ask(0, count).get_i32("n").ok(), Some(1));
    assert_eq!(code(&world.ask(0, command(4))), 225);
}

#[test]
fn cursor_lives_until_it_is_read_killed_or_forgotten() {
    let mut world = World::three();
    assert_eq!(world.ask(0, insert(0..10)).get_i32("n").ok(), Some(10));
    let find = doc! { "find": "things", "filter": { "_id": { "$gte": 2 } }, "sort": { "_id": -1 }, "batchSize": 3, "$db": "test" };
    let reply = world.ask(0, find.clone());
    let (first, id) = batch(&reply, "firstBatch");
    assert_eq!(first[0], Bson::Document(doc! { "_id": 9 }));
    assert_eq!((first.len(), world.cluster.cursors(0)), (3, 1));
    let more = doc! { "getMore": id, "collection": "things", "batchSize": 10, "$db": "test" };
    let reply = world.ask(0, more.clone());
    let (rest, end) = batch(&reply, "nextBatch");
    assert_eq!((rest.len(), end, world.cluster.cursors(0)), (5, 0, 0));
    assert_eq!(code(&world.ask(0, more)), 43);

    let id = batch(&world.ask(0, find.clone()), "firstBatch").1;
    let killed = world.ask(0, doc! { "killCursors": "things", "cursors": [id, 1_i64], "$db": "test" });
    assert_eq!(killed.get_array("cursorsKilled").expect("killed"), &vec![Bson::Int64(id)]);
    assert_eq!(killed.get_array("cursorsNotFound").expect("missing").len(), 1);

    world.ask(0, find);
    world.pass(Duration::from_secs(599));
    assert_eq!(world.cluster.cursors(0), 1);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.cluster.cursors(0), 0);
}

/// The codes and texts are those of mongod 6.0.5, which lets killCursors run in any session.
#[test]
fn get_more_runs_only_in_the_session_of_its_cursor() {
    let mut world = World::three();
    world.ask(0, insert(0..10));
    let within = |mut command: Document, session: Option<u8>| {
        if let Some(byte) = session {
            command.insert("lsid", doc! { "id": bson::Uuid::from_bytes([byte; 16]) });
        }
        command
    };
    let find = doc! { "find": "things", "batchSize": 2, "$db": "test" };
    let cases = [
        (
            Some(1),
            Some(2),
            50738,
            "created in session 01010101-0101-0101-0101-010101010101, in session 02020202-0202-0202-0202-020202020202",
        ),
        (Some(1), None, 50737, "created in session 01010101-0101-0101-0101-010101010101, without an lsid"),
        (None, Some(2), 50736, "not created in a session, in session 02020202-0202-0202-0202-020202020202"),
    ];
    for (opened_in, asked_in, expected, text) in cases {
        let id = batch(&world.ask(0, within(find.clone(), opened_in)), "firstBatch").1;
        let more = doc! { "getMore": id, "collection": "things", "batchSize": 2, "$db": "test" };
        let refusal = world.ask(0, within(more.clone(), asked_in));
        assert_eq!(code(&refusal), expected);
        assert_eq!(refusal.get_str("errmsg").expect("text"), format!("Cannot run getMore on cursor {id}, which was {text}"));
        assert_eq!(batch(&world.ask(0, within(more, opened_in)), "nextBatch").0.len(), 2, "the cursor stays open");
        let killed = world.ask(0, within(doc! { "killCursors": "things", "cursors": [id], "$db": "test" }, asked_in));
        assert_eq!(killed.get_array("cursorsKilled").expect("killed"), &vec![Bson::Int64(id)]);
    }
}

#[test]
fn duplicate_ids_are_refused_whatever_their_number_type() {
    let mut world = World::three();
    world.ask(0, insert([1]));
    let documents = vec![doc! { "_id": 1_i64 }, doc! { "_id": 2 }];
    let ordered = world.ask(0, doc! { "insert": "things", "documents": documents.clone(), "$db": "test" });
    assert_eq!(ordered.get_i32("n").ok(), Some(0));
    let errors = ordered.get_array("writeErrors").expect("errors");
    assert_eq!(errors[0].as_document().and_then(|error| error.get_i32("code").ok()), Some(11000));
    let unordered = world.ask(0, doc! { "insert": "things", "documents": documents, "ordered": false, "$db": "test" });
    assert_eq!(unordered.get_i32("n").ok(), Some(1));
}

#[test]
fn updates_and_deletes_change_what_matches() {
    let mut world = World::three();
    world.ask(0, insert(0..3));
    let updates = vec![doc! { "q": {}, "u": { "$set": { "x": 1 }, "$inc": { "n": 2 } }, "multi": true }];
    let reply = world.ask(0, doc! { "update": "things", "updates": updates, "$db": "test" });
    assert_eq!((reply.get_i32("n").ok(), reply.get_i32("nModified").ok()), (Some(3), Some(3)));
    let upserts = vec![doc! { "q": { "_id": 9 }, "u": { "$set": { "x": 2 } }, "upsert": true }];
    let reply = world.ask(0, doc! { "update": "things", "updates": upserts, "$db": "test" });
    assert_eq!(reply.get_array("upserted").expect("upserted").len(), 1);
    let deletes = vec![doc! { "q": { "x": 1 }, "limit": 1 }, doc! { "q": { "n": 2 }, "limit": 0 }];
    let reply = world.ask(0, doc! { "delete": "things", "deletes": deletes, "$db": "test" });
    assert_eq!(reply.get_i32("n").ok(), Some(3));
    let reply = world.ask(0, doc! { "find": "things", "filter": {}, "$db": "test" });
    assert_eq!(batch(&reply, "firstBatch").0, &vec![Bson::Document(doc! { "_id": 9, "x": 2 })]);
}

#[test]
fn unsupported_features_are_refused_by_name() {
    let mut world = World::three();
    assert_eq!(code(&world.ask(0, doc! { "fly": 1, "$db": "test" })), 59);
    assert_eq!(code(&world.ask(0, doc! { "ping": 1 })), 40571);
    let nested = world.ask(0, doc! { "find": "things", "filter": { "a.b": 1 }, "$db": "test" });
    assert_eq!(code(&nested), 238);
    assert!(nested.get_str("errmsg").expect("text").contains("a.b"));
    let large = doc! { "_id": 1, "text": "x".repeat(17 << 20) };
    assert_eq!(code(&world.ask(0, doc! { "insert": "things", "documents": [large], "$db": "test" })), 10334);
}

#[test]
fn fail_command_fails_the_configured_number_of_commands() {
    let mut world = World::three();
    let arm = doc! {
        "configureFailPoint": "failCommand",
        "mode": { "times": 2 },
        "data": { "failCommands": ["ping"], "errorCode": 91, "errorLabels": ["Odd"] },
        "$db": "admin",
    };
    assert!(is_ok(&world.ask(0, arm)));
    for _ in 0..2 {
        let reply = world.ping(0);
        assert_eq!(code(&reply), 91);
        assert_eq!(reply.get_array("errorLabels").expect("labels"), &vec![Bson::from("Odd")]);
    }
    assert!(is_ok(&world.ping(0)) && is_ok(&world.ping(1)));
}

#[test]
fn fail_command_closes_and_holds() {
    let mut world = World::three();
    let data = doc! { "failCommands": ["ping"], "closeConnection": true, "blockConnection": true, "blockTimeMS": 250 };
    let arm = doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data };
    world.cluster.set_fail_point(1, &arm).expect("armed");
    let conn = world.connect(1);
    world.send(1, conn, Flags::default(), doc! { "ping": 1, "$db": "admin" });
    assert_eq!(world.cluster.poll_timeout(), Some((world.now + Duration::from_millis(250), "connection")));
    assert!(world.closed.is_empty());
    world.pass(Duration::from_millis(250));
    assert_eq!(world.closed, [(1, conn)]);
    let off = doc! { "configureFailPoint": "failCommand", "mode": "off" };
    world.cluster.set_fail_point(1, &off).expect("off");
    assert!(is_ok(&world.ping(1)));
    let odd = doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": { "sabotage": true } };
    world.cluster.set_fail_point(1, &odd).expect_err("unknown data");
}

#[test]
fn fail_command_can_be_limited_to_one_application() {
    let mut world = World::three();
    let data = doc! { "failCommands": ["ping", "hello"], "errorCode": 8, "appName": "mine" };
    let arm = doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data };
    world.cluster.set_fail_point(0, &arm).expect("armed");
    assert!(is_ok(&world.ping(0)));
    let conn = world.connect(0);
    let hello = doc! { "hello": 1, "client": { "application": { "name": "mine" } }, "$db": "admin" };
    assert_eq!(code(&world.on(0, conn, hello)), 8);
}

#[test]
fn requests_on_one_connection_are_answered_in_turn() {
    let mut world = World::three();
    let hello = world.hello(0);
    let conn = world.connect(0);
    world.send(0, conn, Flags::default(), await_hello(&hello, 50));
    world.send(0, conn, Flags::default(), doc! { "ping": 1, "$db": "admin" });
    assert!(world.replies.is_empty());
    world.pass(Duration::from_millis(50));
    assert_eq!(world.replies.iter().map(|reply| reply.to).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn unacknowledged_writes_are_not_answered() {
    let mut world = World::three();
    let conn = world.connect(0);
    world.send(0, conn, Flags::MORE_TO_COME, insert([1]));
    assert!(world.replies.is_empty());
    assert_eq!(world.ask(0, doc! { "count": "things", "$db": "test" }).get_i32("n").ok(), Some(1));
}

fn with_user() -> World {
    World::new(Config::replica_set("rs0", ["a:1"]).with_user("ada", "pencil"))
}

#[test]
fn commands_need_a_login_where_there_are_users() {
    let mut world = with_user();
    assert_eq!(code(&world.ask(0, insert([1]))), 13);
    assert!(is_ok(&world.ping(0)));
    let mechanisms = world.ask(0, doc! { "hello": 1, "saslSupportedMechs": "admin.ada", "$db": "admin" });
    assert_eq!(mechanisms.get_array("saslSupportedMechs").expect("mechanisms").len(), 2);
}

fn binary(text: &str) -> bson::Binary {
    bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: text.as_bytes().to_vec() }
}

fn payload(reply: &Document) -> String {
    String::from_utf8(reply.get_binary_generic("payload").expect("payload").clone()).expect("text")
}

fn sign(key: &[u8], data: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref().to_vec()
}

/// Authenticates as a client does; returns the last reply and whether the server proved its knowledge.
fn log_in(world: &mut World, conn: u64, password: &str, speculative: bool) -> (Document, bool) {
    let bare = "n=ada,r=clientnonce";
    let first_payload = binary(&format!("n,,{bare}"));
    let options = doc! { "skipEmptyExchange": true };
    let mut start = doc! { "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": first_payload, "options": options };
    let first = if speculative {
        start.insert("db", "admin");
        let hello = world.on(0, conn, doc! { "hello": 1, "speculativeAuthenticate": start, "$db": "admin" });
        hello.get_document("speculativeAuthenticate").expect("begun").clone()
    } else {
        start.insert("$db", "admin");
        world.on(0, conn, start)
    };
    let server_first = payload(&first);
    let parts: Vec<&str> = server_first.split(',').collect();
    let salt = STANDARD.decode(&parts[1][2..]).expect("salt");
    let mut salted = vec![0; 32];
    let iterations = std::num::NonZeroU32::new(parts[2][2..].parse().expect("number")).expect("not zero");
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &mut salted);
    let client = sign(&salted, b"Client Key");
    let unproved = format!("c=biws,{}", parts[0]);
    let exchange = format!("{bare},{server_first},{unproved}");
    let signature = sign(digest::digest(&digest::SHA256, &client).as_ref(), exchange.as_bytes());
    let proof: Vec<u8> = client.iter().zip(&signature).map(|(left, right)| left ^ right).collect();
    let last = format!("{unproved},p={}", STANDARD.encode(proof));
    let reply = world.on(0, conn, doc! { "saslContinue": 1, "conversationId": 1, "payload": binary(&last), "$db": "admin" });
    let expected = format!("v={}", STANDARD.encode(sign(&sign(&salted, b"Server Key"), exchange.as_bytes())));
    let proved = is_ok(&reply) && payload(&reply) == expected;
    (reply, proved)
}

#[test]
fn right_password_logs_in() {
    for speculative in [false, true] {
        let mut world = with_user();
        let conn = world.connect(0);
        let (reply, proved) = log_in(&mut world, conn, "pencil", speculative);
        assert!(proved && flag(&reply, "done"));
        assert!(is_ok(&world.on(0, conn, insert([1]))));
    }
}

#[test]
fn wrong_password_and_unknown_user_are_refused_alike() {
    let mut world = with_user();
    let conn = world.connect(0);
    let (wrong, _) = log_in(&mut world, conn, "crayon", false);
    assert_eq!(code(&wrong), 18);
    assert_eq!(code(&world.on(0, conn, insert([1]))), 13);
    let start = doc! { "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": binary("n,,n=eve,r=x"), "$db": "admin" };
    let unknown = world.ask(0, start);
    assert_eq!((code(&unknown), unknown.get_str("errmsg").ok()), (18, wrong.get_str("errmsg").ok()));
}

#[test]
fn barred_user_is_refused_like_an_unknown_user() {
    let mut world = with_user();
    let (early, late) = (world.connect(0), world.connect(0));
    assert!(log_in(&mut world, early, "pencil", true).1);
    world.cluster.bar_user("ada");
    let start = doc! { "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": binary("n,,n=ada,r=x"), "$db": "admin" };
    assert_eq!(code(&world.on(0, late, start)), 18);
    let hello = world.on(0, late, doc! { "hello": 1, "saslSupportedMechs": "admin.ada", "$db": "admin" });
    assert!(!hello.contains_key("saslSupportedMechs"));
    // Authenticated connections stay authenticated.
    assert!(is_ok(&world.on(0, early, insert([1]))));
    world.cluster.admit_user("ada");
    assert!(log_in(&mut world, late, "pencil", false).1);
}

#[test]
fn standalone_has_no_set_and_no_cluster_time() {
    let mut world = World::new(Config::standalone("a:1"));
    let hello = world.hello(0);
    assert!(flag(&hello, "isWritablePrimary"));
    assert!(!hello.contains_key("setName") && !hello.contains_key("$clusterTime") && !hello.contains_key("hosts"));
    assert!(is_ok(&world.ask(0, insert([1]))));
    assert_eq!(code(&world.ask(0, doc! { "replSetStepDown": 1, "$db": "admin" })), 76);
    FakeDeployment::new(Config::replica_set("rs0", Vec::<String>::new()), 1, world.now).err().expect("no members");
}

#[test]
fn cluster_time_grows_with_every_write() {
    let mut world = World::three();
    let first = world.ask(0, insert([1])).get_timestamp("operationTime").expect("time");
    let second = world.ask(0, insert([2])).get_timestamp("operationTime").expect("time");
    assert!(second > first);
    world.pass(Duration::from_secs(30));
    assert!(world.ping(1).get_timestamp("operationTime").expect("time").time >= second.time + 30);
}

#[test]
fn bad_bytes_close_the_connection() {
    let mut world = World::three();
    let deep = (0..500).fold(doc! {}, |inner, _| doc! { "a": inner });
    let long = [0xff_u8, 0xff, 0xff, 0x7f].to_vec();
    let short = [1_u8, 0, 0, 0].to_vec();
    for bytes in
        [long, short, encoded(1, Flags(4), doc! { "ping": 1 }), encoded(1, Flags::default(), deep), encoded(1, Flags::default(), doc! {})]
    {
        let conn = world.connect(0);
        world.cluster.handle_bytes(0, conn, &bytes, world.now);
        world.drain();
        assert_eq!(world.closed.pop(), Some((0, conn)));
        assert_eq!(world.cluster.connections(0), 0);
        // Bytes after the close are ignored.
        world.cluster.handle_bytes(0, conn, &bytes, world.now);
        world.drain();
    }
    assert!(world.replies.is_empty());
}

/// Sends changed messages; with users, some connections authenticate first.
fn mutate(mut world: World, seed: u64, has_users: bool) {
    let hello = world.hello(0);
    let mut random = SmallRng::seed_from_u64(seed);
    let strike = doc! { "failCommands": ["x"], "errorCode": 1 };
    let update = doc! { "q": { "_id": 1 }, "u": { "$set": { "a": 1 } }, "upsert": true };
    let start = doc! { "saslStart": 1, "mechanism": "SCRAM-SHA-1", "payload": binary("n,,n=ada,r=x"), "$db": "admin" };
    let commands = [
        await_hello(&hello, 50),
        doc! { "hello": 1, "helloOk": true, "saslSupportedMechs": "admin.ada", "$db": "admin" },
        start,
        doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": strike, "$db": "admin" },
        insert([1, 2]),
        doc! { "update": "t", "updates": [update], "$db": "d" },
        doc! { "find": "t", "filter": { "a": { "$gt": 1.5 } }, "sort": { "a": 1 }, "limit": 5, "skip": 1, "$db": "d" },
        doc! { "getMore": 5_i64, "collection": "t", "$db": "d" },
        doc! { "replSetStepDown": 1, "force": true, "$db": "admin" },
    ];
    let mut open = world.connect(0);
    for round in 0..10_000 {
        let command = commands[random.random_range(0..commands.len())].clone();
        let flags = if random.random_bool(0.1) { Flags::EXHAUST_ALLOWED } else { Flags::default() };
        let mut bytes = encoded(round, flags, command);
        for _ in 0..random.random_range(0..4) {
            let place = random.random_range(4..bytes.len());
            bytes[place] = random.random();
        }
        world.cluster.handle_bytes(0, open, &bytes, world.now);
        world.drain();
        world.pass(Duration::from_millis(60));
        if world.closed.contains(&(0, open)) || round % 50 == 0 {
            world.cluster.handle_closed(0, open, world.now);
            open = world.connect(0);
            if has_users && random.random_bool(0.1) {
                log_in(&mut world, open, "pencil", false);
            }
        }
        world.replies.clear();
        world.closed.clear();
    }
}

#[test]
fn mutated_messages_never_panic() {
    mutate(World::three(), 7, false);
    mutate(with_user(), 8, true);
}

#[test]
fn load_balancer_gives_connections_to_its_services_in_turns() {
    let mut world = World::new(Config::load_balanced("lb:1", 2));
    assert_eq!((0..4).map(|_| world.cluster.route(0)).collect::<Vec<_>>(), [0, 1, 0, 1]);
    world.cluster.stop(0, world.now);
    assert_eq!((world.cluster.route(0), world.cluster.route(0)), (1, 1));
    world.cluster.start(0, world.now);
    assert_eq!(world.cluster.route(0), 0);
    let mut alone = World::three();
    assert_eq!((alone.cluster.route(2), alone.cluster.route(2)), (2, 2));
}

#[test]
fn service_id_is_sent_on_request() {
    let mut world = World::new(Config::load_balanced("lb:1", 2));
    let hello = doc! { "hello": 1, "loadBalanced": true, "$db": "admin" };
    let conn = world.connect(0);
    let first = world.on(0, conn, hello.clone());
    assert_eq!((first.get_str("msg").ok(), first.get_bool("isWritablePrimary").ok()), (Some("isdbgrid"), Some(true)));
    let id = first.get_object_id("serviceId").expect("id");
    assert_eq!(world.on(0, conn, doc! { "hello": 1, "$db": "admin" }).get_object_id("serviceId").expect("id"), id);
    assert_ne!(world.ask(1, hello.clone()).get_object_id("serviceId").expect("id"), id);
    assert_eq!(world.hello(0).get_i32("code").expect("refusal"), 354);
    world.cluster.stop(0, world.now);
    world.cluster.start(0, world.now);
    assert_ne!(world.ask(0, hello.clone()).get_object_id("serviceId").expect("id"), id, "a new process is a new service");
    let plain = World::new(Config::standalone("a:1")).ask(0, hello);
    assert!(plain.get_f64("ok").expect("ok") == 1.0 && !plain.contains_key("serviceId"));
}

#[test]
fn services_share_data_and_no_cursors() {
    let mut world = World::new(Config::load_balanced("lb:1", 2));
    let documents: Vec<Bson> = (0..5).map(|id| doc! { "_id": id }.into()).collect();
    world.ask(0, doc! { "insert": "c", "documents": documents, "$db": "d" });
    let reply = world.ask(1, doc! { "find": "c", "batchSize": 2, "$db": "d" });
    let id = reply.get_document("cursor").expect("cursor").get_i64("id").expect("id");
    let more = doc! { "getMore": id, "collection": "c", "$db": "d" };
    assert_eq!(world.ask(0, more.clone()).get_i32("code").expect("refusal"), 43);
    assert_eq!(world.ask(1, more).get_f64("ok").expect("ok"), 1.0);
}

#[test]
fn routers_accept_writes_and_share_data() {
    let mut world = World::new(Config::sharded(["a:1", "b:1"]));
    for member in 0..2 {
        let reply = world.hello(member);
        assert_eq!((reply.get_str("msg").ok(), reply.get_bool("isWritablePrimary").ok()), (Some("isdbgrid"), Some(true)));
        assert!(!reply.contains_key("setName") && !reply.contains_key("serviceId"));
    }
    let insert = doc! { "insert": "c", "documents": [doc! { "_id": 1 }], "$db": "d" };
    assert_eq!(world.ask(1, insert).get_i32("n").expect("n"), 1);
    world.cluster.stop(1, world.now);
    let reply = world.ask(0, doc! { "find": "c", "$db": "d" });
    assert_eq!(reply.get_document("cursor").expect("cursor").get_array("firstBatch").expect("batch").len(), 1);
    assert!(world.cluster.step_down(world.now).is_err() && world.cluster.elect(0, world.now).is_err());
}
