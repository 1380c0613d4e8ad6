//! The memory size of an error.

use std::error::Error as StdError;

use super::{Error, ErrorData};

/// The depth to which causes and sources are followed: deeper ones do not occur.
const DEPTH_MAX: usize = 8;

impl Error {
    /// Returns the approximate memory size of the error in bytes, including causes and sources.
    pub(crate) fn size_bytes(&self) -> usize {
        self.size_to(DEPTH_MAX)
    }

    fn size_to(&self, depth: usize) -> usize {
        let Some(depth) = depth.checked_sub(1) else { return 0 };
        let facts = &*self.0;
        let labels: usize = facts.labels.iter().map(|label| size_of::<String>() + label.len()).sum();
        let causes: usize = facts.causes.iter().map(|cause| cause.size_to(depth)).sum();
        let of_server = |server: &super::ServerReason| size_of_val(server) + server.error.as_ref().map_or(0, |error| error.size_to(depth));
        let servers: usize = facts.servers.iter().map(of_server).sum();
        let command = facts.command.as_ref();
        let command = command.map_or(0, |failure| failure.code_name.len() + failure.message.len() + failure.reply.as_bytes().len());
        let source = facts.source.as_deref().map(|source| source as &(dyn StdError + 'static));
        let source = source.and_then(|source| source.downcast_ref::<Self>()).map_or(0, |source| source.size_to(depth));
        size_of::<ErrorData>() + facts.message.len() + labels + causes + servers + command + source
    }
}
