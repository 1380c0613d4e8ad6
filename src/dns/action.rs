//! What does the cache wish, and for whom?

use super::LookupAnswer;
use super::flight::QueryId;
use crate::error::Error;

/// Names one caller that waits; chosen by the caller, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LookupId(pub u64);

/// Is a wish of the cache.
#[derive(Debug)]
pub enum CacheAction {
    /// Ask DNS for both record types of a name, at once.
    Query(String, QueryId),
    /// Ask the operating system for a name.
    QuerySystem(String, QueryId),
    /// Give these callers their answer.
    Answer(Vec<LookupId>, LookupAnswer),
    /// Tell these callers that there is none.
    Refuse(Vec<LookupId>, Error),
}
