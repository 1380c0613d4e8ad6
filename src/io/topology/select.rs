//! Server selection by a caller: from a snapshot if a server suits now, else by waiting in the topology.
//!
//! Does not decide which server suits, nor how long a caller waits: `selection` and `topology::waiters` do.

use std::borrow::Borrow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::oneshot;

use super::super::clock;
use super::super::pool::ServerPool;
use super::super::shell::Owner;
use super::super::snapshot::Snapshot;
use super::{TopologyDriver, known_servers};
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind, Result, Stage};
use crate::host::ServerAddress;
use crate::observe::log;
use crate::selection::{self, Criteria, Refusal};
use crate::topology::{SelectId, ServerType, TopologyDescription};

/// Everything that a call needs to select a server. Each call clones it: aligned, so that its counter shares no cache line.
#[repr(align(128))]
pub(crate) struct SelectionSource {
    pub(crate) driver: Arc<TopologyDriver>,
    pub(crate) snapshot: Arc<Snapshot>,
    /// Counts the sources that are in use.
    _count: Arc<()>,
}

/// A selected server, in the snapshot that it was selected from.
#[derive(Clone)]
pub(crate) struct SelectedServer {
    source: Arc<SelectionSource>,
    place: usize,
}

/// A caller that waits in the topology. Leaves it on drop.
struct WaitingSelection<'a> {
    driver: &'a Arc<TopologyDriver>,
    id: SelectId,
}

impl TopologyDriver {
    /// Selects a server, and waits for one if need be. Can be dropped at any moment.
    ///
    /// The caller has a timer of its own: it must not depend on the runtime that the client's tasks run on.
    pub(crate) async fn select(self: &Arc<Self>, operation: &str, criteria: &Arc<Criteria>, by: Deadline) -> Result<SelectedServer> {
        let mut is_logged = false;
        loop {
            let snapshot = self.snapshot();
            // The application's selector runs here, without a lock, and never in the machine.
            if let Some(selected) = self.choose(&snapshot, criteria)? {
                return Ok(selected);
            }
            if !is_logged {
                let description = &snapshot.description;
                let is_news = self.shell.lock().selection_waits.begin(known_servers(description));
                log::selection_waits(is_news, operation, criteria, description, by, clock::now());
                is_logged = true;
            }
            self.wait_for_change(&snapshot, criteria, by).await?;
        }
    }

    /// Waits until the topology has a server that suits.
    async fn wait_for_change(self: &Arc<Self>, snapshot: &Snapshot, criteria: &Arc<Criteria>, by: Deadline) -> Result<()> {
        let id = SelectId(self.next_select.fetch_add(1, Ordering::Relaxed));
        let (sender, mut answer) = oneshot::channel();
        let _waiting = WaitingSelection { driver: self, id };
        let (criteria, judged) = (Arc::clone(criteria), Arc::clone(&snapshot.description));
        let is_judged = judged.server_selector().is_some();
        self.act(|state, now| {
            state.selects.insert(id, sender);
            match is_judged {
                true => state.topology.handle_select_judged(id, criteria, judged, Some(by), now),
                false => state.topology.handle_select(id, criteria, Some(by), now),
            }
        });
        let mut due = Some(by.at);
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut answer => break outcome.unwrap_or_else(|_| Err(self.lost())),
                () = clock::sleep_until(due) => {
                    due = None;
                    self.act(|state, now| state.topology.handle_timeout(now));
                }
                () = self.lifeline.ended() => break Err(self.lost()),
            }
        };
        outcome.map_err(|error| self.parts.resolver.naming_look_ups(&error))
    }

    /// Returns what a call needs to select servers of a snapshot.
    pub(crate) fn source(self: &Arc<Self>, snapshot: Arc<Snapshot>) -> Arc<SelectionSource> {
        Arc::new(SelectionSource { driver: Arc::clone(self), snapshot, _count: Arc::clone(&self.sources) })
    }

    /// Selects a server of a snapshot, if one suits.
    fn choose(self: &Arc<Self>, snapshot: &Arc<Snapshot>, criteria: &Criteria) -> Result<Option<SelectedServer>> {
        let source = self.source(Arc::clone(snapshot));
        let mut random = SmallRng::seed_from_u64(self.draws.fetch_add(1, Ordering::Relaxed));
        source.choose(criteria, &mut random)
    }
}

impl SelectionSource {
    /// Selects a server, if one suits now.
    pub(crate) fn choose(self: Arc<Self>, criteria: &Criteria, random: &mut SmallRng) -> Result<Option<SelectedServer>> {
        let snapshot = &self.snapshot;
        let loads = |host: &ServerAddress| snapshot.pool(host).map_or(0, |pool| pool.load());
        let server = match selection::select(&snapshot.description, criteria, &loads, random) {
            Ok(server) => server,
            Err(Refusal::NoServer(_)) => return Ok(None),
            Err(Refusal::Invalid(error)) => return Err(error.at(Stage::Selection)),
        };
        match snapshot.description.place_of(server).filter(|place| snapshot.has_pool(*place)) {
            Some(place) => Ok(Some(SelectedServer { source: self, place })),
            None => {
                let error = Error::new(ErrorKind::Internal, "a server without a pool was selected");
                Err(error.at(Stage::Selection).on(&server.host))
            }
        }
    }
}

impl SelectedServer {
    pub(crate) fn driver(&self) -> &Arc<TopologyDriver> {
        &self.source.driver
    }

    pub(crate) fn description(&self) -> &TopologyDescription {
        &self.source.snapshot.description
    }

    pub(crate) fn kind(&self) -> ServerType {
        self.source.snapshot.description.servers().get(self.place).map_or(ServerType::Unknown, |server| server.kind)
    }

    pub(crate) fn pool(&self) -> &Arc<ServerPool> {
        self.source.snapshot.pool_at(self.place).expect("checked when it was selected")
    }
}

impl Borrow<Arc<ServerPool>> for SelectedServer {
    fn borrow(&self) -> &Arc<ServerPool> {
        self.pool()
    }
}

impl Drop for WaitingSelection<'_> {
    fn drop(&mut self) {
        // Dropping the sender may wake the caller, which is foreign code: not under the lock.
        drop(self.driver.act(|state, _| {
            state.topology.handle_cancel_select(self.id);
            state.selects.remove(&self.id)
        }));
    }
}
