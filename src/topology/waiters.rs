//! The callers that wait for a server.
//!
//! The loop of server-selection, "Multi-threaded or asynchronous server selection": a caller waits for any change, never for a
//! full discovery. Does not decide which servers suit a caller (`selection`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use super::action::TopologyAction;
use super::machine::{Topology, TopologyState};
use crate::deadline::Deadline;
use crate::description::ServerDescription;
use crate::description::TopologyDescription;
use crate::error::{Error, ErrorKind, LimitValue, Stage};
use crate::host::ServerAddress;
use crate::selection::{self, Criteria};

/// The id of a waiting caller; callers are served in the order of their ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SelectId(pub u64);

/// The waiting callers.
#[derive(Debug, Default)]
pub(super) struct SelectionWaiters {
    waiting: BTreeMap<SelectId, SelectionWaiter>,
    deadlines: BTreeSet<(Instant, SelectId)>,
}

#[derive(Debug)]
pub(super) struct SelectionWaiter {
    criteria: Arc<Criteria>,
    deadline: Option<Deadline>,
    waiting_since: Instant,
    /// The description of which the application's selector excluded every server.
    judged: Option<Arc<TopologyDescription>>,
}

/// The state of a caller.
pub(super) enum Prospect {
    /// A server is suitable.
    Suited,
    /// No server is suitable yet.
    Open,
    /// No server ever will be, for this reason.
    Hopeless(Error),
}

impl SelectionWaiter {
    pub(super) fn new(criteria: Arc<Criteria>, deadline: Option<Deadline>, now: Instant) -> Self {
        Self { criteria, deadline, waiting_since: deadline.map_or(now, |deadline| deadline.since), judged: None }
    }

    /// Sets the description of which the application's selector excluded every server.
    pub(super) fn judged(mut self, judged: Arc<TopologyDescription>) -> Self {
        self.judged = Some(judged);
        self
    }

    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline.at <= now)
    }

    pub(super) fn prospect(&self, topology: &Arc<TopologyDescription>) -> Prospect {
        let is_judged = self.judged.as_ref().is_some_and(|judged| Arc::ptr_eq(judged, topology));
        match selection::is_served(topology, &self.criteria) {
            Ok(true) if !is_judged => Prospect::Suited,
            Ok(true | false) => Prospect::Open,
            Err(error) => Prospect::Hopeless(error.at(Stage::Selection)),
        }
    }

    /// Returns the error of a caller whose time has run out.
    pub(super) fn timed_out(&self, topology: &TopologyDescription, seeds: &[ServerAddress], now: Instant) -> Error {
        let elapsed = now.saturating_duration_since(self.waiting_since);
        let mut text = format!("no server for {} in a topology of type {}", self.criteria, topology.kind().name());
        if let Some(name) = topology.set_name() {
            text.push_str(&format!(" ({name:?})"));
        }
        if only_internal_names(topology, seeds) {
            text.push_str("; ");
            text.push_str(INTERNAL_NAMES_HINT);
        }
        let mut servers = selection::reasons_without_selector(topology, &self.criteria);
        servers.extend(topology.left_out().iter().cloned());
        let error = Error::new(ErrorKind::ServerSelection, text).at(Stage::Selection).after(elapsed).with_servers(servers);
        match self.deadline {
            Some(deadline) => error.against(deadline.name, LimitValue::Time(deadline.limit)),
            None => error,
        }
    }

    /// Returns the error of a caller whose client is shut down.
    pub(super) fn shut_down(&self, now: Instant) -> Error {
        shut_down().after(now.saturating_duration_since(self.waiting_since))
    }
}

impl SelectionWaiters {
    pub(super) fn insert(&mut self, id: SelectId, waiter: SelectionWaiter) {
        if let Some(deadline) = waiter.deadline {
            self.deadlines.insert((deadline.at, id));
        }
        self.waiting.insert(id, waiter);
    }

    pub(super) fn remove(&mut self, id: SelectId) -> Option<SelectionWaiter> {
        let waiter = self.waiting.remove(&id)?;
        if let Some(deadline) = waiter.deadline {
            self.deadlines.remove(&(deadline.at, id));
        }
        Some(waiter)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Returns the earliest deadline and the name of its limit.
    pub(super) fn next_deadline(&self) -> Option<(Instant, &'static str)> {
        let (at, id) = self.deadlines.first()?;
        Some((*at, self.waiting.get(id)?.deadline?.name))
    }

    /// Removes the next caller whose time has run out.
    pub(super) fn pop_late(&mut self, now: Instant) -> Option<(SelectId, SelectionWaiter)> {
        let (_, id) = *self.deadlines.first().filter(|(at, _)| *at <= now)?;
        Some((id, self.remove(id)?))
    }

    /// Removes any caller.
    pub(super) fn pop(&mut self) -> Option<(SelectId, SelectionWaiter)> {
        let id = *self.waiting.keys().next()?;
        Some((id, self.remove(id)?))
    }

    /// Removes all callers that a topology decides, in the order of their ids.
    pub(super) fn decided(&mut self, topology: &Arc<TopologyDescription>) -> Vec<(SelectId, Result<(), Error>)> {
        let mut decided = Vec::new();
        for (id, waiter) in &self.waiting {
            match waiter.prospect(topology) {
                Prospect::Suited => decided.push((*id, Ok(()))),
                Prospect::Open => {}
                Prospect::Hopeless(error) => decided.push((*id, Err(error))),
            }
        }
        for (id, _) in &decided {
            self.remove(*id);
        }
        decided
    }
}

impl Topology {
    /// Adds a caller that found no suitable server in the published description.
    ///
    /// It is answered with [`Selected`](TopologyAction::Selected) or [`NotSelected`](TopologyAction::NotSelected), once, unless
    /// it is cancelled. While it waits, every server is checked at once.
    pub fn handle_select(&mut self, id: SelectId, criteria: Arc<Criteria>, deadline: Option<Deadline>, now: Instant) {
        self.enlist(id, SelectionWaiter::new(criteria, deadline, now), now);
    }

    /// Adds a caller for which the application's server selector excluded every server of `judged`.
    ///
    /// The selector is foreign code and runs in the caller only, without a lock. The caller gets
    /// [`Selected`](TopologyAction::Selected) when another description has servers to choose from, and runs its selector again.
    pub fn handle_select_judged(
        &mut self,
        id: SelectId,
        criteria: Arc<Criteria>,
        judged: Arc<TopologyDescription>,
        deadline: Option<Deadline>,
        now: Instant,
    ) {
        self.enlist(id, SelectionWaiter::new(criteria, deadline, now).judged(judged), now);
    }

    fn enlist(&mut self, id: SelectId, waiter: SelectionWaiter, now: Instant) {
        self.waiters.remove(id);
        if self.state == TopologyState::Closed {
            self.actions.push_back(TopologyAction::NotSelected(id, shut_down()));
            return;
        }
        match waiter.prospect(&self.current) {
            Prospect::Suited => self.actions.push_back(TopologyAction::Selected(id)),
            Prospect::Hopeless(error) => self.actions.push_back(TopologyAction::NotSelected(id, error)),
            Prospect::Open if waiter.is_late(now) => self.refuse_late(id, &waiter, now),
            Prospect::Open => {
                self.waiters.insert(id, waiter);
                self.request_checks();
            }
        }
    }

    /// Removes a caller that no longer waits.
    pub fn handle_cancel_select(&mut self, id: SelectId) {
        self.waiters.remove(id);
    }
}

/// Returns the error of a caller after the end.
pub(super) fn shut_down() -> Error {
    Error::new(ErrorKind::Shutdown, "the client has been shut down").at(Stage::Selection)
}

/// Returns whether servers were discovered through others, and none of their names is reachable.
fn only_internal_names(topology: &TopologyDescription, seeds: &[ServerAddress]) -> bool {
    let mut learnt = topology.servers().iter().filter(|server| !seeds.contains(&server.host)).peekable();
    learnt.peek().is_some() && learnt.all(|server| leads_nowhere(server))
}

fn leads_nowhere(server: &ServerDescription) -> bool {
    let before_connection = |error: &Error| matches!(error.stage(), Some(Stage::Dns | Stage::Tcp));
    !server.is_known() && server.error.as_ref().is_some_and(before_connection)
}

/// The hint if no name that was discovered is reachable.
const INTERNAL_NAMES_HINT: &str = "is the replica set configured with internal host names?";
