//! The newest known cluster time.
//!
//! `$clusterTime` is sent as the server sent it (sessions, "Gossipping the cluster time"); never on, nor from, monitoring
//! commands.

use bson::RawDocument;

use crate::wire::scan::{Fields, kind};

/// The newest known `$clusterTime`, as the server sent it.
#[derive(Debug, Default, PartialEq)]
pub struct ClusterTime {
    stamp: u64,
    document: Vec<u8>,
}

/// A server's `$clusterTime`, which may be older than the known one.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedClusterTime<'a> {
    /// The time: seconds in the upper half, increment in the lower.
    pub stamp: u64,
    document: &'a RawDocument,
}

/// The largest `$clusterTime` that is kept, in bytes; a server's has about 150.
const SIZE_BYTES_MAX: usize = 4096;

impl<'a> ReceivedClusterTime<'a> {
    /// Reads a document's bytes; `None` if they are not a cluster time.
    #[inline]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let value = match bytes.get(4..).and_then(|fields| fields.strip_prefix(b"\x11clusterTime\0")) {
            // All servers write it first.
            Some(value) => value,
            None => {
                let field = Fields::of(bytes).map_while(Result::ok).find(|field| field.key == b"clusterTime")?;
                Some(field.value).filter(|_| field.kind == kind::TIMESTAMP)?
            }
        };
        let (increment, seconds) = value.split_first_chunk::<4>()?;
        let (seconds, increment) = (u32::from_le_bytes(*seconds.first_chunk()?), u32::from_le_bytes(*increment));
        let document = RawDocument::from_bytes(bytes).ok().filter(|_| bytes.len() <= SIZE_BYTES_MAX)?;
        Some(Self { stamp: u64::from(seconds) << 32 | u64::from(increment), document })
    }
}

impl ClusterTime {
    /// Stores a server's cluster time if it is newer; returns whether it was.
    #[inline]
    pub fn hear(&mut self, heard: ReceivedClusterTime<'_>) -> bool {
        if heard.stamp <= self.stamp {
            return false;
        }
        self.stamp = heard.stamp;
        self.document.clear();
        self.document.extend_from_slice(heard.document.as_bytes());
        true
    }

    /// Returns the document to send; `None` before the first one was received.
    pub fn document(&self) -> Option<&RawDocument> {
        RawDocument::from_bytes(&self.document).ok()
    }

    /// Returns the time; 0 before the first one was received.
    pub fn stamp(&self) -> u64 {
        self.stamp
    }
}

impl Clone for ClusterTime {
    fn clone(&self) -> Self {
        Self { stamp: self.stamp, document: self.document.clone() }
    }

    /// Reuses the allocation.
    fn clone_from(&mut self, source: &Self) {
        self.stamp = source.stamp;
        self.document.clone_from(&source.document);
    }
}
