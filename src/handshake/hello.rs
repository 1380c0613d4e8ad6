//! The server's hello reply as typed values.
//!
//! Every host name in it becomes a [`ServerAddress`] here. Does not decide what the reply means for the topology (`topology`).

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{RawDocument, RawDocumentBuf};

use crate::error::{Error, ErrorKind, LimitValue, Stage, cut};
use crate::host::ServerAddress;
use crate::options::TagSet;
use crate::reply::command_error_at;
use crate::wire::scan::{Field, Fields, Unreadable};

/// The largest hello reply, and the largest reply of an authentication, in bytes: twice the size of a thousand names of maximum
/// length.
pub const HELLO_SIZE_MAX: usize = 512 * 1024;

/// The maximum number of members in all lists of a reply, and of entries that are read of each other list.
pub const NAMES_MAX: usize = 1000;

/// The longest text that is kept of a reply, in bytes: the name of the set, a tag, a mechanism.
pub const TEXT_SIZE_MAX: usize = 1024;

/// The maximum number of invalid host names that are kept of a reply: a replica set has at most 50 members.
pub const UNUSABLE_HOSTS_MAX: usize = 64;

/// The longest part of an invalid host name that is kept, in bytes.
const UNUSABLE_NAME_SIZE_MAX: usize = 100;

/// The fields that are read; of a repeated field, the first one counts.
const FIELDS: [&[u8]; 29] = [
    b"isWritablePrimary",
    b"ismaster",
    b"secondary",
    b"arbiterOnly",
    b"hidden",
    b"isreplicaset",
    b"msg",
    b"helloOk",
    b"setName",
    b"setVersion",
    b"electionId",
    b"hosts",
    b"passives",
    b"arbiters",
    b"primary",
    b"me",
    b"tags",
    b"minWireVersion",
    b"maxWireVersion",
    b"maxBsonObjectSize",
    b"maxMessageSizeBytes",
    b"maxWriteBatchSize",
    b"logicalSessionTimeoutMinutes",
    b"lastWrite",
    b"topologyVersion",
    b"connectionId",
    b"serviceId",
    b"saslSupportedMechs",
    b"compression",
];

/// A hello reply, typed; raw documents stop here.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct HelloReply {
    /// Whether it accepts writes (`isWritablePrimary`, `ismaster`).
    pub is_writable_primary: bool,
    /// Whether it is a secondary.
    pub secondary: bool,
    /// Whether it is an arbiter.
    pub arbiter_only: bool,
    /// Whether it is hidden.
    pub hidden: bool,
    /// Whether it is a member of a set that has no configuration yet (`isreplicaset`).
    pub is_replica_set: bool,
    /// Whether it is a mongos (`msg` is `isdbgrid`).
    pub is_mongos: bool,
    /// Whether it supports the new name of the command (`helloOk`).
    pub hello_ok: bool,
    /// The set's name.
    pub set_name: Option<String>,
    /// The version of the set's configuration.
    pub set_version: Option<i64>,
    /// The election that made it primary.
    pub election_id: Option<ObjectId>,
    /// The members that hold data and vote.
    pub hosts: Vec<ServerAddress>,
    /// The members that can't become primary.
    pub passives: Vec<ServerAddress>,
    /// The members without data.
    pub arbiters: Vec<ServerAddress>,
    /// The primary it knows of.
    pub primary: Option<ServerAddress>,
    /// Its own name in the set's configuration.
    pub me: Option<ServerAddress>,
    /// Its tags, sorted by name.
    pub tags: TagSet,
    /// The oldest wire version it supports.
    pub min_wire_version: i32,
    /// The newest wire version it supports.
    pub max_wire_version: i32,
    /// Its maximum document size, in bytes.
    pub max_bson_object_size: Option<u32>,
    /// Its maximum message size, in bytes.
    pub max_message_size_bytes: Option<u32>,
    /// Its maximum number of operations in one batch.
    pub max_write_batch_size: Option<u32>,
    /// The lifetime of an idle session; `None` if it has no sessions.
    pub logical_session_timeout: Option<Duration>,
    /// The time of its last write, in milliseconds since 1970.
    pub last_write_date_millis: Option<i64>,
    /// The version of its state, for streaming.
    pub topology_version: Option<TopologyVersion>,
    /// Its own id of this connection.
    pub connection_id: Option<i64>,
    /// The service behind a load balancer.
    pub service_id: Option<ObjectId>,
    /// The mechanisms of the requested user (`saslSupportedMechs`); `None` if the server does not list any.
    pub sasl_supported_mechs: Option<Vec<String>>,
    /// The compressors that client and server share.
    pub compressors: Vec<String>,
    /// Invalid host names that were left out: the first `UNUSABLE_HOSTS_MAX` (64) of them.
    pub unusable_hosts: Vec<UnusableHost>,
}

/// An invalid host name in a hello reply: only that host is left out, not the reply.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UnusableHost {
    /// The name as the server sent it, shortened if it is long.
    pub name: String,
    /// Why it is invalid.
    pub error: Error,
}

/// The version of a server's state, `topologyVersion`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopologyVersion {
    /// The server's process.
    pub process_id: ObjectId,
    /// A counter that grows with each change of state.
    pub counter: i64,
}

impl HelloReply {
    /// Parses a reply. Numbers may have any type, booleans may be numbers; a field of a wrong type counts as missing.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] for malformed BSON, a reply above `HELLO_SIZE_MAX` or with more members than `NAMES_MAX`, or
    /// one without `ok`; the server's own error if `ok` is not 1.
    pub fn parse(reply: &RawDocument) -> Result<Self, Error> {
        if reply.as_bytes().len() > HELLO_SIZE_MAX {
            let error = Error::new(ErrorKind::Protocol, format!("hello reply of {} bytes", reply.as_bytes().len())).at(Stage::Hello);
            return Err(error.against("HELLO_SIZE_MAX", LimitValue::Bytes(HELLO_SIZE_MAX as u64)));
        }
        if let Some(error) = command_error_at(reply, Stage::Hello) {
            return Err(error);
        }
        let mut parsed = Self::default();
        let (mut seen, mut members) = ([false; FIELDS.len()], 0);
        for field in Fields::of(reply.as_bytes()) {
            let field = field.map_err(malformed)?;
            let place = FIELDS.iter().position(|name| *name == field.key);
            if let Some(seen) = place.and_then(|place| seen.get_mut(place))
                && !std::mem::replace(seen, true)
            {
                parsed.take(field, &mut members)?;
            }
        }
        Ok(parsed)
    }

    /// Removes the paths of unix sockets: they refer to the client's own machine, to which a server must not redirect it.
    pub(crate) fn leave_out_sockets(&mut self) {
        let Self { hosts, passives, arbiters, primary, me, unusable_hosts, .. } = self;
        let lists = [hosts, passives, arbiters].into_iter().flat_map(|list| list.extract_if(.., |key| key.is_socket()));
        for key in lists.chain(primary.take_if(|key| key.is_socket())).chain(me.take_if(|key| key.is_socket())) {
            let text = "a unix socket, but the given servers are reached over the network";
            note_unusable(unusable_hosts, key.canonical(), Error::new(ErrorKind::InvalidHost, text).at(Stage::Hello));
        }
    }

    /// Stores a field; `members` counts the names in all lists of members.
    fn take(&mut self, value: Field<'_>, members: &mut usize) -> Result<(), Error> {
        match value.key {
            b"isWritablePrimary" | b"ismaster" => self.is_writable_primary |= value.truth(),
            b"secondary" => self.secondary = value.truth(),
            b"arbiterOnly" => self.arbiter_only = value.truth(),
            b"hidden" => self.hidden = value.truth(),
            b"isreplicaset" => self.is_replica_set = value.truth(),
            b"msg" => self.is_mongos = value.text_bytes() == Some(b"isdbgrid"),
            b"helloOk" => self.hello_ok = value.truth(),
            b"setName" => self.set_name = value.text_within(TEXT_SIZE_MAX),
            b"setVersion" => self.set_version = value.integer(),
            b"electionId" => self.election_id = value.object_id(),
            b"hosts" => self.hosts = self.names(value, members)?,
            b"passives" => self.passives = self.names(value, members)?,
            b"arbiters" => self.arbiters = self.names(value, members)?,
            b"primary" => self.primary = self.name(value),
            b"me" => self.me = self.name(value),
            b"tags" => self.tags = tags(value)?,
            b"minWireVersion" => self.min_wire_version = wire_version(value),
            b"maxWireVersion" => self.max_wire_version = wire_version(value),
            b"maxBsonObjectSize" => self.max_bson_object_size = size(value),
            b"maxMessageSizeBytes" => self.max_message_size_bytes = size(value),
            b"maxWriteBatchSize" => self.max_write_batch_size = size(value),
            b"logicalSessionTimeoutMinutes" => self.logical_session_timeout = minutes(value),
            b"lastWrite" => self.last_write_date_millis = last_write_date(value),
            b"topologyVersion" => self.topology_version = value.document().and_then(TopologyVersion::parse),
            b"connectionId" => self.connection_id = value.integer(),
            b"serviceId" => self.service_id = value.object_id(),
            b"saslSupportedMechs" => self.sasl_supported_mechs = strings(value)?,
            b"compression" => self.compressors = strings(value)?.unwrap_or_default(),
            _ => {}
        }
        Ok(())
    }

    fn names(&mut self, value: Field<'_>, members: &mut usize) -> Result<Vec<ServerAddress>, Error> {
        let mut names = Vec::new();
        if let Some(items) = value.elements() {
            for item in items {
                *members += 1;
                if *members > NAMES_MAX {
                    let error = Error::new(ErrorKind::Protocol, "hello reply with too many members").at(Stage::Hello);
                    return Err(error.against("NAMES_MAX", LimitValue::Count(NAMES_MAX as u64)));
                }
                names.extend(self.name(item.map_err(malformed)?));
            }
        }
        Ok(names)
    }

    fn name(&mut self, value: Field<'_>) -> Option<ServerAddress> {
        let text = value.text()?;
        match ServerAddress::parse(&text) {
            Ok(key) => Some(key),
            Err(error) => {
                note_unusable(&mut self.unusable_hosts, &text, error.restage(Stage::Hello));
                None
            }
        }
    }
}

fn note_unusable(hosts: &mut Vec<UnusableHost>, name: &str, error: Error) {
    if hosts.len() < UNUSABLE_HOSTS_MAX {
        // One byte more than may be kept, so that the cut shows.
        let start = name.char_indices().map(|(at, _)| at).find(|at| *at > UNUSABLE_NAME_SIZE_MAX).unwrap_or(name.len());
        hosts.push(UnusableHost { name: cut(name.get(..start).unwrap_or_default().to_owned(), UNUSABLE_NAME_SIZE_MAX), error });
    }
}

impl PartialEq for UnusableHost {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl TopologyVersion {
    /// Creates a version.
    pub fn new(process_id: ObjectId, counter: i64) -> Self {
        Self { process_id, counter }
    }

    /// Parses a `topologyVersion` document; `None` if a part is missing or of a wrong type.
    pub fn parse(document: &RawDocument) -> Option<Self> {
        let process_id = Fields::find(document, "processId")?.object_id()?;
        let counter = Fields::find(document, "counter")?.integer()?;
        Some(Self { process_id, counter })
    }

    /// Returns the `topologyVersion` document.
    pub fn to_document(self) -> RawDocumentBuf {
        let mut document = RawDocumentBuf::new();
        document.append(bson::raw::cstr!("processId"), self.process_id);
        document.append(bson::raw::cstr!("counter"), self.counter);
        document
    }
}

fn tags(value: Field<'_>) -> Result<TagSet, Error> {
    let mut tags = TagSet::new();
    if let Some(document) = value.document() {
        for tag in Fields::of(document.as_bytes()).take(NAMES_MAX) {
            let tag = tag.map_err(malformed)?;
            tags.extend(tag.text_within(TEXT_SIZE_MAX).map(|value| (cut(tag.name().into_owned(), TEXT_SIZE_MAX), value)));
        }
    }
    tags.sort();
    Ok(tags)
}

fn strings(value: Field<'_>) -> Result<Option<Vec<String>>, Error> {
    let Some(items) = value.elements() else { return Ok(None) };
    let mut strings = Vec::new();
    for item in items.take(NAMES_MAX) {
        strings.extend(item.map_err(malformed)?.text_within(TEXT_SIZE_MAX));
    }
    Ok(Some(strings))
}

fn last_write_date(value: Field<'_>) -> Option<i64> {
    Fields::find(value.document()?, "lastWriteDate")?.date_millis()
}

fn wire_version(value: Field<'_>) -> i32 {
    value.integer().and_then(|version| i32::try_from(version).ok()).unwrap_or(0)
}

fn size(value: Field<'_>) -> Option<u32> {
    value.integer().and_then(|size| u32::try_from(size).ok()).filter(|size| *size > 0)
}

fn minutes(value: Field<'_>) -> Option<Duration> {
    value.integer().and_then(|minutes| u64::try_from(minutes).ok()).and_then(|minutes| minutes.checked_mul(60)).map(Duration::from_secs)
}

fn malformed(_: Unreadable) -> Error {
    Error::new(ErrorKind::Protocol, "hello reply is not valid BSON").at(Stage::Hello)
}

#[cfg(test)]
mod tests {
    use bson::raw::{RawArrayBuf, cstr};
    use bson::{DateTime, rawdoc};
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn parsed(reply: &RawDocument) -> HelloReply {
        HelloReply::parse(reply).expect("reply")
    }

    fn primary() -> RawDocumentBuf {
        rawdoc! {
            "isWritablePrimary": true, "helloOk": true, "setName": "rs0", "setVersion": 3,
            "electionId": ObjectId::from_bytes([7; 12]), "hosts": ["A:1", "b:2"], "passives": ["c:3"], "arbiters": ["d:4"],
            "primary": "a:1", "me": "a:1.", "tags": { "z": "1", "dc": "ny" },
            "minWireVersion": 0, "maxWireVersion": 21, "maxBsonObjectSize": 16_777_216, "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000, "logicalSessionTimeoutMinutes": 30,
            "lastWrite": { "lastWriteDate": DateTime::from_millis(1234) },
            "topologyVersion": { "processId": ObjectId::from_bytes([9; 12]), "counter": 6_i64 },
            "connectionId": 17, "saslSupportedMechs": ["SCRAM-SHA-1"], "compression": ["zlib"], "ok": 1.0,
        }
    }

    #[test]
    fn primary_reply_has_all_fields() {
        let reply = rawdoc! { "me": "a:1", "hosts": ["A:1"], "ok": 1 };
        assert_eq!(parsed(&reply).hosts.first(), parsed(&reply).me.as_ref());
        let mut plain = primary();
        plain.append(cstr!("extra"), "ignored");
        let hello = parsed(&plain);
        assert!(hello.is_writable_primary && hello.hello_ok && !hello.secondary);
        assert_eq!(hello.hosts, ["a:1", "b:2"].map(|name| ServerAddress::parse(name).expect("name")));
        assert_eq!(hello.tags, [("dc".to_owned(), "ny".to_owned()), ("z".to_owned(), "1".to_owned())]);
        assert_eq!(hello.topology_version, Some(TopologyVersion::new(ObjectId::from_bytes([9; 12]), 6)));
        assert_eq!(hello.logical_session_timeout, Some(Duration::from_secs(1800)));
        assert_eq!((hello.last_write_date_millis, hello.connection_id, hello.set_version), (Some(1234), Some(17), Some(3)));
        assert_eq!((hello.max_wire_version, hello.max_bson_object_size), (21, Some(16_777_216)));
        assert_eq!(hello.sasl_supported_mechs, Some(vec!["SCRAM-SHA-1".to_owned()]));
    }

    #[test]
    fn invalid_name_removes_only_that_host() {
        let hello = parsed(&rawdoc! { "hosts": ["a:1", "b..c:2", 5, "d:99999"], "primary": "x:0", "ok": 1 });
        assert_eq!(hello.hosts, [ServerAddress::parse("a:1").expect("name")]);
        assert_eq!(hello.primary, None);
        let names: Vec<&str> = hello.unusable_hosts.iter().map(|host| host.name.as_str()).collect();
        assert_eq!(names, ["b..c:2", "d:99999", "x:0"]);
    }

    #[test]
    fn numbers_and_booleans_of_unusual_types_are_read() {
        let hello = parsed(
            &rawdoc! { "ismaster": 1.0, "secondary": 0, "maxWireVersion": 8.0, "setVersion": 2_i64, "connectionId": 5.0, "maxBsonObjectSize": 3_i64, "ok": 1_i64 },
        );
        assert!(hello.is_writable_primary && !hello.secondary);
        assert_eq!(
            (hello.max_wire_version, hello.set_version, hello.connection_id, hello.max_bson_object_size),
            (8, Some(2), Some(5), Some(3))
        );
    }

    #[test]
    fn fields_of_wrong_types_count_as_missing() {
        let odd = rawdoc! {
            "hosts": "a:1", "me": 5, "tags": [1], "maxWireVersion": "8", "electionId": "x", "setName": 1, "topologyVersion": { "counter": 1 },
            "lastWrite": { "lastWriteDate": "x" }, "logicalSessionTimeoutMinutes": -1, "maxMessageSizeBytes": 0, "saslSupportedMechs": "x", "ok": 1,
        };
        assert_eq!(parsed(&odd), HelloReply::default());
    }

    fn names(range: std::ops::Range<u32>) -> RawArrayBuf {
        range.map(|number| format!("host-{number}:1")).collect()
    }

    #[test]
    fn names_are_counted_over_the_whole_reply() {
        for (hosts, passives, arbiters, is_refused) in
            [(1000, 0, 0, false), (1001, 0, 0, true), (400, 400, 200, false), (400, 400, 201, true)]
        {
            let mut reply = rawdoc! { "ok": 1, "primary": "p:1", "me": "me:1" };
            reply.append(cstr!("hosts"), names(0..hosts));
            reply.append(cstr!("passives"), names(0..passives));
            reply.append(cstr!("arbiters"), names(0..arbiters));
            match HelloReply::parse(&reply) {
                Ok(hello) => assert!(!is_refused && hello.hosts.len() == hosts as usize),
                Err(error) => assert!(is_refused && error.to_string().contains("limit NAMES_MAX of 1000"), "{error}"),
            }
        }
        let bad: RawArrayBuf = (0..1001).map(|number| format!("{number}..x")).collect();
        let mut reply = rawdoc! { "ok": 1 };
        reply.append(cstr!("hosts"), bad);
        assert_eq!(HelloReply::parse(&reply).expect_err("too many").limit().map(|limit| limit.name), Some("NAMES_MAX"));
    }

    /// The parts of a reply that can be long are cut or refused.
    #[test]
    fn texts_and_names_are_cut_and_large_replies_refused() {
        let long = "\u{fc}".repeat(5000);
        let mut reply =
            rawdoc! { "ok": 1, "setName": long.as_str(), "compression": [long.as_str()], "saslSupportedMechs": [long.as_str()] };
        reply.append(cstr!("tags"), rawdoc! { "t": long.as_str() });
        reply.append(cstr!("hosts"), (0..990).map(|number| format!("{number}..{}", "x".repeat(200))).collect::<RawArrayBuf>());
        let hello = parsed(&reply);
        let texts = [hello.set_name.as_ref(), hello.compressors.first(), hello.tags.first().map(|(_, value)| value)];
        for text in texts.into_iter().chain([hello.sasl_supported_mechs.as_ref().and_then(|names| names.first())]) {
            assert!(text.is_some_and(|text| text.len() <= TEXT_SIZE_MAX && text.ends_with('\u{2026}')), "{text:?}");
        }
        assert_eq!(hello.unusable_hosts.len(), UNUSABLE_HOSTS_MAX);
        assert!(hello.unusable_hosts.iter().all(|host| host.name.len() <= UNUSABLE_NAME_SIZE_MAX));
        let names: RawArrayBuf = (0..NAMES_MAX).map(|number| format!("{number:0>63}.{0}.{0}.{0:.61}:65535", "x".repeat(63))).collect();
        let mut largest = rawdoc! { "ok": 1 };
        largest.append(cstr!("hosts"), names);
        assert_eq!(parsed(&largest).hosts.len(), NAMES_MAX, "{:?}", parsed(&largest).unusable_hosts.first());
        assert!(2 * largest.as_bytes().len() <= HELLO_SIZE_MAX + 32 * 1024, "{} bytes", largest.as_bytes().len());
        let error = HelloReply::parse(&rawdoc! { "ok": 1, "setName": "x".repeat(HELLO_SIZE_MAX) }).expect_err("too large");
        assert_eq!((error.kind(), error.limit().map(|limit| limit.name)), (ErrorKind::Protocol, Some("HELLO_SIZE_MAX")));
    }

    #[test]
    fn first_of_two_fields_counts() {
        let mut reply = rawdoc! { "ok": 1 };
        for (set, host) in [("first", "a:1"), ("second", "b..c")] {
            for _ in 0..1000 {
                reply.append(cstr!("setName"), set);
                reply.append(cstr!("hosts"), RawArrayBuf::from_iter([host]));
            }
        }
        let hello = parsed(&reply);
        assert_eq!((hello.set_name.as_deref(), hello.hosts.len(), hello.unusable_hosts.len()), (Some("first"), 1, 0));
    }

    /// Values at the limits of their ranges, and of other types: nothing overflows.
    #[test]
    fn extreme_values_are_read_or_left_out() {
        use std::time::Instant;

        use bson::Bson;

        use crate::operation::session::SessionPool;
        use crate::selection::{Criteria, ReadPreference, suitable_servers};
        use crate::topology::{Topology, TopologyConfig};

        let values = [
            Bson::Int32(i32::MIN),
            Bson::Int32(-1),
            Bson::Int32(0),
            Bson::Int32(i32::MAX),
            Bson::Int64(i64::MIN),
            Bson::Int64(i64::MAX),
            Bson::Double(f64::NAN),
            Bson::Double(f64::INFINITY),
            Bson::Double(f64::MIN),
            Bson::Double(-0.5),
            Bson::Double(1e300),
            Bson::Null,
            Bson::DateTime(DateTime::MIN),
            Bson::DateTime(DateTime::MAX),
            Bson::String("x".into()),
            Bson::Boolean(true),
            Bson::Array(vec![]),
            Bson::Document(bson::doc! { "counter": i64::MIN, "processId": ObjectId::from_bytes([9; 12]), "lastWriteDate": DateTime::MIN }),
            Bson::Document(bson::doc! { "counter": i64::MAX, "processId": ObjectId::from_bytes([9; 12]), "lastWriteDate": DateTime::MAX }),
        ];
        #[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
        let now = Instant::now();
        let a = ServerAddress::parse("a:1").expect("name");
        for field in FIELDS.iter().copied().chain([b"localTime".as_slice(), b"operationTime"]) {
            let field = std::str::from_utf8(field).expect("a name");
            let neighbours = |step: usize| values.iter().zip(values.iter().cycle().skip(step));
            for (first, second) in [0, 1, values.len() - 1].into_iter().flat_map(neighbours) {
                let hello = |kind: &str, value: &Bson| {
                    let mut reply = bson::doc! { "ok": 1, kind: true, "setName": "rs", "hosts": ["a:1", "b:2"], "maxWireVersion": 21 };
                    reply.insert(field, value.clone());
                    parsed(&RawDocumentBuf::try_from(reply).expect("encoded"))
                };
                let mut config = TopologyConfig::new(["a:1", "b:2"].map(|name| ServerAddress::parse(name).expect("name")).to_vec());
                config.set_name = Some("rs".into());
                let mut topology = Topology::new(config, 1, now);
                let b = ServerAddress::parse("b:2").expect("name");
                topology.handle_hello(&a, hello("isWritablePrimary", first), Some(Duration::ZERO), now);
                topology.handle_hello(&b, hello("secondary", second), Some(Duration::MAX / 64), now);
                topology.handle_hello(&a, hello("isWritablePrimary", second), None, now);
                topology.handle_unanswered(&a, now);
                topology.handle_unanswered(&b, now);
                let description = topology.description();
                assert!(!description.to_string().is_empty());
                let stale = ReadPreference::secondary_preferred().with_max_staleness(Duration::from_secs(90));
                drop(suitable_servers(description, &Criteria::read(stale)));
                if let Some(timeout) = description.session_timeout() {
                    let mut sessions = SessionPool::default();
                    sessions.put(crate::operation::session::ServerSession::new([1; 16], now), timeout, now);
                    drop(sessions.take(timeout, now));
                }
                if let Some(version) = description.server(&a).and_then(|server| server.topology_version) {
                    assert!(version.to_document().as_bytes().len() < 100);
                }
            }
        }
    }

    #[test]
    fn refusals_contain_the_servers_message() {
        let error = HelloReply::parse(&rawdoc! { "ok": 0, "errmsg": "too busy", "code": 462, "errorLabels": ["SystemOverloadedError"] })
            .expect_err("refusal");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Command, Some(462)));
        assert!(error.has_label("SystemOverloadedError"));
        let error = HelloReply::parse(&rawdoc! { "isWritablePrimary": true }).expect_err("refusal");
        assert_eq!((error.kind(), error.stage()), (ErrorKind::Protocol, Some(Stage::Hello)));
    }

    #[test]
    fn malformed_bson_is_a_protocol_error() {
        let mut bytes = rawdoc! { "ok": 1, "me": "a:1" }.into_bytes();
        let place = bytes.len() - 13;
        bytes[place] = 0x20;
        let error = HelloReply::parse(RawDocument::from_bytes(&bytes).expect("frame")).expect_err("refusal");
        assert_eq!((error.kind(), error.stage()), (ErrorKind::Protocol, Some(Stage::Hello)));
    }

    #[test]
    fn text_that_is_not_utf8_loses_only_that_text() {
        let mut bytes =
            rawdoc! { "ok": 1, "odd": "QQ", "setName": "r\u{e9}", "hosts": ["QQ:1", "b:2"], "tags": { "QQ": "x" }, "me": "b:2" }
                .into_bytes();
        while let Some(place) = bytes.windows(2).position(|bytes| bytes == b"QQ") {
            bytes[place] = 0xff;
        }
        let hello = parsed(RawDocument::from_bytes(&bytes).expect("framed"));
        let b = ServerAddress::parse("b:2").expect("name");
        assert_eq!(
            (hello.hosts.as_slice(), hello.me.as_ref(), hello.set_name.as_deref()),
            ([b.clone()].as_slice(), Some(&b), Some("r\u{e9}"))
        );
        assert_eq!(hello.tags, [("\u{fffd}Q".to_owned(), "x".to_owned())]);
        assert_eq!(hello.unusable_hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>(), ["\u{fffd}Q:1"]);
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut random = rand::rngs::SmallRng::seed_from_u64(2);
        let plain = primary().into_bytes();
        for _ in 0..20_000 {
            let mut bytes = plain.clone();
            for _ in 0..random.random_range(1..6) {
                let place = random.random_range(4..bytes.len());
                bytes[place] = random.random();
            }
            if let Ok(reply) = RawDocument::from_bytes(&bytes) {
                drop(HelloReply::parse(reply));
            }
        }
    }
}
