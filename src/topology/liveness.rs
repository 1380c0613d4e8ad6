//! The liveness probes of servers that seem unresponsive.
//!
//! Goes beyond the specifications. A server is sent a liveness probe, on fresh connections and with a limit of its own, in
//! three cases: a newer primary has deposed it, it has left the set with commands in flight, or a command has been unanswered
//! for long while the server's next reply to its monitor is overdue. Any answer counts, and so does any byte on its existing
//! connections: the commands in flight then continue. Silence makes the server unknown, clears its pool, and interrupts the
//! commands in flight.
//!
//! A slow network is distinguished from a stopped process by the fresh connection itself: the kernel accepts it for a stopped
//! process, so the time until then is the current distance of the server. Silence counts only several of these round trips
//! later; a server that no connection has reached is given [`UNREACHED`]. Two cases can't be distinguished in the available
//! time: a stopped process, and one that is reached at once and then sends nothing for the limit, on any connection. The latter
//! loses its commands in flight, with an error that suggests a retry; its next reply makes it known again at once.
//!
//! Does not decide how a probe is sent (`io`), nor when a command is unanswered for long (`pool`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Level;

use super::action::TopologyAction;
use super::machine::{Clearing, Topology};
use crate::description::ServerDescription;
use crate::error::{Error, ErrorKind, LimitValue, Stage};
use crate::host::ServerAddress;
use crate::pool::{UNANSWERED_AFTER, interrupted};

/// The id of a server's probe; a later one has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeId(pub u64);

/// The minimum silence of a deposed primary: a lost packet costs the first dial a second, and the second dial still has time.
/// The set itself has already missed it for the time of an election.
pub const DEPOSED_FLOOR: Duration = Duration::from_millis(1500);

/// The minimum silence of a server that is not known to be gone: as long as the command that caused the probe has been
/// unanswered.
pub const UNANSWERED_FLOOR: Duration = UNANSWERED_AFTER;

/// The minimum silence of a server that no connection has reached: a round trip of five seconds, on a network that was faster
/// before, and a second for a lost packet.
pub const UNREACHED: Duration = Duration::from_secs(6);

/// The number of average round trips before silence counts. Opening a connection takes two without TLS and four with TLS 1.2;
/// as many again are for a network that is slower than its average.
pub const ROUND_TRIPS: u32 = 8;

/// The maximum silence before it counts, on any network: with round trips of five seconds, opening takes twenty.
pub const CEILING: Duration = Duration::from_secs(30);

/// How late a server's next reply to its monitor must be before the monitor counts as silent.
pub const ANSWER_SLACK: Duration = Duration::from_secs(1);

/// How long after an answered liveness probe no further one is sent because of an unanswered command.
pub const PAUSE: Duration = Duration::from_secs(10);

/// The reason to probe a removed server.
const LEFT: &str = "it has left, and a command is in flight on it";

/// The probes of a topology's servers, at most one per server.
#[derive(Debug, Default)]
pub(super) struct LivenessProbes {
    probes: BTreeMap<ServerAddress, ProbeState>,
    next: u64,
    /// The average round-trip times of removed servers, until their pools report whether commands are in flight.
    leaving: BTreeMap<ServerAddress, Duration>,
    /// When each server last answered its monitor, or the measurement of its round trips.
    answered: BTreeMap<ServerAddress, Instant>,
}

/// When a connection of a probe was accepted, and how long that took.
#[derive(Clone, Copy, Debug)]
struct Reached {
    at: Instant,
    took: Duration,
}

/// ```text
///        begin        named              half the limit          the limit            no traffic
/// (none) -----> Resolving --------> AwaitingAnswer first --------> AwaitingAnswer again --------> CheckingTraffic ------------------> (none): silent
///                  |  no address     | any answer          | any answer          | traffic
///                  +-----------------+---------------------+---------------------+--> Resting
/// ```
#[derive(Clone, Copy, Debug)]
enum ProbeState {
    /// The server's address is being looked up, for which the server is not responsible.
    Resolving { id: ProbeId, limit: Duration, deadline: Instant },
    /// The probe was sent once, or twice if `again_at` is empty.
    AwaitingAnswer { id: ProbeId, since: Instant, limit: Duration, reached: Option<Reached>, again_at: Option<Instant> },
    /// The limit has passed; the server's other connections are checked for received bytes, which takes no time.
    CheckingTraffic { id: ProbeId, since: Instant, limit: Duration },
    /// It has answered, or could not be probed.
    Resting { until: Instant },
}

/// The meaning of an attempt's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProbeReading {
    /// The process has answered, even if with a refusal.
    Answered,
    /// No answer.
    Nothing,
    /// The machine reports that there is no such process.
    Refused,
    /// The probe was not sent: no address, no socket, no network.
    NotAsked,
}

/// Returns the limit of silence: a multiple of the average round-trip time, within bounds.
pub fn limit(floor: Duration, average: Option<Duration>) -> Duration {
    average.map_or(floor, |average| average.saturating_mul(ROUND_TRIPS).clamp(floor, CEILING))
}

impl Topology {
    /// Handles a pool's report that a command has been waiting for its reply for [`UNANSWERED_AFTER`].
    ///
    /// The server is probed if its next reply to its monitor is overdue as well, unless it has just answered a probe. The pool
    /// of a removed server reports that, too, and there is no monitor any more.
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

    /// Handles the report, right after the action to close a removed server's pool, whether commands are in flight on it.
    ///
    /// If so, the server is probed as long as it owes them a reply; a probe in progress continues.
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

    /// Records that the address of a probe is known: from now on silence counts.
    pub fn handle_probe_resolved(&mut self, host: &ServerAddress, id: ProbeId, now: Instant) {
        if let Some(ProbeState::Resolving { id: own, limit, .. }) = self.probes.get(host)
            && own == id
        {
            self.probes.put(host, ProbeState::AwaitingAnswer { id, since: now, limit, reached: None, again_at: Some(now + limit / 2) });
        }
    }

    /// Records that a probe's connection was accepted, and how long that took.
    ///
    /// That is not an answer, but shows the distance of the server; only the first time counts.
    pub fn handle_probe_reached(&mut self, host: &ServerAddress, id: ProbeId, took: Duration, now: Instant) {
        if let Some(ProbeState::AwaitingAnswer { id: own, since, limit, reached: None, again_at }) = self.probes.get(host)
            && own == id
        {
            let reached = Some(Reached { at: now, took });
            self.probes.put(host, ProbeState::AwaitingAnswer { id, since, limit, reached, again_at });
        }
    }

    /// Handles the outcome of a probe's attempt. That of an older probe is ignored.
    pub fn handle_probed(&mut self, host: &ServerAddress, id: ProbeId, outcome: Result<(), Error>, now: Instant) {
        if self.probes.id(host) != Some(id) {
            return;
        }
        let reading = outcome.as_ref().map_or_else(read, |()| ProbeReading::Answered);
        self.log_limits.notes.push(Level::DEBUG, format!("{host}: outcome of a probe: {reading:?}"));
        match reading {
            ProbeReading::Answered | ProbeReading::NotAsked => self.rest(host, now),
            // The kernel has refused the connection, and has been reached.
            ProbeReading::Refused => {
                let took = outcome.as_ref().err().and_then(|error| error.elapsed()).unwrap_or_default();
                self.handle_probe_reached(host, id, took, now);
            }
            ProbeReading::Nothing => {}
        }
    }

    /// Handles the answer to [`CheckTraffic`](TopologyAction::CheckTraffic): whether the server's connections have received
    /// anything.
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

    /// Probes a deposed primary, if a newer one has replaced it without a reply of its own.
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

    /// Records that a server's monitor, or the measurement of its round trips, has received a reply.
    pub(super) fn handle_sign(&mut self, host: &ServerAddress, now: Instant) {
        self.probes.answered.insert(host.clone(), now);
        if self.probes.id(host).is_some() {
            self.end_probe(host);
        }
    }

    /// Handles the removal of a server. A probe continues until the pool has reported whether commands are in flight.
    pub(super) fn handle_leaving(&mut self, host: &ServerAddress, last: Option<&Arc<ServerDescription>>) {
        self.probes.answered.remove(host);
        if let Some(average) = last.and_then(|server| server.round_trip_time).filter(|_| self.has_probes()) {
            self.probes.leaving.insert(host.clone(), average);
        }
    }

    /// Records that a server's monitor has found it unresponsive: the effect of a probe in progress has happened already.
    pub(super) fn take_silence(&mut self, host: &ServerAddress, error: &Error) {
        let is_asked = self.probes.id(host).is_some();
        self.end_probe(host);
        if is_asked {
            self.actions.push_back(TopologyAction::InterruptRetired { host: host.clone(), why: interrupted(error) });
        }
    }

    /// Ends all probes without an effect.
    pub(super) fn end_probes(&mut self) {
        let hosts: Vec<ServerAddress> = self.probes.probes.keys().cloned().collect();
        hosts.iter().for_each(|host| self.end_probe(host));
    }

    /// Ends a server's probe without an effect.
    pub(super) fn end_probe(&mut self, host: &ServerAddress) {
        if self.probes.forget(host) {
            self.actions.push_back(TopologyAction::EndProbe(host.clone()));
        }
    }

    /// Repeats and evaluates the probes that are due.
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

    /// Returns when a server's monitor should have received the next reply: a stream's next reply comes after
    /// `heartbeatFrequencyMS`, and so does the answer to the next check of a monitor that polls.
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
        // A removed server is probed again as often as its pool reports an unanswered command.
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
    /// Starts a probe, unless one is in progress or the server has just been probed.
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

    /// Shortens the limit of a probe in progress; returns whether there is one.
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

    /// Removes a server; returns whether a probe was in progress.
    fn forget(&mut self, host: &ServerAddress) -> bool {
        match self.probes.remove(host) {
            Some(ProbeState::Resolving { .. } | ProbeState::AwaitingAnswer { .. } | ProbeState::CheckingTraffic { .. }) => true,
            Some(ProbeState::Resting { .. }) | None => false,
        }
    }

    /// Returns the next deadline and the name of its limit.
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

/// Returns when silence counts: not before the limit, nor so soon after the server was reached that no answer could have
/// arrived.
fn verdict_at(since: Instant, limit: Duration, reached: Option<Reached>) -> Instant {
    match reached {
        Some(Reached { at, took }) => {
            let way = took.saturating_mul(ROUND_TRIPS).min(CEILING);
            (since + limit).max(at + way.max(limit / 2))
        }
        None => since + limit.max(UNREACHED),
    }
}

/// Returns the meaning of an attempt's failure.
///
/// An accepted connection proves nothing: the kernel accepts it for a stopped process. Bytes or a close after that are the
/// process's doing.
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
        (Some(Stage::Tls | Stage::Hello), _) => ProbeReading::Answered,
        (Some(_) | None, _) => ProbeReading::NotAsked,
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
