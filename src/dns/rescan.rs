//! Polling of SRV records: when they are queried again, and the hosts that the answer names.
//!
//! Follows polling-srv-records-for-mongos-discovery: only while the topology is unknown or sharded, at the interval of the
//! records' time to live; failures change nothing. Does not decide which targets are accepted (`srv`), which hosts are
//! used (`topology`), nor how queries are sent (`io::resolver`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{BUDGET, SrvRecord, srv};
use crate::error::{Error, ErrorKind, Stage};
use crate::host::ServerAddress;

/// The default of the shortest time between two polls of the SRV records.
pub const RESCAN_FLOOR: Duration = Duration::from_secs(60);

/// The intervals of polling.
#[derive(Clone, Debug)]
pub struct RescanConfig {
    /// The name of the connection string.
    pub host: String,
    /// The shortest time between two polls; at least [`FLOOR_MIN`].
    pub floor: Duration,
    /// The time between two polls after a failure, `heartbeatFrequencyMS`.
    pub heartbeat_frequency: Duration,
    /// The limit of a look-up, `dnsTimeoutMS`.
    pub look_up_limit: Duration,
}

/// An action of [`Rescan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RescanAction {
    /// Query the SRV records, without the TXT records.
    Query,
    /// Abandon the running query.
    Abandon,
    /// Use these hosts from now on; never empty.
    Hosts(Vec<ServerAddress>),
}

/// The machine that polls SRV records.
///
/// ```text
/// Idle --due--> Querying --answered, failed, timed out--> Idle
/// Idle, Querying --a topology that does not follow SRV records--> Stopped     (final)
/// ```
#[derive(Debug)]
pub struct Rescan {
    config: RescanConfig,
    state: RescanState,
    actions: VecDeque<RescanAction>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RescanState {
    Idle { due: Instant, interval: &'static str },
    Querying { started_at: Instant, deadline: Instant },
    Stopped,
}

impl Rescan {
    /// Starts after the first look-up, whose records have the time to live `ttl` if it is known.
    pub fn new(config: RescanConfig, ttl: Option<Duration>, now: Instant) -> Self {
        let mut rescan = Self { config, state: RescanState::Stopped, actions: VecDeque::new() };
        rescan.wait_for_next_poll(ttl, now);
        rescan
    }

    /// The topology has the type with this name. Polling ends for good if the type does not follow SRV records.
    pub fn handle_topology(&mut self, kind: &'static str, follows_srv: bool) {
        if follows_srv || self.state == RescanState::Stopped {
            return;
        }
        tracing::debug!(host = self.config.host, topology = kind, "polling of SRV records ends");
        if let RescanState::Querying { .. } = self.state {
            self.actions.push_back(RescanAction::Abandon);
        }
        self.state = RescanState::Stopped;
    }

    /// The query is answered. Invalid targets are left out; if none is left, the hosts stay as they are.
    pub fn handle_answered(&mut self, records: &[SrvRecord], now: Instant) {
        let RescanState::Querying { .. } = self.state else { return };
        let (hosts, refused) = match srv::polled_hosts(&self.config.host, records) {
            Ok(found) => found,
            Err(error) => return self.wait_after_failure(&error, now),
        };
        for error in &refused {
            tracing::warn!(host = self.config.host, %error, "invalid SRV record left out");
        }
        if hosts.is_empty() {
            let error = Error::new(ErrorKind::DnsRule, "no SRV record of the answer is valid").at(Stage::Srv);
            return self.wait_after_failure(&error.with_causes(refused), now);
        }
        tracing::debug!(host = self.config.host, hosts = hosts.len(), "SRV records polled");
        self.actions.push_back(RescanAction::Hosts(hosts));
        self.wait_for_next_poll(srv::shortest_ttl(records), now);
    }

    /// The query failed: the hosts stay as they are, and the next poll comes sooner.
    pub fn handle_failed(&mut self, error: &Error, now: Instant) {
        if let RescanState::Querying { .. } = self.state {
            self.wait_after_failure(error, now);
        }
    }

    /// The machine was suspended for `gap`, which the clock of `now` does not count: the records are older by that.
    pub fn handle_slept(&mut self, gap: Duration, now: Instant) {
        if let RescanState::Idle { due, .. } = &mut self.state {
            *due = due.checked_sub(gap).map_or(now, |due| due.max(now));
        }
    }

    /// Starts a query when it is due, and abandons one past its limit.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            RescanState::Idle { due, .. } if due <= now => {
                let deadline = now + self.config.look_up_limit.min(TIME_MAX);
                self.state = RescanState::Querying { started_at: now, deadline };
                self.actions.push_back(RescanAction::Query);
            }
            RescanState::Querying { started_at, deadline } if deadline <= now => {
                let elapsed = now.saturating_duration_since(started_at);
                self.actions.push_back(RescanAction::Abandon);
                self.wait_after_failure(&Error::timeout(Stage::Srv, BUDGET, self.config.look_up_limit, elapsed), now);
            }
            RescanState::Idle { .. } | RescanState::Querying { .. } | RescanState::Stopped => {}
        }
    }

    /// Returns the next action.
    pub fn poll_action(&mut self) -> Option<RescanAction> {
        self.actions.pop_front()
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due, and the name of the limit that runs out then.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match self.state {
            RescanState::Idle { due, interval } => Some((due, interval)),
            RescanState::Querying { deadline, .. } => Some((deadline, BUDGET)),
            RescanState::Stopped => None,
        }
    }

    /// Returns whether polling has ended for good.
    pub fn is_stopped(&self) -> bool {
        self.state == RescanState::Stopped
    }

    fn wait_for_next_poll(&mut self, ttl: Option<Duration>, now: Instant) {
        let floor = self.config.floor.max(FLOOR_MIN);
        let interval = ttl.map_or(floor, |ttl| ttl.max(floor)).min(TIME_MAX);
        self.state = RescanState::Idle { due: now + interval, interval: RESCAN_INTERVAL };
    }

    fn wait_after_failure(&mut self, error: &Error, now: Instant) {
        tracing::warn!(host = self.config.host, %error, "polling of SRV records failed, the hosts stay as they are");
        let interval = self.config.heartbeat_frequency.clamp(FLOOR_MIN, TIME_MAX);
        self.state = RescanState::Idle { due: now + interval, interval: HEARTBEAT_FREQUENCY };
    }
}

/// Minimum of the floor: records with a time to live of 0 must not keep a machine busy.
pub const FLOOR_MIN: Duration = Duration::from_millis(10);

/// Longer times are cut to this, so that no sum of times overflows: a year.
const TIME_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// The specification's name of the time between two polls.
const RESCAN_INTERVAL: &str = "rescanSRVIntervalMS";

const HEARTBEAT_FREQUENCY: &str = "heartbeatFrequencyMS";

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
