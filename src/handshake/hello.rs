//! What does a server say of itself?
//!
//! Reads a hello reply into typed values; every name in it passes through [`HostKey`] here. What the reply means for
//! the topology is decided in `topology`.

use std::borrow::Cow;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{RawDocument, RawDocumentBuf};

use crate::error::{Error, ErrorKind, LimitValue, Stage};
use crate::host::HostKey;
use crate::op::reply::command_error_at;
use crate::selection::TagSet;
use crate::wire::scan::{Field, Fields, Unreadable};

/// How many entries of each list in a reply are read; what is beyond is left out.
pub const NAMES_MAX: usize = 1000;

/// How many characters of a name that can't be used are kept.
const UNUSABLE_NAME_CHARS_MAX: usize = 100;

/// Is what a hello reply says, typed; raw documents stop here.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct HelloReply {
    /// Whether it can take writes (`isWritablePrimary`, `ismaster`).
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
    /// Whether it understands the new name of the command (`helloOk`).
    pub hello_ok: bool,
    /// The set's name.
    pub set_name: Option<String>,
    /// The version of the set's configuration.
    pub set_version: Option<i64>,
    /// The election that made it primary.
    pub election_id: Option<ObjectId>,
    /// Members that hold data and vote.
    pub hosts: Vec<HostKey>,
    /// Members that can't become primary.
    pub passives: Vec<HostKey>,
    /// Members without data.
    pub arbiters: Vec<HostKey>,
    /// The primary it knows of.
    pub primary: Option<HostKey>,
    /// Its own name in the set's configuration.
    pub me: Option<HostKey>,
    /// Its tags, sorted by name.
    pub tags: TagSet,
    /// The oldest wire version it speaks.
    pub min_wire_version: i32,
    /// The newest wire version it speaks.
    pub max_wire_version: i32,
    /// Its limit of a document, in bytes.
    pub max_bson_object_size: Option<u32>,
    /// Its limit of a message, in bytes.
    pub max_message_size_bytes: Option<u32>,
    /// Its limit of operations in one batch.
    pub max_write_batch_size: Option<u32>,
    /// How long sessions live; `None` where it has none.
    pub logical_session_timeout: Option<Duration>,
    /// When it last wrote, in milliseconds since 1970.
    pub last_write_date_millis: Option<i64>,
    /// The version of its state, for streaming.
    pub topology_version: Option<TopologyVersion>,
    /// Its own number of this connection.
    pub connection_id: Option<i64>,
    /// The service behind a load balancer.
    pub service_id: Option<ObjectId>,
    /// The mechanisms it offers the user asked for (`saslSupportedMechs`); `None` if it doesn't say.
    pub sasl_supported_mechs: Option<Vec<String>>,
    /// The compressors it shares with us.
    pub compressors: Vec<String>,
    /// Names in it that could not be normalised, and were left out.
    pub unusable_hosts: Vec<UnusableHost>,
}

/// Is a name in a hello reply that could not be normalised: it costs that one host, not the reply.
#[derive(Clone, Debug)]
pub struct UnusableHost {
    /// The name as the server gave it, shortened if it is long.
    pub name: String,
    /// Why it can't be used.
    pub error: Error,
}

/// Is the version of a server's state, `topologyVersion`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopologyVersion {
    /// The server's process.
    pub process_id: ObjectId,
    /// Grows with each change of state.
    pub counter: i64,
}

impl HelloReply {
    /// Reads a reply: numbers of any type, booleans that are numbers; a field of a wrong type is as if it were missing.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] for malformed BSON or a reply without `ok`; the server's own error if `ok` is not 1.
    pub fn parse(reply: &RawDocument) -> Result<Self, Error> {
        if let Some(error) = command_error_at(reply, Stage::Hello) {
            return Err(error);
        }
        let mut parsed = Self::default();
        for field in Fields::of(reply.as_bytes()) {
            parsed.take(field.map_err(malformed)?)?;
        }
        Ok(parsed)
    }

    fn take(&mut self, value: Field<'_>) -> Result<(), Error> {
        match value.key {
            b"isWritablePrimary" | b"ismaster" => self.is_writable_primary |= value.truth(),
            b"secondary" => self.secondary = value.truth(),
            b"arbiterOnly" => self.arbiter_only = value.truth(),
            b"hidden" => self.hidden = value.truth(),
            b"isreplicaset" => self.is_replica_set = value.truth(),
            b"msg" => self.is_mongos = value.text_bytes() == Some(b"isdbgrid"),
            b"helloOk" => self.hello_ok = value.truth(),
            b"setName" => self.set_name = value.text().map(Cow::into_owned),
            b"setVersion" => self.set_version = value.integer(),
            b"electionId" => self.election_id = value.object_id(),
            b"hosts" => self.hosts = self.names(value)?,
            b"passives" => self.passives = self.names(value)?,
            b"arbiters" => self.arbiters = self.names(value)?,
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

    fn names(&mut self, value: Field<'_>) -> Result<Vec<HostKey>, Error> {
        let mut names = Vec::new();
        if let Some(items) = value.elements() {
            for (count, item) in items.enumerate() {
                if count == NAMES_MAX {
                    let error = Error::new(ErrorKind::Protocol, "a list of members is too long").at(Stage::Hello);
                    return Err(error.against("NAMES_MAX", LimitValue::Count(NAMES_MAX as u64)));
                }
                names.extend(self.name(item.map_err(malformed)?));
            }
        }
        Ok(names)
    }

    fn name(&mut self, value: Field<'_>) -> Option<HostKey> {
        let text = value.text()?;
        match HostKey::parse(&text) {
            Ok(key) => Some(key),
            Err(error) => {
                let error = error.restage(Stage::Hello);
                if self.unusable_hosts.len() < NAMES_MAX {
                    let name = text.chars().take(UNUSABLE_NAME_CHARS_MAX).collect();
                    self.unusable_hosts.push(UnusableHost { name, error });
                }
                None
            }
        }
    }
}

impl PartialEq for UnusableHost {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl TopologyVersion {
    /// Makes a version.
    pub fn new(process_id: ObjectId, counter: i64) -> Self {
        Self { process_id, counter }
    }

    /// Reads a `topologyVersion` document; `None` if a part is missing or of a wrong type.
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
            tags.extend(tag.text().map(|value| (tag.name().into_owned(), value.into_owned())));
        }
    }
    tags.sort();
    Ok(tags)
}

fn strings(value: Field<'_>) -> Result<Option<Vec<String>>, Error> {
    let Some(items) = value.elements() else { return Ok(None) };
    let mut strings = Vec::new();
    for item in items.take(NAMES_MAX) {
        strings.extend(item.map_err(malformed)?.text().map(Cow::into_owned));
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
    fn primary_says_all_of_itself() {
        let reply = rawdoc! { "me": "a:1", "hosts": ["A:1"], "ok": 1 };
        assert_eq!(parsed(&reply).hosts.first(), parsed(&reply).me.as_ref());
        let mut plain = primary();
        plain.append(cstr!("extra"), "ignored");
        let hello = parsed(&plain);
        assert!(hello.is_writable_primary && hello.hello_ok && !hello.secondary);
        assert_eq!(hello.hosts, ["a:1", "b:2"].map(|name| HostKey::parse(name).expect("name")));
        assert_eq!(hello.tags, [("dc".to_owned(), "ny".to_owned()), ("z".to_owned(), "1".to_owned())]);
        assert_eq!(hello.topology_version, Some(TopologyVersion::new(ObjectId::from_bytes([9; 12]), 6)));
        assert_eq!(hello.logical_session_timeout, Some(Duration::from_secs(1800)));
        assert_eq!((hello.last_write_date_millis, hello.connection_id, hello.set_version), (Some(1234), Some(17), Some(3)));
        assert_eq!((hello.max_wire_version, hello.max_bson_object_size), (21, Some(16_777_216)));
        assert_eq!(hello.sasl_supported_mechs, Some(vec!["SCRAM-SHA-1".to_owned()]));
    }

    #[test]
    fn one_bad_name_costs_that_one_host() {
        let hello = parsed(&rawdoc! { "hosts": ["a:1", "b..c:2", 5, "d:99999"], "primary": "x:0", "ok": 1 });
        assert_eq!(hello.hosts, [HostKey::parse("a:1").expect("name")]);
        assert_eq!(hello.primary, None);
        let names: Vec<&str> = hello.unusable_hosts.iter().map(|host| host.name.as_str()).collect();
        assert_eq!(names, ["b..c:2", "d:99999", "x:0"]);
    }

    #[test]
    fn numbers_and_booleans_of_odd_types_are_read() {
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
    fn wrong_types_are_as_if_missing() {
        let odd = rawdoc! {
            "hosts": "a:1", "me": 5, "tags": [1], "maxWireVersion": "8", "electionId": "x", "setName": 1, "topologyVersion": { "counter": 1 },
            "lastWrite": { "lastWriteDate": "x" }, "logicalSessionTimeoutMinutes": -1, "maxMessageSizeBytes": 0, "saslSupportedMechs": "x", "ok": 1,
        };
        assert_eq!(parsed(&odd), HelloReply::default());
    }

    #[test]
    fn lists_are_bounded() {
        let names: RawArrayBuf = (0..5000).map(|number| format!("host-{number}:1")).collect();
        let mut reply = rawdoc! { "ok": 1 };
        reply.append(cstr!("hosts"), &names);
        let error = HelloReply::parse(&reply).expect_err("too long");
        assert!(error.to_string().contains("limit NAMES_MAX of 1000"), "{error}");
    }

    #[test]
    fn refusals_say_what_the_server_said() {
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
    fn text_that_is_not_utf8_costs_that_text() {
        let mut bytes =
            rawdoc! { "ok": 1, "odd": "QQ", "setName": "r\u{e9}", "hosts": ["QQ:1", "b:2"], "tags": { "QQ": "x" }, "me": "b:2" }
                .into_bytes();
        while let Some(place) = bytes.windows(2).position(|bytes| bytes == b"QQ") {
            bytes[place] = 0xff;
        }
        let hello = parsed(RawDocument::from_bytes(&bytes).expect("framed"));
        let b = HostKey::parse("b:2").expect("name");
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
