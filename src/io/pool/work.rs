//! What is left to do when the pool's lock was released?
//!
//! Sockets are opened and closed, callers told, tasks started. What the rules wish for is decided in `pool`.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{CheckedOut, ServerPool, drain, open};
use crate::error::Error;
use crate::io::clock;
use crate::io::conn::{Conn, Interrupt};
use crate::observe::events::PendingWakeups;
use crate::pool::Lease;

/// What is left to do when no lock is held.
#[derive(Default)]
pub(super) struct PoolWork {
    /// Mostly there is one at the most, and no list is made.
    pub(super) first: Option<PoolEffect>,
    pub(super) more: Vec<PoolEffect>,
    pub(super) told: PendingWakeups,
    pub(super) wakes_timer: bool,
}

/// What an order of the topology leads to. It is done after the topology's lock was released.
#[must_use]
pub(crate) struct Pending {
    pub(super) pool: Arc<ServerPool>,
    pub(super) work: Option<PoolWork>,
}

impl Pending {
    /// Does it.
    pub(crate) fn run(self) {
        let Self { pool, work } = self;
        pool.finish(work);
    }
}

pub(super) enum PoolEffect {
    Open(Lease, Arc<Interrupt>),
    Close(Box<Conn>),
    Tell(Option<oneshot::Sender<Result<CheckedOut, Error>>>, Result<CheckedOut, Error>),
    Interrupt(Arc<Interrupt>, Error),
    Drain(Lease, Box<Conn>),
    TellUnanswered,
}

impl ServerPool {
    /// Does what was decided. No lock is held.
    #[inline]
    pub(super) fn finish(self: &Arc<Self>, work: Option<PoolWork>) {
        if let Some(work) = work {
            self.finish_some(work);
        }
    }

    fn finish_some(self: &Arc<Self>, work: PoolWork) {
        let undelivered = self.perform_all(work);
        if !undelivered.is_empty() {
            self.hand_on(undelivered);
        }
    }

    /// Returns connections to the pool whose waiters are gone, until all of them have found a waiter or rest: in a loop, because
    /// a drop that returns one within another's would need stack for each waiter that is gone.
    #[cold]
    fn hand_on(self: &Arc<Self>, mut undelivered: Vec<CheckedOut>) {
        while let Some(mut out) = undelivered.pop() {
            if let Some(conn) = out.conn.take() {
                let work = self.returned(out.lease, conn, clock::now());
                undelivered.extend(work.into_iter().flat_map(|work| self.perform_all(work)));
            }
        }
    }

    /// Does what was decided; returns the connections that could not be delivered.
    fn perform_all(self: &Arc<Self>, work: PoolWork) -> Vec<CheckedOut> {
        let PoolWork { first, more, told, wakes_timer } = work;
        if wakes_timer {
            self.timer.notify_one();
        }
        let mut undelivered = Vec::new();
        if let Some(first) = first {
            undelivered.extend(self.apply(first));
            undelivered.extend(more.into_iter().filter_map(|effect| self.apply(effect)));
        }
        self.events.finish(told);
        undelivered
    }

    /// Returns a connection that could not be delivered.
    fn apply(self: &Arc<Self>, effect: PoolEffect) -> Option<CheckedOut> {
        match effect {
            PoolEffect::Open(lease, interrupt) => self.spawn("open connection", open(Arc::clone(self), lease, interrupt)),
            PoolEffect::Close(conn) => drop(conn),
            PoolEffect::Tell(sender, outcome) => {
                let outcome = match sender {
                    Some(sender) => sender.send(outcome),
                    None => Err(outcome),
                };
                // The waiter may be gone.
                return outcome.err()?.ok();
            }
            PoolEffect::Interrupt(interrupt, error) => interrupt.fire(error.on(&self.host)),
            PoolEffect::TellUnanswered => {
                if let Some(driver) = self.driver.upgrade() {
                    driver.unanswered(&self.host);
                }
            }
            PoolEffect::Drain(lease, conn) => self.spawn("drain late reply", drain(Arc::clone(self), lease, conn)),
        }
        None
    }
}
