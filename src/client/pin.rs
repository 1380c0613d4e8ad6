//! The connection that a cursor keeps behind a load balancer.
//!
//! Its commands go out on the connection that made it (load-balancers, "Connection Pooling", "Cursors"): another connection may reach another
//! service, which knows nothing of it. Until when it is kept is decided in `cursor`.

use std::sync::Arc;

use super::checkout::CheckedOutConn;
use super::errors::no_runtime;
use super::executor::OperationRun;
use super::running::ClientCore;
use super::sessions::CursorSession;
use super::time_limits::{Time, within};
use crate::error::{Execution, Result, Stage};
use crate::io::clock;
use crate::operation::Operation;
use crate::pool::Health;

/// A connection that a cursor keeps; checked in on drop.
pub(super) struct Pinned(CheckedOutConn);

impl Pinned {
    /// Keeps the connection of a completed operation, if that has kept one.
    pub(super) fn of<O: Operation>(run: &mut OperationRun<O>) -> Option<Box<Self>> {
        run.take_conn().map(|conn| Box::new(Self(conn)))
    }

    /// Returns whether the connection is unusable.
    pub(super) fn is_broken(&self) -> bool {
        match self.0.health() {
            Health::Broken => true,
            Health::Good | Health::ReplyOutstanding => false,
        }
    }
}

impl ClientCore {
    /// Runs a command of a cursor in the cursor's session, on the connection that the cursor keeps, or on any. Can be dropped
    /// at any moment.
    ///
    /// The session is returned if the reply has the cursor, the connection unless the future is dropped.
    pub(super) async fn run_pinned<O: Operation>(
        self: &Arc<Self>,
        pin: Option<Box<Pinned>>,
        session: Option<Box<CursorSession>>,
        database: &Arc<str>,
        operation: O,
        time: Time,
    ) -> (Result<O::Output>, Option<Box<CursorSession>>, Option<Box<Pinned>>) {
        let run = match pin {
            None => OperationRun::new(operation, time),
            Some(mut pinned) => {
                if tokio::runtime::Handle::try_current().is_err() {
                    return (Err(no_runtime()), None, Some(pinned));
                }
                // A getMore that was given up comes first, or is taken back if nothing of it was sent.
                pinned.0.unqueue();
                let deadline = self.limits().operation(&time, clock::now());
                if let Err(error) = within(deadline, Stage::Read, pinned.0.drain()).await {
                    return (Err(error.of_command(Execution::Never, false)), None, Some(pinned));
                }
                OperationRun::on(pinned.0, deadline, operation)
            }
        };
        let mut attended = self.attend(run.in_session(session.and_then(|session| session.take())));
        let outcome = attended.outcome(database).await;
        let session = attended.run.take_session().map(|in_use| CursorSession::new(in_use, &self.sessions));
        (outcome, session, Pinned::of(&mut attended.run))
    }
}
