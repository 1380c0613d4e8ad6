//! What are those told who get no connection?

use std::time::{Duration, Instant};

use super::event::PoolStats;
use super::login::is_refused_login;
use crate::error::{Error, ErrorKind, LimitValue, RETRYABLE_ERROR, Span, Stage};
use crate::operation::deadline::Deadline;

/// The error of those who asked a pool that is paused (CMAP, "PoolClearedError"): retryable, and no fault of the server's.
///
/// A refused login is told as it is: another attempt would have the same outcome.
pub(super) fn cleared(cause: Option<&Error>) -> Error {
    let error = match cause {
        Some(cause) if is_refused_login(cause) => return cause.clone(),
        Some(cause) => Error::new(ErrorKind::PoolCleared, format!("the pool was cleared because of: {cause}")).because(cause.clone()),
        None => Error::new(ErrorKind::PoolCleared, "the pool is paused: its server has not been checked yet"),
    };
    error.at(Stage::Checkout).with_label(RETRYABLE_ERROR)
}

/// The error of those who asked a pool that is closed.
pub fn closed() -> Error {
    Error::new(ErrorKind::PoolClosed, "attempted to check out a connection from closed connection pool").at(Stage::Checkout)
}

/// The error of what was in flight on a server that stopped answering.
///
/// Without a label: whether anything was sent is known to the connection only.
pub fn interrupted(cause: &Error) -> Error {
    Error::new(ErrorKind::Interrupted, format!("interrupted, because the server stopped answering: {cause}")).because(cause.clone())
}

/// The error of what was under way when the machine was suspended, and that nobody uses.
pub(super) fn suspended() -> Error {
    Error::new(ErrorKind::Interrupted, "interrupted, because the machine was suspended")
}

/// The error of those whose time is up: says what the connections were doing meanwhile (CMAP, "WaitQueueTimeoutError").
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

/// The same behind a load balancer, in the specification's words (load-balancers, "Connection Tracking").
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

/// The error of those who come when too many wait already.
pub(super) fn too_many(waiters_max: usize) -> Error {
    Error::new(ErrorKind::TooManyWaiters, "too many callers wait for a connection")
        .at(Stage::Checkout)
        .against("WAITERS_MAX", LimitValue::Count(waiters_max as u64))
}

/// The error of a connection whose opening took longer than all its own limits together.
pub(super) fn opened_too_late(limit: Duration) -> Error {
    Error::timeout(Stage::Hello, "dnsTimeoutMS + 2 * connectTimeoutMS", limit, limit)
}

/// Makes the error of a connection whose late reply did not arrive within the drain limit.
pub(super) fn drained_too_late(limit: Duration) -> Error {
    Error::timeout(Stage::Read, "drain_limit", limit, limit)
}

/// Makes the error of a connection that is closed because a caller waits for its place in a full pool.
pub(super) fn room_needed(drained: Duration) -> Error {
    let text = "the late reply did not arrive, and a caller waits for a connection of the full pool";
    Error::new(ErrorKind::Interrupted, text).at(Stage::Read).after(drained)
}

/// The error of a connection that was found dead before it was lent.
pub(super) fn found_dead() -> Error {
    Error::new(ErrorKind::Closed, "closed by the server while it was idle, or sent what nobody asked for").at(Stage::Checkout)
}
