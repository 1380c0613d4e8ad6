//! The states of a pool's connections.
//!
//! A table of slots, one for each connection, indexed by the [`Lease`] that goes with it: no search on the hot path.

use std::collections::VecDeque;
use std::time::Instant;

use super::unanswered::Unanswered;

/// The identity of a connection in its pool: slot, number, generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The place in the pool's table.
    pub slot: usize,
    /// The connection's number, from 1.
    pub id: u64,
    /// The pool's generation when it was made.
    pub generation: u64,
}

/// ```text
///          opened                 delivered
/// Opening --------> Idle  <-------------------> InUse
///    |      \         |         checked in        |  \ reply outstanding
///    |       \        |                           |   v
///    |        \       |                           |  Draining --> Idle / InUse
///    +---------+------+---------- closed ---------+-----+
/// ```
#[derive(Debug)]
pub(super) enum Slot<C> {
    Free,
    Opening { id: u64, generation: u64, since: Instant, deadline: Option<Instant>, aborted: bool },
    Idle { lease: Lease, connection: C, since: Instant },
    InUse { lease: Lease, since: Instant, interrupted: bool },
    Draining { lease: Lease, since: Instant, began: Instant, deadline: Instant, interrupted: bool },
}

/// A connection that was being opened.
pub(super) struct Opening {
    pub(super) since: Instant,
    pub(super) aborted: bool,
}

/// A connection that was in use or draining.
pub(super) struct InUseConnection {
    pub(super) since: Instant,
    pub(super) interrupted: bool,
    pub(super) in_use: bool,
}

/// The slots, the order of the idle ones, and counters. A connection that is taken out keeps its slot: it has to be put back, or its
/// slot has to be [vacated](Slots::vacate).
#[derive(Debug)]
pub(super) struct Slots<C> {
    table: Vec<Slot<C>>,
    free: Vec<usize>,
    /// Oldest first; the newest is checked out first.
    idle: VecDeque<usize>,
    /// Connections with lower numbers were open, or being opened, while the machine was suspended.
    trusted_from: u64,
    pub(super) opening: usize,
    pub(super) in_use: usize,
    pub(super) draining: usize,
    pub(super) unanswered: Unanswered,
}

impl<C> Slots<C> {
    pub(super) fn new() -> Self {
        let unanswered = Unanswered::default();
        Self { table: Vec::new(), free: Vec::new(), idle: VecDeque::new(), trusted_from: 0, opening: 0, in_use: 0, draining: 0, unanswered }
    }

    pub(super) fn total(&self) -> usize {
        self.opening + self.idle.len() + self.in_use + self.draining
    }

    pub(super) fn idle_count(&self) -> usize {
        self.idle.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Slot<C>)> {
        self.table.iter().enumerate()
    }

    pub(super) fn open(&mut self, id: u64, generation: u64, since: Instant, deadline: Option<Instant>) -> Lease {
        let slot = self.free.pop().unwrap_or_else(|| {
            debug_assert_eq!(self.total(), self.table.len(), "a slot was not vacated");
            self.table.push(Slot::Free);
            self.table.len() - 1
        });
        self.opening += 1;
        self.put(slot, Slot::Opening { id, generation, since, deadline, aborted: false });
        Lease { slot, id, generation }
    }

    /// Returns the number of connections of a generation that are being opened; without a generation, of all that were not aborted.
    pub(super) fn opening_of(&self, current: Option<u64>) -> usize {
        if self.opening == 0 {
            return 0;
        }
        let wanted = |slot: &&Slot<C>| match slot {
            Slot::Opening { generation, aborted, .. } => current.map_or(!aborted, |current| *generation == current),
            Slot::Free | Slot::Idle { .. } | Slot::InUse { .. } | Slot::Draining { .. } => false,
        };
        self.table.iter().filter(wanted).count()
    }

    pub(super) fn is_opening(&self, lease: Lease) -> bool {
        matches!(self.table.get(lease.slot), Some(Slot::Opening { id, .. }) if *id == lease.id)
    }

    pub(super) fn is_in_use(&self, lease: Lease) -> bool {
        matches!(self.table.get(lease.slot), Some(Slot::InUse { lease: own, .. }) if *own == lease)
    }

    /// Frees the slot of a connection that was taken out for good.
    pub(super) fn vacate(&mut self, lease: Lease) {
        debug_assert!(matches!(self.table.get(lease.slot), Some(Slot::Free)), "slot {} is occupied", lease.slot);
        debug_assert!(!self.free.contains(&lease.slot), "slot {} is vacated twice", lease.slot);
        self.free.push(lease.slot);
    }

    /// Changes the generation of a connection that is being opened, and returns its new lease.
    pub(super) fn renew(&mut self, lease: Lease, renewed: u64) -> Lease {
        if let Some(Slot::Opening { id, generation, .. }) = self.table.get_mut(lease.slot)
            && *id == lease.id
        {
            *generation = renewed;
        }
        Lease { generation: renewed, ..lease }
    }

    /// Takes out a connection that is being opened. Ignores any other.
    pub(super) fn take_opening(&mut self, lease: Lease) -> Option<Opening> {
        match self.table.get(lease.slot)? {
            Slot::Opening { id, since, aborted, .. } if *id == lease.id => {
                let opening = Opening { since: *since, aborted: *aborted };
                self.opening -= 1;
                self.put(lease.slot, Slot::Free);
                Some(opening)
            }
            Slot::Free | Slot::Opening { .. } | Slot::Idle { .. } | Slot::InUse { .. } | Slot::Draining { .. } => None,
        }
    }

    /// Takes out a connection that is in use or draining. Ignores any other.
    #[inline]
    pub(super) fn take_in_use(&mut self, lease: Lease) -> Option<InUseConnection> {
        let taken = match self.table.get(lease.slot)? {
            Slot::InUse { lease: own, since, interrupted } if *own == lease => {
                InUseConnection { since: *since, interrupted: *interrupted, in_use: true }
            }
            Slot::Draining { lease: own, since, interrupted, .. } if *own == lease => {
                InUseConnection { since: *since, interrupted: *interrupted, in_use: false }
            }
            Slot::Free | Slot::Opening { .. } | Slot::Idle { .. } | Slot::InUse { .. } | Slot::Draining { .. } => return None,
        };
        match taken.in_use {
            true => self.in_use -= 1,
            false => self.draining -= 1,
        }
        self.put(lease.slot, Slot::Free);
        Some(taken)
    }

    /// Puts a connection that was taken out back as idle.
    #[inline]
    pub(super) fn put_idle(&mut self, lease: Lease, connection: C, since: Instant) {
        self.idle.push_back(lease.slot);
        self.put(lease.slot, Slot::Idle { lease, connection, since });
    }

    #[inline]
    pub(super) fn check_out(&mut self, lease: Lease, since: Instant) {
        self.unanswered.checked_out(self.in_use + self.draining, since);
        self.in_use += 1;
        self.put(lease.slot, Slot::InUse { lease, since, interrupted: false });
    }

    /// Puts a connection back whose late reply is awaited from `began` to `deadline`. It was checked out at `since`.
    pub(super) fn drain(&mut self, lease: Lease, since: Instant, began: Instant, deadline: Instant) {
        self.draining += 1;
        self.put(lease.slot, Slot::Draining { lease, since, began, deadline, interrupted: false });
    }

    /// Returns the connection whose late reply has been awaited longest, and since when. Interrupted ones do not count.
    pub(super) fn oldest_drain(&self) -> Option<(Lease, Instant)> {
        let drains = self.table.iter().filter_map(|slot| match slot {
            Slot::Draining { lease, began, interrupted: false, .. } => Some((*lease, *began)),
            Slot::Free | Slot::Opening { .. } | Slot::Idle { .. } | Slot::InUse { .. } | Slot::Draining { .. } => None,
        });
        drains.min_by_key(|(lease, began)| (*began, lease.id))
    }

    /// Returns the number of connections whose drain was interrupted: their slots are about to become free.
    pub(super) fn interrupted_drains(&self) -> usize {
        let is_interrupted = |slot: &&Slot<C>| matches!(slot, Slot::Draining { interrupted: true, .. });
        self.table.iter().filter(is_interrupted).count()
    }

    /// Takes out the idle connection that was checked in last.
    #[inline]
    pub(super) fn newest(&mut self) -> Option<(Lease, C, Instant)> {
        let slot = self.idle.pop_back()?;
        self.take_idle(slot)
    }

    /// Takes out the connection that has been idle longest.
    pub(super) fn oldest(&mut self) -> Option<(Lease, C, Instant)> {
        let slot = self.idle.pop_front()?;
        self.take_idle(slot)
    }

    /// Takes out the idle connections that `wanted` picks.
    pub(super) fn take_idle_of(&mut self, wanted: impl Fn(Lease) -> bool) -> Vec<(Lease, C)> {
        let picked = |slot: &usize| matches!(self.table.get(*slot), Some(Slot::Idle { lease, .. }) if wanted(*lease));
        let taken: Vec<usize> = self.idle.iter().copied().filter(picked).collect();
        self.idle.retain(|slot| !taken.contains(slot));
        taken.into_iter().filter_map(|slot| self.take_idle(slot)).map(|(lease, connection, _)| (lease, connection)).collect()
    }

    pub(super) fn oldest_since(&self) -> Option<Instant> {
        match self.table.get(*self.idle.front()?)? {
            Slot::Idle { since, .. } => Some(*since),
            Slot::Free | Slot::Opening { .. } | Slot::InUse { .. } | Slot::Draining { .. } => None,
        }
    }

    /// Marks slots that `wanted` picks as interrupted, and returns their leases.
    pub(super) fn interrupt(&mut self, wanted: impl Fn(&Slot<C>) -> bool) -> Vec<Lease> {
        let mut leases = Vec::new();
        for (index, slot) in self.table.iter_mut().enumerate() {
            if !wanted(slot) {
                continue;
            }
            match slot {
                Slot::InUse { lease, interrupted, .. } | Slot::Draining { lease, interrupted, .. } if !*interrupted => {
                    *interrupted = true;
                    leases.push(*lease);
                }
                Slot::Opening { id, generation, aborted, .. } if !*aborted => {
                    *aborted = true;
                    leases.push(Lease { slot: index, id: *id, generation: *generation });
                }
                Slot::Free | Slot::Opening { .. } | Slot::Idle { .. } | Slot::InUse { .. } | Slot::Draining { .. } => {}
            }
        }
        leases
    }

    /// Distrusts all connections with a number below this. Interrupts the draining ones and returns their leases.
    pub(super) fn distrust(&mut self, below: u64) -> Vec<Lease> {
        self.trusted_from = below;
        self.interrupt(|slot| matches!(slot, Slot::Draining { .. }))
    }

    /// Returns whether a connection was opened after the last suspension.
    pub(super) fn trusts(&self, lease: Lease) -> bool {
        lease.id >= self.trusted_from
    }

    #[inline]
    fn take_idle(&mut self, slot: usize) -> Option<(Lease, C, Instant)> {
        let place = self.table.get_mut(slot)?;
        match std::mem::replace(place, Slot::Free) {
            Slot::Idle { lease, connection, since } => Some((lease, connection, since)),
            other @ (Slot::Free | Slot::Opening { .. } | Slot::InUse { .. } | Slot::Draining { .. }) => {
                *place = other;
                None
            }
        }
    }

    #[inline]
    fn put(&mut self, slot: usize, state: Slot<C>) {
        if let Some(place) = self.table.get_mut(slot) {
            *place = state;
        }
    }
}
