//! What do the events say has happened?
//!
//! Follows every family of events, as somebody would who sees nothing else, and finds what is out of order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mongolink::topology::TopologyDescription;
use mongolink::{MonitorEvent, PoolEvent, ServerAddress, ServerDescription, TopologyEvent};

use super::excess::{StreamCount, error_is_small};
use super::invariants::{checks_keep_their_distance, in_order};

/// Follows the events of a topology.
pub(crate) struct TopologyReplay {
    state: State,
    pub(crate) kind: &'static str,
    /// What is known of each server that is open.
    pub(crate) servers: BTreeMap<ServerAddress, Arc<ServerDescription>>,
    /// Servers that the description has and whose opening is still to be told: the first ones.
    announced: BTreeSet<ServerAddress>,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Before,
    Open,
    Closed,
}

impl Default for TopologyReplay {
    fn default() -> Self {
        Self { state: State::Before, kind: "Unknown", servers: BTreeMap::new(), announced: BTreeSet::new() }
    }
}

impl TopologyReplay {
    pub(crate) fn take(&mut self, event: &TopologyEvent) {
        let opening = matches!(event, TopologyEvent::TopologyOpening);
        in_order(self.state == if opening { State::Before } else { State::Open }, || format!("{event:?} in state {:?}", self.state));
        match event {
            TopologyEvent::TopologyOpening => self.state = State::Open,
            TopologyEvent::ServerOpening { host, .. } => {
                let announced = self.announced.remove(host);
                let fresh = announced || !self.servers.contains_key(host);
                in_order(fresh, || format!("{host} is opened twice"));
                self.servers.entry(host.clone()).or_insert_with(|| Arc::new(ServerDescription::unknown(host)));
            }
            TopologyEvent::ServerDescriptionChanged { previous, new, .. } => {
                let known = self.servers.get(&new.host);
                in_order(known.is_some_and(|known| known.is_same_as(previous)), || {
                    format!("{previous} changes to {new}, and was {:?}", known.map(ToString::to_string))
                });
                in_order(!previous.is_same_as(new), || format!("nothing changes in {new}"));
                self.servers.insert(new.host.clone(), Arc::clone(new));
            }
            TopologyEvent::ServerClosed { host, .. } => {
                in_order(self.servers.remove(host).is_some(), || format!("{host} is closed, and was not open"));
            }
            TopologyEvent::TopologyDescriptionChanged { previous, new, .. } => self.take_description(previous, new),
            TopologyEvent::HostUnusable { .. } => {}
            TopologyEvent::TopologyClosed => {
                in_order(self.servers.is_empty(), || "the topology is closed before its servers".to_owned());
                self.state = State::Closed;
            }
            other => in_order(false, || format!("unknown event {other:?}")),
        }
    }

    fn take_description(&mut self, previous: &TopologyDescription, new: &TopologyDescription) {
        in_order(previous.kind().name() == self.kind, || format!("the topology was a {} and changes from {previous}", self.kind));
        self.kind = new.kind().name();
        for server in new.servers() {
            if !self.servers.contains_key(&server.host) {
                in_order(previous.servers().is_empty(), || format!("{} is in the description before it is opened", server.host));
                self.announced.insert(server.host.clone());
                self.servers.insert(server.host.clone(), Arc::clone(server));
            }
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }
}

/// Follows the checks of one monitor.
#[derive(Debug, Default)]
pub(crate) struct ChecksReplay {
    /// Whether a check is under way, and whether it waits for a change.
    running: Option<bool>,
    last_polled: Option<Instant>,
    /// When the monitor was made, until its first check.
    made_at: Option<Instant>,
    /// When the last check failed, if the one before it had succeeded.
    retry_at: Option<Instant>,
    /// When the machine was last found to have slept.
    pub(crate) resumed_at: Option<Instant>,
    succeeded: bool,
    streamed: StreamCount,
}

impl ChecksReplay {
    pub(crate) fn since(made_at: Instant) -> Self {
        Self { made_at: Some(made_at), ..Self::default() }
    }

    pub(crate) fn take(&mut self, host: &ServerAddress, event: &MonitorEvent, now: Instant) {
        match event {
            MonitorEvent::HeartbeatStarted { awaited, .. } => {
                in_order(self.running.is_none(), || format!("{host}: a check begins within another"));
                self.running = Some(*awaited);
                if !awaited {
                    let since = self.last_polled.map_or(Duration::MAX, |last| now - last);
                    checks_keep_their_distance(host, since, self.retry_at.take() == Some(now), self.resumed_at == Some(now));
                    // The first begins with the monitor, and is told when its task is first polled.
                    self.last_polled = Some(self.made_at.take().unwrap_or(now));
                }
            }
            MonitorEvent::HeartbeatSucceeded { awaited, .. } => {
                if *awaited {
                    self.streamed.take(host, now);
                }
                self.end(host, *awaited, true, now);
            }
            MonitorEvent::HeartbeatFailed { awaited, error, .. } => {
                error_is_small(error);
                self.end(host, *awaited, false, now);
            }
            other => in_order(false, || format!("unknown event {other:?}")),
        }
    }

    fn end(&mut self, host: &ServerAddress, awaited: bool, succeeded: bool, now: Instant) {
        in_order(self.running.take() == Some(awaited), || format!("{host}: a check ends that did not begin"));
        self.retry_at = (self.succeeded && !succeeded).then_some(now);
        // A check that is given up because the machine slept says nothing of the server: it is as known as before.
        self.succeeded = succeeded || (self.succeeded && self.resumed_at == Some(now));
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }
}

/// Follows the events of one pool.
#[derive(Debug, Default)]
pub(crate) struct PoolReplay {
    ready: bool,
    closed: bool,
    /// Connections that exist, and whether they are ready, and lent.
    connections: BTreeMap<u64, (bool, bool)>,
    asked: usize,
    answered: usize,
    /// How many times it was cleared, or one of its services.
    pub(crate) cleared: u64,
}

impl PoolReplay {
    pub(crate) fn take(&mut self, host: &ServerAddress, event: &PoolEvent) {
        match event {
            PoolEvent::PoolCreated { .. } => in_order(false, || format!("{host}: the pool is created by the rules")),
            PoolEvent::PoolReady => {
                in_order(!self.ready && !self.closed, || format!("{host}: ready twice, or after the end"));
                self.ready = true;
            }
            PoolEvent::PoolCleared { service_id, .. } => {
                in_order(self.ready && !self.closed, || format!("{host}: cleared while paused, or after the end"));
                // Clearing one service behind a load balancer does not pause the pool.
                self.ready = service_id.is_some();
                self.cleared += 1;
            }
            PoolEvent::PoolClosed => {
                in_order(!self.closed, || format!("{host}: closed twice"));
                self.closed = true;
            }
            PoolEvent::ConnectionCreated { connection_id, .. } => {
                in_order(self.ready && !self.closed, || format!("{host}: a connection is opened by a pool that is not ready"));
                in_order(self.connections.insert(*connection_id, (false, false)).is_none(), || format!("{host}: created twice"));
            }
            PoolEvent::ConnectionReady { connection_id, .. } => self.change(host, *connection_id, (false, false), (true, false), "ready"),
            PoolEvent::ConnectionClosed { connection_id, .. } => {
                in_order(self.connections.remove(connection_id).is_some(), || format!("{host}: {connection_id} is closed twice"));
            }
            PoolEvent::CheckOutStarted => self.asked += 1,
            PoolEvent::CheckOutFailed { .. } => self.answer(host),
            PoolEvent::CheckedOut { connection_id, .. } => {
                self.answer(host);
                self.change(host, *connection_id, (true, false), (true, true), "checked out");
            }
            PoolEvent::CheckedIn { connection_id, .. } => self.change(host, *connection_id, (true, true), (true, false), "checked in"),
            other => in_order(false, || format!("unknown event {other:?}")),
        }
    }

    fn answer(&mut self, host: &ServerAddress) {
        self.answered += 1;
        in_order(self.answered <= self.asked, || format!("{host}: a check-out ends that did not begin"));
    }

    fn change(&mut self, host: &ServerAddress, id: u64, from: (bool, bool), to: (bool, bool), what: &str) {
        let known = self.connections.insert(id, to);
        in_order(known == Some(from), || format!("{host}: connection {id} is {what}, and was (ready, lent) {known:?}"));
    }

    /// How many check-outs have begun and not ended.
    pub(crate) fn pending(&self) -> usize {
        self.asked - self.answered
    }

    pub(crate) fn open_connections(&self) -> usize {
        self.connections.len()
    }
}
