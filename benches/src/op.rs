//! The operations that are measured.
//!
//! Each operation is one command, made once; all kinds of clients send the same bytes, but for what drivers add.

use mongolink::bson::spec::BinarySubtype;
use mongolink::bson::{Binary, Document, RawDocumentBuf, doc};
use mongolink::wire::{Flags, WriteBuffer, Request, encode_message};

/// An operation that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `ping`.
    Ping,
    /// `find` of one document of about 150 bytes.
    Find,
    /// `insert` of one document of 1 KiB.
    Insert1k,
    /// `insert` of one document of 1 MiB.
    Insert1m,
    /// `find` whose one reply has [`BIG_DOCUMENTS`] documents of [`BIG_DOCUMENT_BYTES`], all of which are read.
    Find16m,
}

/// How many documents the large reply has.
pub const BIG_DOCUMENTS: usize = 16_000;

/// How large each of them is.
pub const BIG_DOCUMENT_BYTES: usize = 1024;

/// The database of all operations but `ping`.
pub const DATABASE: &str = "bench";

impl Op {
    /// Finds an operation by its name.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "ping" => Self::Ping,
            "find" => Self::Find,
            "insert1k" => Self::Insert1k,
            "insert1m" => Self::Insert1m,
            "find16m" => Self::Find16m,
            _ => return None,
        })
    }

    /// Returns the database it is for.
    pub fn database(self) -> &'static str {
        if self == Self::Ping { "admin" } else { DATABASE }
    }

    /// Tells whether the documents of its reply are read through a cursor.
    pub fn has_cursor(self) -> bool {
        self == Self::Find16m
    }

    /// Returns the command.
    pub fn command(self) -> RawDocumentBuf {
        let command = match self {
            Self::Ping => doc! { "ping": 1 },
            Self::Find => doc! { "find": "one", "filter": { "_id": 1 }, "limit": 1, "singleBatch": true },
            Self::Insert1k => insert(1024),
            Self::Insert1m => insert(1024 * 1024),
            Self::Find16m => doc! { "find": "big", "filter": {}, "batchSize": 16_000 },
        };
        encoded(&command)
    }
}

/// Returns the document that `find` is for.
pub fn one() -> Document {
    doc! {
        "_id": 1, "name": "a document of ordinary size", "count": 42, "price": 19.5, "active": true,
        "tags": ["red", "green"], "address": { "street": "Main Street 1", "city": "Springfield" },
    }
}

/// Encodes a document.
pub fn encoded(document: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).expect("the bench's documents can be encoded")
}

/// Makes the whole message of a command, as a client without sessions sends it.
pub fn message(command: RawDocumentBuf, database: &str) -> Vec<u8> {
    let mut out = WriteBuffer::default();
    encode_message(&mut out, 1, 0, Flags::default(), &Request::from(command), |body| body.string(c"$db", database));
    out.to_bytes()
}

fn insert(bytes: usize) -> Document {
    // What the document has beside the data: length, end, and a binary field's kind, name, length and subtype.
    let data = vec![0xa5; bytes - 4 - 1 - 1 - 5 - 4 - 1];
    doc! { "insert": "many", "documents": [{ "data": Binary { subtype: BinarySubtype::Generic, bytes: data } }] }
}
