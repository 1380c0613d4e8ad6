//! The prepared replies of the fake server.
//!
//! Each is made once; the fields that differ, `responseTo` and the cluster time, are overwritten.

use mongolink::bson::oid::ObjectId;
use mongolink::bson::spec::BinarySubtype;
use mongolink::bson::{Binary, DateTime, Document, Timestamp, doc};
use mongolink::wire::{Flags, WriteBuffer, Request, encode_message};

use crate::op::{BIG_DOCUMENT_BYTES, BIG_DOCUMENTS, encoded, one};

/// A reply, ready but for its number and time.
pub struct Canned {
    bytes: Vec<u8>,
    /// Where cluster times stand.
    times: Vec<usize>,
}

/// The facts in a member's hello reply.
pub struct About<'a> {
    /// Its place in the set; the first is the primary.
    pub member: usize,
    /// All members.
    pub hosts: &'a [String],
    /// Names the server's process.
    pub process: ObjectId,
}

/// Replies larger than this are not copied, but written in parts.
pub const LARGE: usize = 64 * 1024;

/// The set's name.
pub const SET: &str = "bench";

/// How many bytes of a reply are its header.
const HEADER: usize = 16;

/// Stands where a cluster time is to stand.
const PLACE: Timestamp = Timestamp { time: 0x5eed_ca5e, increment: 0x0dd_ba11 };

/// How many bytes before the end cluster times are looked for: all else was written by the caller.
const TAIL: usize = 256;

impl Canned {
    /// Makes a reply of a document, to which it adds what every reply of a replica set has.
    pub fn new(mut document: Document) -> Self {
        document.insert("ok", 1.0);
        let hash = Binary { subtype: BinarySubtype::Generic, bytes: vec![0; 20] };
        document.insert("$clusterTime", doc! { "clusterTime": PLACE, "signature": { "hash": hash, "keyId": 0_i64 } });
        document.insert("operationTime", PLACE);
        Self::plain(&document)
    }

    /// Makes a reply that consists of this document.
    pub fn plain(document: &Document) -> Self {
        let bytes = reply(document);
        let place = place().to_le_bytes();
        let from = bytes.len().saturating_sub(TAIL);
        let times = (from..bytes.len()).filter(|at| bytes[*at..].starts_with(&place)).collect();
        Self { bytes, times }
    }

    /// Makes the refusal of an unknown command.
    pub fn unknown() -> Self {
        Self::plain(&doc! { "ok": 0.0, "errmsg": "no such command", "code": 59, "codeName": "CommandNotFound" })
    }

    /// Makes the answer to hello.
    pub fn hello(about: &About<'_>) -> Self {
        let primary = about.member == 0;
        let written = doc! { "ts": Timestamp { time: 1, increment: 1 }, "t": 1_i64 };
        let date = DateTime::from_millis(1_700_000_000_000);
        let mut document = doc! {
            "helloOk": true,
            "topologyVersion": { "processId": about.process, "counter": 1_i64 },
            "hosts": about.hosts.to_vec(),
            "setName": SET,
            "setVersion": 1,
            "isWritablePrimary": primary,
            "ismaster": primary,
            "secondary": !primary,
            "primary": about.hosts[0].as_str(),
            "me": about.hosts[about.member].as_str(),
            "lastWrite": { "opTime": written.clone(), "lastWriteDate": date, "majorityOpTime": written, "majorityWriteDate": date },
            "maxBsonObjectSize": 16 * 1024 * 1024,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
            "localTime": date,
            "logicalSessionTimeoutMinutes": 30,
            "connectionId": 1,
            "minWireVersion": 0,
            "maxWireVersion": 17,
            "readOnly": false,
        };
        if primary {
            document.insert("electionId", ObjectId::from_bytes([1; 12]));
        }
        Self::new(document)
    }

    /// Makes the reply to a find of one document.
    pub fn one() -> Self {
        Self::new(doc! { "cursor": { "firstBatch": [one()], "id": 0_i64, "ns": "bench.one" } })
    }

    /// Makes the large reply.
    pub fn big() -> Self {
        // A document without data: length, end, `_id`, and a string's kind, name, length and end.
        let padding = "x".repeat(BIG_DOCUMENT_BYTES - 4 - 1 - (1 + 4 + 4) - (1 + 5 + 4 + 1));
        let documents: Vec<Document> = (0..BIG_DOCUMENTS as i32).map(|id| doc! { "_id": id, "data": padding.as_str() }).collect();
        Self::new(doc! { "cursor": { "firstBatch": documents, "id": 0_i64, "ns": "bench.big" } })
    }

    /// Returns the size, in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Appends the whole reply.
    pub fn write(&self, out: &mut Vec<u8>, response_to: [u8; 4], time: u64) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        self.fill(&mut out[start..], 0, response_to, time);
    }

    /// Appends the first part of a large reply to one buffer and the last to another; what is between them never changes.
    pub fn write_ends(&self, first: &mut Vec<u8>, last: &mut Vec<u8>, response_to: [u8; 4], time: u64) -> &[u8] {
        let tail = self.bytes.len() - TAIL;
        let start = first.len();
        first.extend_from_slice(&self.bytes[..HEADER]);
        first[start + 8..start + 12].copy_from_slice(&response_to);
        let start = last.len();
        last.extend_from_slice(&self.bytes[tail..]);
        self.fill(&mut last[start..], tail, response_to, time);
        &self.bytes[HEADER..tail]
    }

    fn fill(&self, part: &mut [u8], offset: usize, response_to: [u8; 4], time: u64) {
        if offset == 0 {
            part[8..12].copy_from_slice(&response_to);
        }
        for at in &self.times {
            part[at - offset..at - offset + 8].copy_from_slice(&time.to_le_bytes());
        }
    }
}

/// The bytes of [`PLACE`] as a number: the increment is its lower half.
fn place() -> u64 {
    (u64::from(PLACE.time) << 32) | u64::from(PLACE.increment)
}

fn reply(document: &Document) -> Vec<u8> {
    let mut out = WriteBuffer::default();
    encode_message(&mut out, 1, 0, Flags::default(), &Request::from(encoded(document)), |_| {});
    out.to_bytes()
}
