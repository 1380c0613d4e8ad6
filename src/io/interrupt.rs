//! The interrupt of a connection: an error that ends the waits on it from outside, and the flag of a traffic check.
//!
//! Shares memory between the task that waits on the connection and the pool. Does not decide when a connection is
//! interrupted (`pool::machine`), nor what traffic means for a silent server (`topology::liveness`).

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::sync::{AtomicBool, AtomicWaker, OnceLock, Ordering};
use crate::error::Error;

/// The interrupt of one connection. One task waits at a time.
#[derive(Debug, Default)]
pub(crate) struct Interrupt {
    error: OnceLock<Error>,
    waker: AtomicWaker,
    /// Whether the connection received bytes since the traffic check started.
    had_traffic: AtomicBool,
}

impl Interrupt {
    /// Ends the waits on this connection with an error, now and from now on. The first error counts.
    pub(crate) fn fire(&self, error: Error) {
        drop(self.error.set(error));
        self.waker.wake();
    }

    /// Waits until it is fired.
    pub(crate) async fn fired(&self) -> Error {
        poll_fn(|context| self.poll_fired(context)).await
    }

    pub(super) fn poll_fired(&self, context: &Context<'_>) -> Poll<Error> {
        if self.error.get().is_none() {
            self.waker.register(context.waker());
        }
        // It may have been fired before the waker was registered.
        self.error.get().map_or(Poll::Pending, |error| Poll::Ready(error.clone()))
    }

    /// Drops the waker of a task that no longer waits.
    pub(super) fn forget_waker(&self) {
        drop(self.waker.take());
    }

    /// Starts a traffic check: only bytes received from now on count.
    pub(crate) fn start_traffic_check(&self) {
        self.had_traffic.store(false, Ordering::Relaxed);
    }

    /// Records that the connection received bytes.
    #[inline]
    pub(super) fn note_traffic(&self) {
        self.had_traffic.store(true, Ordering::Relaxed);
    }

    /// Returns whether the connection received bytes since the traffic check started.
    pub(crate) fn had_traffic(&self) -> bool {
        self.had_traffic.load(Ordering::Relaxed)
    }
}
