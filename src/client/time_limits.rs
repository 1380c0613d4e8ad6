//! The time limits of a client's operations, and the deadlines that follow from them.
//!
//! client-side-operations-timeout: a limit for the whole operation replaces `waitQueueTimeoutMS` and `socketTimeoutMS`.
//! Does not decide what happens at a deadline.

use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::error::{Result, SOCKET_TIMEOUT, Stage};
use crate::io::clock;
use crate::options::ClientOptions;

/// The limits that the options set.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeLimits {
    /// `timeoutMS`.
    timeout: Option<Duration>,
    /// `serverSelectionTimeoutMS`.
    server_selection: Duration,
    /// `waitQueueTimeoutMS`.
    wait_queue: Option<Duration>,
    /// `socketTimeoutMS`.
    socket: Option<Duration>,
}

/// How long one operation may take.
pub(super) enum Time {
    /// As long as the client's `timeoutMS`, from the first poll on.
    Default,
    /// This long, from the first poll on.
    Limit(Duration),
    /// Until a moment.
    Until(Box<Deadline>),
}

impl From<Option<Duration>> for Time {
    fn from(limit: Option<Duration>) -> Self {
        limit.map_or(Self::Default, Self::Limit)
    }
}

impl TimeLimits {
    pub(super) fn new(options: &ClientOptions) -> Self {
        Self {
            timeout: options.timeout_or_default(),
            server_selection: options.server_selection_timeout_or_default(),
            wait_queue: options.wait_queue_timeout_or_default(),
            socket: options.socket_timeout_or_default(),
        }
    }

    /// Returns the deadline of an operation: its own limit, or the client's.
    #[inline]
    pub(super) fn operation(&self, time: &Time, now: Instant) -> Option<Deadline> {
        let (name, limit) = match time {
            Time::Limit(limit) => ("timeout", *limit),
            Time::Default => ("timeoutMS", self.timeout?),
            Time::Until(deadline) => return Some(**deadline),
        };
        Some(Deadline::new(name, limit, now))
    }

    /// Returns the deadline of a selection: the earlier of its own and the operation's.
    pub(super) fn selection(&self, operation: Option<Deadline>, now: Instant) -> Deadline {
        let own = Deadline::new("serverSelectionTimeoutMS", self.server_selection, now);
        Deadline::earliest(Some(own), operation).unwrap_or(own)
    }

    /// Returns the deadline of a check-out: `waitQueueTimeoutMS` applies only where no limit is set for the operation.
    #[inline]
    pub(super) fn checkout(&self, operation: Option<Deadline>, now: Instant) -> Option<Deadline> {
        operation.or_else(|| Some(Deadline::new("waitQueueTimeoutMS", self.wait_queue?, now)))
    }

    /// Returns the deadline of one exchange: `socketTimeoutMS` applies only where no limit is set for the operation.
    #[inline]
    pub(super) fn exchange(&self, operation: Option<Deadline>, now: Instant) -> Option<Deadline> {
        operation.or_else(|| Some(Deadline::new(SOCKET_TIMEOUT, self.socket?, now)))
    }
}

/// Waits for a future until a deadline.
pub(super) async fn within<T>(deadline: Option<Deadline>, stage: Stage, future: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(deadline) = deadline else { return future.await };
    match clock::until(deadline.at, future).await {
        Some(outcome) => outcome,
        None => Err(deadline.error(stage, clock::now())),
    }
}
