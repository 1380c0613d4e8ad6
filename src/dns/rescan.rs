//! When are SRV records looked at again, and what does the answer stand for?
//!
//! Follows polling-srv-records-for-mongos-discovery: only while no other topology than routers is known, at the pace of
//! the records' lifetimes, and without ever failing anybody. Which targets may be believed is decided in `srv`, which of
//! the hosts are taken in `topology`; how the question travels is `io::resolver`'s business.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{BUDGET, SrvRecord, srv};
use crate::error::{Error, ErrorKind, Stage};
use crate::host::ServerAddress;
use crate::topology::TopologyType;

/// The shortest time between two scans of the SRV records, unless a client is told otherwise.
pub const RESCAN_FLOOR: Duration = Duration::from_secs(60);

/// Says at which pace SRV records are looked at again.
#[derive(Clone, Debug)]
pub struct RescanConfig {
    /// The name of the connection string.
    pub host: String,
    /// The shortest time between two scans; at least [`FLOOR_MIN`].
    pub floor: Duration,
    /// The time between two scans while answers are of no use, `heartbeatFrequencyMS`.
    pub heartbeat_frequency: Duration,
    /// The limit of a look-up, `dnsTimeoutMS`.
    pub look_up_limit: Duration,
}

/// Is a wish of [`Rescan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RescanAction {
    /// Ask for the SRV records, not for the TXT records.
    Query,
    /// Forget the question that is under way.
    Abandon,
    /// These are the hosts now; never empty.
    Hosts(Vec<ServerAddress>),
}

/// Decides when SRV records are looked at again.
///
/// ```text
/// Resting --due--> Asking --answered, failed, late--> Resting
/// Resting, Asking --a topology that does not follow SRV records--> Stopped     (for good)
/// ```
#[derive(Debug)]
pub struct Rescan {
    config: RescanConfig,
    state: RescanState,
    actions: VecDeque<RescanAction>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RescanState {
    Resting { due: Instant, interval: &'static str },
    Asking { asked_at: Instant, deadline: Instant },
    Stopped,
}

impl Rescan {
    /// Rests after the first look-up, whose records live for `ttl` at least, if that is known.
    pub fn new(config: RescanConfig, ttl: Option<Duration>, now: Instant) -> Self {
        let mut rescan = Self { config, state: RescanState::Stopped, actions: VecDeque::new() };
        rescan.rest_until_renewal(ttl, now);
        rescan
    }

    /// Takes the type of the topology; one that does not follow SRV records ends it all.
    pub fn handle_topology(&mut self, kind: TopologyType) {
        if kind.follows_srv() || self.state == RescanState::Stopped {
            return;
        }
        tracing::debug!(host = self.config.host, topology = kind.name(), "SRV records are not looked at again");
        if let RescanState::Asking { .. } = self.state {
            self.actions.push_back(RescanAction::Abandon);
        }
        self.state = RescanState::Stopped;
    }

    /// Takes an answer. Targets that may not be believed are left out; if none is left, everything stays as it is.
    pub fn handle_answered(&mut self, records: &[SrvRecord], now: Instant) {
        let RescanState::Asking { .. } = self.state else { return };
        let (hosts, refused) = match srv::followed(&self.config.host, records) {
            Ok(found) => found,
            Err(error) => return self.rest_after_failure(&error, now),
        };
        for error in &refused {
            tracing::warn!(host = self.config.host, %error, "an SRV record is left out");
        }
        if hosts.is_empty() {
            let error = Error::new(ErrorKind::DnsRule, "no SRV record of the answer may be believed").at(Stage::Srv);
            return self.rest_after_failure(&error.with_causes(refused), now);
        }
        tracing::debug!(host = self.config.host, hosts = hosts.len(), "SRV records looked at again");
        self.actions.push_back(RescanAction::Hosts(hosts));
        self.rest_until_renewal(srv::shortest_ttl(records), now);
    }

    /// Takes the failure of a look-up: everything stays as it is, and the next one comes sooner.
    pub fn handle_failed(&mut self, error: &Error, now: Instant) {
        if let RescanState::Asking { .. } = self.state {
            self.rest_after_failure(error, now);
        }
    }

    /// Takes that the machine slept: the records grew older meanwhile, which the clock of `now` does not show.
    pub fn handle_slept(&mut self, gap: Duration, now: Instant) {
        if let RescanState::Resting { due, .. } = &mut self.state {
            *due = due.checked_sub(gap).map_or(now, |due| due.max(now));
        }
    }

    /// Asks when it is time, and gives up an answer that is late.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            RescanState::Resting { due, .. } if due <= now => {
                let deadline = now + self.config.look_up_limit.min(TIME_MAX);
                self.state = RescanState::Asking { asked_at: now, deadline };
                self.actions.push_back(RescanAction::Query);
            }
            RescanState::Asking { asked_at, deadline } if deadline <= now => {
                let elapsed = now.saturating_duration_since(asked_at);
                self.actions.push_back(RescanAction::Abandon);
                self.rest_after_failure(&Error::timeout(Stage::Srv, BUDGET, self.config.look_up_limit, elapsed), now);
            }
            RescanState::Resting { .. } | RescanState::Asking { .. } | RescanState::Stopped => {}
        }
    }

    /// Returns the next wish.
    pub fn poll_action(&mut self) -> Option<RescanAction> {
        self.actions.pop_front()
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due, and the name of the limit that runs out then.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match self.state {
            RescanState::Resting { due, interval } => Some((due, interval)),
            RescanState::Asking { deadline, .. } => Some((deadline, BUDGET)),
            RescanState::Stopped => None,
        }
    }

    /// Tells whether nothing will ever be asked again.
    pub fn is_stopped(&self) -> bool {
        self.state == RescanState::Stopped
    }

    fn rest_until_renewal(&mut self, ttl: Option<Duration>, now: Instant) {
        let floor = self.config.floor.max(FLOOR_MIN);
        let interval = ttl.map_or(floor, |ttl| ttl.max(floor)).min(TIME_MAX);
        self.state = RescanState::Resting { due: now + interval, interval: RESCAN_INTERVAL };
    }

    fn rest_after_failure(&mut self, error: &Error, now: Instant) {
        tracing::warn!(host = self.config.host, %error, "SRV records could not be renewed, the hosts stay as they are");
        let interval = self.config.heartbeat_frequency.clamp(FLOOR_MIN, TIME_MAX);
        self.state = RescanState::Resting { due: now + interval, interval: HEARTBEAT_FREQUENCY };
    }
}

/// The shortest floor: records that live for no time must not keep a machine busy.
pub const FLOOR_MIN: Duration = Duration::from_millis(10);

/// Longer times are cut to this, so that no sum of times overflows: a year.
const TIME_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// The specification's name of the time between two scans.
const RESCAN_INTERVAL: &str = "rescanSRVIntervalMS";

const HEARTBEAT_FREQUENCY: &str = "heartbeatFrequencyMS";

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
