//! How do events reach those who want them?
//!
//! A bounded ring: whoever reads too slowly is told how many events were missed, and nobody waits for a reader. Without
//! readers none is sent. What of it is logged is decided in `log`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::broadcast;

use super::log::{self, CheckedOn, Subject};
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
pub(crate) struct EventHub {
    /// The ring, made for the first who listens: it is large.
    ring: Arc<OnceLock<broadcast::Sender<Arc<Event>>>>,
    /// How many listen: asked at every step of every command, and therefore not behind the ring's lock.
    listeners: Arc<AtomicUsize>,
    /// What is logged beside them is about this.
    subject: Subject,
}

/// Listens until it is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) receiver: broadcast::Receiver<Arc<Event>>,
    listeners: Arc<AtomicUsize>,
}

impl EventHub {
    pub(crate) fn new() -> Self {
        Self { ring: Arc::default(), listeners: Arc::default(), subject: Subject::default() }
    }

    /// Hands out to the same readers what happens to one topology.
    pub(crate) fn about(&self, subject: Subject) -> Self {
        Self { subject, ..self.clone() }
    }

    /// Tells whether anybody listens.
    pub(crate) fn wanted(&self) -> bool {
        self.listeners.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn subscribe(&self) -> Listener {
        let ring = self.ring.get_or_init(|| broadcast::Sender::new(EVENTS_MAX));
        let listener = Listener { receiver: ring.subscribe(), listeners: Arc::clone(&self.listeners) };
        self.listeners.fetch_add(1, Ordering::Relaxed);
        listener
    }

    pub(crate) fn send(&self, make: impl FnOnce() -> Event) {
        if let Some(ring) = self.ring.get().filter(|_| self.wanted()) {
            // Fails only if the last reader has just gone.
            drop(ring.send(Arc::new(make())));
        }
    }

    /// Tells whether anybody wants to know what happens in a pool.
    pub(crate) fn pools_wanted(&self) -> bool {
        self.wanted() || log::wants_pools()
    }

    pub(crate) fn topology(&self, event: TopologyEvent) {
        self.subject.topology(&event);
        self.send(|| Event::Topology(event));
    }

    pub(crate) fn heartbeat(&self, host: &HostKey, on: &CheckedOn, event: MonitorEvent) {
        self.subject.heartbeat(host, on, &event);
        self.send(|| Event::Heartbeat { host: host.clone(), event });
    }

    pub(crate) fn pool(&self, host: &HostKey, event: PoolEvent) {
        self.subject.pool(host, &event);
        self.send(|| Event::Pool { host: host.clone(), event });
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}
