//! The topology state machine: facts about servers and callers in; descriptions, actions and events out.
//!
//! Does not decide the update table (`update`), the effect of application errors (`fault`), or the answers to waiting callers
//! (`waiters`).
//!
//! The order of actions is safe by itself: a pool is created and marked ready before the description that makes its server
//! eligible is published, and cleared after the description that makes it unknown.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tracing::Level;

use super::action::TopologyAction;
use super::change::Change;
use super::config::TopologyConfig;
use super::events::TopologyEvent;
use super::fault::{self, Fault, FaultEffect};
use super::liveness::LivenessProbes;
use super::log_limits::LogLimits;
use super::waiters::{SelectId, SelectionWaiter, SelectionWaiters};
use super::{SERVERS_MAX, update};
use crate::description::{ServerDescription, ServerType};
use crate::description::{TopologyDescription, TopologyType};
use crate::error::{Error, ErrorKind, LimitValue, Stage};
use crate::handshake::HelloReply;
use crate::host::ServerAddress;
use crate::machine::Machine;
use crate::note::Note;

/// The topology: its description, its waiting callers, and its pending actions.
///
/// ```text
/// Open --handle_shutdown--> Closed     (Closed ignores facts; callers are refused)
/// ```
#[derive(Debug)]
pub struct Topology {
    config: TopologyConfig,
    pub(super) state: TopologyState,
    pub(super) current: Arc<TopologyDescription>,
    pools: BTreeMap<ServerAddress, PoolRecord>,
    /// Above every generation of removed pools.
    next_generation: u64,
    pub(super) waiters: SelectionWaiters,
    pub(super) probes: LivenessProbes,
    pub(super) log_limits: LogLimits,
    rng: SmallRng,
    pub(super) actions: VecDeque<TopologyAction>,
    events: VecDeque<TopologyEvent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TopologyState {
    Open,
    Closed,
}

/// The state of a server's pool after all actions.
#[derive(Debug)]
struct PoolRecord {
    generation: u64,
    state: PoolState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PoolState {
    Paused,
    Ready,
}

/// How a pool is cleared.
pub(super) struct Clearing {
    pub(super) cause: Error,
    pub(super) interrupt: bool,
}

impl Topology {
    /// Opens the topology: its first actions create pools and start monitors for the seeds.
    pub fn new(config: TopologyConfig, seed: u64, now: Instant) -> Self {
        let mut topology = Self {
            state: TopologyState::Open,
            current: Arc::new(config.describe(TopologyType::Unknown, [])),
            pools: BTreeMap::new(),
            next_generation: 0,
            waiters: SelectionWaiters::default(),
            probes: LivenessProbes::default(),
            log_limits: LogLimits::new(),
            rng: SmallRng::seed_from_u64(seed),
            actions: VecDeque::new(),
            events: VecDeque::from([TopologyEvent::TopologyOpening]),
            config,
        };
        let config = &topology.config;
        let seeds = config.seeds.iter().map(ServerDescription::unknown);
        let first = config.describe(config.first_type(), seeds).with_set_name(config.set_name.clone());
        topology.commit(first, None, now);
        if topology.config.load_balanced {
            for host in topology.config.seeds.clone() {
                topology.submit(ServerDescription::load_balancer(&host), None, now);
            }
        }
        topology
    }

    /// Handles a hello reply of a monitor; `average` is the average round-trip time, if this check measured one.
    ///
    /// Replies of servers that are no longer monitored, and replies older than the known ones, change nothing. Unix sockets are
    /// not members unless one was configured.
    pub fn handle_hello(&mut self, host: &ServerAddress, mut reply: HelloReply, average: Option<Duration>, now: Instant) {
        let Some(known) = self.watched(host) else { return };
        self.handle_sign(host, now);
        if !self.config.seeds.iter().any(ServerAddress::is_socket) {
            reply.leave_out_sockets();
        }
        let members = reply.hosts.len() + reply.passives.len() + reply.arbiters.len();
        if members > SERVERS_MAX {
            let error = Error::new(ErrorKind::Protocol, format!("hello reply names {members} members"))
                .at(Stage::Hello)
                .against("SERVERS_MAX", LimitValue::Count(SERVERS_MAX as u64));
            return self.handle_check_failed(host, error.on(host), now);
        }
        if fault::is_outdated(reply.topology_version, known.topology_version) {
            return self.log_limits.notes.push(Level::DEBUG, format!("{host}: hello reply ignored: it is older than what is known"));
        }
        self.events.extend(self.log_limits.unusable(host, &reply.unusable_hosts, now));
        let mut incoming = ServerDescription::of_hello(host, reply, now);
        incoming.round_trip_time = average.or(known.round_trip_time);
        incoming.min_round_trip_time = known.min_round_trip_time;
        let deposed = self.current.primary().cloned();
        self.submit(incoming, None, now);
        let is_full = self.current.servers().len() >= SERVERS_MAX;
        let is_missing = |server: &Arc<ServerDescription>| server.members().any(|name| self.current.server(name).is_none());
        if is_full && self.current.server(host).is_some_and(is_missing) {
            self.log_limits.full(SERVERS_MAX, now);
        }
        self.ask_deposed(deposed, now);
        self.wake();
    }

    /// Handles a monitor's failed check: the server becomes unknown, and its pool is cleared.
    ///
    /// A network time-out interrupts the connections in use, too: they would wait in vain. A lack of local resources says
    /// nothing about a known server.
    pub fn handle_check_failed(&mut self, host: &ServerAddress, error: Error, now: Instant) {
        let Some(known) = self.watched(host) else { return };
        if error.kind() == ErrorKind::LocalResources && known.is_known() {
            let text = format!("{host}: the check could not be made, and the server stays as it is: {error}");
            return self.log_limits.notes.push(Level::WARN, text);
        }
        let interrupt = error.is_timeout() && error.is_network();
        if interrupt {
            self.take_silence(host, &error);
        }
        let clearing = Clearing { cause: error.clone(), interrupt };
        self.submit(ServerDescription::failed(host, error, now), Some(clearing), now);
        self.wake();
    }

    /// Handles round-trip times that were measured between the checks; nothing else changes, and no event follows.
    pub fn handle_rtt(&mut self, host: &ServerAddress, average: Duration, min: Duration, now: Instant) {
        let Some(known) = self.watched(host).filter(|server| server.is_known()) else { return };
        self.handle_sign(host, now);
        let mut server = ServerDescription::clone(&known);
        server.round_trip_time = Some(average);
        server.min_round_trip_time = min;
        let mut next = TopologyDescription::clone(&self.current);
        next.put(Arc::new(server));
        next.settle();
        self.commit(next, None, now);
    }

    /// Handles an error on an application's connection.
    pub fn handle_fault(&mut self, host: &ServerAddress, fault: Fault, now: Instant) {
        let (TopologyState::Open, Some(known), Some(generation)) = (self.state, self.current.server(host), self.generation(host)) else {
            return;
        };
        let verdict = if self.config.load_balanced { fault.verdict_behind_load_balancer() } else { fault.verdict(generation, known) };
        self.log_limits.notes.push(Level::DEBUG, format!("{host}: application error, {verdict:?}: {}", fault.error));
        let unknown =
            ServerDescription { topology_version: fault.topology_version, ..ServerDescription::failed(host, fault.error.clone(), now) };
        let clearing = Clearing { cause: fault.error, interrupt: false };
        match verdict {
            FaultEffect::Ignored(_) => return,
            FaultEffect::StateChanged { clear } => {
                self.submit(unknown, Some(clearing).filter(|_| clear), now);
                self.actions.push_back(TopologyAction::CheckNow(host.clone()));
            }
            FaultEffect::Broken => {
                self.submit(unknown, Some(clearing), now);
                self.actions.push_back(TopologyAction::CancelCheck(host.clone()));
            }
            FaultEffect::Refused => {
                // A streaming monitor would not report the server again for `heartbeatFrequencyMS`.
                let is_login = clearing.cause.stage() == Some(Stage::Auth);
                self.submit(unknown, Some(clearing), now);
                self.actions.extend(is_login.then(|| TopologyAction::CancelCheck(host.clone())));
            }
            FaultEffect::ServiceFailed(service_id) => {
                let Clearing { cause, .. } = clearing;
                let generation = fault.generation;
                self.actions.push_back(TopologyAction::ClearService { host: host.clone(), service_id, generation, cause });
            }
        }
        self.wake();
    }

    /// Handles a new answer of the SRV look-up (polling-srv-records); it counts only while no replica set is known.
    ///
    /// Known servers stay, missing servers are removed, and of the new servers as many as allowed are added at random.
    pub fn handle_srv_hosts(&mut self, hosts: Vec<ServerAddress>, now: Instant) {
        let follows = self.config.srv && self.current.kind().follows_srv();
        if self.state == TopologyState::Closed || !follows || hosts.is_empty() {
            return;
        }
        let mut next = TopologyDescription::clone(&self.current);
        next.retain(|host| hosts.contains(host));
        let mut added: Vec<ServerAddress> = hosts.iter().filter(|host| next.server(host).is_none()).cloned().collect();
        let room = match usize::try_from(self.config.srv_max_hosts) {
            Ok(0) | Err(_) => SERVERS_MAX,
            Ok(limit) => limit,
        };
        let room = room.saturating_sub(next.servers().len());
        while added.len() > room {
            added.swap_remove(self.rng.random_range(0..added.len()));
        }
        if added.is_empty() && next.servers().len() == self.current.servers().len() {
            return;
        }
        next.add_missing(added.iter());
        next.settle();
        self.config.seeds = next.servers().iter().map(|server| server.host.clone()).collect();
        self.commit(next, None, now);
        self.wake();
    }

    /// Closes the topology: monitors stop, pools close, callers are refused, and the description becomes empty.
    pub fn handle_shutdown(&mut self, now: Instant) {
        if self.state == TopologyState::Closed {
            return;
        }
        self.state = TopologyState::Closed;
        self.commit(self.config.describe(TopologyType::Unknown, []), None, now);
        self.end_probes();
        while let Some((id, waiter)) = self.waiters.pop() {
            self.actions.push_back(TopologyAction::NotSelected(id, waiter.shut_down(now)));
        }
        self.events.push_back(TopologyEvent::TopologyClosed);
    }

    /// Refuses the callers whose time has run out, and handles the servers that did not answer a liveness probe.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((id, waiter)) = self.waiters.pop_late(now) {
            self.refuse_late(id, &waiter, now);
        }
        self.watch_signs(now);
    }

    /// Returns the next action.
    pub fn poll_action(&mut self) -> Option<TopologyAction> {
        self.actions.pop_front()
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<TopologyEvent> {
        self.events.pop_front()
    }

    /// Returns the next log line.
    pub(crate) fn poll_note(&mut self) -> Option<Note> {
        self.log_limits.notes.pop()
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due, and the name of the limit that runs out then.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        [self.waiters.next_deadline(), self.probes.next_deadline()].into_iter().flatten().min()
    }

    /// Returns the latest description.
    pub fn description(&self) -> &Arc<TopologyDescription> {
        &self.current
    }

    /// Returns the generation of a server's pool after all actions so far.
    pub fn generation(&self, host: &ServerAddress) -> Option<u64> {
        self.pools.get(host).map(|pool| pool.generation)
    }

    /// Returns the number of waiting callers.
    pub fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Returns the description of a server, if a monitor watches it.
    pub(super) fn watched(&self, host: &ServerAddress) -> Option<Arc<ServerDescription>> {
        self.current.server(host).filter(|_| self.has_monitors()).cloned()
    }

    /// Returns whether servers are monitored: not behind a load balancer, nor after the end.
    pub(super) fn has_monitors(&self) -> bool {
        self.state == TopologyState::Open && !self.config.load_balanced
    }

    /// Returns whether servers are sent liveness probes.
    pub(super) fn has_probes(&self) -> bool {
        self.has_monitors() && self.config.liveness_probes
    }

    pub(super) fn refuse_late(&mut self, id: SelectId, waiter: &SelectionWaiter, now: Instant) {
        let error = waiter.timed_out(&self.current, &self.config.seeds, now);
        self.actions.push_back(TopologyAction::NotSelected(id, error));
    }

    /// Applies a new server description, then clears the server's pool.
    pub(super) fn submit(&mut self, incoming: ServerDescription, clearing: Option<Clearing>, now: Instant) {
        let mut next = TopologyDescription::clone(&self.current);
        let subject = Arc::new(incoming.clone());
        update::apply(&mut next, incoming, self.config.seeds.len());
        self.commit(next, Some(&subject), now);
        let (Some(Clearing { cause, interrupt }), Some(pool)) = (clearing, self.pools.get_mut(&subject.host)) else { return };
        pool.generation += 1;
        pool.state = PoolState::Paused;
        self.actions.push_back(TopologyAction::ClearPool { host: subject.host.clone(), cause, interrupt });
    }

    /// Makes a description the current one: events, then actions.
    fn commit(&mut self, next: TopologyDescription, subject: Option<&Arc<ServerDescription>>, now: Instant) {
        let next = Arc::new(next);
        let previous = std::mem::replace(&mut self.current, Arc::clone(&next));
        let change = Change::between(&previous, &next, subject);
        if previous.kind != next.kind && self.state != TopologyState::Closed {
            self.log_limits.kind(previous.kind.name(), next.kind.name(), now);
        }
        for host in &change.added {
            let generation = self.next_generation;
            self.pools.insert(host.clone(), PoolRecord { generation, state: PoolState::Paused });
            self.actions.push_back(TopologyAction::CreatePool { host: host.clone(), generation });
        }
        self.ready_pools(&next);
        self.actions.push_back(TopologyAction::Publish(Arc::clone(&next)));
        for host in &change.removed {
            self.handle_leaving(host, previous.server(host));
            self.log_limits.forget(host);
            if let Some(gone) = self.pools.remove(host) {
                // A late error of the old pool must not count against a new one.
                self.next_generation = self.next_generation.max(gone.generation + 1);
            }
            if !self.config.load_balanced {
                self.actions.push_back(TopologyAction::StopMonitor(host.clone()));
            }
            self.actions.push_back(TopologyAction::ClosePool(host.clone()));
        }
        if !self.config.load_balanced {
            self.actions.extend(change.added.iter().cloned().map(TopologyAction::StartMonitor));
        }
        self.record_events(previous, next, change);
    }

    fn record_events(&mut self, previous: Arc<TopologyDescription>, new: Arc<TopologyDescription>, change: Change) {
        let changed = change.is_some() || previous.kind != new.kind || previous.set_name != new.set_name;
        let opening =
            previous.servers().is_empty() && self.events.back().is_some_and(|event| matches!(event, TopologyEvent::TopologyOpening));
        let Change { servers, added, removed } = change;
        self.events.extend(servers.into_iter().map(|(previous, new)| TopologyEvent::ServerDescriptionChanged { previous, new }));
        let hosts = added.into_iter().map(|host| TopologyEvent::ServerOpening { host });
        let hosts = hosts.chain(removed.into_iter().map(|host| TopologyEvent::ServerClosed { host }));
        let topology = changed.then_some(TopologyEvent::TopologyDescriptionChanged { previous, new });
        if opening {
            // The first description is published before its servers are opened, later ones after.
            self.events.extend(topology.into_iter().chain(hosts));
        } else {
            self.events.extend(hosts.chain(topology));
        }
    }

    /// Marks the paused pools of servers that can be selected now as ready.
    fn ready_pools(&mut self, topology: &TopologyDescription) {
        for server in topology.servers() {
            let selectable = server.kind.is_data_bearing() || (topology.kind == TopologyType::Single && server.kind != ServerType::Unknown);
            if let Some(pool) = self.pools.get_mut(&server.host).filter(|pool| selectable && pool.state == PoolState::Paused) {
                pool.state = PoolState::Ready;
                self.actions.push_back(TopologyAction::ReadyPool(server.host.clone()));
            }
        }
    }

    /// Answers the callers that the current description decides.
    pub(super) fn wake(&mut self) {
        for (id, outcome) in self.waiters.decided(&self.current) {
            self.actions.push_back(match outcome {
                Ok(()) => TopologyAction::Selected(id),
                Err(error) => TopologyAction::NotSelected(id, error),
            });
        }
        self.request_checks();
    }

    /// Requests a check of every server while callers wait, again after every change (server-selection).
    pub(super) fn request_checks(&mut self) {
        if self.waiters.len() > 0 && !self.config.load_balanced {
            let checks = self.current.servers().iter().map(|server| TopologyAction::CheckNow(server.host.clone()));
            self.actions.extend(checks);
        }
    }
}

impl Machine for Topology {
    type Action = TopologyAction;
    type Event = TopologyEvent;

    fn handle_timeout(&mut self, now: Instant) {
        Self::handle_timeout(self, now);
    }

    fn poll_action(&mut self) -> Option<TopologyAction> {
        Self::poll_action(self)
    }

    fn poll_event(&mut self) -> Option<TopologyEvent> {
        Self::poll_event(self)
    }

    fn poll_note(&mut self) -> Option<Note> {
        Self::poll_note(self)
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        Self::poll_timeout(self)
    }
}
