//! How does a command become bytes?
//!
//! A request is written straight into the connection's own buffer: header, flags, body, the driver's fields behind the
//! user's, and its document sequences.

use bson::{RawDocument, RawDocumentBuf};

use super::{Flags, HEADER_SIZE, op_code};

/// Is a command as its caller gave it: a body, and documents that travel beside it.
#[derive(Clone, Debug)]
pub struct Request {
    /// The command document, without `$db`, `lsid` and `$clusterTime`.
    pub body: RawDocumentBuf,
    /// Kind-1 sections: identifier and documents.
    pub sequences: Vec<(String, Vec<RawDocumentBuf>)>,
}

/// Room for what is added to a user's bytes: header, flags and the driver's own fields. More is no fault, but a move.
const EXTRA_BYTES: usize = 400;

impl Request {
    /// Returns the size of what the caller gave, in bytes.
    fn size_bytes(&self) -> usize {
        let documents = |documents: &Vec<RawDocumentBuf>| documents.iter().map(|document| document.as_bytes().len()).sum::<usize>();
        let sequences = self.sequences.iter().map(|(identifier, list)| identifier.len() + 6 + documents(list)).sum::<usize>();
        self.body.as_bytes().len() + sequences
    }
}

impl From<RawDocumentBuf> for Request {
    fn from(body: RawDocumentBuf) -> Self {
        Self { body, sequences: Vec::new() }
    }
}

/// Writes an OP_MSG behind what `out` holds; `extra` appends the driver's own fields to the body.
///
/// Lengths are those of the data given; whether they are within the server's limits is the caller's to check.
pub fn encode_message(
    out: &mut Vec<u8>,
    request_id: i32,
    response_to: i32,
    flags: Flags,
    request: &Request,
    extra: impl FnOnce(&mut BodyWriter<'_>),
) {
    let start = out.len();
    out.reserve(request.size_bytes() + EXTRA_BYTES);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&request_id.to_le_bytes());
    out.extend_from_slice(&response_to.to_le_bytes());
    out.extend_from_slice(&op_code::MSG.to_le_bytes());
    debug_assert_eq!(out.len() - start, HEADER_SIZE);
    out.extend_from_slice(&flags.0.to_le_bytes());
    out.push(0);
    let mut body = BodyWriter::open(out, &request.body);
    extra(&mut body);
    body.close();
    for (identifier, documents) in &request.sequences {
        out.push(1);
        let section = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(identifier.as_bytes());
        out.push(0);
        for document in documents {
            out.extend_from_slice(document.as_bytes());
        }
        patch_length(out, section);
    }
    patch_length(out, start);
}

/// Appends fields to a BSON document that is being written.
pub struct BodyWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> BodyWriter<'a> {
    fn open(out: &'a mut Vec<u8>, document: &RawDocument) -> Self {
        let start = out.len();
        let bytes = document.as_bytes();
        out.extend_from_slice(bytes.strip_suffix(&[0]).unwrap_or(bytes));
        Self { out, start }
    }

    /// Appends a string.
    pub fn string(&mut self, key: &str, value: &str) {
        self.key(0x02, key);
        let length = u32::try_from(value.len() + 1).unwrap_or(u32::MAX);
        self.out.extend_from_slice(&length.to_le_bytes());
        self.out.extend_from_slice(value.as_bytes());
        self.out.push(0);
    }

    /// Appends a document.
    pub fn document(&mut self, key: &str, value: &RawDocument) {
        self.key(0x03, key);
        self.out.extend_from_slice(value.as_bytes());
    }

    /// Appends a 64-bit integer.
    pub fn int64(&mut self, key: &str, value: i64) {
        self.key(0x12, key);
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    fn key(&mut self, kind: u8, key: &str) {
        self.out.push(kind);
        self.out.extend_from_slice(key.as_bytes());
        self.out.push(0);
    }

    fn close(self) {
        self.out.push(0);
        patch_length(self.out, self.start);
    }
}

/// Writes the number of bytes from `start` to the end into the four bytes at `start`.
pub(super) fn patch_length(out: &mut [u8], start: usize) {
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(slot) = out.get_mut(start..start + 4) {
        slot.copy_from_slice(&length.to_le_bytes());
    }
}
