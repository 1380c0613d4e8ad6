//! The effects of a topology step that are applied after its lock was released.
//!
//! Actions on pools and monitors take effect under the lock. Wakers of callers and watchers, the log's subscribers, and slow
//! work follow after it: closing sockets, dropping unused values.

use std::sync::Arc;

use tokio::sync::{oneshot, watch};

use super::super::pool::ServerPool;
use super::super::shell::DeferredEffects;
use super::super::snapshot::Snapshot;
use crate::error::Error;
use crate::observe::events::{EventHub, PendingWakeups, Wanted};
use crate::topology::TopologyDescription;

/// The sender of an answer to a caller that waits for a server, and the answer.
type SelectionReply = (oneshot::Sender<Result<(), Error>>, Result<(), Error>);

/// Which events and log lines of the topology and of the pools are wanted.
#[derive(Clone, Copy, Debug)]
pub(in crate::io) struct TopologyWanted {
    pub(super) topology: Wanted,
    pub(super) pools: Wanted,
}

/// The effects of one step.
pub(in crate::io) struct TopologyEffects {
    pub(super) wanted: TopologyWanted,
    pub(super) wakeups: PendingWakeups,
    pub(super) pools: Vec<DeferredEffects<ServerPool>>,
    pub(super) answers: Vec<SelectionReply>,
    pub(super) old_snapshots: Vec<Arc<Snapshot>>,
    pub(super) old_descriptions: Vec<Arc<TopologyDescription>>,
}

impl TopologyEffects {
    /// Creates an empty collection.
    pub(super) fn new(wanted: TopologyWanted) -> Self {
        Self {
            wanted,
            wakeups: PendingWakeups::default(),
            pools: Vec::new(),
            answers: Vec::new(),
            old_snapshots: Vec::new(),
            old_descriptions: Vec::new(),
        }
    }

    /// Applies all of it. No lock is held.
    pub(super) fn apply(self, events: &EventHub, descriptions: &watch::Sender<Arc<TopologyDescription>>) {
        let Self { wakeups, pools, answers, old_snapshots, old_descriptions, .. } = self;
        let is_published = !old_descriptions.is_empty();
        drop((old_snapshots, old_descriptions));
        pools.into_iter().for_each(DeferredEffects::apply);
        for (sender, outcome) in answers {
            // Fails only if the caller has just gone.
            drop(sender.send(outcome));
        }
        if is_published {
            descriptions.send_modify(|_| ());
        }
        events.finish(wakeups);
    }
}
