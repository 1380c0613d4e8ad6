//! How is a server asked for an answer to a liveness probe, and is its silence true?
//!
//! Does what `io/liveness.rs` does: each attempt looks up the address, opens a connection as a monitor does, and tells
//! how that went. Beside it stands what really happened between a client and a member, to judge the verdicts by.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mongolink::race::STAGGER;
use mongolink::topology::liveness::{self, CEILING, DEPOSED_FLOOR, ROUND_TRIPS, UNREACHED};
use mongolink::topology::{ProbeId, TopologyDescription};
use mongolink::{Error, ErrorKind, ServerAddress, TopologyEvent};

use super::calls::Call;
use super::invariants::{deposed_lets_go, living_is_not_silent};
use super::openings::Purpose;
use super::plan::{Fault, Harm, RESEND};
use super::requests::RequestHarm;
use super::world::World;

/// A server that stood still when it was deposed by a newer primary, or left, and still does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deposed {
    pub(crate) member: usize,
    /// When that was discovered.
    pub(crate) at: Instant,
    pub(crate) limit: Duration,
    /// Where commands may be in flight on it.
    pub(crate) pool: u64,
}

/// The actual state of the link between a client and a member.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Truth {
    /// Until when something was amiss that no round trip tells of: the process stood still, a cut, a reset, another address.
    pub(crate) amiss_until: Instant,
    /// Until when what was sent on a slow link may still be under way, and how slow that was.
    pub(crate) slow_until: Instant,
    pub(crate) slow: Duration,
    /// When that became worse, last.
    pub(crate) slower_at: Instant,
    /// Until when the process itself may be slow.
    pub(crate) busy_until: Instant,
}

/// How many times something travels from one side to the other while a connection is opened: TCP, TLS, hello.
const WAYS: u32 = 6;

impl World {
    /// Starts an attempt of a server's probe.
    pub(crate) fn probe(&mut self, c: usize, host: &ServerAddress, id: ProbeId, again: bool) {
        self.note(|_| format!("client {c}: asks {host} for an answer to a liveness probe{}", if again { " again" } else { "" }));
        if !again {
            self.look_at_probe(c, host);
            for pool in self.pools_of(c, host) {
                self.clients[c].pools.get_mut(&pool).expect("a pool stays").listen();
            }
        }
        self.start_opening(c, host, Purpose::Probe { id });
    }

    /// Tells the topology whether the connections of a server's pool have received anything.
    pub(crate) fn check_traffic(&mut self, c: usize, host: &ServerAddress, id: ProbeId) {
        let anything = self.pools_of(c, host).iter().any(|pool| self.clients[c].pools.get(pool).is_some_and(|pool| pool.has_heard()));
        let now = self.local(c);
        self.clients[c].topology.handle_traffic_checked(host, id, anything, now);
    }

    /// Ends all attempts of a server's probe.
    pub(crate) fn end_probe(&mut self, c: usize, host: &ServerAddress) {
        let of_it = |purpose: Purpose| matches!(purpose, Purpose::Probe { .. });
        let openings = self.clients[c].openings.iter().filter(|(_, opening)| opening.host == *host && of_it(opening.purpose));
        let ended: Vec<u64> = openings.map(|(id, _)| *id).collect();
        for opening in ended {
            self.drop_opening(c, opening);
        }
    }

    /// An attempt of a probe has ended.
    pub(crate) fn probed(&mut self, c: usize, host: &ServerAddress, id: ProbeId, outcome: Result<(), Error>) {
        self.topology_act(c, false, |topology, now| topology.handle_probed(host, id, outcome, now));
    }

    /// Returns the pool of a host, and those that it had before.
    pub(crate) fn pools_of(&self, c: usize, host: &ServerAddress) -> Vec<u64> {
        self.clients[c].pools.iter().filter(|(_, server)| server.host == *host).map(|(id, _)| *id).collect()
    }

    /// Notes what a fault does to those between whom it stands.
    pub(crate) fn note_truth(&mut self, fault: &Fault) {
        let (clients, members) = ((0..self.clients.len()).collect(), (0..self.plan.members).collect());
        let (clients, members, slow): (Vec<usize>, Vec<usize>, Option<Duration>) = match fault {
            Fault::CutToServer { client, member, .. } | Fault::CutToClient { client, member, .. } | Fault::Silence { client, member } => {
                (vec![*client], vec![*member], None)
            }
            Fault::Slow { client, member, delay, .. } => (vec![*client], vec![*member], Some(*delay)),
            Fault::Reply { client, member, harm: Harm::Late(by) } => (vec![*client], vec![*member], Some(*by)),
            Fault::Crash { member, .. } | Fault::Freeze { member, .. } | Fault::Move { member, .. } => (clients, vec![*member], None),
            Fault::SlowAccept { member, delay, .. } => (clients, vec![*member], Some(*delay)),
            Fault::FailPoint { member, command: "hello" | "isMaster", delay, .. } => (clients, vec![*member], Some(*delay)),
            Fault::Suspend { client, .. } => (vec![*client], members, None),
            Fault::Request { client, member, harm: RequestHarm::Lengthened } => (vec![*client], vec![*member], None),
            Fault::FailPoint { .. }
            | Fault::Reply { .. }
            | Fault::Request { .. }
            | Fault::Login(_)
            | Fault::Remove { .. }
            | Fault::Rename { .. }
            | Fault::StepDown
            | Fault::Elect { .. }
            | Fault::Upgrade { .. }
            | Fault::Lie { .. }
            | Fault::Excess { .. }
            | Fault::DnsFails { .. }
            | Fault::DnsHangs { .. }
            | Fault::DnsForgets { .. }
            | Fault::DnsSlow { .. }
            | Fault::Burst { .. }
            | Fault::Srv(_)
            | Fault::Balancer(_) => return,
        };
        let of_way = matches!(fault, Fault::Slow { .. } | Fault::SlowAccept { .. });
        // Which reply it comes to is not known yet.
        let later = matches!(fault, Fault::Reply { .. } | Fault::Request { .. } | Fault::FailPoint { .. });
        let until = if later { self.start + self.plan.quiet_at } else { self.now + fault.lasts() };
        for client in clients {
            for member in &members {
                let Some(truth) = self.truths.get_mut(client).and_then(|truths| truths.get_mut(*member)) else { continue };
                match slow {
                    Some(delay) => {
                        truth.slower_at = self.now;
                        if !of_way {
                            truth.busy_until = truth.busy_until.max(until + delay);
                        }
                        truth.slow = if truth.slow_until > self.now { truth.slow.max(delay) } else { delay };
                        truth.slow_until = truth.slow_until.max(until + delay);
                    }
                    None => truth.amiss_until = truth.amiss_until.max(until),
                }
            }
        }
    }

    /// Looks whether a server that is found silent was that.
    pub(crate) fn look_for_silence(&mut self, c: usize, event: &TopologyEvent) {
        let TopologyEvent::ServerDescriptionChanged { new, .. } = event else { return };
        let Some(error) = new.error.as_ref().filter(|error| error.kind() == ErrorKind::Silent) else { return };
        self.figures.silent += 1;
        let (Some(member), Some(elapsed)) = (self.member_of(&new.host), error.elapsed()) else { return };
        let Some(truth) = self.truths.get(c).and_then(|truths| truths.get(member)).copied() else { return };
        // Its silence counts from when it was asked.
        let asked = self.now - elapsed;
        let lost = if self.plan.loss > 0.0 { RESEND } else { Duration::ZERO };
        let slow = if truth.slow_until >= asked { truth.slow } else { Duration::ZERO };
        let way = self.plan.delay_to(member) + self.plan.jitter + lost + slow;
        let settings = &self.clients[c].settings;
        let staggers = 3 * STAGGER + 8 * settings.wake_delay;
        let needed = WAYS * way + staggers;
        // TCP and TLS have the connect time-out together.
        let hopeless = 4 * way + staggers > settings.connect_timeout;
        // What became slow before it was asked shows in how long it took to reach it; what does so later can't be known.
        let unknown = truth.slower_at >= asked || truth.busy_until >= asked || 2 * way + staggers > UNREACHED;
        let slower = !slow.is_zero() && needed > elapsed && unknown;
        let explained = truth.amiss_until >= asked || slower || hopeless || self.is_moved(member);
        living_is_not_silent(&new.host, explained, elapsed, needed);
    }

    /// Notes a primary that stood still when a newer one was discovered.
    pub(crate) fn note_deposed(&mut self, c: usize, previous: &TopologyDescription) {
        let published = Arc::clone(&self.clients[c].published);
        let (Some(deposed), Some(new)) = (previous.primary(), published.primary()) else { return };
        if deposed.host == new.host || published.server(&deposed.host).is_none_or(|server| server.is_known()) {
            return;
        }
        let Some(member) = self.member_of(&deposed.host).filter(|member| self.servers.cluster.is_frozen(*member)) else { return };
        let Some(pool) = self.clients[c].places.get(&deposed.host).copied() else { return };
        let limit = liveness::limit(DEPOSED_FLOOR, deposed.round_trip_time);
        let record = Deposed { member, at: self.local(c), limit, pool };
        self.clients[c].deposed.insert(deposed.host.clone(), record);
    }

    /// Notes servers that stood still when they left, with commands in flight.
    pub(crate) fn note_left(&mut self, c: usize, previous: &TopologyDescription) {
        let published = Arc::clone(&self.clients[c].published);
        if Arc::as_ptr(&published) == std::ptr::from_ref(previous) || self.clients[c].is_shut_down {
            return;
        }
        for server in previous.servers().iter().filter(|server| published.server(&server.host).is_none()) {
            let frozen = |member: &usize| self.servers.cluster.is_frozen(*member);
            let Some(member) = self.member_of(&server.host).filter(frozen) else { continue };
            // Of one that was not known, nobody knows how far away it is.
            let (Some(average), Some(pool)) = (server.round_trip_time, self.pools_of(c, &server.host).last().copied()) else { continue };
            let limit = liveness::limit(DEPOSED_FLOOR, Some(average));
            let left = Deposed { member, at: self.local(c), limit, pool };
            self.clients[c].deposed.insert(server.host.clone(), left);
        }
    }

    /// Looks whether those are let go who wait for a deposed primary that stands still.
    pub(crate) fn look_at_deposed(&mut self, c: usize) {
        let now = self.local(c);
        if self.clients[c].deposed.is_empty() || self.plan.has(is_of_dns) {
            return;
        }
        let slack = 8 * self.plan.dns_delay + 10 * self.clients[c].settings.wake_delay + Duration::from_millis(5);
        let frozen: BTreeSet<usize> = (0..self.plan.members).filter(|member| self.servers.cluster.is_frozen(*member)).collect();
        self.clients[c].deposed.retain(|_, deposed| frozen.contains(&deposed.member));
        for (host, deposed) in &self.clients[c].deposed {
            let limit = self.patience(c, deposed);
            let late = now.saturating_duration_since(deposed.at + limit + slack);
            if late.is_zero() {
                continue;
            }
            let waits = |call: &Call| call.exchanges_since(deposed.pool).is_some_and(|since| since <= deposed.at);
            let waiting = self.clients[c].calls.iter().find(|(_, call)| waits(call));
            deposed_lets_go(host, waiting.map(|(id, _)| *id), limit, late);
        }
    }

    /// How long a server may be silent before what is in flight on it is let go: as long as its distance asks for.
    fn patience(&self, c: usize, deposed: &Deposed) -> Duration {
        let truth = self.truths[c][deposed.member];
        let slow = if truth.slow_until >= deposed.at { truth.slow } else { Duration::ZERO };
        let lost = if self.plan.loss > 0.0 { RESEND } else { Duration::ZERO };
        let reach = 2 * (self.plan.delay + self.plan.jitter + lost + slow) + 3 * STAGGER;
        let reached = deposed.limit.max(reach + (ROUND_TRIPS * reach).min(CEILING).max(deposed.limit / 2));
        if self.plan.has(is_of_links) {
            return reached.max(UNREACHED + CEILING);
        }
        if reach > self.clients[c].settings.connect_timeout { reached.max(UNREACHED) } else { reached }
    }

    pub(crate) fn member_of(&self, host: &ServerAddress) -> Option<usize> {
        (0..self.plan.members).find(|member| {
            let names = super::servers::names(*member);
            names.iter().filter_map(|name| ServerAddress::parse(name).ok()).any(|key| key == *host)
        })
    }

    /// Tells whether a member has other addresses than at first: what a client knows of them may be old.
    fn is_moved(&self, member: usize) -> bool {
        let at = self.now - self.start;
        self.plan.faults.iter().any(|(when, fault)| *when <= at && matches!(fault, Fault::Move { member: moved, .. } if *moved == member))
    }

    /// Makes the books of what happens between clients and members.
    pub(crate) fn truths(clients: usize, members: usize, start: Instant) -> Vec<Vec<Truth>> {
        // Before the beginning nothing was amiss.
        let truth = Truth { amiss_until: start, slow_until: start, slow: Duration::ZERO, slower_at: start, busy_until: start };
        vec![vec![truth; members]; clients]
    }
}

/// Tells whether a fault may keep connections from being accepted.
fn is_of_links(fault: &Fault) -> bool {
    matches!(fault, Fault::CutToServer { .. } | Fault::CutToClient { .. } | Fault::Silence { .. })
}

fn is_of_dns(fault: &Fault) -> bool {
    matches!(fault, Fault::DnsFails { .. } | Fault::DnsHangs { .. } | Fault::DnsForgets { .. } | Fault::DnsSlow { .. } | Fault::Move { .. })
}
