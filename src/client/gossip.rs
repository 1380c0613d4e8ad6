//! Who tells whom of the newest cluster time?
//!
//! Replies tell the client, commands are told by it. Threads keep copies, so that they meet only when there is news. What
//! a cluster time is, and which one is newer, is decided in `op::cluster_time`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bson::RawDocument;

use crate::io::stripes::{Apart, Striped};
use crate::op::cluster_time::{ClusterTime, Heard};

/// Passes cluster times on.
pub(super) struct Gossip {
    newest: Apart<Newest>,
    copies: Striped<ClusterTime>,
}

#[derive(Default)]
struct Newest {
    stamp: AtomicU64,
    time: Mutex<ClusterTime>,
}

impl Gossip {
    pub(super) fn new() -> Self {
        Self { newest: Apart::default(), copies: Striped::new(|_| ClusterTime::default()) }
    }

    /// Takes the `$clusterTime` of a reply, if it is newer than all before.
    #[inline]
    pub(super) fn hear(&self, document: &[u8]) {
        let Some(heard) = Heard::read(document) else { return };
        if heard.stamp <= self.newest.stamp.load(Ordering::Relaxed) {
            return;
        }
        let mut newest = self.newest.time.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.hear(heard) {
            self.newest.stamp.store(newest.stamp(), Ordering::Release);
        }
    }

    /// Gives the newest to whoever writes a command.
    #[inline]
    pub(super) fn tell<R>(&self, write: impl FnOnce(Option<&RawDocument>) -> R) -> R {
        let mut copy = self.copies.own();
        if copy.stamp() < self.newest.stamp.load(Ordering::Acquire) {
            copy.clone_from(&self.newest.time.lock().unwrap_or_else(PoisonError::into_inner));
        }
        write(copy.document())
    }
}
