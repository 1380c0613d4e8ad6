//! The end of a client.
//!
//! In this order: new operations are refused, those in progress get their grace, cursors that were dropped are killed, all
//! sessions are ended on the servers (sessions, "endSessions"), and then tasks and connections end.

use std::sync::Arc;
use std::time::Duration;

use bson::RawDocumentBuf;

use super::handle::Client;
use super::running::ClientCore;
use super::time_limits::Time;
use crate::deadline::Deadline;
use crate::error::Result;
use crate::io::clock;
use crate::operation::EndSessions;
use crate::operation::session::{END_SESSIONS_MAX, ServerSession};

/// How long shutting down waits for cursors to be killed, and then for a server to hear which sessions end.
const END_SESSIONS_LIMIT: Duration = Duration::from_secs(1);

/// How often shutting down looks whether calls are still under way.
const GRACE_LOOK: Duration = Duration::from_millis(5);

/// A batch of lost sessions that is being ended. Sessions of which no server was told are put back when it is dropped.
struct LostBatch {
    core: Arc<ClientCore>,
    untold: Vec<ServerSession>,
}

impl Client {
    /// Ends the client: sessions are ended on the server, tasks and connections are gone when it returns.
    ///
    /// Calls that wait for a server or a connection, and later ones, are refused; a command that has been sent may still get
    /// its reply.
    pub fn shutdown(&self) -> impl Future<Output = ()> + Send + use<> {
        self.shutdown_within(Duration::ZERO)
    }

    /// Ends the client gracefully: new calls are refused at once, calls under way get the grace to end, and then everything ends
    /// as with [`shutdown`](Self::shutdown).
    ///
    /// Open cursors may be read on during the grace, and are killed on the server when they are dropped. Returns as soon as no
    /// call is under way.
    pub fn shutdown_within(&self, grace: Duration) -> impl Future<Output = ()> + Send + use<> {
        let client = self.clone();
        async move { client.core().shutdown(grace).await }
    }
}

impl ClientCore {
    /// Refuses new calls, lets those under way end within the grace, and ends everything.
    async fn shutdown(self: &Arc<Self>, grace: Duration) {
        if self.close() {
            self.come_to_rest(grace).await;
            if let Some(driver) = self.running() {
                driver.cleanup_tasks().finish(END_SESSIONS_LIMIT).await;
                self.end_sessions().await;
            }
        }
        // Kept in the state until it is done, so that a second call waits for the same end.
        if let Some(driver) = self.end() {
            driver.shutdown().await;
            self.ended();
        }
        self.events().close();
    }

    /// Waits until no call is under way, or until the grace is over.
    async fn come_to_rest(&self, grace: Duration) {
        let until = Deadline::new("grace", grace, clock::now()).at;
        while clock::now() < until && self.is_busy() {
            clock::sleep_until(Some((clock::now() + GRACE_LOOK).min(until))).await;
        }
    }

    /// Returns whether an operation waits, has selected a server, or has a connection.
    fn is_busy(&self) -> bool {
        self.is_waited_for() || self.running().is_some_and(|driver| driver.is_busy())
    }

    /// Sends endSessions for all sessions, including those in use (sessions, "endSessions"); the replies do not matter.
    async fn end_sessions(self: &Arc<Self>) {
        let lsids = self.sessions.register().lsids();
        for chunk in lsids.chunks(END_SESSIONS_MAX) {
            if let Err(error) = self.end_these(chunk.iter().map(|lsid| &**lsid)).await {
                tracing::debug!(%error, "sessions could not be ended");
                return;
            }
        }
    }

    /// Ends the sessions of broken connections in the background, if there are enough of them.
    pub(super) fn end_lost_sessions(self: &Arc<Self>) {
        let Some(untold) = self.sessions.unfinished().take_lost() else { return };
        let batch = LostBatch { core: Arc::clone(self), untold };
        self.spawn("end lost sessions", batch.run());
    }

    /// Sends endSessions for at most [`END_SESSIONS_MAX`] sessions.
    async fn end_these(self: &Arc<Self>, lsids: impl Iterator<Item = &RawDocumentBuf>) -> Result<()> {
        let deadline = Deadline::new("END_SESSIONS_LIMIT", END_SESSIONS_LIMIT, clock::now());
        self.run(&Arc::from("admin"), EndSessions::new(lsids), Time::Until(Box::new(deadline))).await
    }
}

impl LostBatch {
    async fn run(mut self) {
        match self.core.end_these(self.untold.iter().map(ServerSession::lsid)).await {
            Ok(()) => self.untold.clear(),
            Err(error) => tracing::debug!(%error, "lost sessions could not be ended yet"),
        }
    }
}

impl Drop for LostBatch {
    fn drop(&mut self) {
        let untold = std::mem::take(&mut self.untold);
        self.core.sessions.unfinished().handle_batch_over(untold);
    }
}
