//! The pool's inputs and outputs: limits, answers to check-outs, actions.

use std::time::Duration;

use super::slots::Lease;
use super::waiters::WaiterId;
use crate::error::Error;
use crate::options::ClientOptions;

/// The limits of a pool.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct PoolConfig {
    /// `maxPoolSize`; `None` for no limit.
    pub max_size: Option<u32>,
    /// `minPoolSize`.
    pub min_size: u32,
    /// `maxConnecting`.
    pub max_connecting: u32,
    /// `maxIdleTimeMS`; `None` for no limit.
    pub max_idle_time: Option<Duration>,
    /// How long opening a connection may take if its own timers fail; `None` for no limit.
    pub open_timeout: Option<Duration>,
    /// How long a late reply is awaited before its connection is closed.
    pub drain_limit: Duration,
}

impl PoolConfig {
    /// Returns the limits that a client's options set, the same for each of its pools.
    pub fn from_options(options: &ClientOptions) -> Self {
        Self {
            max_size: options.max_pool_size_or_default(),
            min_size: options.min_pool_size_or_default(),
            max_connecting: options.max_connecting_or_default(),
            max_idle_time: options.max_idle_time_or_default(),
            open_timeout: options.open_timeout(),
            drain_limit: options.drain_limit_or_default(),
        }
    }
}

/// The answer to a check-out.
#[derive(Debug)]
pub enum Checkout<C> {
    /// A connection was idle, and is checked out.
    CheckedOut {
        /// Its name in the pool.
        lease: Lease,
        /// The connection.
        connection: C,
        /// Set if the connection was idle for so long that it has to pass a liveness check. If it is dead,
        /// `handle_liveness_check_failed` takes this place in the queue.
        liveness_check: Option<WaiterId>,
    },
    /// No connection is idle. An action answers this waiter later.
    Waiting(WaiterId),
    /// The check-out has failed.
    Refused(Error),
}

/// An action of the pool.
#[derive(Debug)]
pub enum PoolAction<C> {
    /// Open a connection, then call `handle_opened` or `handle_open_failed`.
    Open(Lease),
    /// Close a connection.
    #[cfg_attr(not(feature = "internals"), allow(dead_code, reason = "models and the simulation read the lease"))]
    Close(Lease, C),
    /// Deliver a connection to a waiter.
    Deliver {
        /// The waiter.
        waiter: WaiterId,
        /// Its name in the pool.
        lease: Lease,
        /// The connection.
        connection: C,
    },
    /// Fail the check-out of a waiter.
    Refuse(WaiterId, Error),
    /// Stop the opening, the use or the draining of this connection with this error.
    Interrupt(Lease, Error),
    /// Report that a connection has been checked out for [`UNANSWERED_AFTER`](super::UNANSWERED_AFTER): its command is unanswered.
    Unanswered,
    /// Read and drop the outstanding reply, then call `handle_checkin`.
    Drain(Lease, C),
}

/// The state of a connection at check-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing is outstanding.
    Good,
    /// A command was abandoned, and its reply has not arrived yet.
    ReplyOutstanding,
    /// The connection is unusable.
    Broken,
}
