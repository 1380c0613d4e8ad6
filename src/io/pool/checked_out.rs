//! What does somebody hold who has a connection?
//!
//! Something that goes back to its pool by itself, in whatever state its holder left it.

use std::borrow::Borrow;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

use super::ServerPool;
use crate::io::clock;
use crate::io::conn::Conn;
use crate::pool::Lease;

/// Is a connection lent to somebody, who knows the pool by something of his own; goes back by itself.
pub(crate) struct CheckedOut<P: Borrow<Arc<ServerPool>> = Arc<ServerPool>> {
    pub(super) conn: Option<Box<Conn>>,
    pub(super) lease: Lease,
    pub(super) lent_at: Instant,
    pub(super) pool: P,
}

impl<P: Borrow<Arc<ServerPool>>> CheckedOut<P> {
    pub(crate) fn id(&self) -> u64 {
        self.lease.id
    }

    /// The pool's generation when the connection was made.
    pub(crate) fn generation(&self) -> u64 {
        self.lease.generation
    }

    /// Returns when it was lent: if at once, when its caller asked.
    pub(crate) fn lent_at(&self) -> Instant {
        self.lent_at
    }

    /// Returns what its holder knows the pool by.
    pub(crate) fn of(&self) -> &P {
        &self.pool
    }

    /// Gives it back.
    #[inline]
    pub(crate) fn give_back(mut self, now: Instant) {
        if let Some(conn) = self.conn.take() {
            self.pool.borrow().checkin(self.lease, conn, now);
        }
    }

    /// A cursor keeps it until it is dropped.
    pub(crate) fn pin(&self) {
        self.pool.borrow().act(|guarded, _| guarded.pool.handle_pinned(self.lease));
    }

    /// Hands it to somebody who knows the pool by something else.
    pub(super) fn hand_to<Q: Borrow<Arc<ServerPool>>>(mut self, pool: Q) -> CheckedOut<Q> {
        CheckedOut { conn: self.conn.take(), lease: self.lease, lent_at: self.lent_at, pool }
    }
}

impl<P: Borrow<Arc<ServerPool>>> Deref for CheckedOut<P> {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        self.conn.as_ref().expect("present until dropped")
    }
}

impl<P: Borrow<Arc<ServerPool>>> DerefMut for CheckedOut<P> {
    fn deref_mut(&mut self) -> &mut Conn {
        self.conn.as_mut().expect("present until dropped")
    }
}

impl<P: Borrow<Arc<ServerPool>>> Drop for CheckedOut<P> {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.pool.borrow().checkin(self.lease, conn, clock::now());
        }
    }
}
