//! The cache's actions, and the callers they are for.

use super::LookupAnswer;
use super::query::QueryId;
use crate::error::Error;

/// The number of a waiting caller, chosen by the caller and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LookupId(pub u64);

/// An action of the cache, carried out by its owner.
#[derive(Debug)]
pub enum CacheAction {
    /// Resolve a name: by DNS queries for both record types at once, or by a source that answers as a whole.
    Query(String, QueryId),
    /// Give these callers their answer.
    Answer(Vec<LookupId>, LookupAnswer),
    /// Give these callers the error.
    Refuse(Vec<LookupId>, Error),
}
