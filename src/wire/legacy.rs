//! OP_QUERY and OP_REPLY: the first hello of old clients, and its reply.
//!
//! Only what a server needs to answer that hello; mongolink itself sends only OP_MSG.

use bson::RawDocument;
use bytes::{Buf, Bytes};

use super::{Frame, op_code};

/// A command in an OP_QUERY.
#[derive(Clone, Debug)]
pub struct Query {
    /// The database of the command.
    pub database: String,
    /// The command.
    pub body: Bytes,
}

impl Query {
    /// Parses a frame as an OP_QUERY on a `$cmd` collection; `None` if it isn't one.
    pub fn parse(frame: &Frame) -> Option<Self> {
        let mut rest = frame.payload.clone();
        if frame.op_code != op_code::QUERY || rest.len() < 4 {
            return None;
        }
        rest.advance(4);
        let end = rest.iter().position(|byte| *byte == 0)?;
        let namespace = String::from_utf8(rest.split_to(end).to_vec()).ok()?;
        let database = namespace.strip_suffix(".$cmd")?.to_owned();
        rest.advance(1);
        rest.try_get_i64_le().ok()?;
        let length = u32::from_le_bytes(*rest.first_chunk::<4>()?) as usize;
        if length > rest.len() {
            return None;
        }
        let body = rest.split_to(length);
        RawDocument::from_bytes(&body).ok()?;
        Some(Self { database, body })
    }
}

/// Writes an OP_REPLY with one document after the content of `out`.
pub fn encode_reply(out: &mut Vec<u8>, request_id: i32, response_to: i32, document: &RawDocument) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&request_id.to_le_bytes());
    out.extend_from_slice(&response_to.to_le_bytes());
    out.extend_from_slice(&op_code::REPLY.to_le_bytes());
    // responseFlags: AwaitCapable.
    out.extend_from_slice(&8_i32.to_le_bytes());
    out.extend_from_slice(&0_i64.to_le_bytes());
    out.extend_from_slice(&0_i32.to_le_bytes());
    out.extend_from_slice(&1_i32.to_le_bytes());
    out.extend_from_slice(document.as_bytes());
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(slot) = out.get_mut(start..).and_then(|out| out.first_chunk_mut()) {
        *slot = length.to_le_bytes();
    }
}
