//! How do events reach those who want them?
//!
//! A bounded ring: whoever reads too slowly is told how many events were missed, and nobody waits for a reader. Without
//! readers none is sent.

use std::sync::Arc;

use tokio::sync::broadcast;

use crate::host::HostKey;
use crate::op::CommandEvent;
use crate::pool::PoolEvent;
use crate::topology::{MonitorEvent, TopologyEvent};

/// Is something that a client tells of its work.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// What is known of the servers has changed.
    Topology(TopologyEvent),
    /// A server was checked.
    Heartbeat {
        /// The server.
        host: HostKey,
        /// What happened.
        event: MonitorEvent,
    },
    /// Something happened in a server's pool.
    Pool {
        /// The server.
        host: HostKey,
        /// What happened.
        event: PoolEvent,
    },
    /// Something happened to a command.
    Command(CommandEvent),
    /// The reader was too slow: this many events were dropped here.
    Missed(u64),
}

/// How many events wait for a slow reader.
pub const EVENTS_MAX: usize = 4096;

/// Commands and replies that are larger, in bytes, are left out of events: a slow reader must not hold them all in memory.
pub const EVENT_DOCUMENT_SIZE_MAX: usize = 64 * 1024;

/// Hands events out.
#[derive(Clone, Debug)]
pub(crate) struct EventHub(broadcast::Sender<Arc<Event>>);

impl EventHub {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(EVENTS_MAX))
    }

    /// Tells whether anybody listens.
    pub(crate) fn wanted(&self) -> bool {
        self.0.receiver_count() > 0
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.0.subscribe()
    }

    pub(crate) fn send(&self, make: impl FnOnce() -> Event) {
        if self.wanted() {
            // Fails only if the last reader has just gone.
            drop(self.0.send(Arc::new(make())));
        }
    }

    pub(crate) fn pool(&self, host: &HostKey, make: impl FnOnce() -> PoolEvent) {
        self.send(|| Event::Pool { host: host.clone(), event: make() });
    }
}
