//! How do threads share something that each of them needs for every command?
//!
//! Each thread has a stripe of its own, as far as they suffice and few threads come and go: a lock that nobody else holds costs little, and memory that
//! no other core writes to stays near. What is in a stripe, and when it is out of date, its owner decides.

use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// Is something that exists once for each of a few groups of threads.
#[derive(Debug)]
pub(crate) struct Striped<T> {
    stripes: Box<[Apart<Mutex<T>>]>,
}

/// Fills what cores exchange at once, on all common machines: what is written with every command stands apart from what is
/// only read.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Apart<T>(pub(crate) T);

/// How many stripes there are: about as many as there are threads that run tasks, on common machines.
const STRIPES: usize = 16;

/// How many threads have come for a stripe.
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Threads take the stripes in turn.
    static OWN: usize = THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES;
}

impl<T> Striped<T> {
    /// Makes all stripes.
    pub(crate) fn new(mut make: impl FnMut(usize) -> T) -> Self {
        Self { stripes: (0..STRIPES).map(|index| Apart(Mutex::new(make(index)))).collect() }
    }

    /// Locks the stripe of this thread.
    pub(crate) fn own(&self) -> MutexGuard<'_, T> {
        let stripe = self.stripes.get(OWN.with(|own| *own)).or(self.stripes.first()).expect("there are stripes");
        stripe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks one stripe after the other, but for those that are locked already.
    pub(crate) fn idle(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.stripes.iter().filter_map(|stripe| match stripe.try_lock() {
            Ok(locked) => Some(locked),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        })
    }

    /// Locks one stripe after the other.
    pub(crate) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.stripes.iter().map(|stripe| stripe.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_comes_back_to_its_own_stripe() {
        let striped = Striped::new(|_| 0);
        for _ in 0..10 {
            *striped.own() += 1;
        }
        let mut counts: Vec<i32> = striped.each().map(|count| *count).collect();
        counts.sort_unstable();
        assert_eq!((counts.len(), counts.last().copied(), counts.iter().sum::<i32>()), (STRIPES, Some(10), 10));
    }

    #[test]
    fn threads_use_several_stripes() {
        let striped = Striped::new(|_| 0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| *striped.own() += 1);
            }
        });
        let counts: Vec<i32> = striped.each().map(|count| *count).filter(|count| *count > 0).collect();
        assert_eq!(counts.iter().sum::<i32>(), 8);
        assert!(counts.len() > 1, "eight threads took {} stripes", counts.len());
    }
}
