//! By when must it be done, and who said so?
//!
//! A moment with the name and length of the limit it comes from, so that whoever runs into it can say so.

use std::time::{Duration, Instant};

use crate::error::{Error, Stage};

/// Is a moment by which something must be done, and the limit that set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The moment.
    pub at: Instant,
    /// When the limit began to run.
    pub since: Instant,
    /// Its length.
    pub limit: Duration,
    /// Its name, such as `waitQueueTimeoutMS`.
    pub name: &'static str,
}

impl Deadline {
    /// Makes the deadline of a limit that begins to run now.
    pub fn new(name: &'static str, limit: Duration, now: Instant) -> Self {
        Self { at: now + limit.min(FAR), since: now, limit, name }
    }

    /// Makes a deadline of a limit that may be absent.
    pub fn maybe(name: &'static str, limit: Option<Duration>, now: Instant) -> Option<Self> {
        limit.map(|limit| Self::new(name, limit, now))
    }

    /// Returns the earlier of two.
    pub fn earliest(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) => Some(if other.at < one.at { other } else { one }),
            (one, other) => one.or(other),
        }
    }

    /// Makes the error of having run into it.
    pub fn error(&self, stage: Stage, now: Instant) -> Error {
        Error::timeout(stage, self.name, self.limit, now.saturating_duration_since(self.since))
    }
}

/// Longer limits are cut to this, so that no sum of times overflows: ten years.
const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
