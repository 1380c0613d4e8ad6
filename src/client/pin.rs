//! On which connection do a cursor's commands go out, behind a load balancer?
//!
//! On the one that made it (load-balancers, "Connection Pooling", "Cursors"): another connection may reach another
//! service, which knows nothing of it. Until when it is kept is decided in `cursor`.

use std::sync::Arc;

use super::call::{Call, Outcome, within};
use super::running::{Inner, no_runtime};
use crate::error::{Result, Stage};
use crate::io::clock;
use crate::io::pool::CheckedOut;
use crate::io::snapshot::Selected;
use crate::pool::Health;

/// Is a connection that a cursor keeps; goes back to its pool when dropped.
pub(super) struct Pinned {
    conn: CheckedOut,
    selected: Selected,
}

impl Pinned {
    /// Keeps a connection that reaches a service.
    pub(super) fn new(conn: CheckedOut, selected: Selected) -> Self {
        conn.pin();
        Self { conn, selected }
    }

    /// Tells whether nothing more can be said on it.
    pub(super) fn is_broken(&self) -> bool {
        match self.conn.health() {
            Health::Broken => true,
            Health::Good | Health::ReplyOutstanding => false,
        }
    }
}

impl Inner {
    /// Runs a command on the connection that a cursor keeps. Can be dropped at any moment.
    pub(super) async fn run_pinned<'a>(self: &'a Arc<Self>, pin: &mut Pinned, database: &Arc<str>, call: &mut Call) -> Result<Outcome<'a>> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(no_runtime());
        }
        let Pinned { conn, selected } = pin;
        // A getMore that was given up comes first, or is taken back if nothing of it was sent.
        conn.unqueue();
        within(call.deadline, Stage::Read, conn.drain()).await?;
        self.exchange(selected, conn, clock::now(), database, call).await.map(|(outcome, _)| outcome)
    }
}
