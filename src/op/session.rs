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

/// The sessions of commands that were abandoned or cut off. They end with the client, or sooner, unless they come back.
#[derive(Debug, Default)]
pub struct UnfinishedSessions {
    /// The late reply is still to come.
    awaited: BTreeMap<Vec<u8>, ServerSession>,
    /// The connection broke: they do not come back.
    lost: Vec<ServerSession>,
}

/// A session that ends within this time is not used any more.
const MARGIN: Duration = Duration::from_secs(60);

/// How many sessions are named in one endSessions command.
pub const END_SESSIONS_MAX: usize = 10_000;

/// How many sessions are lost before servers are told, so that broken connections do not leave sessions without number.
pub const LOST_SESSIONS_MAX: usize = 100;

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
    /// Adds a session whose command has no reply yet.
    pub fn await_reply(&mut self, session: &ServerSession) {
        self.awaited.insert(session.lsid.as_bytes().to_vec(), session.clone());
    }

    /// Removes a session whose command is finished after all.
    pub fn finish(&mut self, session: &ServerSession) {
        self.awaited.remove(session.lsid.as_bytes());
    }

    /// Takes a session whose command never gets its reply (sessions, "dirty").
    pub fn lose(&mut self, session: ServerSession) {
        self.finish(&session);
        self.lost.push(session);
    }

    /// Takes the lost sessions once there are [`LOST_SESSIONS_MAX`], to end them.
    pub fn take_lost(&mut self) -> Option<Vec<ServerSession>> {
        (self.lost.len() >= LOST_SESSIONS_MAX).then(|| std::mem::take(&mut self.lost))
    }

    /// Takes all sessions, to end them.
    pub fn drain(&mut self) -> Vec<ServerSession> {
        let mut all = std::mem::take(&mut self.lost);
        all.extend(std::mem::take(&mut self.awaited).into_values());
        all
    }
}
