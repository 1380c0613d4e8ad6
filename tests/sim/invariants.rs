//! What must hold, whatever happens?
//!
//! One function for each invariant; a broken one ends the run with its name and what was found. They are asked where the
//! thing happens, or after every step, by `client`, `pools`, `calls` and `world`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use mongolink::options::MIN_HEARTBEAT_FREQUENCY;
use mongolink::pool::{Lease, WaiterId};
use mongolink::topology::{ServerType, TopologyDescription};
use mongolink::{Error, PoolStats, ServerAddress};

/// A broken invariant; the run ends with it.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) invariant: &'static str,
    pub(crate) finding: String,
}

/// Ends the run.
pub(crate) fn violated(invariant: &'static str, finding: String) -> ! {
    std::panic::panic_any(Violation { invariant, finding })
}

/// Where every connection of a pool is, counted by whoever carries the pool's wishes out.
#[derive(Clone, Debug, Default)]
pub(crate) struct PoolLedger {
    pub(crate) opening: BTreeSet<u64>,
    pub(crate) idle: BTreeSet<u64>,
    pub(crate) in_use: BTreeSet<u64>,
    pub(crate) draining: BTreeSet<u64>,
    /// Who waits, and until when.
    pub(crate) waiting: BTreeMap<WaiterId, Option<Instant>>,
    /// Connections whose user was told to stop.
    pub(crate) interrupted: BTreeSet<u64>,
    /// Since when a connection has been opening, or draining.
    pub(crate) since: BTreeMap<u64, Instant>,
    /// Of which generation each connection is.
    pub(crate) generations: BTreeMap<u64, u64>,
    /// Waiters whose deadline is that of the wait queue: it does not count for whoever waits for a connection being opened.
    pub(crate) queued: BTreeSet<WaiterId>,
    /// Whoever has left the queue to be told why a connection could not be opened, and is told in the same moment.
    pub(crate) leaving: BTreeSet<WaiterId>,
    /// Connections that could not be opened, and are to be told as closed in the same moment.
    pub(crate) failing: usize,
    /// Whether generations belong to services, and every connection that is being opened will do.
    pub(crate) by_service: bool,
}

impl PoolLedger {
    /// Tells whether something goes on that only a timer can end.
    pub(crate) fn needs_a_timer(&self) -> bool {
        let busy = self.opening.union(&self.draining).any(|id| !self.interrupted.contains(id));
        busy || self.waiting.values().any(Option::is_some)
    }

    /// Counts the connections on their way to those who wait.
    pub(crate) fn coming(&self, generation: u64) -> usize {
        if self.by_service {
            return self.opening.difference(&self.interrupted).count();
        }
        self.opening.iter().filter(|id| self.generations.get(id) == Some(&generation)).count()
    }

    /// Counts the connections that were told as closed before they were open.
    pub(crate) fn aborted(&self) -> usize {
        self.opening.intersection(&self.interrupted).count()
    }

    /// Lets those wait on whose time in the queue is over, and for whom a connection is being opened.
    pub(crate) fn leave_the_queue(&mut self, coming: usize, now: Instant) {
        for (waiter, deadline) in self.waiting.iter_mut().take(coming) {
            if self.queued.contains(waiter) && deadline.is_some_and(|deadline| deadline <= now) {
                *deadline = None;
            }
        }
    }
}

/// opening + idle + in use + draining = total <= maxPoolSize.
pub(crate) fn connections_add_up(host: &ServerAddress, stats: &PoolStats, ledger: &PoolLedger, max: u32) {
    let counted = (ledger.opening.len(), ledger.idle.len(), ledger.in_use.len(), ledger.draining.len());
    let told = (stats.opening, stats.idle, stats.in_use, stats.draining);
    if counted != told {
        let text = format!("{host}: there are {counted:?} connections opening, idle, in use, draining; the pool counts {told:?}");
        violated("connections_add_up", text);
    }
    if stats.total() > max as usize {
        violated("connections_add_up", format!("{host}: {} connections, maxPoolSize is {max}", stats.total()));
    }
    if stats.created != stats.closed + (stats.total() + ledger.failing) as u64 {
        violated("connections_add_up", format!("{host}: created is not closed + held: {stats:?}"));
    }
}

/// opening <= maxConnecting.
pub(crate) fn opening_is_limited(host: &ServerAddress, stats: &PoolStats, max_connecting: u32) {
    if stats.opening > max_connecting as usize {
        violated("opening_is_limited", format!("{host}: {} connections are opening, maxConnecting is {max_connecting}", stats.opening));
    }
}

/// Nothing is delivered from a pool that is not ready, or of an old generation.
pub(crate) fn delivered_is_current(host: &ServerAddress, stats: &PoolStats, lease: Lease) {
    if !stats.ready {
        violated("delivered_is_current", format!("{host}: connection {} was lent by a pool that is not ready", lease.id));
    }
    if lease.generation != stats.generation {
        let text = format!("{host}: connection {} of generation {} was lent at {}", lease.id, lease.generation, stats.generation);
        violated("delivered_is_current", text);
    }
}

/// The topology's idea of a pool's generation is the pool's own.
pub(crate) fn generations_agree(host: &ServerAddress, ordered: Option<u64>, stats: &PoolStats) {
    if ordered != Some(stats.generation) {
        violated("generations_agree", format!("{host}: the topology counts generation {ordered:?}, the pool {}", stats.generation));
    }
}

/// Every waiter ends exactly once: it can only be answered while it waits.
pub(crate) fn waiter_still_waits(host: &ServerAddress, ledger: &PoolLedger, waiter: WaiterId) {
    if !ledger.waiting.contains_key(&waiter) && !ledger.leaving.contains(&waiter) {
        violated("waiter_still_waits", format!("{host}: waiter {} is answered, and does not wait", waiter.0));
    }
}

/// Every waiter ends by its deadline.
pub(crate) fn nobody_waits_past_a_deadline<T: std::fmt::Debug>(
    what: &str,
    deadlines: impl Iterator<Item = (T, Option<Instant>)>,
    now: Instant,
) {
    for (id, deadline) in deadlines {
        if let Some(late) = deadline.filter(|deadline| *deadline < now) {
            violated("nobody_waits_past_a_deadline", format!("{what}: {id:?} still waits, {:?} after its deadline", now - late));
        }
    }
}

/// The pool waits for those, and only those, that wait for it.
pub(crate) fn waiters_are_known(host: &ServerAddress, stats: &PoolStats, ledger: &PoolLedger) {
    if stats.waiting != ledger.waiting.len() {
        violated("waiters_are_known", format!("{host}: {} callers wait, the pool counts {}", ledger.waiting.len(), stats.waiting));
    }
}

/// No waiter is passed by a later one.
pub(crate) fn nobody_is_passed(host: &ServerAddress, ledger: &PoolLedger, served: WaiterId) {
    if let Some((first, _)) = ledger.waiting.first_key_value().filter(|(first, _)| **first < served) {
        violated("nobody_is_passed", format!("{host}: waiter {} is served while {} still waits", served.0, first.0));
    }
}

/// Nobody waits beside a connection that is free, or that could be opened.
pub(crate) fn nobody_waits_for_nothing(host: &ServerAddress, stats: &PoolStats, ledger: &PoolLedger, max: u32, max_connecting: u32) {
    if ledger.waiting.is_empty() {
        return;
    }
    if !stats.ready {
        violated("nobody_waits_for_nothing", format!("{host}: {} callers wait at a pool that lends nothing", ledger.waiting.len()));
    }
    if stats.idle > 0 {
        violated("nobody_waits_for_nothing", format!("{host}: {} callers wait beside {} idle connections", stats.waiting, stats.idle));
    }
    let room = stats.total() < max as usize && stats.opening < max_connecting as usize;
    if room && ledger.coming(stats.generation) < ledger.waiting.len() {
        violated("nobody_waits_for_nothing", format!("{host}: callers wait, and nothing more is opened: {stats:?}"));
    }
}

/// Whoever waits past the limit of the queue has a connection of his own on the way.
pub(crate) fn nobody_outstays_the_queue(host: &ServerAddress, stats: &PoolStats, ledger: &PoolLedger) {
    let mut in_vain = ledger.waiting.iter().skip(ledger.coming(stats.generation));
    if let Some((waiter, _)) = in_vain.find(|(waiter, deadline)| deadline.is_none() && ledger.queued.contains(waiter)) {
        violated("nobody_outstays_the_queue", format!("{host}: waiter {} waits past its limit, and for no connection", waiter.0));
    }
}

/// In a full pool, late replies hold up nobody for whom a connection could be opened.
pub(crate) fn late_replies_make_room(
    host: &ServerAddress,
    stats: &PoolStats,
    ledger: &PoolLedger,
    (max, max_connecting): (u32, u32),
    patience: Duration,
    now: Instant,
) {
    let leaving = ledger.draining.intersection(&ledger.interrupted).count();
    let served = ledger.coming(stats.generation) + leaving >= ledger.waiting.len();
    if stats.total() < max as usize || served || stats.opening + leaving >= max_connecting as usize {
        return;
    }
    let late = |id: &&u64| ledger.since.get(id).is_some_and(|since| now - *since > patience);
    if let Some(id) = ledger.draining.difference(&ledger.interrupted).find(late) {
        let text = format!("{host}: callers wait, and connection {id} drains for longer than {patience:?}: {stats:?}");
        violated("late_replies_make_room", text);
    }
}

/// Nobody waits for a server while one suits.
pub(crate) fn nobody_selects_for_nothing(topology: &TopologyDescription, criteria: &mongolink::selection::Criteria) {
    let suits = || !mongolink::selection::suitable_servers(topology, criteria).is_empty();
    if mongolink::selection::check(topology, criteria).is_err() || suits() {
        violated("nobody_selects_for_nothing", format!("a caller still waits for {criteria}, and there is {topology}"));
    }
}

/// Opening and draining end by their deadlines.
pub(crate) fn nothing_is_open_ended(host: &ServerAddress, ledger: &PoolLedger, opening: Duration, draining: Duration, now: Instant) {
    for (ids, limit, what) in [(&ledger.opening, opening, "opening"), (&ledger.draining, draining, "draining")] {
        let late = |id: &&u64| ledger.since.get(id).is_some_and(|since| now - *since > limit);
        if let Some(id) = ids.iter().find(late) {
            violated("nothing_is_open_ended", format!("{host}: connection {id} is {what} for longer than {limit:?}"));
        }
    }
}

/// What a check finds unreachable is of no use to those who wait for it: all in use are interrupted.
pub(crate) fn time_out_interrupts(host: &ServerAddress, ledger: &PoolLedger) {
    if let Some(id) = ledger.in_use.difference(&ledger.interrupted).next() {
        violated("time_out_interrupts", format!("{host}: its check timed out, and whoever uses connection {id} waits on"));
    }
}

/// An error of a connection from before the pool was cleared changes nothing.
pub(crate) fn old_errors_change_nothing(host: &ServerAddress, is_old: bool, changed: bool) {
    if is_old && changed {
        violated("old_errors_change_nothing", format!("{host}: an error of an older generation changed the description, or the pool"));
    }
}

/// No connection that was idle while the machine slept is kept.
pub(crate) fn suspension_ends_the_idle(host: &ServerAddress, stats: &PoolStats) {
    if stats.idle > 0 {
        violated("suspension_ends_the_idle", format!("{host}: {} connections were idle during a suspension", stats.idle));
    }
}

/// An expired answer is given out only shortly after DNS was asked for a newer one.
pub(crate) fn expired_is_asked_again(name: &str, since_asked: Option<Duration>, limit: Duration) {
    if since_asked.is_none_or(|since| since > limit) {
        violated("expired_is_asked_again", format!("{name}: an expired answer is given out, DNS was asked {since_asked:?} ago"));
    }
}

/// At most one primary in a description.
pub(crate) fn at_most_one_primary(description: &TopologyDescription) {
    let primaries: Vec<_> = description.servers().iter().filter(|server| server.kind == ServerType::RsPrimary).collect();
    if primaries.len() > 1 {
        violated("at_most_one_primary", format!("{description}"));
    }
}

/// (electionId, setVersion) never goes back, in the order that the primary's version has them in.
pub(crate) fn elections_never_go_back(previous: &TopologyDescription, new: &TopologyDescription) {
    let (old, now) = ((previous.max_election_id(), previous.max_set_version()), (new.max_election_id(), new.max_set_version()));
    // The end of the topology forgets everything; an election that is not a new one needs no judgement.
    if old == now || new.servers().is_empty() {
        return;
    }
    let by_election = now >= old;
    let both = old.0.is_some() && now.0.is_some() && old.1.is_some();
    let by_version = now.1 >= old.1 && (!both || (now.1, now.0) >= (old.1, old.0));
    let forward = match new.primary().and_then(|primary| primary.wire_versions()) {
        Some((_, newest)) if newest >= 17 => by_election,
        Some(_) => by_version,
        // The primary is in nobody's configuration, and gone again.
        None => by_election || by_version,
    };
    if !forward {
        violated("elections_never_go_back", format!("from {old:?} to {now:?}: {new}"));
    }
}

/// The description is what its events replay to; the second is the replayed one.
pub(crate) fn replay_is_the_description(
    published: &TopologyDescription,
    kind: &str,
    servers: &BTreeMap<ServerAddress, std::sync::Arc<mongolink::ServerDescription>>,
) {
    if kind != published.kind().name() {
        violated("replay_is_the_description", format!("the events make it a {kind}: {published}"));
    }
    let same = servers.len() == published.servers().len()
        && published.servers().iter().all(|server| servers.get(&server.host).is_some_and(|replayed| replayed.is_same_as(server)));
    if !same {
        let replayed: Vec<String> = servers.values().map(ToString::to_string).collect();
        violated("replay_is_the_description", format!("the events lead to {}, published is {published}", replayed.join(", ")));
    }
}

/// Events come in order, each start has one end.
pub(crate) fn in_order(holds: bool, finding: impl FnOnce() -> String) {
    if !holds {
        violated("events_come_in_order", finding());
    }
}

/// Polled checks begin at least 500 ms apart, but for the one retry that the specification allows, and after a suspension.
pub(crate) fn checks_keep_their_distance(host: &ServerAddress, since_last: Duration, is_retry: bool, resumed: bool) {
    if since_last < MIN_HEARTBEAT_FREQUENCY && !is_retry && !resumed {
        violated("checks_keep_their_distance", format!("{host}: a check begins {since_last:?} after the one before"));
    }
}

/// No timer lies in the past; right after a machine's time-outs were handled, none is due now.
pub(crate) fn timer_lies_ahead(whose: &str, timer: Option<(Instant, &'static str)>, now: Instant, after_timeout: bool) {
    if let Some((at, name)) = timer {
        if at < now {
            violated("timer_lies_ahead", format!("{whose}: {name} is overdue by {:?}", now - at));
        }
        if after_timeout && at == now {
            violated("timer_lies_ahead", format!("{whose}: {name} is due again at once"));
        }
    }
}

/// Each state that waits has a timer.
pub(crate) fn waiting_has_a_timer(whose: &str, waits: bool, timer: Option<(Instant, &'static str)>) {
    if waits && timer.is_none() {
        violated("waiting_has_a_timer", format!("{whose} waits, and no timer runs"));
    }
}

/// A name has at most one running query; one from before a suspension does not count.
pub(crate) fn one_query_for_a_name(name: &str, in_flight: bool, resumed: bool) {
    if in_flight && !resumed {
        violated("one_query_for_a_name", format!("{name} is queried while a query is running"));
    }
}

/// No address of an expired answer is dialled while a fresh answer exists: what a race is given, comes from the fresh one.
pub(crate) fn dialled_is_fresh(name: &str, given: &[std::net::IpAddr], fresh: &BTreeSet<std::net::IpAddr>) {
    if let Some(old) = given.iter().find(|address| !fresh.contains(address)) {
        violated("dialled_is_fresh", format!("{name}: {old} is given out, the fresh answer has {fresh:?}"));
    }
}

/// After the faults end the client is usable again within the bound.
pub(crate) fn usable_again(client: usize, bound: Duration) -> ! {
    violated("usable_again", format!("client {client}: no command succeeded within {bound:?} after the last fault"))
}

/// A living member that can be reached is not taken for silent, however slow it is.
pub(crate) fn living_is_not_silent(host: &ServerAddress, explained: bool, elapsed: Duration, needed: Duration) {
    if !explained {
        violated("living_is_not_silent", format!("{host} lives, answers within {needed:?}, and is taken for silent after {elapsed:?}"));
    }
}

/// Nobody waits for a deposed primary that stands still for longer than it has for an answer to a liveness probe.
pub(crate) fn deposed_lets_go(host: &ServerAddress, waiting: Option<u64>, limit: Duration, late: Duration) {
    if let Some(call) = waiting {
        let text = format!("call {call} still waits for {host}, which was deposed and stands still, {late:?} after its {limit:?}");
        violated("deposed_lets_go", text);
    }
}

/// After `shutdown` nothing is left.
pub(crate) fn nothing_is_left(client: usize, left: &[String]) {
    if !left.is_empty() {
        violated("nothing_is_left", format!("client {client}: after shutdown there is still {}", left.join(", ")));
    }
}

/// No call goes on past its deadline.
pub(crate) fn call_ends_in_time(client: usize, call: u64, late: Duration) {
    if late > Duration::ZERO {
        violated("call_ends_in_time", format!("client {client}: call {call} goes on {late:?} past its deadline"));
    }
}

/// A command that was sent, and has no reply, may have been executed: no label says that it can be repeated.
pub(crate) fn sent_is_not_repeated(call: u64, error: &Error) {
    if error.has_label("RetryableError") || error.is_retryable() {
        violated("sent_is_not_repeated", format!("call {call} was sent, and may be repeated after: {error}"));
    }
}

/// Every reply goes to the caller that asked for it.
pub(crate) fn reply_is_ones_own(call: u64, holds: bool, reply: &str) {
    if !holds {
        violated("reply_is_ones_own", format!("call {call} got {reply}"));
    }
}
