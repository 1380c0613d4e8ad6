//! The wait queue of a pool, first in, first out, and its deadlines.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use crate::deadline::Deadline;

/// The id of a waiter. Ids grow in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WaiterId(pub u64);

/// The position in the queue of a caller whose connection failed its liveness check.
#[derive(Clone, Copy, Debug)]
pub struct QueuePosition {
    /// The caller's id as a waiter.
    pub waiter: WaiterId,
    /// When the check-out began.
    pub requested_at: Instant,
    /// The deadline of the check-out.
    pub deadline: Option<Deadline>,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) since: Instant,
    pub(super) deadline: Option<Deadline>,
}

#[derive(Debug, Default)]
pub(super) struct Waiters {
    queue: Queue<Waiter>,
    deadlines: BTreeSet<(Instant, WaiterId)>,
    /// The waiters past their deadline for which a connection is being opened.
    overdue: BTreeSet<WaiterId>,
    next: u64,
}

/// A value for each waiter, in the order of their ids. Appending and removing the first are cheap, however many wait.
#[derive(Debug)]
pub struct Queue<T> {
    /// A waiter that is removed from the middle leaves an empty place.
    places: VecDeque<(WaiterId, Option<T>)>,
    len: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { places: VecDeque::new(), len: 0 }
    }
}

impl<T> Queue<T> {
    /// Returns the number of waiters.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no waiters.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the first waiter.
    pub fn first(&self) -> Option<WaiterId> {
        // The first place is never empty.
        self.places.front().map(|(id, _)| *id)
    }

    /// Returns all waiters, in order.
    pub fn ids(&self) -> impl Iterator<Item = WaiterId> {
        self.places.iter().filter(|(_, place)| place.is_some()).map(|(id, _)| *id)
    }

    /// Returns the value of a waiter.
    pub fn get(&self, id: WaiterId) -> Option<&T> {
        self.places.get(self.find(id).ok()?)?.1.as_ref()
    }

    /// Inserts a waiter at the place of its id.
    pub fn insert(&mut self, id: WaiterId, value: T) {
        let place = (id, Some(value));
        match self.places.back() {
            Some((last, _)) if *last >= id => match self.find(id) {
                Ok(index) => {
                    if let Some(kept) = self.places.get_mut(index)
                        && std::mem::replace(kept, place).1.is_some()
                    {
                        self.len -= 1;
                    }
                }
                Err(index) => self.places.insert(index, place),
            },
            Some(_) | None => self.places.push_back(place),
        }
        self.len += 1;
    }

    /// Removes a waiter.
    pub fn remove(&mut self, id: WaiterId) -> Option<T> {
        let index = if self.first() == Some(id) { 0 } else { self.find(id).ok()? };
        let value = self.places.get_mut(index)?.1.take()?;
        self.len -= 1;
        while self.places.front().is_some_and(|(_, place)| place.is_none()) {
            self.places.pop_front();
        }
        while self.places.back().is_some_and(|(_, place)| place.is_none()) {
            self.places.pop_back();
        }
        Some(value)
    }

    fn find(&self, id: WaiterId) -> Result<usize, usize> {
        self.places.binary_search_by_key(&id, |(id, _)| *id)
    }
}

impl Waiters {
    /// Returns the next id.
    pub(super) fn next_waiter_id(&mut self) -> WaiterId {
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
        self.queue.first()
    }

    pub(super) fn all(&self) -> Vec<WaiterId> {
        self.queue.ids().collect()
    }

    pub(super) fn insert(&mut self, id: WaiterId, waiter: Waiter) {
        if let Some(deadline) = waiter.deadline {
            self.deadlines.insert((deadline.at, id));
        }
        self.queue.insert(id, waiter);
    }

    pub(super) fn remove(&mut self, id: WaiterId) -> Option<Waiter> {
        let waiter = self.queue.remove(id)?;
        if let Some(deadline) = waiter.deadline
            && !self.deadlines.remove(&(deadline.at, id))
        {
            self.overdue.remove(&id);
        }
        Some(waiter)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Returns whether a waiter is among the first `count`.
    pub(super) fn is_among_first(&self, id: WaiterId, count: usize) -> bool {
        self.queue.ids().take(count).any(|first| first == id)
    }

    /// Lets a waiter wait past its deadline, as long as it is not [passed over](Self::passed_over).
    pub(super) fn wait_on(&mut self, id: WaiterId) {
        if let Some(deadline) = self.queue.get(id).and_then(|waiter| waiter.deadline) {
            self.deadlines.remove(&(deadline.at, id));
            self.overdue.insert(id);
        }
    }

    /// Returns whether any waiter waits past its deadline.
    pub(super) fn has_overdue(&self) -> bool {
        !self.overdue.is_empty()
    }

    /// Returns a waiter past its deadline that is not among the first `coming`, and its deadline.
    pub(super) fn passed_over(&self, coming: usize) -> Option<(WaiterId, Deadline)> {
        let id = *self.overdue.last()?;
        let deadline = self.queue.get(id)?.deadline?;
        (!self.is_among_first(id, coming)).then_some((id, deadline))
    }

    /// Returns a waiter whose deadline has passed, and that deadline.
    pub(super) fn late(&self, now: Instant) -> Option<(WaiterId, Deadline)> {
        let (at, id) = self.deadlines.first()?;
        let deadline = self.queue.get(*id)?.deadline?;
        (*at <= now).then_some((*id, deadline))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn queue_does_what_a_map_does() {
        let mut random = rand::rngs::SmallRng::seed_from_u64(5);
        for _ in 0..200 {
            let (mut queue, mut map) = (Queue::default(), BTreeMap::new());
            for step in 0..200_u32 {
                let id = WaiterId(random.random_range(0..40));
                if random.random_bool(0.5) {
                    queue.insert(id, step);
                    map.insert(id, step);
                } else {
                    let id = if random.random_bool(0.5) { map.keys().next().copied().unwrap_or(id) } else { id };
                    assert_eq!(queue.remove(id), map.remove(&id));
                }
                assert_eq!((queue.len(), queue.is_empty(), queue.first()), (map.len(), map.is_empty(), map.keys().next().copied()));
                assert_eq!(queue.ids().collect::<Vec<_>>(), map.keys().copied().collect::<Vec<_>>());
                assert!(queue.ids().all(|id| queue.get(id) == map.get(&id)));
            }
        }
    }
}
