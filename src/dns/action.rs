//! What does the cache wish, and for whom?

use super::Answer;
use super::flight::FlightId;
use crate::error::Error;

/// Names one caller that waits; chosen by the caller, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WaiterId(pub u64);

/// Is a wish of the cache.
#[derive(Debug)]
pub enum Action {
    /// Ask DNS for both record types of a name, at once.
    Query(String, FlightId),
    /// Ask the operating system for a name.
    QuerySystem(String, FlightId),
    /// Give these callers their answer.
    Answer(Vec<WaiterId>, Answer),
    /// Tell these callers that there is none.
    Refuse(Vec<WaiterId>, Error),
}
