//! The model of a topology.
//!
//! The model follows the actions like the shell and the events like a subscriber, and compares both with the description after
//! every step. `topology_random` chooses the steps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use mongolink::bson::oid::ObjectId;
use mongolink::deadline::Deadline;
use mongolink::selection::{self, Criteria, Target};
use mongolink::topology::{
    SelectId, ServerDescription, ServerType, Topology, TopologyAction, TopologyConfig, TopologyDescription, TopologyEvent, TopologyType,
};
use mongolink::{ErrorKind, ServerAddress};

use crate::liveness_model::LivenessModel;
use crate::liveness_random;

/// A pool, following the actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PoolOf {
    generation: u64,
    ready: bool,
}

/// A waiter for a server.
struct Waiting {
    id: SelectId,
    criteria: Arc<Criteria>,
    deadline: Option<Deadline>,
}

/// The actions and events of one step.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) cleared: Vec<(ServerAddress, bool)>,
    pub(crate) checks: Vec<ServerAddress>,
    pub(crate) cancelled: Vec<ServerAddress>,
    /// Services that are cleared, and the generation of the connection that failed.
    pub(crate) services: Vec<(ServerAddress, ObjectId, u64)>,
    /// Servers that are probed.
    pub(crate) asked: Vec<ServerAddress>,
    /// Servers whose connections are checked for traffic.
    pub(crate) judged: Vec<ServerAddress>,
    /// Servers whose liveness probe ends.
    pub(crate) ended: Vec<ServerAddress>,
    /// Servers whose retired pools are interrupted.
    pub(crate) interrupted: Vec<ServerAddress>,
    /// The number of actions, without those about liveness probes.
    pub(crate) actions: usize,
    pub(crate) events: usize,
}

/// The order in which elections and configurations are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    ElectionFirst,
    VersionFirst,
}

pub(crate) struct Scene {
    pub(crate) topology: Topology,
    pub(crate) now: Instant,
    pub(crate) order: Order,
    monitored: bool,
    pools: BTreeMap<ServerAddress, PoolOf>,
    /// The last generation of each host's pool.
    gone: BTreeMap<ServerAddress, u64>,
    monitors: Vec<ServerAddress>,
    published: Option<Arc<TopologyDescription>>,
    /// The description that was published before.
    outdated: Option<Arc<TopologyDescription>>,
    waiting: Vec<Waiting>,
    pub(crate) probes: LivenessModel,
    told: Option<Arc<TopologyDescription>>,
    replayed: BTreeMap<ServerAddress, Arc<ServerDescription>>,
    opened: bool,
    closed: bool,
    newest: (Option<ObjectId>, Option<i64>),
}

impl Scene {
    pub(crate) fn new(config: TopologyConfig, order: Order, seed: u64, now: Instant) -> Self {
        let monitored = !config.load_balanced;
        let mut scene = Self {
            topology: Topology::new(config, seed, now),
            now,
            order,
            monitored,
            pools: BTreeMap::new(),
            gone: BTreeMap::new(),
            monitors: Vec::new(),
            published: None,
            outdated: None,
            waiting: Vec::new(),
            probes: LivenessModel::default(),
            told: None,
            replayed: BTreeMap::new(),
            opened: false,
            closed: false,
            newest: (None, None),
        };
        scene.look();
        scene
    }

    pub(crate) fn select(&mut self, id: SelectId, criteria: Criteria, deadline: Option<Deadline>) {
        let criteria = Arc::new(criteria);
        self.waiting.push(Waiting { id, criteria: Arc::clone(&criteria), deadline });
        self.topology.handle_select(id, criteria, deadline, self.now);
    }

    pub(crate) fn cancel_select(&mut self, which: usize) {
        if which < self.waiting.len() {
            let gone = self.waiting.remove(which);
            self.topology.handle_cancel_select(gone.id);
        }
    }

    pub(crate) fn time(&mut self) {
        let nameless = self.probes.nameless(self.now);
        self.topology.handle_timeout(self.now);
        for host in nameless {
            self.rest(&host);
        }
        assert!(self.topology.poll_timeout().is_none_or(|(at, _)| at > self.now), "a timer is due after time was looked at");
    }

    /// A server has answered a liveness probe or could not be probed: it is not probed for a while, unless it has left.
    pub(crate) fn rest(&mut self, host: &ServerAddress) {
        if self.topology.description().server(host).is_some() {
            self.probes.rest(host, self.now);
        } else {
            self.probes.forget(host);
        }
    }

    /// Shuts the topology down: everything ends.
    pub(crate) fn shut_down(&mut self) {
        self.topology.handle_shutdown(self.now);
        self.look();
        assert!(self.closed && self.pools.is_empty() && self.monitors.is_empty() && self.waiting.is_empty());
        assert!(self.probes.is_idle(), "nobody is asked after the end");
        assert!(self.topology.description().servers().is_empty() && self.topology.poll_timeout().is_none());
    }

    /// Takes actions and events, and checks them.
    pub(crate) fn look(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        while let Some(event) = self.topology.poll_event() {
            outcome.events += 1;
            self.hear(event);
        }
        while let Some(action) = self.topology.poll_action() {
            outcome.actions += 1;
            self.obey(action, &mut outcome);
        }
        assert_eq!(self.probes.missed(), None, "a server that should be asked for an answer to a liveness probe is not");
        self.check_description();
        self.check_orders();
        self.check_waiting();
        outcome
    }

    fn obey(&mut self, action: TopologyAction, outcome: &mut Outcome) {
        match action {
            TopologyAction::CreatePool { host, generation } => {
                assert!(
                    self.gone.get(&host).is_none_or(|last| *last < generation),
                    "a late error of {host}'s old pool counts against the new"
                );
                let known = self.pools.insert(host.clone(), PoolOf { generation, ready: false });
                assert!(known.is_none(), "{host} has two pools");
            }
            TopologyAction::ReadyPool(host) => {
                let pool = self.pools.get_mut(&host).expect("a pool that is readied");
                assert!(!pool.ready, "{host}'s pool is readied twice");
                pool.ready = true;
            }
            TopologyAction::ClearPool { host, interrupt, .. } => {
                let pool = self.pools.get_mut(&host).expect("a pool that is cleared");
                *pool = PoolOf { generation: pool.generation + 1, ready: false };
                let published = self.published.as_ref().and_then(|topology| topology.server(&host)).expect("a server");
                assert!(!published.is_known(), "{host}'s pool is cleared before it is said to be unknown");
                outcome.cleared.push((host, interrupt));
            }
            TopologyAction::ClearService { host, service_id, generation, .. } => {
                assert!(!self.monitored && self.pools.contains_key(&host), "a service that is cleared has a load balancer");
                outcome.services.push((host, service_id, generation));
            }
            TopologyAction::Probe { host, id, again } => {
                outcome.actions -= 1;
                outcome.asked.push(host.clone());
                self.probes.asked(&host, id, again, self.now);
            }
            TopologyAction::CheckTraffic { host, id } => {
                outcome.actions -= 1;
                self.probes.traffic_checked(&host, id, self.now);
                outcome.judged.push(host);
            }
            TopologyAction::EndProbe(host) => {
                outcome.actions -= 1;
                self.probes.ended(&host);
                outcome.ended.push(host);
            }
            TopologyAction::ClosePool(host) => {
                let pool = self.pools.remove(&host).expect("a pool that is closed");
                self.probes.forget(&host);
                let average = self.outdated.as_ref().and_then(|topology| topology.server(&host)).and_then(|server| server.round_trip_time);
                if self.monitored && !self.closed && is_busy(&host) {
                    liveness_random::foretell_left(&mut self.probes, &host, average, self.now);
                }
                self.topology.handle_pool_closed(&host, is_busy(&host), self.now);
                self.gone.insert(host, pool.generation);
            }
            TopologyAction::InterruptRetired { host, why } => {
                outcome.actions -= 1;
                assert!(why.kind() == ErrorKind::Interrupted && why.labels().is_empty(), "{why}");
                outcome.interrupted.push(host);
            }
            TopologyAction::StartMonitor(host) => {
                assert!(self.monitored && !self.monitors.contains(&host), "{host} is watched twice");
                self.monitors.push(host);
            }
            TopologyAction::StopMonitor(host) => {
                let at = self.monitors.iter().position(|known| *known == host).expect("a monitor that is stopped");
                self.monitors.remove(at);
                self.probes.leave(&host);
            }
            TopologyAction::CheckNow(host) => {
                assert!(self.monitors.contains(&host));
                outcome.checks.push(host);
            }
            TopologyAction::CancelCheck(host) => {
                assert!(self.monitors.contains(&host));
                outcome.cancelled.push(host);
            }
            TopologyAction::Publish(topology) => {
                let selectable = topology.servers().iter().filter(|server| server.kind.is_data_bearing());
                for server in selectable {
                    assert!(
                        self.pools.get(&server.host).is_some_and(|pool| pool.ready),
                        "{} is published before its pool is ready",
                        server.host
                    );
                }
                self.outdated = self.published.replace(topology);
            }
            TopologyAction::Selected(id) => {
                let waiting = self.answered(id);
                let topology = self.published.as_ref().expect("a description");
                assert_eq!(selection::is_served(topology, &waiting.criteria).ok(), Some(true), "selected is what does not suit");
            }
            TopologyAction::NotSelected(id, error) => {
                let waiting = self.answered(id);
                let kind = error.kind();
                if kind == ErrorKind::ServerSelection && error.limit().is_none() {
                    let topology = self.published.as_ref().expect("a description");
                    let Target::Server(host) = &waiting.criteria.target else { panic!("refused before its time: {error}") };
                    let may_grow = matches!(topology.kind(), TopologyType::Unknown | TopologyType::ReplicaSetNoPrimary);
                    assert!(topology.server(host).is_none() && !may_grow, "{error}");
                } else if kind == ErrorKind::ServerSelection {
                    let deadline = waiting.deadline.expect("who waits without limit is not timed out");
                    assert!(deadline.at <= self.now, "a caller is refused too early");
                    assert_eq!(error.limit().map(|limit| limit.name), Some(deadline.name));
                } else if kind == ErrorKind::Shutdown {
                    assert!(self.closed, "a caller is sent away before the end");
                } else {
                    assert!(matches!(kind, ErrorKind::Incompatible | ErrorKind::InvalidOption), "{error}");
                }
            }
            action => panic!("an order that is not known: {action:?}"),
        }
    }

    fn answered(&mut self, id: SelectId) -> Waiting {
        let at = self.waiting.iter().position(|waiting| waiting.id == id).expect("who is answered has waited");
        self.waiting.remove(at)
    }

    fn hear(&mut self, event: TopologyEvent) {
        assert!(!self.closed, "no events after the shutdown");
        assert_eq!(self.opened, !matches!(event, TopologyEvent::TopologyOpening), "the opening event comes first, and once");
        match event {
            TopologyEvent::TopologyOpening => self.opened = true,
            TopologyEvent::ServerOpening { host, .. } => {
                let first = Arc::new(ServerDescription::unknown(&host));
                assert!(self.replayed.insert(host, first).is_none(), "a server is opened twice");
            }
            TopologyEvent::ServerClosed { host, .. } => assert!(self.replayed.remove(&host).is_some(), "a server is closed twice"),
            TopologyEvent::ServerDescriptionChanged { previous, new, .. } => {
                assert!(!previous.is_same_as(&new), "no change is told as one");
                let known = self.replayed.insert(new.host.clone(), new).expect("a server that is open");
                assert!(known.is_same_as(&previous), "a change begins where the last one ended");
            }
            TopologyEvent::TopologyDescriptionChanged { previous, new, .. } => {
                if let Some(told) = &self.told {
                    assert_eq!((told.kind(), told.set_name()), (previous.kind(), previous.set_name()));
                    assert!(same_servers(told, &previous), "a change begins where the last one ended");
                }
                self.told = Some(new);
            }
            TopologyEvent::TopologyClosed => self.closed = true,
            TopologyEvent::HostUnusable { .. } => {}
            event => panic!("an event that is not known: {event:?}"),
        }
    }

    /// Checks that there is one primary, that elections never go back, and that the events match the description.
    fn check_description(&mut self) {
        let topology = Arc::clone(self.topology.description());
        let primaries: Vec<_> = topology.servers().iter().filter(|server| server.kind == ServerType::RsPrimary).collect();
        if topology.kind() != TopologyType::Single {
            assert!(primaries.len() <= 1, "more than one primary");
            assert_eq!(topology.kind() == TopologyType::ReplicaSetWithPrimary, primaries.len() == 1);
        }
        assert_eq!(topology.primary().map(|server| &server.host), primaries.first().map(|server| &server.host));
        let newest = (topology.max_election_id(), topology.max_set_version());
        let forward = match self.order {
            Order::ElectionFirst => newest >= self.newest,
            Order::VersionFirst => (newest.1, newest.0) >= (self.newest.1, self.newest.0),
        };
        assert!(forward || self.closed, "from {:?} back to {newest:?}", self.newest);
        self.newest = newest;
        if let (Some(primary), Order::ElectionFirst) = (primaries.first(), self.order)
            && topology.kind() == TopologyType::ReplicaSetWithPrimary
        {
            assert_eq!((primary.election_id(), primary.set_version()), newest, "the primary is that of the newest election");
        }
        let told = self.told.as_ref().expect("a description");
        assert_eq!((told.kind(), told.set_name()), (topology.kind(), topology.set_name()), "the events give the type");
        assert!(same_servers(told, &topology), "the events give the servers");
        assert!(self.replayed.values().map(|server| &server.host).eq(topology.servers().iter().map(|server| &server.host)));
        for server in topology.servers() {
            let replayed = self.replayed.get(&server.host).expect("a server");
            assert!(replayed.is_same_as(server), "{server} is told as {replayed}");
            assert_eq!(server.hello.is_none(), matches!(server.kind, ServerType::Unknown | ServerType::LoadBalancer));
            assert!(server.round_trip_time.is_none() || server.is_known(), "{} is unknown, and has a round-trip time", server.host);
        }
    }

    /// Checks that each server has one pool and one monitor, in the state that the description requires.
    fn check_orders(&self) {
        let topology = self.topology.description();
        assert!(self.published.as_ref().is_some_and(|published| Arc::ptr_eq(published, topology)), "the latest is published");
        assert!(self.pools.keys().eq(topology.servers().iter().map(|server| &server.host)), "a pool for each server");
        let mut monitors: Vec<&ServerAddress> = self.monitors.iter().collect();
        monitors.sort();
        assert!(!self.monitored || monitors.into_iter().eq(self.pools.keys()), "a monitor for each server");
        let may_be_asked = |host: &ServerAddress| self.monitors.contains(host) || (self.monitored && is_busy(host) && !self.closed);
        assert!(self.probes.hosts().all(may_be_asked), "a server is probed without commands in flight");
        for (host, pool) in &self.pools {
            assert_eq!(self.topology.generation(host), Some(pool.generation), "the generation of {host}'s pool");
        }
    }

    /// Checks that no waiter waits for a server that is there, or longer than its limit.
    fn check_waiting(&self) {
        assert_eq!(self.topology.waiting(), self.waiting.len(), "each caller is answered once");
        for waiting in &self.waiting {
            let served = selection::is_served(self.topology.description(), &waiting.criteria);
            assert_eq!(served.ok(), Some(false), "somebody waits for what is there");
        }
        let first = self.waiting.iter().filter_map(|waiting| waiting.deadline).map(|deadline| deadline.at).min();
        let due = first.into_iter().chain(self.probes.timer()).min();
        assert_eq!(self.topology.poll_timeout().map(|(at, _)| at), due, "the next timer");
    }
}

/// Tells whether commands are always in flight on a server.
pub(crate) fn is_busy(host: &ServerAddress) -> bool {
    host.to_string().starts_with(['b', 'd'])
}

fn same_servers(one: &TopologyDescription, other: &TopologyDescription) -> bool {
    let (one, other) = (one.servers(), other.servers());
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.is_same_as(other))
}
