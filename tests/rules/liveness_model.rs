//! The model of liveness probes: which servers are probed, and until when.
//!
//! A list of running probes, which the topology's actions begin and end, and their facts. `liveness_random` and
//! `topology_random` decide which actions are expected.

use std::time::{Duration, Instant};

use mongolink::ServerAddress;
use mongolink::topology::ProbeId;

/// The longest look-up of an address, and the longest silence of a server.
pub(crate) const CEILING: Duration = Duration::from_secs(30);

/// The shortest silence of a server that no connection has reached.
const UNREACHED: Duration = Duration::from_secs(6);

/// How long a server that has answered is not probed again because of an unanswered command.
const PAUSE: Duration = Duration::from_secs(10);

/// A running probe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) id: ProbeId,
    pub(crate) limit: Duration,
    /// When a connection was first accepted, and how long that took.
    pub(crate) reached: Option<(Instant, Duration)>,
    pub(crate) step: Step,
}

impl Probe {
    /// Returns when silence counts after an attempt at this time.
    fn verdict(&self, since: Instant) -> Instant {
        match self.reached {
            Some((at, took)) => (since + self.limit).max(at + self.limit / 2).max(at + (8 * took).min(CEILING)),
            None => (since + self.limit).max(since + UNREACHED),
        }
    }
}

/// The state of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The address is looked up.
    Naming { since: Instant },
    /// The server has been probed; the second attempt follows at this time.
    Asked { since: Instant, again_at: Option<Instant> },
    /// The traffic of its connections is checked.
    CheckingTraffic { since: Instant },
}

#[derive(Debug, Default)]
pub(crate) struct LivenessModel {
    probes: Vec<(ServerAddress, Probe)>,
    rested: Vec<(ServerAddress, Instant)>,
    /// When each server last answered a check, or a measurement of its round trips.
    answered: Vec<(ServerAddress, Instant)>,
    next: u64,
    /// The limits of the probes that should begin.
    expected: Vec<(ServerAddress, Duration)>,
}

impl LivenessModel {
    pub(crate) fn probe(&self, host: &ServerAddress) -> Option<Probe> {
        self.probes.iter().find(|(own, _)| own == host).map(|(_, probe)| *probe)
    }

    pub(crate) fn hosts(&self) -> impl Iterator<Item = &ServerAddress> {
        self.probes.iter().map(|(host, _)| host)
    }

    /// Returns the servers whose look-up has timed out.
    pub(crate) fn nameless(&self, now: Instant) -> Vec<ServerAddress> {
        let late = |probe: &Probe| matches!(probe.step, Step::Naming { since } if since + CEILING <= now);
        self.probes.iter().filter(|(_, probe)| late(probe)).map(|(host, _)| host.clone()).collect()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.probes.is_empty()
    }

    /// Tells whether a server has answered a liveness probe recently.
    pub(crate) fn rests(&self, host: &ServerAddress, now: Instant) -> bool {
        self.rested.iter().any(|(own, until)| own == host && *until > now)
    }

    /// A server has answered.
    pub(crate) fn answer(&mut self, host: &ServerAddress, now: Instant) {
        self.leave(host);
        self.answered.push((host.clone(), now));
    }

    /// A server is no longer monitored.
    pub(crate) fn leave(&mut self, host: &ServerAddress) {
        self.answered.retain(|(own, _)| own != host);
    }

    /// Returns when a server last answered.
    pub(crate) fn answered(&self, host: &ServerAddress) -> Option<Instant> {
        self.answered.iter().find(|(own, _)| own == host).map(|(_, at)| *at)
    }

    /// Expects a probe with this limit to begin.
    pub(crate) fn expect(&mut self, host: &ServerAddress, limit: Duration) {
        self.expected.push((host.clone(), limit));
    }

    /// Shortens a running probe.
    pub(crate) fn shorten(&mut self, host: &ServerAddress, shorter: Duration, now: Instant) {
        let Some(probe) = self.find(host) else { return };
        match probe.step {
            Step::Naming { .. } => probe.limit = probe.limit.min(shorter),
            Step::Asked { since, again_at } if now + shorter < since + probe.limit => {
                probe.limit = shorter;
                probe.step = Step::Asked { since: now, again_at: again_at.map(|at| at.min(now + shorter / 2)) };
            }
            Step::Asked { .. } | Step::CheckingTraffic { .. } => {}
        }
    }

    /// The address is known.
    pub(crate) fn named(&mut self, host: &ServerAddress, id: ProbeId, now: Instant) {
        if let Some(probe) = self.find(host).filter(|probe| probe.id == id && matches!(probe.step, Step::Naming { .. })) {
            probe.step = Step::Asked { since: now, again_at: Some(now + probe.limit / 2) };
        }
    }

    /// A connection is accepted; the first tells the round-trip time.
    pub(crate) fn reached(&mut self, host: &ServerAddress, id: ProbeId, took: Duration, now: Instant) {
        if let Some(probe) = self.find(host).filter(|probe| probe.id == id && matches!(probe.step, Step::Asked { .. })) {
            probe.reached.get_or_insert((now, took));
        }
    }

    /// A server has answered or could not be probed: it is not probed for a while.
    pub(crate) fn rest(&mut self, host: &ServerAddress, now: Instant) {
        self.forget(host);
        self.rested.push((host.clone(), now + PAUSE));
    }

    /// Forgets a server.
    pub(crate) fn forget(&mut self, host: &ServerAddress) {
        self.rested.retain(|(own, _)| own != host);
    }

    /// The action that probes a server.
    pub(crate) fn asked(&mut self, host: &ServerAddress, id: ProbeId, again: bool, now: Instant) {
        if !again {
            let at = self.expected.iter().position(|(expected, _)| expected == host).expect("nobody has a reason to ask");
            let (_, limit) = self.expected.remove(at);
            assert!(self.probe(host).is_none(), "{host} is asked while it is being asked");
            assert!(id.0 >= self.next, "the name of an older probe is given to a new one");
            self.next = id.0 + 1;
            self.forget(host);
            return self.probes.push((host.clone(), Probe { id, limit, reached: None, step: Step::Naming { since: now } }));
        }
        let probe = self.find(host).expect("a probe goes on");
        assert_eq!(id, probe.id);
        let Step::Asked { since, again_at: Some(at) } = probe.step else { panic!("{host} is asked once more: {probe:?}") };
        assert!(at <= now && now < probe.verdict(since), "{host} is asked once more too early, or too late");
        probe.step = Step::Asked { since, again_at: None };
    }

    /// The action that checks a server's traffic, at the end of the limit.
    pub(crate) fn traffic_checked(&mut self, host: &ServerAddress, id: ProbeId, now: Instant) {
        let probe = self.find(host).expect("a probe that is judged");
        assert_eq!(id, probe.id);
        let Step::Asked { since, .. } = probe.step else { panic!("{host} is judged: {probe:?}") };
        assert!(probe.verdict(since) <= now, "{host} is judged too early");
        probe.step = Step::CheckingTraffic { since };
    }

    /// The action that ends a probe.
    pub(crate) fn ended(&mut self, host: &ServerAddress) {
        let at = self.probes.iter().position(|(own, _)| own == host).expect("a probe that ends");
        self.probes.remove(at);
    }

    /// Returns when a timer is due.
    pub(crate) fn timer(&self) -> Option<Instant> {
        let due = |probe: &Probe| match probe.step {
            Step::Naming { since } => Some(since + CEILING),
            Step::Asked { since, again_at } => Some(again_at.unwrap_or(probe.verdict(since))),
            Step::CheckingTraffic { .. } => None,
        };
        self.probes.iter().filter_map(|(_, probe)| due(probe)).min()
    }

    /// Returns a probe that was expected and has not begun.
    pub(crate) fn missed(&mut self) -> Option<ServerAddress> {
        self.expected.pop().map(|(host, _)| host)
    }

    fn find(&mut self, host: &ServerAddress) -> Option<&mut Probe> {
        self.probes.iter_mut().find(|(own, _)| own == host).map(|(_, probe)| probe)
    }
}
