//! The errors of failed check-outs and of interrupted connections.

use std::time::{Duration, Instant};

use super::event::PoolStats;
use super::login::is_refused_login;
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind, LimitValue, RETRYABLE_ERROR, Span, Stage};

/// Returns the error of check-outs from a paused pool (CMAP, "PoolClearedError"): retryable, and not an error of the server.
///
/// A refused login is returned as it is: another attempt would have the same outcome.
pub(super) fn cleared(cause: Option<&Error>) -> Error {
    let error = match cause {
        Some(cause) if is_refused_login(cause) => return cause.clone(),
        Some(cause) => Error::new(ErrorKind::PoolCleared, format!("the pool was cleared because of: {cause}")).because(cause.clone()),
        None => Error::new(ErrorKind::PoolCleared, "the pool is paused: its server has not been checked yet"),
    };
    error.at(Stage::Checkout).with_label(RETRYABLE_ERROR)
}

/// Returns the error of check-outs from a closed pool.
pub fn closed() -> Error {
    Error::new(ErrorKind::PoolClosed, "attempted to check out a connection from closed connection pool").at(Stage::Checkout)
}

/// Returns the error of commands in flight on a server that stopped answering.
///
/// It has no label: only the connection knows whether anything was sent.
pub fn interrupted(cause: &Error) -> Error {
    Error::new(ErrorKind::Interrupted, format!("interrupted, because the server stopped answering: {cause}")).because(cause.clone())
}

/// Returns the error of openings and drains that were running when the machine was suspended.
pub(super) fn suspended() -> Error {
    Error::new(ErrorKind::Interrupted, "interrupted, because the machine was suspended")
}

/// Returns the error of a waiter that timed out, with the states of the connections (CMAP, "WaitQueueTimeoutError").
pub(super) fn waited_too_long(deadline: Deadline, stats: PoolStats, now: Instant) -> Error {
    let PoolStats { in_use, opening, draining, waiting, .. } = stats;
    let elapsed = now.saturating_duration_since(deadline.since);
    let text = format!(
        "timed out while checking out a connection from connection pool, after {}: of {} connections {in_use} are in use, \
         {opening} opening, {draining} waiting for late replies; {waiting} callers wait",
        Span(elapsed),
        stats.total(),
    );
    let limit = LimitValue::Time(deadline.limit);
    Error::new(ErrorKind::Timeout, text).at(Stage::Checkout).after(elapsed).against(deadline.name, limit)
}

/// Returns the same error behind a load balancer, in the specification's words (load-balancers, "Connection Tracking").
pub(super) fn waited_too_long_behind_load_balancer(deadline: Deadline, stats: PoolStats, max_size: Option<u32>, now: Instant) -> Error {
    let elapsed = now.saturating_duration_since(deadline.since);
    let text = format!(
        "Timeout waiting for connection from the connection pool. maxPoolSize: {}, connections in use by cursors: {}, connections in \
         use by transactions: 0, connections in use by other operations: {}",
        max_size.unwrap_or(0),
        stats.pinned,
        stats.in_use - stats.pinned,
    );
    let limit = LimitValue::Time(deadline.limit);
    Error::new(ErrorKind::Timeout, text).at(Stage::Checkout).after(elapsed).against(deadline.name, limit)
}

/// Returns the error of check-outs when there are too many waiters already.
pub(super) fn too_many(waiters_max: usize) -> Error {
    Error::new(ErrorKind::TooManyWaiters, "too many callers wait for a connection")
        .at(Stage::Checkout)
        .against("WAITERS_MAX", LimitValue::Count(waiters_max as u64))
}

/// Returns the error of a connection whose opening took longer than the sum of its limits.
pub(super) fn opened_too_late(limit: Duration) -> Error {
    Error::timeout(Stage::Hello, "dnsTimeoutMS + 2 * connectTimeoutMS", limit, limit)
}

/// Returns the error of a connection whose late reply did not arrive within the drain limit.
pub(super) fn drained_too_late(limit: Duration) -> Error {
    Error::timeout(Stage::Read, "drain_limit", limit, limit)
}

/// Returns the error of a connection that is closed because a caller waits for its place in a full pool.
pub(super) fn room_needed(drained: Duration) -> Error {
    let text = "the late reply did not arrive, and a caller waits for a connection of the full pool";
    Error::new(ErrorKind::Interrupted, text).at(Stage::Read).after(drained)
}

/// Returns the error of a connection that failed its liveness check.
pub(super) fn found_dead() -> Error {
    Error::new(ErrorKind::Closed, "closed by the server while it was idle, or sent data that was not requested").at(Stage::Checkout)
}
