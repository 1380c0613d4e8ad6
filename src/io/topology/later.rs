//! What is left to do when the topology's lock was released?
//!
//! Orders take effect under the lock. What is foreign runs after it: subscribers of the log, wakers of callers and watchers;
//! and what may take its time: closing sockets, dropping what is no longer used.

use std::sync::Arc;

use tokio::sync::{oneshot, watch};

use super::super::pool::Pending;
use super::super::snapshot::Snapshot;
use crate::error::Error;
use crate::observe::events::{EventHub, PendingWakeups, Wanted};
use crate::topology::TopologyDescription;

/// The sender of an answer to a caller that waits for a server, and the answer.
type SelectionReply = (oneshot::Sender<Result<(), Error>>, Result<(), Error>);

/// What is left to do after a step of the topology.
pub(super) struct Later {
    pub(super) topology_wanted: Wanted,
    pub(super) pools_wanted: Wanted,
    pub(super) told: PendingWakeups,
    pub(super) pools: Vec<Pending>,
    pub(super) answers: Vec<SelectionReply>,
    pub(super) old_snapshots: Vec<Arc<Snapshot>>,
    pub(super) old_descriptions: Vec<Arc<TopologyDescription>>,
}

impl Later {
    /// Begins a step: asks who wants to know of it, which must not be asked under the lock.
    pub(super) fn new(events: &EventHub) -> Self {
        Self {
            topology_wanted: events.topology_wanted(),
            pools_wanted: events.pools_wanted(),
            told: PendingWakeups::default(),
            pools: Vec::new(),
            answers: Vec::new(),
            old_snapshots: Vec::new(),
            old_descriptions: Vec::new(),
        }
    }

    /// Does all of it. No lock is held.
    pub(super) fn run(self, events: &EventHub, descriptions: &watch::Sender<Arc<TopologyDescription>>) {
        let Self { told, pools, answers, old_snapshots, old_descriptions, .. } = self;
        let is_published = !old_descriptions.is_empty();
        drop((old_snapshots, old_descriptions));
        pools.into_iter().for_each(Pending::run);
        for (sender, outcome) in answers {
            // Fails only if the caller has just gone.
            drop(sender.send(outcome));
        }
        if is_published {
            descriptions.send_modify(|_| ());
        }
        events.finish(told);
    }
}
