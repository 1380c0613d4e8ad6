//! The session of a command whose reply nobody waits for, and the cursor that the late reply opens.
//!
//! sessions ("Server Session Pool"). The session of a command that was not sent is free at once. Otherwise it travels with the
//! connection and is free when the late reply has been read; a cursor that the reply opens is killed first, on the same
//! connection. Only the session of a broken connection is lost: it is not used again, and servers are told to end it.
//! Does not decide when the late reply is read (`io::conn`, the pool).

use std::sync::{Arc, Weak};
use std::time::Instant;

use super::sessions::{SessionInUse, Sessions};
use crate::cursor::CursorState;
use crate::io::clock;
use crate::io::conn::{Conn, LateReply};
use crate::operation::cluster_time::ClusterTime;
use crate::operation::{DriverFields, Sent};
use crate::pool::Health;
use crate::wire::{Message, Request};

/// The remains of an abandoned command on its connection.
struct Abandoned {
    sessions: Weak<Sessions>,
    session: Option<SessionInUse>,
    cluster_time: Arc<ClusterTime>,
    /// The cursor that is being killed.
    cursor: Option<CursorState>,
}

impl Sessions {
    /// Decides what happens to the session of a command whose outcome is unknown, and to its late reply.
    #[cold]
    pub(super) fn abandon(self: &Arc<Self>, conn: &mut Conn, session: Option<SessionInUse>, now: Instant) {
        if conn.sent() == Sent::Nothing {
            session.into_iter().for_each(|session| self.put(session, now));
        } else if conn.health() == Health::ReplyOutstanding {
            let cluster_time = Arc::clone(&self.thread_caches.own().cluster_time);
            conn.leave(Box::new(Abandoned { sessions: Arc::downgrade(self), session, cluster_time, cursor: None }));
        } else if let Some(session) = session {
            self.unfinished().lose(session.session);
        }
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
        if let (Some(sessions), Some(session)) = (self.sessions.upgrade(), self.session.take()) {
            sessions.put(session, clock::now());
        }
        None
    }

    fn fields(&self) -> DriverFields<'_> {
        DriverFields {
            database: self.cursor.as_ref().map_or("admin", |cursor| &cursor.database),
            lsid: self.session.as_ref().map(|in_use| in_use.session.lsid().as_ref()),
            cluster_time: self.cluster_time.document(),
            read_preference: None,
        }
    }
}

impl Drop for Abandoned {
    /// Loses the session if the connection broke, or was closed, before the reply came.
    fn drop(&mut self) {
        if let (Some(sessions), Some(session)) = (self.sessions.upgrade(), self.session.take()) {
            sessions.unfinished().lose(session.session);
        }
    }
}
