//! Hello replies, written by a simple writer from random values and read again.

use std::time::Duration;

use mongolink::bson::oid::ObjectId;
use mongolink::bson::{DateTime, Document, RawDocumentBuf, doc};
use mongolink::{HelloReply, ServerAddress, TopologyVersion};
use rand::RngExt;
use rand::rngs::SmallRng;

use crate::support::{for_seeds, key};

const SEEDS: u64 = 3_000;

#[test]
fn hello_reply_is_read_as_it_was_written() {
    for_seeds(SEEDS, |rng| {
        let reply = reply(rng);
        let written = RawDocumentBuf::try_from(&write(&reply)).expect("a document");
        assert_eq!(HelloReply::parse(&written).expect("a reply"), reply);
    });
}

#[test]
fn topology_version_goes_back_as_it_came() {
    for_seeds(SEEDS, |rng| {
        let version = version(rng);
        let document = version.to_document();
        assert_eq!(TopologyVersion::parse(&document), Some(version));
        let plain = doc! { "processId": version.process_id, "counter": version.counter };
        assert_eq!(document, RawDocumentBuf::try_from(&plain).expect("a document"));
    });
}

fn reply(rng: &mut SmallRng) -> HelloReply {
    let mut reply = HelloReply::default();
    reply.is_writable_primary = rng.random();
    reply.secondary = rng.random();
    reply.arbiter_only = rng.random();
    reply.hidden = rng.random();
    reply.is_replica_set = rng.random();
    reply.is_mongos = rng.random();
    reply.hello_ok = rng.random();
    reply.set_name = some(rng, |_| "rs".to_owned());
    reply.set_version = some(rng, |rng| rng.random_range(0..1_000));
    reply.election_id = some(rng, id);
    (reply.hosts, reply.passives, reply.arbiters) = (hosts(rng), hosts(rng), hosts(rng));
    reply.primary = some(rng, host);
    reply.me = some(rng, host);
    reply.tags = ["dc", "use"].into_iter().filter(|_| rng.random()).map(|name| (name.to_owned(), "x".to_owned())).collect();
    (reply.min_wire_version, reply.max_wire_version) = (rng.random_range(0..10), rng.random_range(10..30));
    reply.max_bson_object_size = some(rng, |rng| rng.random_range(1..16_777_217));
    reply.max_message_size_bytes = some(rng, |rng| rng.random_range(1..48_000_001));
    reply.max_write_batch_size = some(rng, |rng| rng.random_range(1..100_001));
    reply.logical_session_timeout = some(rng, |rng| Duration::from_secs(60 * rng.random_range(1..60)));
    reply.last_write_date_millis = some(rng, |rng| rng.random_range(0..2_000_000_000_000));
    reply.topology_version = some(rng, version);
    reply.connection_id = some(rng, |rng| rng.random_range(1..100_000));
    reply.service_id = some(rng, id);
    reply.sasl_supported_mechs = some(rng, |_| vec!["SCRAM-SHA-1".to_owned(), "SCRAM-SHA-256".to_owned()]);
    reply.compressors = ["zlib", "zstd"].into_iter().filter(|_| rng.random()).map(str::to_owned).collect();
    reply
}

/// Writes the fields that have values.
fn write(reply: &HelloReply) -> Document {
    let names = |hosts: &[ServerAddress]| hosts.iter().map(ServerAddress::canonical).map(str::to_owned).collect::<Vec<_>>();
    let mut document = doc! {
        "isWritablePrimary": reply.is_writable_primary, "secondary": reply.secondary, "arbiterOnly": reply.arbiter_only,
        "hidden": reply.hidden, "isreplicaset": reply.is_replica_set, "helloOk": reply.hello_ok,
        "hosts": names(&reply.hosts), "passives": names(&reply.passives), "arbiters": names(&reply.arbiters),
        "minWireVersion": reply.min_wire_version, "maxWireVersion": reply.max_wire_version,
        "compression": reply.compressors.clone(), "ok": 1,
    };
    let tags: Document = reply.tags.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    document.insert("tags", tags);
    if reply.is_mongos {
        document.insert("msg", "isdbgrid");
    }
    let minutes = reply.logical_session_timeout.map(|span| i64::try_from(span.as_secs() / 60).expect("minutes"));
    let written = reply.last_write_date_millis.map(|millis| doc! { "lastWriteDate": DateTime::from_millis(millis) });
    let version = reply.topology_version.map(|version| doc! { "processId": version.process_id, "counter": version.counter });
    let optional = [
        ("setName", reply.set_name.clone().map(Into::into)),
        ("setVersion", reply.set_version.map(Into::into)),
        ("electionId", reply.election_id.map(Into::into)),
        ("primary", reply.primary.as_ref().map(|host| host.canonical().into())),
        ("me", reply.me.as_ref().map(|host| host.canonical().into())),
        ("maxBsonObjectSize", reply.max_bson_object_size.map(Into::into)),
        ("maxMessageSizeBytes", reply.max_message_size_bytes.map(Into::into)),
        ("maxWriteBatchSize", reply.max_write_batch_size.map(Into::into)),
        ("logicalSessionTimeoutMinutes", minutes.map(Into::into)),
        ("lastWrite", written.map(Into::into)),
        ("topologyVersion", version.map(Into::into)),
        ("connectionId", reply.connection_id.map(Into::into)),
        ("serviceId", reply.service_id.map(Into::into)),
        ("saslSupportedMechs", reply.sasl_supported_mechs.clone().map(Into::into)),
    ];
    document.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    document
}

fn some<T>(rng: &mut SmallRng, make: impl Fn(&mut SmallRng) -> T) -> Option<T> {
    rng.random_bool(0.7).then(|| make(rng))
}

fn hosts(rng: &mut SmallRng) -> Vec<ServerAddress> {
    (0..rng.random_range(0..4)).map(|_| host(rng)).collect()
}

fn host(rng: &mut SmallRng) -> ServerAddress {
    key(&format!("{}.example:{}", ["a", "b", "bücher"][rng.random_range(0..3)], rng.random_range(27_017..27_020)))
}

fn id(rng: &mut SmallRng) -> ObjectId {
    ObjectId::from_bytes(rng.random())
}

fn version(rng: &mut SmallRng) -> TopologyVersion {
    TopologyVersion::new(id(rng), rng.random_range(0..5))
}
