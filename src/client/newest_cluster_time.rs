//! The newest cluster time of a client, and its copies.
//!
//! Replies update it, commands read it. Thread caches keep copies, which are updated when there is a newer time. Does not
//! decide which cluster time is newer (`operation::cluster_time`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::operation::cluster_time::{ClusterTime, ReceivedClusterTime};

/// The newest cluster time.
#[derive(Default)]
pub(super) struct NewestClusterTime {
    stamp: AtomicU64,
    newest: Mutex<ClusterTime>,
}

impl NewestClusterTime {
    /// Stores the `$clusterTime` of a reply, if it is newer than all before.
    #[inline]
    pub(super) fn hear(&self, document: &[u8]) {
        let Some(heard) = ReceivedClusterTime::read(document) else { return };
        if heard.stamp <= self.stamp.load(Ordering::Relaxed) {
            return;
        }
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.hear(heard) {
            self.stamp.store(newest.stamp(), Ordering::Release);
        }
    }

    /// Updates a copy to the newest time; in the same memory, unless a command that is being encoded uses the copy.
    #[inline]
    pub(super) fn tell(&self, copy: &mut Arc<ClusterTime>) {
        if copy.stamp() < self.stamp.load(Ordering::Acquire) {
            let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
            match Arc::get_mut(copy) {
                Some(copy) => copy.clone_from(&newest),
                None => *copy = Arc::new(newest.clone()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bson::{RawDocumentBuf, Timestamp, rawdoc};

    use super::*;

    fn time(time: u32) -> RawDocumentBuf {
        rawdoc! { "clusterTime": Timestamp { time, increment: 1 } }
    }

    #[test]
    fn copies_catch_up_with_the_newest_and_never_go_back() {
        let newest_cluster_time = NewestClusterTime::default();
        let mut copy = Arc::default();
        newest_cluster_time.tell(&mut copy);
        assert_eq!(copy.document(), None);
        for (heard, newest) in [(5, 5), (4, 5), (5, 5), (7, 7)] {
            newest_cluster_time.hear(time(heard).as_bytes());
            newest_cluster_time.tell(&mut copy);
            assert_eq!(copy.document(), Some(time(newest).as_ref()));
        }
        newest_cluster_time.hear(rawdoc! { "ok": 1 }.as_bytes());
        let mut late = Arc::default();
        newest_cluster_time.tell(&mut late);
        assert_eq!(late, copy);
    }

    #[test]
    fn copy_that_is_in_use_does_not_change() {
        let (newest_cluster_time, mut copy) = (NewestClusterTime::default(), Arc::default());
        newest_cluster_time.hear(time(1).as_bytes());
        newest_cluster_time.tell(&mut copy);
        let in_use = Arc::clone(&copy);
        newest_cluster_time.hear(time(2).as_bytes());
        newest_cluster_time.tell(&mut copy);
        assert_eq!((in_use.document(), copy.document()), (Some(time(1).as_ref()), Some(time(2).as_ref())));
    }
}
