//! The decoder: bytes to messages.
//!
//! Accepts the bytes in any split, checks every length before use, and returns frames that share its buffer. A connection whose
//! decoder has reported an error is unusable: the start of the next message is lost.

use bson::RawDocument;
use bytes::{Buf, Bytes, BytesMut};

use super::{Flags, HEADER_SIZE, op_code};
use crate::error::{Error, ErrorKind, LimitValue, Stage};

/// The decoder of a byte stream into frames.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    size_bytes_max: u32,
    /// The name of the size limit.
    limit: &'static str,
}

/// One message, cut out of the stream and not yet parsed.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The sender's number of the message.
    pub request_id: i32,
    /// The number of the message that this one answers.
    pub response_to: i32,
    /// The op code.
    pub op_code: i32,
    /// The bytes after the header.
    pub payload: Bytes,
}

/// An OP_MSG.
#[derive(Clone, Debug)]
pub struct Message {
    /// The sender's number of the message.
    pub request_id: i32,
    /// The number of the message that this one answers.
    pub response_to: i32,
    /// Its flags.
    pub flags: Flags,
    /// Its kind-0 section.
    body: Bytes,
    /// Its kind-1 sections.
    #[cfg_attr(not(feature = "sandbox"), allow(dead_code, reason = "the sandbox reads commands"))]
    pub sequences: Vec<Sequence>,
}

/// A kind-1 section.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Its identifier.
    pub identifier: String,
    /// Its documents.
    #[cfg_attr(not(feature = "sandbox"), allow(dead_code, reason = "the sandbox reads commands"))]
    pub documents: Vec<Bytes>,
}

/// The maximum number of kind-1 sections of a message: commands have at most two, replies none. Each is compared with all
/// others.
pub const SEQUENCES_MAX: usize = 16;

/// The maximum number of documents in a kind-1 section: above what servers accept in a batch (`maxWriteBatchSize`), so that a
/// server can refuse a batch that is too large.
pub const SEQUENCE_DOCUMENTS_MAX: usize = 200_000;

/// Messages up to this size are copied out of the buffer, larger ones share it.
const COPIED_BYTES_MAX: usize = 1024;

impl Decoder {
    /// Creates a decoder for messages up to a size.
    pub fn new(size_bytes_max: u32) -> Self {
        Self { buffer: BytesMut::new(), size_bytes_max, limit: "maxMessageSizeBytes" }
    }

    /// Sets the maximum message size and the name of that limit.
    pub fn limit(&mut self, name: &'static str, size_bytes_max: u32) {
        (self.limit, self.size_bytes_max) = (name, size_bytes_max);
    }

    /// Returns the buffer to which bytes from the peer are appended.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Returns whether the buffer has no bytes beyond the last frame.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Returns how many bytes are missing until the next frame is complete, if its length is known.
    pub fn missing(&self) -> usize {
        match self.announced() {
            Some(length) => (length as usize).saturating_sub(self.buffer.len()),
            None => HEADER_SIZE.saturating_sub(self.buffer.len()),
        }
    }

    /// Takes the next frame, if it is complete.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] if the length is below 16, negative, or above the limit.
    #[inline]
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Error> {
        let Some(length) = self.announced() else { return Ok(None) };
        let size = i64::from(length.cast_signed());
        if size < HEADER_SIZE as i64 {
            return Err(protocol(format!("message of length {size}, the header alone has {HEADER_SIZE}")));
        }
        if length > self.size_bytes_max {
            return Err(protocol(format!("message of {size} bytes")).against(self.limit, LimitValue::Bytes(self.size_bytes_max.into())));
        }
        let size = length as usize;
        let Some((header, payload)) = self.buffer.get(..size).and_then(<[u8]>::split_first_chunk::<HEADER_SIZE>) else {
            return Ok(None);
        };
        let [_, request_id, response_to, op_code] = words(header);
        let payload = if size <= COPIED_BYTES_MAX {
            // Copying a small message is cheaper than replacing a buffer that is shared with it.
            let copy = Bytes::copy_from_slice(payload);
            if size == self.buffer.len() {
                // The capacity is kept.
                self.buffer.clear();
            } else {
                self.buffer.advance(size);
            }
            copy
        } else {
            let mut frame = self.buffer.split_to(size).freeze();
            frame.advance(HEADER_SIZE);
            frame
        };
        Ok(Some(Frame { request_id, response_to, op_code, payload }))
    }

    /// Releases a large buffer, if it is empty.
    pub fn rest(&mut self, size_bytes_max: usize) {
        if self.buffer.is_empty() {
            // The part that has been taken from its front counts, too.
            self.buffer.clear();
            self.buffer.reserve(1);
            if self.buffer.capacity() > size_bytes_max {
                self.buffer = BytesMut::new();
            }
        }
    }

    fn announced(&self) -> Option<u32> {
        self.buffer.first_chunk::<4>().map(|length| u32::from_le_bytes(*length))
    }
}

impl Message {
    /// Parses a frame as an OP_MSG.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] for another op code, an unknown required flag or section kind, a missing or second body, a
    /// repeated identifier, too many kind-1 sections or documents in one, or a length that doesn't fit;
    /// [`ErrorKind::Unsupported`] for a compressed message.
    #[inline]
    pub fn parse(frame: Frame) -> Result<Self, Error> {
        if frame.op_code == op_code::COMPRESSED {
            return Err(Error::new(ErrorKind::Unsupported, "compressed message, but compression was not negotiated").at(Stage::Read));
        }
        if frame.op_code != op_code::MSG {
            return Err(protocol(format!("message with op code {}, expected {}", frame.op_code, op_code::MSG)));
        }
        let mut rest = frame.payload;
        let flags = Flags(rest.try_get_u32_le().map_err(|_| protocol("message ends before its flags".into()))?);
        let unknown = flags.unknown_required();
        if unknown != 0 {
            return Err(protocol(format!("message with unknown required flags {unknown:#x}")));
        }
        if flags.has(Flags::CHECKSUM_PRESENT) {
            let kept = rest.len().checked_sub(4).ok_or_else(|| protocol("message ends before its checksum".into()))?;
            rest.truncate(kept);
        }
        let mut body = None;
        let mut sequences: Vec<Sequence> = Vec::new();
        while !rest.is_empty() {
            match rest.get_u8() {
                0 => {
                    let document = take_document(&mut rest)?;
                    if body.replace(document).is_some() {
                        return Err(protocol("message with two bodies".into()));
                    }
                }
                1 => {
                    if sequences.len() == SEQUENCES_MAX {
                        return Err(protocol("message with too many sequences".into()).against("SEQUENCES_MAX", count(SEQUENCES_MAX)));
                    }
                    let sequence = take_sequence(&mut rest)?;
                    if sequences.iter().any(|other| other.identifier == sequence.identifier) {
                        return Err(protocol(format!("message with two sequences {:?}", sequence.identifier)));
                    }
                    sequences.push(sequence);
                }
                kind => return Err(protocol(format!("message with a section of unknown kind {kind}"))),
            }
        }
        let body = body.ok_or_else(|| protocol("message without a body".into()))?;
        Ok(Self { request_id: frame.request_id, response_to: frame.response_to, flags, body, sequences })
    }

    /// Returns the body.
    pub fn body(&self) -> &RawDocument {
        // `take_document` has checked length and terminator, the only things that `from_bytes` checks.
        RawDocument::from_bytes(&self.body).unwrap_or_else(|_| RawDocument::from_bytes(EMPTY_DOCUMENT).expect("constant"))
    }

    /// Returns the body's bytes, which share the buffer they were read into.
    #[inline]
    pub fn into_body(self) -> Bytes {
        self.body
    }
}

fn words(header: &[u8; HEADER_SIZE]) -> [i32; 4] {
    let (words, _) = header.as_chunks::<4>();
    let mut words = words.iter().map(|word| i32::from_le_bytes(*word));
    std::array::from_fn(|_| words.next().unwrap_or_default())
}

const EMPTY_DOCUMENT: &[u8] = &[5, 0, 0, 0, 0];

/// The shortest BSON document.
const DOCUMENT_SIZE_MIN: usize = 5;

fn take_document(rest: &mut Bytes) -> Result<Bytes, Error> {
    let length = rest.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize);
    match length {
        Some(length) if length >= DOCUMENT_SIZE_MIN && length <= rest.len() => {
            let document = rest.split_to(length);
            match document.last() {
                Some(0) => Ok(document),
                _ => Err(protocol("document without its closing byte".into())),
            }
        }
        Some(length) => Err(protocol(format!("document of length {length} where {} bytes are left", rest.len()))),
        None => Err(protocol("message ends before a document's length".into())),
    }
}

fn take_sequence(rest: &mut Bytes) -> Result<Sequence, Error> {
    let length = rest.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize);
    let Some(length) = length.filter(|length| *length > 4 && *length <= rest.len()) else {
        return Err(protocol(format!("section of length {length:?} where {} bytes are left", rest.len())));
    };
    let mut section = rest.split_to(length);
    section.advance(4);
    let end = section.iter().position(|byte| *byte == 0).ok_or_else(|| protocol("section without an identifier".into()))?;
    let identifier =
        String::from_utf8(section.split_to(end).to_vec()).map_err(|_| protocol("section whose identifier is not UTF-8".into()))?;
    section.advance(1);
    let mut documents = Vec::new();
    while !section.is_empty() {
        if documents.len() == SEQUENCE_DOCUMENTS_MAX {
            let error = protocol(format!("too many documents in a sequence of {} bytes", length));
            return Err(error.against("SEQUENCE_DOCUMENTS_MAX", count(SEQUENCE_DOCUMENTS_MAX)));
        }
        documents.push(take_document(&mut section)?);
    }
    Ok(Sequence { identifier, documents })
}

fn count(limit: usize) -> LimitValue {
    LimitValue::Count(limit as u64)
}

fn protocol(message: String) -> Error {
    Error::new(ErrorKind::Protocol, message).at(Stage::Read)
}
