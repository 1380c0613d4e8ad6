//! Is a server that says nothing still alive?
//!
//! Goes beyond the specifications. A server is asked for an answer to a liveness probe, on fresh connections and with a limit of its own,
//! when a newer primary has deposed it, when it has left the set with commands in flight, and when a command has been
//! unanswered for long while the server's next answer to its monitor is overdue. Any answer will do, and so will any byte on the connections that it
//! has: nothing then happens to what is in flight. Silence makes it unknown, clears its pool, and interrupts the commands
//! that wait for nothing.
//!
//! A slow network is told from a silent process by the fresh connection itself: a kernel accepts it for a process that
//! stands still, so how long that took is how far away the server is now, whatever it was before. Silence counts only as
//! many of these round trips after that; and a server that no connection has reached is given [`UNREACHED`]. What can't be
//! told apart in the time there is: a process that stands still, and one that is reached at once and then says nothing at
//! all for the limit, on any connection. The latter loses what is in flight on it, with an error that invites to try again;
//! its next reply makes it known again at once.
//!
//! How it is asked is decided in `io`, when a command is unanswered for long in `pool`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Level;

use super::action::TopologyAction;
use super::machine::{Clearing, Topology};
use super::server::ServerDescription;
use crate::error::{Error, ErrorKind, LimitValue, Stage};
use crate::host::ServerAddress;
use crate::pool::{UNANSWERED_AFTER, interrupted};

/// Names one probe of a server; a later one has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeId(pub u64);

/// How long a deposed primary may be silent at the least: a lost packet costs the first dial a second, and then there is
/// still the second one. The set itself has already missed it for the time of an election.
pub const DEPOSED_FLOOR: Duration = Duration::from_millis(1500);

/// How long a server may be silent at the least of which nobody says that it is gone: as long as the command that made us
/// ask has been unanswered.
pub const UNANSWERED_FLOOR: Duration = UNANSWERED_AFTER;

/// How long a server may be silent at the least that no connection has reached: a round trip of five seconds, on a network that
/// was faster before, and a second for a packet that was lost.
pub const UNREACHED: Duration = Duration::from_secs(6);

/// How many round trips of average length may pass before silence counts. Opening a connection takes two in clear and four
/// with TLS 1.2; as many again are for a network that is slower than its average.
pub const ROUND_TRIPS: u32 = 8;

/// How long silence may last before it counts, however slow the network: with round trips of five seconds, opening takes
/// twenty.
pub const CEILING: Duration = Duration::from_secs(30);

/// How late a server's next answer to its monitor may be at the least before the monitor counts as silent.
pub const ANSWER_SLACK: Duration = Duration::from_secs(1);

/// How long a server that has given a liveness probe is not asked again because of an unanswered command.
pub const PAUSE: Duration = Duration::from_secs(10);

/// Why a server is asked that has left.
const LEFT: &str = "it has left, and a command is in flight on it";

/// Holds the probes of a topology's servers, one at a time for each.
#[derive(Debug, Default)]
pub(super) struct LivenessProbes {
    probes: BTreeMap<ServerAddress, ProbeState>,
    next: u64,
    /// The average round-trip times of servers that have left, until their pools say whether anything is in flight.
    leaving: BTreeMap<ServerAddress, Duration>,
    /// When each server last answered its monitor, or the measurement of its round trips.
    answered: BTreeMap<ServerAddress, Instant>,
}

/// Says when a connection of a probe was accepted, and how long that took.
#[derive(Clone, Copy, Debug)]
struct Reached {
    at: Instant,
    took: Duration,
}

/// ```text
///        begin           asked           half the limit          the limit            nothing traffic_checked
/// (none) -----> Resolving --------> AwaitingAnswer first --------> AwaitingAnswer again --------> CheckingTraffic ------------------> (none): silent
///                  |  no address     | any answer          | any answer          | something traffic_checked
///                  +-----------------+---------------------+---------------------+--> Resting
/// ```
#[derive(Clone, Copy, Debug)]
enum ProbeState {
    /// The server's address is looked up, which is nothing that the server could answer for.
    Resolving { id: ProbeId, limit: Duration, deadline: Instant },
    /// It has been asked once, or twice if nothing is left of `again_at`.
    AwaitingAnswer { id: ProbeId, since: Instant, limit: Duration, reached: Option<Reached>, again_at: Option<Instant> },
    /// The limit has passed; what the server's other connections have received is being looked at, which takes no time.
    CheckingTraffic { id: ProbeId, since: Instant, limit: Duration },
    /// It has given a sign, or could not be asked.
    Resting { until: Instant },
}

/// Says what the outcome of an attempt tells of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProbeReading {
    /// Its process has said something, if only no.
    Life,
    /// Nothing came back from it.
    Nothing,
    /// There is no such process, says its machine.
    Refused,
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
    /// The server is asked for an answer to a liveness probe if its next answer to its monitor is overdue as well, unless it has just given
    /// one. The pool of a server that has left says that too, and there is no monitor any more.
    pub fn handle_unanswered(&mut self, host: &ServerAddress, now: Instant) {
        if !self.has_probes() {
            return;
        }
        let (limit, why) = match self.current.server(host) {
            None => (DEPOSED_FLOOR, LEFT),
            Some(known) => {
                if known.is_known() && self.answer_due(known).is_some_and(|due| now < due) {
                    return;
                }
                (limit(UNANSWERED_FLOOR, known.round_trip_time), "a command is unanswered, and the monitor is silent")
            }
        };
        if let Some(id) = self.probes.begin(host, limit, now) {
            self.ask(host, id, why, limit);
        }
    }

    /// Takes, at once after the order to close the pool of a server that has left, whether commands are in flight on it.
    ///
    /// If so, it is asked for an answer to a liveness probe as long as it owes them an answer; a question that is under way goes on.
    pub fn handle_pool_closed(&mut self, host: &ServerAddress, in_use: bool, now: Instant) {
        let average = self.probes.leaving.remove(host);
        if !self.has_probes() || self.current.server(host).is_some() {
            return;
        }
        if !in_use {
            return self.end_probe(host);
        }
        let limit = limit(DEPOSED_FLOOR, average);
        let asked = if average.is_some() { self.probes.shorten(host, limit, now) } else { self.probes.id(host).is_some() };
        if asked {
            return;
        }
        self.probes.forget(host);
        if let Some(id) = self.probes.begin(host, limit, now) {
            self.ask(host, id, LEFT, limit);
        }
    }

    /// Takes from a probe that the server's address is known: from now on its silence counts.
    pub fn handle_probe_named(&mut self, host: &ServerAddress, id: ProbeId, now: Instant) {
        if let Some(ProbeState::Resolving { id: own, limit, .. }) = self.probes.get(host)
            && own == id
        {
            self.probes.put(host, ProbeState::AwaitingAnswer { id, since: now, limit, reached: None, again_at: Some(now + limit / 2) });
        }
    }

    /// Takes from a probe that a connection was accepted, and how long that took.
    ///
    /// That is no liveness probe, but says how far away the server is; only the first time counts.
    pub fn handle_probe_reached(&mut self, host: &ServerAddress, id: ProbeId, took: Duration, now: Instant) {
        if let Some(ProbeState::AwaitingAnswer { id: own, since, limit, reached: None, again_at }) = self.probes.get(host)
            && own == id
        {
            let reached = Some(Reached { at: now, took });
            self.probes.put(host, ProbeState::AwaitingAnswer { id, since, limit, reached, again_at });
        }
    }

    /// Takes the outcome of a probe's attempt: a greeting, or why there was none. That of an older probe is ignored.
    pub fn handle_probed(&mut self, host: &ServerAddress, id: ProbeId, outcome: Result<(), Error>, now: Instant) {
        if self.probes.id(host) != Some(id) {
            return;
        }
        let reading = outcome.as_ref().map_or_else(read, |()| ProbeReading::Life);
        self.log_limits.notes.push(Level::DEBUG, format!("{host}: outcome of a probe: {reading:?}"));
        match reading {
            ProbeReading::Life | ProbeReading::NotAsked => self.rest(host, now),
            // Its kernel has refused the connection, and has been reached.
            ProbeReading::Refused => {
                let took = outcome.as_ref().err().and_then(|error| error.elapsed()).unwrap_or_default();
                self.handle_probe_reached(host, id, took, now);
            }
            ProbeReading::Nothing => {}
        }
    }

    /// Takes the answer to [`CheckTraffic`](TopologyAction::CheckTraffic): whether the server's connections have received anything.
    pub fn handle_traffic_checked(&mut self, host: &ServerAddress, id: ProbeId, anything: bool, now: Instant) {
        let Some(ProbeState::CheckingTraffic { id: own, since, limit }) = self.probes.get(host) else { return };
        if own != id {
            return;
        }
        if anything {
            self.rest(host, now);
        } else {
            self.handle_silence(host, limit, now.saturating_duration_since(since), now);
        }
    }

    /// Asks a deposed primary for an answer, if a newer one has taken its place without a word of its own.
    pub(super) fn ask_deposed(&mut self, deposed: Option<Arc<ServerDescription>>, now: Instant) {
        let Some(deposed) = deposed.filter(|_| self.has_probes()) else { return };
        let replaced = self.current.primary().is_some_and(|primary| primary.host != deposed.host);
        if !replaced || self.current.server(&deposed.host).is_none_or(|server| server.is_known()) {
            return;
        }
        let limit = limit(DEPOSED_FLOOR, deposed.round_trip_time);
        if self.probes.shorten(&deposed.host, limit, now) {
            return;
        }
        self.probes.forget(&deposed.host);
        if let Some(id) = self.probes.begin(&deposed.host, limit, now) {
            self.ask(&deposed.host, id, "a newer primary has deposed it", limit);
        }
    }

    /// Takes that a server's monitor, or the measurement of its round trips, has heard from it.
    pub(super) fn handle_sign(&mut self, host: &ServerAddress, now: Instant) {
        self.probes.answered.insert(host.clone(), now);
        if self.probes.id(host).is_some() {
            self.end_probe(host);
        }
    }

    /// Takes that a server leaves. What is asked of it goes on until its pool has said whether anything is in flight.
    pub(super) fn handle_leaving(&mut self, host: &ServerAddress, last: Option<&Arc<ServerDescription>>) {
        self.probes.answered.remove(host);
        if let Some(average) = last.and_then(|server| server.round_trip_time).filter(|_| self.has_probes()) {
            self.probes.leaving.insert(host.clone(), average);
        }
    }

    /// Takes that a server's monitor has found it silent: what a probe under way would have brought about is done.
    pub(super) fn take_silence(&mut self, host: &ServerAddress, error: &Error) {
        let is_asked = self.probes.id(host).is_some();
        self.end_probe(host);
        if is_asked {
            self.actions.push_back(TopologyAction::InterruptRetired { host: host.clone(), why: interrupted(error) });
        }
    }

    /// Ends all probes without a verdict.
    pub(super) fn end_probes(&mut self) {
        let hosts: Vec<ServerAddress> = self.probes.probes.keys().cloned().collect();
        hosts.iter().for_each(|host| self.end_probe(host));
    }

    /// Ends a server's probe without a verdict.
    pub(super) fn end_probe(&mut self, host: &ServerAddress) {
        if self.probes.forget(host) {
            self.actions.push_back(TopologyAction::EndProbe(host.clone()));
        }
    }

    /// Asks again, and judges, when time has come.
    pub(super) fn watch_signs(&mut self, now: Instant) {
        while let Some((host, state)) = self.probes.due(now) {
            match state {
                ProbeState::Resolving { .. } => self.rest(&host, now),
                ProbeState::AwaitingAnswer { id, since, limit, reached, .. } if verdict_at(since, limit, reached) <= now => {
                    let limit = verdict_at(since, limit, reached).saturating_duration_since(since);
                    self.probes.put(&host, ProbeState::CheckingTraffic { id, since, limit });
                    self.actions.push_back(TopologyAction::CheckTraffic { host, id });
                }
                ProbeState::AwaitingAnswer { id, since, limit, reached, .. } => {
                    self.probes.put(&host, ProbeState::AwaitingAnswer { id, since, limit, reached, again_at: None });
                    self.actions.push_back(TopologyAction::Probe { host, id, again: true });
                }
                ProbeState::CheckingTraffic { .. } | ProbeState::Resting { .. } => return,
            }
        }
    }

    /// Returns by when a server's monitor should have heard from it again: a stream's next reply comes after
    /// `heartbeatFrequencyMS`, and so does the answer to the next question of a monitor that polls.
    fn answer_due(&self, server: &ServerDescription) -> Option<Instant> {
        let last = self.probes.answered.get(&server.host)?;
        last.checked_add(self.current.heartbeat_frequency() + limit(ANSWER_SLACK, server.round_trip_time))
    }

    fn ask(&mut self, host: &ServerAddress, id: ProbeId, why: &str, limit: Duration) {
        self.log_limits
            .notes
            .push(Level::DEBUG, format!("{host}: server is asked for an answer to a liveness probe within {limit:?}: {why}"));
        self.actions.push_back(TopologyAction::Probe { host: host.clone(), id, again: false });
    }

    fn rest(&mut self, host: &ServerAddress, now: Instant) {
        self.end_probe(host);
        // One that has left is asked again as often as its pool says that a command is unanswered.
        if self.current.server(host).is_some() {
            self.probes.put(host, ProbeState::Resting { until: now + PAUSE });
        }
    }

    fn handle_silence(&mut self, host: &ServerAddress, limit: Duration, elapsed: Duration, now: Instant) {
        self.end_probe(host);
        let error = Error::new(ErrorKind::Silent, "the server did not answer the liveness probe")
            .at(Stage::Hello)
            .on(host)
            .after(elapsed)
            .against("LIVENESS_LIMIT", LimitValue::Time(limit));
        self.log_limits.silent(host, &error, now);
        self.actions.push_back(TopologyAction::InterruptRetired { host: host.clone(), why: interrupted(&error) });
        if self.current.server(host).is_none() {
            return;
        }
        let clearing = Clearing { cause: error.clone(), interrupt: true };
        self.submit(ServerDescription::failed(host, error, now), Some(clearing), now);
        self.actions.push_back(TopologyAction::CancelCheck(host.clone()));
        self.wake();
    }
}

impl LivenessProbes {
    /// Begins a probe, unless one is under way or the server has just been asked.
    fn begin(&mut self, host: &ServerAddress, limit: Duration, now: Instant) -> Option<ProbeId> {
        match self.get(host) {
            Some(ProbeState::Resolving { .. } | ProbeState::AwaitingAnswer { .. } | ProbeState::CheckingTraffic { .. }) => return None,
            Some(ProbeState::Resting { until }) if until > now => return None,
            Some(ProbeState::Resting { .. }) | None => {}
        }
        let id = ProbeId(self.next);
        self.next += 1;
        self.put(host, ProbeState::Resolving { id, limit, deadline: now + CEILING });
        Some(id)
    }

    /// Gives a probe that is under way a shorter limit from now on; tells whether one is.
    fn shorten(&mut self, host: &ServerAddress, shorter: Duration, now: Instant) -> bool {
        let shortened = match self.get(host) {
            Some(ProbeState::Resolving { id, limit, deadline }) => ProbeState::Resolving { id, limit: limit.min(shorter), deadline },
            Some(ProbeState::AwaitingAnswer { id, since, limit, reached, again_at }) if now + shorter < since + limit => {
                ProbeState::AwaitingAnswer {
                    id,
                    since: now,
                    limit: shorter,
                    reached,
                    again_at: again_at.map(|at| at.min(now + shorter / 2)),
                }
            }
            Some(state @ (ProbeState::AwaitingAnswer { .. } | ProbeState::CheckingTraffic { .. })) => state,
            Some(ProbeState::Resting { .. }) | None => return false,
        };
        self.put(host, shortened);
        true
    }

    /// Forgets a server; tells whether a probe was under way.
    fn forget(&mut self, host: &ServerAddress) -> bool {
        match self.probes.remove(host) {
            Some(ProbeState::Resolving { .. } | ProbeState::AwaitingAnswer { .. } | ProbeState::CheckingTraffic { .. }) => true,
            Some(ProbeState::Resting { .. }) | None => false,
        }
    }

    /// Returns when something is to be done next, and what runs out then.
    pub(super) fn next_deadline(&self) -> Option<(Instant, &'static str)> {
        self.probes.values().filter_map(|state| state.due()).min()
    }

    fn due(&self, now: Instant) -> Option<(ServerAddress, ProbeState)> {
        let is_due = |state: &ProbeState| state.due().is_some_and(|(at, _)| at <= now);
        self.probes.iter().find(|(_, state)| is_due(state)).map(|(host, state)| (host.clone(), *state))
    }

    fn id(&self, host: &ServerAddress) -> Option<ProbeId> {
        match self.get(host)? {
            ProbeState::Resolving { id, .. } | ProbeState::AwaitingAnswer { id, .. } | ProbeState::CheckingTraffic { id, .. } => Some(id),
            ProbeState::Resting { .. } => None,
        }
    }

    fn get(&self, host: &ServerAddress) -> Option<ProbeState> {
        self.probes.get(host).copied()
    }

    fn put(&mut self, host: &ServerAddress, state: ProbeState) {
        self.probes.insert(host.clone(), state);
    }
}

impl ProbeState {
    fn due(&self) -> Option<(Instant, &'static str)> {
        match self {
            Self::Resolving { deadline, .. } => Some((*deadline, "address of a silent server")),
            Self::AwaitingAnswer { again_at: Some(again_at), .. } => Some((*again_at, "second question")),
            Self::AwaitingAnswer { since, limit, reached, again_at: None, .. } => {
                Some((verdict_at(*since, *limit, *reached), "LIVENESS_LIMIT"))
            }
            Self::CheckingTraffic { .. } | Self::Resting { .. } => None,
        }
    }
}

/// Returns when silence counts: not before the limit, nor so soon after the server was reached that nothing could have come
/// back.
fn verdict_at(since: Instant, limit: Duration, reached: Option<Reached>) -> Instant {
    match reached {
        Some(Reached { at, took }) => {
            let way = took.saturating_mul(ROUND_TRIPS).min(CEILING);
            (since + limit).max(at + way.max(limit / 2))
        }
        None => since + limit.max(UNREACHED),
    }
}

/// Reads what an attempt's failure tells.
///
/// That something accepted the connection proves nothing: the kernel does that for a process that stands still. What is
/// said, or closed, after that is the process's doing.
fn read(error: &Error) -> ProbeReading {
    let refused = |kind| {
        use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
        matches!(kind, ConnectionRefused | ConnectionReset | ConnectionAborted)
    };
    match (error.stage(), error.kind()) {
        (_, ErrorKind::LocalResources) => ProbeReading::NotAsked,
        (Some(Stage::Tcp | Stage::Tls | Stage::Hello), kind) if error.is_timeout() && kind != ErrorKind::Command => ProbeReading::Nothing,
        (Some(Stage::Tcp), ErrorKind::Io(kind)) if refused(kind) => ProbeReading::Refused,
        (Some(Stage::Tcp), ErrorKind::Io(std::io::ErrorKind::HostUnreachable)) => ProbeReading::Nothing,
        (Some(Stage::Tls | Stage::Hello), _) => ProbeReading::Life,
        (Some(_) | None, _) => ProbeReading::NotAsked,
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
