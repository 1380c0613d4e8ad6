//! How do commands and replies look as bytes?
//!
//! OP_MSG (message/OP_MSG.md): encoding straight into one buffer, decoding from any split of the bytes, every limit
//! checked before anything is allocated. What a reply means is not decided here.

mod decode;
pub mod depth;
mod encode;
pub mod legacy;
pub mod scan;
mod value;

pub use decode::{Decoder, Frame, Message, SEQUENCE_DOCUMENTS_MAX, SEQUENCES_MAX, Sequence};
pub use encode::{BodyWriter, InputDocument, Request, WriteBuffer, encode_message};

/// The largest message a peer may announce, in bytes, until its hello says otherwise (`maxMessageSizeBytes`).
pub const MESSAGE_SIZE_MAX: u32 = 48_000_000;

/// The largest document a server takes, in bytes, until its hello says otherwise (`maxBsonObjectSize`).
pub const DOCUMENT_SIZE_MAX: u32 = 16 * 1024 * 1024;

/// What a command may be above `maxBsonObjectSize`, in bytes: room for the fields around a user's document.
pub const COMMAND_OVERHEAD_MAX: u32 = 16 * 1024;

/// The size of a message's header, in bytes.
pub const HEADER_SIZE: usize = 16;

/// The op codes that are read or written.
pub mod op_code {
    /// A reply to OP_QUERY.
    pub const REPLY: i32 = 1;
    /// The query that the first hello of old clients comes in.
    pub const QUERY: i32 = 2004;
    /// A compressed message.
    pub const COMPRESSED: i32 = 2012;
    /// Every other message.
    pub const MSG: i32 = 2013;
}

/// The flags of an OP_MSG.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    /// The message ends with a CRC-32C checksum.
    pub const CHECKSUM_PRESENT: Self = Self(1);
    /// Another message follows without being asked for; on a request: no reply is wanted.
    pub const MORE_TO_COME: Self = Self(1 << 1);
    /// The sender takes several replies to one request.
    pub const EXHAUST_ALLOWED: Self = Self(1 << 16);
    /// The flags below this bit must be understood, those from it on may be ignored.
    const OPTIONAL_FROM: u32 = 16;

    /// Tells whether a flag is set.
    pub fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    /// Joins two sets of flags.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the required flags that nobody here understands.
    fn unknown_required(self) -> u32 {
        self.0 & ((1 << Self::OPTIONAL_FROM) - 1) & !(Self::CHECKSUM_PRESENT.0 | Self::MORE_TO_COME.0)
    }
}

#[cfg(test)]
mod tests;
