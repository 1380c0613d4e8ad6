//! Waiters past `waitQueueTimeoutMS` for which a connection is being opened.
//!
//! Such waiters have left the wait queue (connection-monitoring-and-pooling, "Checking Out a Connection") and continue to wait. If the
//! connection goes to an earlier waiter, or fails to open, they time out.

use std::time::Instant;

use super::Pool;
use crate::pool::event::CheckOutFailure;

impl<C> Pool<C> {
    /// Refuses the waiters past their deadline for which no connection is being opened any more.
    pub(super) fn refuse_passed_over(&mut self, now: Instant) {
        let coming = self.opening();
        while let Some((waiter, deadline)) = self.waiters.passed_over(coming) {
            let error = self.waited_too_long(deadline, now);
            self.refuse(waiter, error, CheckOutFailure::Timeout, now);
        }
    }
}
