//! The check-out of a connection from a selected server's pool.

use std::time::Instant;

use super::time_limits::TimeLimits;
use crate::deadline::Deadline;
use crate::io::clock;
use crate::io::pool::checkout::CheckoutFuture;
use crate::io::pool::{CheckedOut, ServerPool};
use crate::io::topology::select::SelectedServer;

/// A connection of the server that was selected.
pub(super) type CheckedOutConn = CheckedOut<SelectedServer>;

/// Returns a connection of the selected server's pool, or the wait for one.
#[inline]
pub(super) fn check_out(
    limits: &TimeLimits,
    selected: SelectedServer,
    deadline: Option<Deadline>,
    now: Instant,
) -> std::result::Result<CheckedOutConn, CheckoutFuture<SelectedServer>> {
    let deadline = limits.checkout(deadline, now);
    ServerPool::checkout(selected, deadline, now).map_err(|pending| pending.wait(deadline))
}

/// Returns when a server was selected: at the caller's `now`, unless a log subscriber or a server selector took its time.
#[inline]
pub(super) fn selected_at(selected: &SelectedServer, is_logged: bool, now: Instant) -> Instant {
    if is_logged || selected.description().server_selector().is_some() { clock::now() } else { now }
}
