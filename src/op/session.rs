//! Which server session does a command run in?
//!
//! Implicit sessions only (sessions, "Server Session Pool"): taken after check-out, last in first out, dropped when they
//! expire within a minute or were part of a network error. Behind a load balancer they never expire: their time-out is
//! [`Duration::MAX`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bson::{Binary, RawDocumentBuf, rawdoc, spec::BinarySubtype};

/// Is a server session.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSession {
    lsid: RawDocumentBuf,
    last_use: Instant,
}

/// Keeps the server sessions that nobody uses.
#[derive(Debug, Default)]
pub struct SessionPool {
    sessions: Vec<ServerSession>,
}

/// The sessions of commands that were abandoned or cut off. They are not used, and end with the client unless they come back.
#[derive(Debug, Default)]
pub struct UnfinishedSessions {
    sessions: BTreeMap<Vec<u8>, ServerSession>,
}

/// A session that ends within this time is not used any more.
const MARGIN: Duration = Duration::from_secs(60);

/// How many sessions are named in one endSessions command.
pub const END_SESSIONS_MAX: usize = 10_000;

/// How many unfinished sessions are remembered; beyond that servers let them expire.
pub const UNFINISHED_SESSIONS_MAX: usize = END_SESSIONS_MAX;

impl ServerSession {
    /// Makes a session with a number drawn from `entropy`.
    pub fn new(entropy: [u8; 16], now: Instant) -> Self {
        let mut bytes = entropy;
        // RFC 9562: version 4, variant 10.
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let id = Binary { subtype: BinarySubtype::Uuid, bytes: bytes.to_vec() };
        Self { lsid: rawdoc! { "id": id }, last_use: now }
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
    /// Takes the session that came back last, if it lives for a while yet; `timeout` is the servers'.
    #[inline]
    pub fn take(&mut self, timeout: Duration, now: Instant) -> Option<ServerSession> {
        while let Some(session) = self.sessions.pop() {
            if !session.expires(timeout, now) {
                return Some(session);
            }
        }
        None
    }

    /// Takes a session back, which must not have taken part in a network error.
    #[inline]
    pub fn put(&mut self, mut session: ServerSession, timeout: Duration, now: Instant) {
        session.last_use = now;
        let expired = self.sessions.iter().take_while(|session| session.expires(timeout, now)).count();
        self.sessions.drain(..expired);
        self.sessions.push(session);
    }

    /// Takes all sessions, to end them.
    pub fn drain(&mut self) -> Vec<ServerSession> {
        std::mem::take(&mut self.sessions)
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

impl UnfinishedSessions {
    /// Adds a session; leaves out one if there are too many.
    pub fn add(&mut self, session: ServerSession) {
        if self.sessions.len() >= UNFINISHED_SESSIONS_MAX {
            self.sessions.pop_first();
        }
        self.sessions.insert(session.lsid.as_bytes().to_vec(), session);
    }

    /// Removes a session whose command is finished after all.
    pub fn remove(&mut self, session: &ServerSession) {
        self.sessions.remove(session.lsid.as_bytes());
    }

    /// Takes all sessions, to end them.
    pub fn drain(&mut self) -> Vec<ServerSession> {
        std::mem::take(&mut self.sessions).into_values().collect()
    }
}
