//! The pool's events and counters.
//!
//! connection-monitoring-and-pooling, "Connection Pool Monitoring".

use std::time::Duration;

use super::action::PoolConfig;
use bson::oid::ObjectId;

use crate::error::Error;

/// An event of one server's pool.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PoolEvent {
    /// The pool was created, and is paused.
    #[cfg_attr(not(feature = "internals"), non_exhaustive)]
    PoolCreated {
        /// Its limits.
        options: PoolConfig,
    },
    /// The pool is ready: connections can be checked out.
    PoolReady,
    /// The pool was cleared: its connections are stale, and it is paused. With a service, only the connections of that service are
    /// stale, and the pool stays ready.
    #[non_exhaustive]
    PoolCleared {
        /// Whether connections in use are interrupted.
        interrupt_in_use: bool,
        /// Why.
        cause: Error,
        /// The service behind a load balancer to which the clearing is limited.
        service_id: Option<ObjectId>,
    },
    /// The pool was closed.
    PoolClosed,
    /// A connection was created, and is about to be opened.
    #[non_exhaustive]
    ConnectionCreated {
        /// Its number in the pool, from 1.
        connection_id: u64,
    },
    /// A connection is open, greeted and authenticated.
    #[non_exhaustive]
    ConnectionReady {
        /// Its number in the pool.
        connection_id: u64,
        /// How long opening took.
        duration: Duration,
    },
    /// A connection was closed, or failed to open.
    #[non_exhaustive]
    ConnectionClosed {
        /// Its number in the pool.
        connection_id: u64,
        /// Why.
        reason: CloseReason,
        /// The error, if the connection failed and the error is known.
        error: Option<Error>,
    },
    /// A check-out has started.
    CheckOutStarted,
    /// A check-out has failed.
    #[non_exhaustive]
    CheckOutFailed {
        /// The reason, in the specification's words.
        reason: CheckOutFailure,
        /// How long it took.
        duration: Duration,
        /// The error.
        error: Error,
    },
    /// A connection was checked out.
    #[non_exhaustive]
    CheckedOut {
        /// Its number in the pool.
        connection_id: u64,
        /// How long it took.
        duration: Duration,
    },
    /// A connection was checked in.
    #[non_exhaustive]
    CheckedIn {
        /// Its number in the pool.
        connection_id: u64,
    },
}

/// The reason for closing a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The pool was cleared after the connection was created.
    Stale,
    /// The connection was idle for longer than `maxIdleTimeMS`, or was opened before a suspension of the machine.
    Idle,
    /// The connection failed.
    Error,
    /// The pool was closed.
    PoolClosed,
}

/// The reason for the failure of a check-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckOutFailure {
    /// The pool is closed.
    PoolClosed,
    /// The check-out timed out, or its caller dropped it.
    Timeout,
    /// No connection could be opened, or the pool was cleared.
    ConnectionError,
}

/// The counters of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Connections being opened.
    pub opening: usize,
    /// Connections that are idle.
    pub idle: usize,
    /// Connections that are checked out.
    pub in_use: usize,
    /// Connections in use that are pinned by cursors, behind a load balancer.
    pub pinned: usize,
    /// Connections whose late reply is being read and dropped.
    pub draining: usize,
    /// Waiters.
    pub waiting: usize,
    /// The number of times that the pool was cleared.
    pub generation: u64,
    /// Connections opened so far, the failed ones included.
    pub created: u64,
    /// Connections closed so far.
    pub closed: u64,
    /// Whether connections can be checked out.
    pub ready: bool,
}

impl PoolStats {
    /// Returns the number of connections that count against `maxPoolSize`.
    pub fn total(&self) -> usize {
        self.opening + self.idle + self.in_use + self.draining
    }
}
