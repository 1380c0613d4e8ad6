//! What does somebody hold who has a connection?
//!
//! Something that goes back to its pool by itself, in whatever state its holder left it.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

use super::ServerPool;
use crate::io::clock;
use crate::io::conn::Conn;
use crate::pool::Lease;

/// Is a connection lent to somebody; goes back by itself.
pub(crate) struct CheckedOut {
    pub(super) conn: Option<Box<Conn>>,
    pub(super) lease: Lease,
    pub(super) lent_at: Instant,
    pub(super) pool: Arc<ServerPool>,
}

impl CheckedOut {
    pub(crate) fn id(&self) -> u64 {
        self.lease.id
    }

    /// The pool's generation when the connection was made.
    pub(crate) fn generation(&self) -> u64 {
        self.lease.generation
    }

    /// Returns when it was lent.
    pub(crate) fn lent_at(&self) -> Instant {
        self.lent_at
    }

    /// Gives it back.
    pub(crate) fn give_back(mut self, now: Instant) {
        if let Some(conn) = self.conn.take() {
            self.pool.checkin(self.lease, conn, now);
        }
    }

    /// A cursor keeps it until it is dropped.
    pub(crate) fn pin(&self) {
        self.pool.act(|guarded, _| guarded.pool.handle_pinned(self.lease));
    }

    pub(super) fn disarm(mut self) -> (Lease, Option<Box<Conn>>) {
        (self.lease, self.conn.take())
    }
}

impl Deref for CheckedOut {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        self.conn.as_ref().expect("present until dropped")
    }
}

impl DerefMut for CheckedOut {
    fn deref_mut(&mut self) -> &mut Conn {
        self.conn.as_mut().expect("present until dropped")
    }
}

impl Drop for CheckedOut {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.pool.checkin(self.lease, conn, clock::now());
        }
    }
}
