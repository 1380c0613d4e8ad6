//! A checked-out connection.
//!
//! Checked in by itself when it is dropped, in whatever state its holder left it. Does not decide what becomes of it then.

use std::ops::{Deref, DerefMut};
use std::time::Instant;

use crate::io::clock;
use crate::io::conn::Conn;
use crate::pool::Lease;

/// A holder's handle to the pool of a connection.
pub(crate) trait CheckIn {
    /// Checks a connection in.
    fn check_in(&self, lease: Lease, conn: Box<Conn>, now: Instant);

    /// Marks a connection as pinned by a cursor until it is checked in.
    fn pin(&self, lease: Lease);
}

/// A checked-out connection. `P` is the holder's handle to the pool. Checked in on drop.
pub(crate) struct CheckedOut<P: CheckIn> {
    pub(super) conn: Option<Box<Conn>>,
    pub(super) lease: Lease,
    pub(super) checked_out_at: Instant,
    pub(super) pool: P,
}

impl<P: CheckIn> CheckedOut<P> {
    pub(crate) fn id(&self) -> u64 {
        self.lease.id
    }

    /// Returns the pool's generation when the connection was made.
    pub(crate) fn generation(&self) -> u64 {
        self.lease.generation
    }

    /// Returns when it was checked out: if it did not have to wait, when its caller asked.
    pub(crate) fn checked_out_at(&self) -> Instant {
        self.checked_out_at
    }

    /// Returns the handle to the pool.
    pub(crate) fn of(&self) -> &P {
        &self.pool
    }

    /// Checks the connection in.
    #[inline]
    pub(crate) fn check_in(mut self, now: Instant) {
        if let Some(conn) = self.conn.take() {
            self.pool.check_in(self.lease, conn, now);
        }
    }

    /// Marks the connection as pinned by a cursor until it is checked in.
    pub(crate) fn pin(&self) {
        self.pool.pin(self.lease);
    }

    /// Replaces the handle to the pool.
    pub(super) fn with_handle<Q: CheckIn>(mut self, pool: Q) -> CheckedOut<Q> {
        CheckedOut { conn: self.conn.take(), lease: self.lease, checked_out_at: self.checked_out_at, pool }
    }
}

impl<P: CheckIn> Deref for CheckedOut<P> {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        self.conn.as_ref().expect("present until dropped")
    }
}

impl<P: CheckIn> DerefMut for CheckedOut<P> {
    fn deref_mut(&mut self) -> &mut Conn {
        self.conn.as_mut().expect("present until dropped")
    }
}

impl<P: CheckIn> Drop for CheckedOut<P> {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.pool.check_in(self.lease, conn, clock::now());
        }
    }
}
