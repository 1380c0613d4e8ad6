//! What becomes of those whose time in the wait queue is over while a connection is being opened for them?
//!
//! They have left the queue (connection-monitoring-and-pooling, "Checking Out a Connection"), and wait on; but should that
//! connection go to somebody who came before them, or not be opened after all, they are back in it, and their time is over.

use std::time::Instant;

use super::Pool;
use crate::pool::event::CheckOutFailure;

impl<C> Pool<C> {
    /// Refuses whoever waits past a limit of the queue, and has no connection on its way any more.
    pub(super) fn refuse_passed_over(&mut self, now: Instant) {
        let coming = self.opening();
        while let Some((waiter, deadline)) = self.waiters.passed_over(coming) {
            let error = self.waited_too_long(deadline, now);
            self.refuse(waiter, error, CheckOutFailure::Timeout, now);
        }
    }
}
