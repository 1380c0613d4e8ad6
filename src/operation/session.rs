//! Implicit server sessions: their pool and register.
//!
//! Follows sessions, "Server Session Pool": a session is taken after check-out, last in first out, and dropped when it expires
//! within a minute or was part of a network error. Behind a load balancer they never expire: their time-out is
//! [`Duration::MAX`].

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bson::{Binary, RawDocumentBuf, rawdoc, spec::BinarySubtype};

/// A server session.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSession {
    /// Shared with the register of the client's sessions.
    lsid: Arc<RawDocumentBuf>,
    last_use: Instant,
}

/// The idle server sessions, most recently used last.
#[derive(Debug, Default)]
pub struct SessionPool {
    sessions: Vec<ServerSession>,
}

/// All sessions of a client that were not dropped: idle, in use by a call, kept by a cursor, or lost.
#[derive(Debug, Default)]
pub struct SessionRegister {
    entries: Vec<Weak<RawDocumentBuf>>,
    /// The number of entries at which those of dropped sessions are removed.
    sweep_at: usize,
}

/// The sessions of broken connections, which are not reused. Servers are told in batches to end them.
#[derive(Debug, Default)]
pub struct UnfinishedSessions {
    lost: Vec<ServerSession>,
    /// Whether a batch is being ended.
    is_ending: bool,
}

/// The minimum number of entries before a register is swept.
const SWEEP_MIN: usize = 64;

/// A session that expires within this time is not used any more.
const MARGIN: Duration = Duration::from_secs(60);

/// The maximum number of sessions in one endSessions command.
pub const END_SESSIONS_MAX: usize = 10_000;

/// The number of lost sessions at which servers are told, so that broken connections do not leave any number of sessions.
pub const LOST_SESSIONS_MAX: usize = 100;

impl ServerSession {
    /// Creates a session with an id drawn from `entropy`.
    pub fn new(entropy: [u8; 16], now: Instant) -> Self {
        let mut bytes = entropy;
        // RFC 9562: version 4, variant 10.
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let id = Binary { subtype: BinarySubtype::Uuid, bytes: bytes.to_vec() };
        Self { lsid: Arc::new(rawdoc! { "id": id }), last_use: now }
    }

    /// Returns the `lsid` to send.
    pub fn lsid(&self) -> &RawDocumentBuf {
        &self.lsid
    }

    fn expires(&self, timeout: Duration, now: Instant) -> bool {
        self.last_use.checked_add(timeout.saturating_sub(MARGIN)).is_some_and(|end| now >= end)
    }
}

impl SessionPool {
    /// Takes the session that was returned last, unless it expires soon; `timeout` is the servers'.
    #[inline]
    pub fn take(&mut self, timeout: Duration, now: Instant) -> Option<ServerSession> {
        while let Some(session) = self.sessions.pop() {
            if !session.expires(timeout, now) {
                return Some(session);
            }
        }
        None
    }

    /// Returns a session, which must not have been part of a network error, to the pool.
    #[inline]
    pub fn put(&mut self, mut session: ServerSession, timeout: Duration, now: Instant) {
        session.last_use = now;
        let expired = self.sessions.iter().take_while(|session| session.expires(timeout, now)).count();
        self.sessions.drain(..expired);
        self.sessions.push(session);
    }

    /// Returns the number of idle sessions.
    #[cfg(any(test, feature = "internals"))]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Returns whether there are none.
    #[cfg(any(test, feature = "internals"))]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

impl SessionRegister {
    /// Registers a new session.
    pub fn enter(&mut self, session: &ServerSession) {
        if self.entries.len() >= self.sweep_at {
            self.entries.retain(|entry| entry.strong_count() > 0);
            self.sweep_at = self.entries.len().saturating_mul(2).max(SWEEP_MIN);
        }
        self.entries.push(Arc::downgrade(&session.lsid));
    }

    /// Returns the `lsid` of each session that was not dropped.
    pub fn lsids(&self) -> Vec<Arc<RawDocumentBuf>> {
        self.entries.iter().filter_map(Weak::upgrade).collect()
    }
}

impl UnfinishedSessions {
    /// Stores a session whose command never gets its reply (sessions, "dirty").
    ///
    /// At most [`END_SESSIONS_MAX`] are kept: servers end the rest by their own time-out.
    pub fn lose(&mut self, session: ServerSession) {
        if self.lost.len() < END_SESSIONS_MAX {
            self.lost.push(session);
        }
    }

    /// Takes the lost sessions once there are [`LOST_SESSIONS_MAX`], to end them; `None` while a batch is being ended.
    ///
    /// [`handle_batch_over`](Self::handle_batch_over) must follow.
    pub fn take_lost(&mut self) -> Option<Vec<ServerSession>> {
        if self.is_ending || self.lost.len() < LOST_SESSIONS_MAX {
            return None;
        }
        self.is_ending = true;
        Some(std::mem::take(&mut self.lost))
    }

    /// Ends a batch, and stores the sessions again that no server was told of.
    pub fn handle_batch_over(&mut self, untold: Vec<ServerSession>) {
        self.is_ending = false;
        untold.into_iter().for_each(|session| self.lose(session));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods, reason = "any moment will do")]
    fn session(number: u16) -> ServerSession {
        let mut entropy = [0; 16];
        entropy[..2].copy_from_slice(&number.to_le_bytes());
        ServerSession::new(entropy, Instant::now())
    }

    #[test]
    fn register_keeps_sessions_in_use_and_forgets_dropped_ones() {
        let mut register = SessionRegister::default();
        let kept = session(0);
        register.enter(&kept);
        for number in 1..1000 {
            register.enter(&session(number));
            assert!(register.entries.len() <= SWEEP_MIN, "{}", register.entries.len());
        }
        assert_eq!(register.lsids(), [Arc::new(kept.lsid().clone())]);
        drop(kept);
        assert!(register.lsids().is_empty());
    }

    #[test]
    fn lost_sessions_are_ended_one_batch_at_a_time_and_come_back_if_untold() {
        let mut unfinished = UnfinishedSessions::default();
        for number in 0..100 {
            assert!(unfinished.take_lost().is_none());
            unfinished.lose(session(number));
        }
        let batch = unfinished.take_lost().expect("a batch");
        assert_eq!(batch.len(), LOST_SESSIONS_MAX);
        for number in 100..300 {
            unfinished.lose(session(number));
            assert!(unfinished.take_lost().is_none(), "a batch is being ended");
        }
        unfinished.handle_batch_over(batch);
        assert_eq!(unfinished.take_lost().map(|batch| batch.len()), Some(300));
        unfinished.handle_batch_over(Vec::new());
        for number in 0..11_000 {
            unfinished.lose(session(number));
        }
        assert_eq!(unfinished.take_lost().map(|batch| batch.len()), Some(END_SESSIONS_MAX));
    }
}
