//! Deadlines: an instant with the name and length of its limit, for error messages.

use std::time::{Duration, Instant};

use crate::error::{Error, Stage};

/// The instant at which a time limit expires, and the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The instant.
    pub at: Instant,
    /// When the limit began to run.
    pub since: Instant,
    /// Its length.
    pub limit: Duration,
    /// Its name, such as `waitQueueTimeoutMS`.
    pub name: &'static str,
}

impl Deadline {
    /// Returns the deadline of a limit that starts now.
    pub fn new(name: &'static str, limit: Duration, now: Instant) -> Self {
        Self { at: now + limit.min(FAR), since: now, limit, name }
    }

    /// Returns the deadline of an optional limit.
    pub fn maybe(name: &'static str, limit: Option<Duration>, now: Instant) -> Option<Self> {
        limit.map(|limit| Self::new(name, limit, now))
    }

    /// Returns the earlier of two deadlines.
    pub fn earliest(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) => Some(if other.at < one.at { other } else { one }),
            (one, other) => one.or(other),
        }
    }

    /// Returns the error of the expired limit.
    pub fn error(&self, stage: Stage, now: Instant) -> Error {
        Error::timeout(stage, self.name, self.limit, now.saturating_duration_since(self.since))
    }
}

/// Longer limits are cut to this, so that no sum of times overflows: ten years.
const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
