//! The wait for late replies.
//!
//! A late reply is awaited for the drain limit at most. A draining connection counts against `maxPoolSize`: while a caller waits and the
//! pool is full, the connection that has drained longest is closed, but not before a late reply had time to arrive.
//! Otherwise a server that is merely slow would lose a connection with every time-out.

use std::time::{Duration, Instant};

use super::{Pool, PoolAction};
use crate::pool::refusal::{drained_too_late, room_needed};
use crate::pool::slots::{Lease, Slot};

/// How many average round trips a late reply may take while callers wait: a slow reply arrives within a few.
const LATE_ROUND_TRIPS: u32 = 4;

/// The shortest wait for a late reply while callers wait: shorter round trips say nothing about slow replies.
const LATE_FLOOR: Duration = Duration::from_millis(50);

impl<C> Pool<C> {
    /// Takes the server's average round-trip time; `None` if it is not known.
    pub fn handle_round_trip(&mut self, average: Option<Duration>, now: Instant) {
        self.round_trip = average;
        if self.slots.draining > 0 {
            self.fill(now);
        }
    }

    /// Interrupts the drains that have reached the drain limit.
    pub(super) fn end_late_drains(&mut self, now: Instant) {
        let drains = self.slots.interrupt(|slot| matches!(slot, Slot::Draining { deadline, .. } if *deadline <= now));
        let limit = self.config.drain_limit;
        self.actions.extend(drains.into_iter().map(|lease| PoolAction::Interrupt(lease, drained_too_late(limit))));
    }

    /// Interrupts the oldest drains while callers wait for their places.
    pub(super) fn make_room(&mut self, now: Instant) {
        while let Some((lease, began, at)) = self.next_to_make_room()
            && at <= now
        {
            self.slots.interrupt(|slot| matches!(slot, Slot::Draining { lease: own, .. } if *own == lease));
            self.actions.push_back(PoolAction::Interrupt(lease, room_needed(now.saturating_duration_since(began))));
        }
    }

    /// Returns when the oldest drain has to make room for a waiting caller, if it has to.
    pub(in crate::pool) fn room_due(&self) -> Option<Instant> {
        self.next_to_make_room().map(|(.., at)| at)
    }

    /// Returns the connection that has to make room, since when it drains, and when it has to.
    fn next_to_make_room(&self) -> Option<(Lease, Instant, Instant)> {
        let max = self.config.max_size? as usize;
        if self.slots.draining == 0 || self.waiters.is_empty() || self.slots.total() < max {
            return None;
        }
        // No more places than connections that can be opened in them, and that callers wait for.
        let leaving = self.slots.interrupted_drains();
        if self.opening() + leaving >= self.waiters.len() || self.slots.opening + leaving >= self.config.max_connecting as usize {
            return None;
        }
        let (lease, began) = self.slots.oldest_drain()?;
        let patience = self.round_trip.map_or(LATE_FLOOR, |average| average.saturating_mul(LATE_ROUND_TRIPS).max(LATE_FLOOR));
        // The drain limit ends it before that.
        Some((lease, began, began + patience.min(self.config.drain_limit)))
    }
}
