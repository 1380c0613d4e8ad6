//! Is a server that says nothing still alive?
//!
//! Goes beyond the specifications. A server is asked for a sign of life, on fresh connections and with a limit of its own,
//! when a newer primary has deposed it, and when a command has been unanswered for long while its monitor is silent too.
//! Any answer will do, and so will any byte on the connections that it has: nothing then happens to what is in flight.
//! Silence makes it unknown, clears its pool, and interrupts the commands that wait for nothing. How it is asked is
//! decided in `io`, when a command is unanswered for long in `pool`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::action::TopologyAction;
use super::machine::{Clearing, Topology};
use super::server::ServerDescription;
use crate::error::{Error, ErrorKind, LimitValue, Stage};
use crate::host::HostKey;
use crate::pool::UNANSWERED_AFTER;

/// Names one probe of a server; a later one has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeId(pub u64);

/// How long a deposed primary may be silent at the least: a lost packet costs the first dial a second, and then there is
/// still the second one. The set itself has already missed it for the time of an election.
pub const DEPOSED_FLOOR: Duration = Duration::from_millis(1500);

/// How long a server may be silent at the least of which nobody says that it is gone: as long as the command that made us
/// ask has been unanswered.
pub const UNANSWERED_FLOOR: Duration = UNANSWERED_AFTER;

/// How many round trips of average length may pass before silence counts. Opening a connection takes two in clear and four
/// with TLS 1.2; as many again are for a network that is slower than its average.
pub const ROUND_TRIPS: u32 = 8;

/// How long silence may last before it counts, however slow the network: with round trips of five seconds, opening takes
/// twenty.
pub const CEILING: Duration = Duration::from_secs(30);

/// How long a server that has given a sign of life is not asked again because of an unanswered command.
pub const PAUSE: Duration = Duration::from_secs(10);

/// Holds the probes of a topology's servers, one at a time for each.
#[derive(Debug, Default)]
pub(super) struct SignsOfLife {
    probes: BTreeMap<HostKey, State>,
    next: u64,
}

/// ```text
///        begin           asked           half the limit          the limit            nothing overheard
/// (none) -----> Naming --------> Asked first --------> Asked again --------> Judging ------------------> (none): silent
///                  |  no address     | any answer          | any answer          | something overheard
///                  +-----------------+---------------------+---------------------+--> Resting
/// ```
#[derive(Clone, Copy, Debug)]
enum State {
    /// The server's address is looked up, which is nothing that the server could answer for.
    Naming { id: ProbeId, limit: Duration, deadline: Instant },
    /// It has been asked once, or twice if nothing is left of `again_at`.
    Asked { id: ProbeId, since: Instant, limit: Duration, again_at: Option<Instant> },
    /// The limit has passed; what the server's other connections have received is being looked at, which takes no time.
    Judging { id: ProbeId, since: Instant, limit: Duration },
    /// It has given a sign, or could not be asked.
    Resting { until: Instant },
}

/// Says what the outcome of an attempt tells of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// Its process has said something, if only no.
    Life,
    /// Nothing came back from it.
    Nothing,
    /// It has not been asked: no address, no socket, no network.
    NotAsked,
}

/// Returns how long a server may be silent: a multiple of its average round-trip time, within bounds.
pub fn limit(floor: Duration, average: Option<Duration>) -> Duration {
    average.map_or(floor, |average| average.saturating_mul(ROUND_TRIPS).clamp(floor, CEILING))
}

impl Topology {
    /// Takes from a server's pool that a command has been waiting for its reply for [`UNANSWERED_AFTER`].
    ///
    /// The server is asked for a sign of life if its monitor has heard nothing for as long, unless it has just given one.
    pub fn handle_unanswered(&mut self, host: &HostKey, now: Instant) {
        let Some(known) = self.watched(host) else { return };
        let heard = known.last_update.filter(|_| known.is_known());
        if heard.is_some_and(|heard| heard + UNANSWERED_AFTER > now) {
            return;
        }
        let limit = limit(UNANSWERED_FLOOR, known.round_trip_time);
        if let Some(id) = self.signs.begin(host, limit, now) {
            self.ask(host, id, "a command is unanswered, and the monitor is silent", limit);
        }
    }

    /// Takes from a probe that the server's address is known: from now on its silence counts.
    pub fn handle_probe_named(&mut self, host: &HostKey, id: ProbeId, now: Instant) {
        if let Some(State::Naming { id: own, limit, .. }) = self.signs.get(host)
            && own == id
        {
            self.signs.put(host, State::Asked { id, since: now, limit, again_at: Some(now + limit / 2) });
        }
    }

    /// Takes the outcome of a probe's attempt: a greeting, or why there was none. That of an older probe is ignored.
    pub fn handle_probed(&mut self, host: &HostKey, id: ProbeId, outcome: Result<(), Error>, now: Instant) {
        if self.signs.id(host) != Some(id) {
            return;
        }
        let reading = outcome.as_ref().map_or_else(read, |()| Reading::Life);
        tracing::debug!(%host, ?reading, "outcome of a probe");
        match reading {
            Reading::Life | Reading::NotAsked => self.rest(host, now),
            Reading::Nothing => {}
        }
    }

    /// Takes the answer to [`Overhear`](TopologyAction::Overhear): whether the server's connections have received anything.
    pub fn handle_overheard(&mut self, host: &HostKey, id: ProbeId, anything: bool, now: Instant) {
        match self.signs.get(host) {
            Some(State::Judging { id: own, since, limit }) if own == id => {
                if anything {
                    self.rest(host, now);
                } else {
                    self.handle_silence(host, limit, now.saturating_duration_since(since), now);
                }
            }
            Some(State::Naming { .. } | State::Asked { .. } | State::Judging { .. } | State::Resting { .. }) | None => {}
        }
    }

    /// Asks a former primary for a sign of life, if a newer one has taken its place without a word of its own.
    pub(super) fn ask_deposed(&mut self, former: Option<Arc<ServerDescription>>, now: Instant) {
        let Some(former) = former else { return };
        let replaced = self.current.primary().is_some_and(|primary| primary.host != former.host);
        if !replaced || self.current.server(&former.host).is_none_or(|server| server.is_known()) {
            return;
        }
        let limit = limit(DEPOSED_FLOOR, former.round_trip_time);
        if self.signs.hasten(&former.host, limit, now) {
            return;
        }
        self.signs.forget(&former.host);
        if let Some(id) = self.signs.begin(&former.host, limit, now) {
            self.ask(&former.host, id, "a newer primary has deposed it", limit);
        }
    }

    /// Takes that a server's monitor, or the measurement of its round trips, has heard from it.
    pub(super) fn handle_sign(&mut self, host: &HostKey) {
        if self.signs.id(host).is_some() {
            self.end_probe(host);
        }
    }

    /// Ends a server's probe without a verdict.
    pub(super) fn end_probe(&mut self, host: &HostKey) {
        if self.signs.forget(host) {
            self.actions.push_back(TopologyAction::EndProbe(host.clone()));
        }
    }

    /// Asks again, and judges, when time has come.
    pub(super) fn watch_signs(&mut self, now: Instant) {
        while let Some((host, state)) = self.signs.due(now) {
            match state {
                State::Naming { .. } => self.rest(&host, now),
                State::Asked { id, since, limit, .. } if since + limit <= now => {
                    self.signs.put(&host, State::Judging { id, since, limit });
                    self.actions.push_back(TopologyAction::Overhear { host, id });
                }
                State::Asked { id, since, limit, .. } => {
                    self.signs.put(&host, State::Asked { id, since, limit, again_at: None });
                    self.actions.push_back(TopologyAction::Probe { host, id, again: true });
                }
                State::Judging { .. } | State::Resting { .. } => return,
            }
        }
    }

    fn ask(&mut self, host: &HostKey, id: ProbeId, why: &str, limit: Duration) {
        tracing::debug!(%host, why, limit_ms = limit.as_millis(), "server is asked for a sign of life");
        self.actions.push_back(TopologyAction::Probe { host: host.clone(), id, again: false });
    }

    fn rest(&mut self, host: &HostKey, now: Instant) {
        self.end_probe(host);
        self.signs.put(host, State::Resting { until: now + PAUSE });
    }

    fn handle_silence(&mut self, host: &HostKey, limit: Duration, elapsed: Duration, now: Instant) {
        self.end_probe(host);
        let error = Error::new(ErrorKind::Silent, "the server gives no sign of life")
            .at(Stage::Hello)
            .on(host)
            .after(elapsed)
            .against("SIGN_OF_LIFE_LIMIT", LimitValue::Time(limit))
            .with_label("RetryableError");
        tracing::info!(%host, %error, "server is silent: what is in flight on it is interrupted");
        let clearing = Clearing { cause: error.clone(), interrupt: true };
        self.submit(ServerDescription::failed(host, error, now), Some(clearing));
        self.actions.push_back(TopologyAction::CancelCheck(host.clone()));
        self.wake();
    }
}

impl SignsOfLife {
    /// Begins a probe, unless one is under way or the server has just been asked.
    fn begin(&mut self, host: &HostKey, limit: Duration, now: Instant) -> Option<ProbeId> {
        match self.get(host) {
            Some(State::Naming { .. } | State::Asked { .. } | State::Judging { .. }) => return None,
            Some(State::Resting { until }) if until > now => return None,
            Some(State::Resting { .. }) | None => {}
        }
        let id = ProbeId(self.next);
        self.next += 1;
        self.put(host, State::Naming { id, limit, deadline: now + CEILING });
        Some(id)
    }

    /// Gives a probe that is under way a shorter limit from now on; tells whether one is.
    fn hasten(&mut self, host: &HostKey, shorter: Duration, now: Instant) -> bool {
        let hastened = match self.get(host) {
            Some(State::Naming { id, limit, deadline }) => State::Naming { id, limit: limit.min(shorter), deadline },
            Some(State::Asked { id, since, limit, again_at }) if now + shorter < since + limit => {
                State::Asked { id, since: now, limit: shorter, again_at: again_at.map(|at| at.min(now + shorter / 2)) }
            }
            Some(state @ (State::Asked { .. } | State::Judging { .. })) => state,
            Some(State::Resting { .. }) | None => return false,
        };
        self.put(host, hastened);
        true
    }

    /// Forgets a server; tells whether a probe was under way.
    fn forget(&mut self, host: &HostKey) -> bool {
        match self.probes.remove(host) {
            Some(State::Naming { .. } | State::Asked { .. } | State::Judging { .. }) => true,
            Some(State::Resting { .. }) | None => false,
        }
    }

    /// Returns when something is to be done next, and what runs out then.
    pub(super) fn next_deadline(&self) -> Option<(Instant, &'static str)> {
        self.probes.values().filter_map(|state| state.due()).min()
    }

    fn due(&self, now: Instant) -> Option<(HostKey, State)> {
        let is_due = |state: &State| state.due().is_some_and(|(at, _)| at <= now);
        self.probes.iter().find(|(_, state)| is_due(state)).map(|(host, state)| (host.clone(), *state))
    }

    fn id(&self, host: &HostKey) -> Option<ProbeId> {
        match self.get(host)? {
            State::Naming { id, .. } | State::Asked { id, .. } | State::Judging { id, .. } => Some(id),
            State::Resting { .. } => None,
        }
    }

    fn get(&self, host: &HostKey) -> Option<State> {
        self.probes.get(host).copied()
    }

    fn put(&mut self, host: &HostKey, state: State) {
        self.probes.insert(host.clone(), state);
    }
}

impl State {
    fn due(&self) -> Option<(Instant, &'static str)> {
        match self {
            Self::Naming { deadline, .. } => Some((*deadline, "address of a silent server")),
            Self::Asked { again_at: Some(again_at), .. } => Some((*again_at, "second question")),
            Self::Asked { since, limit, again_at: None, .. } => Some((*since + *limit, "SIGN_OF_LIFE_LIMIT")),
            Self::Judging { .. } | Self::Resting { .. } => None,
        }
    }
}

/// Reads what an attempt's failure tells.
///
/// That something accepted the connection proves nothing: the kernel does that for a process that stands still. What is
/// said, or closed, after that is the process's doing.
fn read(error: &Error) -> Reading {
    let refused = |kind| {
        use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable};
        matches!(kind, ConnectionRefused | ConnectionReset | ConnectionAborted | HostUnreachable)
    };
    match (error.stage(), error.kind()) {
        (Some(Stage::Tcp | Stage::Tls | Stage::Hello), _) if error.is_timeout() => Reading::Nothing,
        (Some(Stage::Tcp), ErrorKind::Io(kind)) if refused(kind) => Reading::Nothing,
        (Some(Stage::Tls | Stage::Hello), _) => Reading::Life,
        (Some(_) | None, _) => Reading::NotAsked,
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
