//! What can be seen of a pool from outside?
//!
//! The events of connection-monitoring-and-pooling ("Connection Pool Monitoring"), and counters.

use std::time::Duration;

use super::action::PoolConfig;
use bson::oid::ObjectId;

use crate::error::Error;

/// Is something that happened in one server's pool.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PoolEvent {
    /// The pool exists, and is paused.
    #[cfg_attr(not(feature = "internals"), non_exhaustive)]
    PoolCreated {
        /// Its limits.
        options: PoolConfig,
    },
    /// The pool lends connections from now on.
    PoolReady,
    /// All connections up to now are obsolete, and the pool is paused; with a service, only its connections, and it isn't.
    #[non_exhaustive]
    PoolCleared {
        /// Whether connections in use are interrupted too.
        interrupt_in_use: bool,
        /// Why.
        cause: Error,
        /// The service behind a load balancer to which the clearing is limited.
        service_id: Option<ObjectId>,
    },
    /// The pool is closed for good.
    PoolClosed,
    /// A connection is about to be opened.
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
    /// A connection is closed, or never opened.
    #[non_exhaustive]
    ConnectionClosed {
        /// Its number in the pool.
        connection_id: u64,
        /// Why.
        reason: CloseReason,
        /// Why, in full, if it failed and what failed is known.
        error: Option<Error>,
    },
    /// Somebody asks for a connection.
    CheckOutStarted,
    /// Somebody got none.
    #[non_exhaustive]
    CheckOutFailed {
        /// Why, in the specification's words.
        reason: CheckOutFailure,
        /// How long it took.
        duration: Duration,
        /// Why, in full.
        error: Error,
    },
    /// Somebody got a connection.
    #[non_exhaustive]
    CheckedOut {
        /// Its number in the pool.
        connection_id: u64,
        /// How long it took.
        duration: Duration,
    },
    /// A connection came back.
    #[non_exhaustive]
    CheckedIn {
        /// Its number in the pool.
        connection_id: u64,
    },
}

/// Says why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The pool was cleared after it was made.
    Stale,
    /// It was idle for longer than `maxIdleTimeMS`, or is from before a suspension of the machine.
    Idle,
    /// It failed.
    Error,
    /// The pool was closed.
    PoolClosed,
}

/// Says why a check-out failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckOutFailure {
    /// The pool is closed.
    PoolClosed,
    /// The caller's time was up, or the caller went away.
    Timeout,
    /// No connection could be opened, or the pool was cleared.
    ConnectionError,
}

/// Counts what a pool holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Connections being opened.
    pub opening: usize,
    /// Connections that are idle.
    pub idle: usize,
    /// Connections lent out.
    pub in_use: usize,
    /// Of those lent out, the ones that cursors hold, behind a load balancer.
    pub pinned: usize,
    /// Connections whose late reply is being read and dropped.
    pub draining: usize,
    /// Callers that wait.
    pub waiting: usize,
    /// How often the pool was cleared.
    pub generation: u64,
    /// Connections opened so far, the failed ones included.
    pub created: u64,
    /// Connections closed so far.
    pub closed: u64,
    /// Whether it lends connections.
    pub ready: bool,
}

impl PoolStats {
    /// Returns how many connections count against `maxPoolSize`.
    pub fn total(&self) -> usize {
        self.opening + self.idle + self.in_use + self.draining
    }
}
