//! The wire protocol: commands and replies as bytes.
//!
//! OP_MSG (message/OP_MSG.md): encoding into one buffer, decoding from any split of the bytes, every limit checked before
//! anything is allocated. Does not decide what a reply means.

mod decode;
pub mod depth;
mod encode;
#[cfg(any(test, feature = "sandbox"))]
#[cfg_attr(not(feature = "sandbox"), allow(dead_code, reason = "the sandbox answers old clients"))]
pub mod legacy;
pub mod scan;
mod value;

#[cfg(any(test, feature = "sandbox", feature = "internals"))]
pub use decode::Frame;
pub use decode::{Decoder, Message};
#[cfg(feature = "internals")]
pub use decode::{SEQUENCE_DOCUMENTS_MAX, SEQUENCES_MAX, Sequence};
pub use encode::{BodyWriter, InputDocument, Request, WriteBuffer, encode_message};

/// The largest message of a peer, in bytes, until its hello reply gives another limit (`maxMessageSizeBytes`).
pub const MESSAGE_SIZE_MAX: u32 = 48_000_000;

/// The largest document that a server accepts, in bytes, until its hello reply gives another limit (`maxBsonObjectSize`).
pub const DOCUMENT_SIZE_MAX: u32 = 16 * 1024 * 1024;

/// How much larger than `maxBsonObjectSize` a command may be, in bytes: room for the fields around the caller's document.
pub const COMMAND_OVERHEAD_MAX: u32 = 16 * 1024;

/// The size of a message's header, in bytes.
pub const HEADER_SIZE: usize = 16;

/// The supported op codes.
pub mod op_code {
    /// A reply to OP_QUERY.
    #[cfg(any(test, feature = "sandbox"))]
    #[cfg_attr(not(feature = "sandbox"), allow(dead_code, reason = "the sandbox answers old clients"))]
    pub const REPLY: i32 = 1;
    /// The query that contains the first hello of old clients.
    #[cfg(any(test, feature = "sandbox"))]
    pub const QUERY: i32 = 2004;
    /// A compressed message.
    pub const COMPRESSED: i32 = 2012;
    /// All other messages.
    pub const MSG: i32 = 2013;
}

/// The flags of an OP_MSG.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    /// The message ends with a CRC-32C checksum.
    pub const CHECKSUM_PRESENT: Self = Self(1);
    /// Another message follows without a request for it; on a request: no reply is wanted.
    pub const MORE_TO_COME: Self = Self(1 << 1);
    /// The sender accepts several replies to one request.
    pub const EXHAUST_ALLOWED: Self = Self(1 << 16);
    /// Flags below this bit must be understood, the others may be ignored.
    const OPTIONAL_FROM: u32 = 16;

    /// Returns whether a flag is set.
    pub fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    /// Returns the union of two sets of flags.
    #[must_use]
    #[cfg(any(test, feature = "internals"))]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the required flags that are unknown.
    fn unknown_required(self) -> u32 {
        self.0 & ((1 << Self::OPTIONAL_FROM) - 1) & !(Self::CHECKSUM_PRESENT.0 | Self::MORE_TO_COME.0)
    }
}

#[cfg(test)]
mod tests;
