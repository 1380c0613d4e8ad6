//! The server sessions of a client: taken for a command, put back after it, or lost with a connection.
//!
//! sessions ("Server Session Pool"). Idle sessions are kept in the thread caches; a register knows all sessions, so that
//! shutting down can end them. Does not decide when a session expires (`operation::session`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use super::newest_cluster_time::NewestClusterTime;
use super::thread_cache::{ThreadCache, ThreadCaches};
use crate::error::Result;
use crate::io::clock;
use crate::io::entropy::entropy;
use crate::operation::session::{ServerSession, SessionRegister, UnfinishedSessions};

/// The sessions of a client, and its thread caches.
pub(super) struct Sessions {
    pub(super) thread_caches: ThreadCaches,
    pub(super) newest_cluster_time: CachePadded<NewestClusterTime>,
    /// The sessions that do not come back.
    unfinished: Mutex<UnfinishedSessions>,
    /// All sessions.
    register: Mutex<SessionRegister>,
}

/// A server session in use, and how long servers keep one.
pub(super) struct SessionInUse {
    pub(super) session: ServerSession,
    pub(super) timeout: Duration,
}

/// The implicit session of a cursor, between its commands. Put back on drop.
pub(super) struct CursorSession {
    in_use: Option<SessionInUse>,
    sessions: Arc<Sessions>,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self {
            thread_caches: ThreadCaches::new(),
            newest_cluster_time: CachePadded::default(),
            unfinished: Mutex::default(),
            register: Mutex::default(),
        }
    }

    /// Takes the session that was put back last to this thread's cache, else one of another idle cache, else a new one.
    #[inline]
    pub(super) fn take(&self, own: &mut ThreadCache, timeout: Duration, now: Instant) -> Result<SessionInUse> {
        let kept = own.sessions.take(timeout, now);
        let kept = kept.or_else(|| self.thread_caches.idle().find_map(|mut other| other.sessions.take(timeout, now)));
        let session = match kept {
            Some(session) => session,
            None => self.make(now)?,
        };
        Ok(SessionInUse { session, timeout })
    }

    /// Creates a session, and adds it to the register.
    #[cold]
    fn make(&self, now: Instant) -> Result<ServerSession> {
        let session = ServerSession::new(entropy()?, now);
        self.register().enter(&session);
        Ok(session)
    }

    /// Puts a session back that was part of nothing unfinished.
    #[inline]
    pub(super) fn put(&self, SessionInUse { session, timeout }: SessionInUse, now: Instant) {
        self.thread_caches.own().sessions.put(session, timeout, now);
    }

    pub(super) fn unfinished(&self) -> MutexGuard<'_, UnfinishedSessions> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn register(&self) -> MutexGuard<'_, SessionRegister> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CursorSession {
    pub(super) fn new(in_use: SessionInUse, sessions: &Arc<Sessions>) -> Box<Self> {
        Box::new(Self { in_use: Some(in_use), sessions: Arc::clone(sessions) })
    }

    /// Takes the session for the cursor's next command.
    pub(super) fn take(mut self) -> Option<SessionInUse> {
        self.in_use.take()
    }
}

impl Drop for CursorSession {
    fn drop(&mut self) {
        if let Some(in_use) = self.in_use.take() {
            self.sessions.put(in_use, clock::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1800);

    #[test]
    fn session_that_came_back_to_another_thread_cache_is_found() {
        let (sessions, now) = (Sessions::new(), clock::now());
        let taken = || sessions.take(&mut sessions.thread_caches.own(), TIMEOUT, now).expect("a session");
        let in_use = taken();
        let first = in_use.session.clone();
        std::thread::scope(|scope| scope.spawn(|| sessions.put(in_use, now)).join()).expect("put");
        let in_use = taken();
        assert_eq!(in_use.session.lsid(), first.lsid());
        assert_ne!(taken().session.lsid(), first.lsid(), "it is in use");
        sessions.put(in_use, now);
        assert_eq!(taken().session.lsid(), first.lsid());
    }

    #[test]
    fn session_of_a_dropped_cursor_is_put_back() {
        let (sessions, now) = (Arc::new(Sessions::new()), clock::now());
        let taken = || sessions.take(&mut sessions.thread_caches.own(), TIMEOUT, now).expect("a session");
        let in_use = taken();
        let lsid = in_use.session.lsid().clone();
        let kept = CursorSession::new(in_use, &sessions);
        assert_ne!(taken().session.lsid(), &lsid, "the cursor keeps it");
        drop(kept);
        assert_eq!(taken().session.lsid(), &lsid);
        let in_use = CursorSession::new(taken(), &sessions).take().expect("kept");
        assert_ne!(taken().session.lsid(), in_use.session.lsid(), "the cursor's command has it");
    }
}
