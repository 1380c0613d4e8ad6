//! On which connection do a cursor's commands go out, behind a load balancer?
//!
//! On the one that made it (load-balancers, "Connection Pooling", "Cursors"): another connection may reach another
//! service, which knows nothing of it. Until when it is kept is decided in `cursor`.

use std::sync::Arc;

use super::call::{Call, Outcome, within};
use super::run::{CheckedOutConn, Run};
use super::running::{ClientCore, no_runtime};
use crate::error::{Execution, Result, Stage};
use crate::io::clock;
use crate::pool::Health;

/// Is a connection that a cursor keeps; goes back to its pool when dropped.
pub(super) struct Pinned(CheckedOutConn);

impl Pinned {
    /// Keeps the connection of a call that is over, if that has kept one.
    pub(super) fn of(run: &mut Run) -> Option<Box<Self>> {
        run.take_conn().map(|conn| Box::new(Self(conn)))
    }

    /// Tells whether nothing more can be said on it.
    pub(super) fn is_broken(&self) -> bool {
        match self.0.health() {
            Health::Broken => true,
            Health::Good | Health::ReplyOutstanding => false,
        }
    }
}

impl ClientCore {
    /// Makes a call on the connection that a cursor keeps, or on any. Can be dropped at any moment.
    ///
    /// The connection is kept unless this is dropped.
    pub(super) async fn run_pinned(
        self: &Arc<Self>,
        pin: Option<Box<Pinned>>,
        database: &Arc<str>,
        call: Call,
    ) -> (Result<Outcome>, Option<Box<Pinned>>) {
        let Some(mut pinned) = pin else { return (self.run(database, call).await, None) };
        if tokio::runtime::Handle::try_current().is_err() {
            return (Err(no_runtime()), Some(pinned));
        }
        // A getMore that was given up comes first, or is taken back if nothing of it was sent.
        pinned.0.unqueue();
        let deadline = self.call_deadline(&call.time, clock::now());
        if let Err(error) = within(deadline, Stage::Read, pinned.0.drain()).await {
            return (Err(error.of_command(Execution::Never, false)), Some(pinned));
        }
        let mut attended = self.attend(Run::on(pinned.0, deadline, call));
        let outcome = attended.outcome(database).await;
        (outcome, Pinned::of(&mut attended.run))
    }
}
