//! What becomes of a command's session, and of the cursor that it opens, when its caller does not wait for the reply?
//!
//! A session in which nothing was sent is free at once (sessions, "Server Session Pool"). One whose reply is still to come
//! travels with the connection, and is free when the reply has been read; a cursor that the reply opens is killed first, on the
//! same connection. Only the session of a broken connection is lost: it is not used again, and servers are told to end it.

use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use super::call::SessionInUse;
use super::running::ClientCore;
use crate::cursor::CursorState;
use crate::io::clock;
use crate::io::conn::{Conn, LateReply, Sent};
use crate::operation::CommandFields;
use crate::operation::cluster_time::ClusterTime;
use crate::operation::session::UnfinishedSessions;
use crate::pool::Health;
use crate::wire::{Message, Request};

/// What an abandoned command leaves on its connection.
struct Abandoned {
    core: Weak<ClientCore>,
    session: Option<SessionInUse>,
    cluster_time: Arc<ClusterTime>,
    /// The cursor that is being killed.
    cursor: Option<CursorState>,
}

impl ClientCore {
    /// Decides on the session of a command whose outcome is unknown, and on its reply.
    #[cold]
    pub(super) fn abandon(self: &Arc<Self>, conn: &mut Conn, session: Option<SessionInUse>, now: Instant) {
        if conn.sent() == Sent::Nothing {
            session.into_iter().for_each(|session| self.put_session(session, now));
            return;
        }
        if conn.health() == Health::ReplyOutstanding {
            let cluster_time = Arc::clone(&self.thread_caches.own().cluster_time);
            conn.leave(Box::new(Abandoned { core: Arc::downgrade(self), session, cluster_time, cursor: None }));
        } else if let Some(session) = session {
            self.unfinished().lose(session.session);
        }
        self.end_lost_sessions();
    }

    pub(super) fn unfinished(&self) -> MutexGuard<'_, UnfinishedSessions> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LateReply for Abandoned {
    fn handle_reply(&mut self, reply: Message) -> Option<Request> {
        if self.cursor.is_none()
            && let Some(cursor) = CursorState::opened_by(reply.body())
        {
            let kill = Request::from(cursor.kill());
            self.cursor = Some(cursor);
            return Some(kill);
        }
        if let (Some(core), Some(session)) = (self.core.upgrade(), self.session.take()) {
            core.put_session(session, clock::now());
        }
        None
    }

    fn fields(&self) -> CommandFields<'_> {
        CommandFields {
            database: self.cursor.as_ref().map_or("admin", |cursor| &cursor.database),
            lsid: self.session.as_ref().map(|in_use| in_use.session.lsid().as_ref()),
            cluster_time: self.cluster_time.document(),
            read_preference: None,
        }
    }
}

impl Drop for Abandoned {
    /// The connection broke, or was closed, before the reply came.
    fn drop(&mut self) {
        if let (Some(core), Some(session)) = (self.core.upgrade(), self.session.take()) {
            core.unfinished().lose(session.session);
        }
    }
}
