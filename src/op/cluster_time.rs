//! Which cluster time is the newest that was heard of?
//!
//! `$clusterTime` is gossiped as the server gave it (sessions, "Gossipping the cluster time"); never on, nor from, the
//! commands that watch servers.

use bson::{RawDocument, RawDocumentBuf};

use crate::wire::scan::{Fields, kind};

/// Is a `$clusterTime` as a server sent it.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterTime {
    stamp: (u32, u32),
    document: RawDocumentBuf,
}

/// The largest `$clusterTime` that is kept, in bytes; a server's has about 150.
const SIZE_BYTES_MAX: usize = 4096;

impl ClusterTime {
    /// Reads a reply's `$clusterTime`, if it is newer than what is known.
    pub fn newer(document: &RawDocument, known: Option<&Self>) -> Option<Self> {
        let field = Fields::of(document.as_bytes()).map_while(Result::ok).find(|field| field.key == b"clusterTime")?;
        let (increment, seconds) = field.value.split_first_chunk::<4>().filter(|_| field.kind == kind::TIMESTAMP)?;
        let stamp = (u32::from_le_bytes(*seconds.first_chunk()?), u32::from_le_bytes(*increment));
        let fits = document.as_bytes().len() <= SIZE_BYTES_MAX;
        (fits && known.is_none_or(|known| stamp > known.stamp)).then(|| Self { stamp, document: document.to_owned() })
    }

    /// Returns the document to send.
    pub fn document(&self) -> &RawDocument {
        &self.document
    }

    /// Returns the time itself: seconds and increment.
    pub fn stamp(&self) -> (u32, u32) {
        self.stamp
    }
}
