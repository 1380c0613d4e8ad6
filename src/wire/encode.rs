//! The encoder: commands to bytes.
//!
//! A request is written straight into the connection's buffer: header, flags, body, the driver's fields after the caller's, and
//! document sequences. Large documents are not copied there, but written from where they are.

use std::ffi::CStr;

use bson::{RawDocument, RawDocumentBuf};
use bytes::Bytes;

use super::{Flags, HEADER_SIZE, op_code};

/// A command as given by its caller: a body and document sequences.
#[derive(Clone, Debug)]
pub struct Request {
    /// The command document, without `$db`, `lsid` and `$clusterTime`.
    pub body: InputDocument,
    /// Kind-1 sections: identifier and documents.
    pub sequences: Vec<(String, Vec<InputDocument>)>,
}

/// A document as given by its caller.
#[derive(Clone, Debug)]
pub enum InputDocument {
    /// A document that is copied into the buffer.
    Small(RawDocumentBuf),
    /// A document that is shared with the writer.
    Large(Bytes),
}

/// An outgoing message: the connection's own bytes, and large documents of the caller between them.
#[derive(Debug, Default)]
pub struct WriteBuffer {
    own: Vec<u8>,
    /// Each with its position in `own`.
    large: Vec<(usize, Bytes)>,
    large_bytes: usize,
}

/// The minimum size of a document that is not copied, in bytes.
const LARGE_BYTES_MIN: usize = 8 * 1024;

/// The estimated size of header, flags and the driver's own fields, in bytes. Larger messages cost a reallocation.
const EXTRA_BYTES: usize = 256;

impl From<RawDocumentBuf> for InputDocument {
    fn from(document: RawDocumentBuf) -> Self {
        if document.as_bytes().len() < LARGE_BYTES_MIN { Self::Small(document) } else { Self::Large(document.into_bytes().into()) }
    }
}

impl InputDocument {
    /// Returns the document.
    pub fn document(&self) -> &RawDocument {
        match self {
            Self::Small(document) => document,
            Self::Large(bytes) => RawDocument::from_bytes(bytes).expect("it was a document"),
        }
    }

    /// Returns its size, in bytes.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Small(document) => document.as_bytes().len(),
            Self::Large(bytes) => bytes.len(),
        }
    }

    /// Returns the size of the copied part, in bytes.
    fn copied_bytes(&self) -> usize {
        match self {
            Self::Small(document) => document.as_bytes().len(),
            Self::Large(_) => 0,
        }
    }
}

impl Request {
    /// Returns the size of the copied part of the caller's documents, in bytes.
    fn copied_bytes(&self) -> usize {
        let documents = |documents: &Vec<InputDocument>| documents.iter().map(InputDocument::copied_bytes).sum::<usize>();
        let sequences = self.sequences.iter().map(|(identifier, list)| identifier.len() + 6 + documents(list)).sum::<usize>();
        self.body.copied_bytes() + sequences
    }
}

impl From<RawDocumentBuf> for Request {
    fn from(body: RawDocumentBuf) -> Self {
        Self { body: InputDocument::from(body), sequences: Vec::new() }
    }
}

impl WriteBuffer {
    /// Returns the length of the message, in bytes.
    pub fn len(&self) -> usize {
        self.own.len() + self.large_bytes
    }

    /// Returns whether there is no message.
    #[cfg(any(test, feature = "internals"))]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the capacity for own bytes.
    pub fn capacity(&self) -> usize {
        self.own.capacity()
    }

    /// Removes the message, and keeps the capacity.
    pub fn clear(&mut self) {
        self.own.clear();
        self.large.clear();
        self.large_bytes = 0;
    }

    /// Returns the own bytes, for wiping.
    pub fn own_mut(&mut self) -> &mut Vec<u8> {
        &mut self.own
    }

    /// Returns the message, if it consists of own bytes only.
    pub fn whole(&self) -> Option<&[u8]> {
        self.large.is_empty().then_some(&self.own)
    }

    /// Returns the pieces of the message, in order; none is empty.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.large.iter().map(|(place, _)| *place));
        let ends = self.large.iter().map(|(place, _)| *place).chain(std::iter::once(self.own.len()));
        let own = starts.zip(ends).map(|(start, end)| self.own.get(start..end).unwrap_or_default());
        let large = self.large.iter().map(|(_, bytes)| &bytes[..]).chain(std::iter::once(&[][..]));
        own.zip(large).flat_map(|(own, large)| [own, large]).filter(|piece| !piece.is_empty())
    }

    /// Returns the message in one piece.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.pieces().collect::<Vec<_>>().concat()
    }

    /// Appends a document without a number of its first and last bytes.
    fn document(&mut self, document: &InputDocument, first: usize, last: usize) {
        let range = first..document.size_bytes().saturating_sub(last).max(first);
        match document {
            InputDocument::Small(document) => self.own.extend_from_slice(document.as_bytes().get(range).unwrap_or_default()),
            InputDocument::Large(bytes) => {
                self.large_bytes += range.len();
                self.large.push((self.own.len(), bytes.slice(range)));
            }
        }
    }

    /// Reserves room for a length, and returns where it counts from.
    fn begin(&mut self) -> Start {
        let start = self.here();
        self.own.extend_from_slice(&[0; 4]);
        start
    }

    fn here(&self) -> Start {
        Start { place: self.own.len(), len: self.len() }
    }

    /// Writes the length that was reserved by `begin`.
    fn end(&mut self, start: &Start) {
        let length = u32::try_from(self.len() - start.len).unwrap_or(u32::MAX);
        if let Some(slot) = self.own.get_mut(start.place..).and_then(|own| own.first_chunk_mut()) {
            *slot = length.to_le_bytes();
        }
    }
}

/// The start of an element that is preceded by its length.
#[derive(Debug)]
struct Start {
    place: usize,
    len: usize,
}

/// Writes an OP_MSG after the content of `out`; `extra` appends the driver's own fields to the body.
///
/// Does not check the server's limits; the caller has to.
#[inline]
pub fn encode_message(
    out: &mut WriteBuffer,
    request_id: i32,
    response_to: i32,
    flags: Flags,
    request: &Request,
    extra: impl FnOnce(&mut BodyWriter<'_>),
) {
    out.own.reserve(request.copied_bytes() + EXTRA_BYTES);
    let message = out.here();
    // The header, whose first number is the message length, which is not known yet; then the flags.
    let head = [0, request_id, response_to, op_code::MSG, flags.0.cast_signed()].map(i32::to_le_bytes);
    debug_assert_eq!(head.as_flattened().len(), HEADER_SIZE + 4);
    out.own.extend_from_slice(head.as_flattened());
    out.own.push(0);
    let body = out.begin();
    out.document(&request.body, 4, 1);
    extra(&mut BodyWriter { out: &mut out.own });
    out.own.push(0);
    out.end(&body);
    for (identifier, documents) in &request.sequences {
        out.own.push(1);
        let section = out.begin();
        out.own.extend_from_slice(identifier.as_bytes());
        out.own.push(0);
        for document in documents {
            out.document(document, 0, 0);
        }
        out.end(&section);
    }
    out.end(&message);
}

/// A writer that appends fields to a BSON document.
pub struct BodyWriter<'a> {
    out: &'a mut Vec<u8>,
}

impl BodyWriter<'_> {
    /// Appends a string.
    #[inline]
    pub fn string(&mut self, key: &CStr, value: &str) {
        self.key(0x02, key);
        let length = u32::try_from(value.len() + 1).unwrap_or(u32::MAX);
        self.out.extend_from_slice(&length.to_le_bytes());
        self.out.extend_from_slice(value.as_bytes());
        self.out.push(0);
    }

    /// Appends a document.
    #[inline]
    pub fn document(&mut self, key: &CStr, value: &RawDocument) {
        self.key(0x03, key);
        self.out.extend_from_slice(value.as_bytes());
    }

    #[inline]
    fn key(&mut self, kind: u8, key: &CStr) {
        self.out.push(kind);
        self.out.extend_from_slice(key.to_bytes_with_nul());
    }
}
