//! Who waits for a connection, and until when?
//!
//! First come, first served: a caller's ticket is its place in the queue.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::op::deadline::Deadline;

/// Names one waiting caller; grows with the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WaiterId(pub u64);

/// Is the place in the queue of a caller whose connection is being looked at.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its ticket.
    pub ticket: WaiterId,
    /// When it came.
    pub asked_at: Instant,
    /// Until when it waits.
    pub deadline: Option<Deadline>,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) since: Instant,
    pub(super) deadline: Option<Deadline>,
}

#[derive(Debug, Default)]
pub(super) struct Waiters {
    queue: BTreeMap<WaiterId, Waiter>,
    deadlines: BTreeSet<(Instant, WaiterId)>,
    next: u64,
}

impl Waiters {
    /// Gives out the next place in the queue.
    pub(super) fn ticket(&mut self) -> WaiterId {
        self.next += 1;
        WaiterId(self.next - 1)
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn first(&self) -> Option<WaiterId> {
        self.queue.keys().next().copied()
    }

    pub(super) fn all(&self) -> Vec<WaiterId> {
        self.queue.keys().copied().collect()
    }

    pub(super) fn insert(&mut self, id: WaiterId, waiter: Waiter) {
        if let Some(deadline) = waiter.deadline {
            self.deadlines.insert((deadline.at, id));
        }
        self.queue.insert(id, waiter);
    }

    pub(super) fn remove(&mut self, id: WaiterId) -> Option<Waiter> {
        let waiter = self.queue.remove(&id)?;
        if let Some(deadline) = waiter.deadline {
            self.deadlines.remove(&(deadline.at, id));
        }
        Some(waiter)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Tells whether a waiter is one of the first so many.
    pub(super) fn is_among_first(&self, id: WaiterId, count: usize) -> bool {
        self.queue.keys().take(count).any(|first| *first == id)
    }

    /// Lets a waiter wait without a deadline.
    pub(super) fn wait_on(&mut self, id: WaiterId) {
        if let Some(deadline) = self.queue.get_mut(&id).and_then(|waiter| waiter.deadline.take()) {
            self.deadlines.remove(&(deadline.at, id));
        }
    }

    /// Returns a waiter whose time is up, and its deadline.
    pub(super) fn late(&self, now: Instant) -> Option<(WaiterId, Deadline)> {
        let (at, id) = self.deadlines.first()?;
        let deadline = self.queue.get(id)?.deadline?;
        (*at <= now).then_some((*id, deadline))
    }
}
