//! What is a pool told, and what does it wish?

use std::time::Duration;

use super::slots::Lease;
use super::waiters::WaiterId;
use crate::error::Error;
use crate::options::ClientOptions;

/// Sets the limits of a pool.
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
    /// By when an opening connection is given up at the latest, should its own timers fail; `None` for never.
    pub open_timeout: Option<Duration>,
    /// How long a late reply is awaited before its connection is closed.
    pub drain_limit: Duration,
}

impl PoolConfig {
    /// Makes the limits that a client's options ask for, the same for each of its pools.
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

/// Is the answer to somebody who asks for a connection.
#[derive(Debug)]
pub enum Checkout<C> {
    /// Here it is.
    CheckedOut {
        /// Its name in the pool.
        lease: Lease,
        /// The connection.
        connection: C,
        /// It has been idle so long that it should be looked at first; if it is dead, `handle_liveness_check_failed` takes this
        /// place in the queue.
        liveness_check: Option<WaiterId>,
    },
    /// None is free; an action will tell this waiter.
    Waiting(WaiterId),
    /// None will be.
    Refused(Error),
}

/// Is a wish of the pool.
#[derive(Debug)]
pub enum PoolAction<C> {
    /// Open a connection, and say how it went with `handle_opened` or `handle_open_failed`.
    Open(Lease),
    /// Close a connection.
    #[cfg_attr(not(feature = "internals"), allow(dead_code, reason = "models and the simulation read the lease"))]
    Close(Lease, C),
    /// Give a connection to a waiter.
    Deliver {
        /// Who gets it.
        waiter: WaiterId,
        /// Its name in the pool.
        lease: Lease,
        /// The connection.
        connection: C,
    },
    /// Tell a waiter that there will be none.
    Refuse(WaiterId, Error),
    /// Make whoever opens, uses or drains this connection stop, with this error.
    Interrupt(Lease, Error),
    /// Tell that a connection has been lent for [`UNANSWERED_AFTER`](super::UNANSWERED_AFTER): its command is unanswered.
    Unanswered,
    /// Read and drop the reply that is outstanding; then `handle_checkin`.
    Drain(Lease, C),
}

/// Says in which state a connection comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing is outstanding.
    Good,
    /// A command was abandoned: its reply is still to come.
    ReplyOutstanding,
    /// It can't be used any more.
    Broken,
}
