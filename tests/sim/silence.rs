//! How is a server asked for a sign of life, and is its silence true?
//!
//! Does what `io/sign_of_life.rs` does: each attempt looks up the address, opens a connection as a monitor does, and tells
//! how that went. Beside it stands what really happened between a client and a member, to judge the verdicts by.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mongolink::race::STAGGER;
use mongolink::topology::sign_of_life::{self, DEPOSED_FLOOR};
use mongolink::topology::{ProbeId, TopologyDescription};
use mongolink::{Error, ErrorKind, HostKey, TopologyEvent};

use super::calls::Call;
use super::invariants::{deposed_lets_go, living_is_not_silent};
use super::openings::Purpose;
use super::plan::{Fault, Harm, RESEND};
use super::requests::RequestHarm;
use super::world::World;

/// Is a former primary that stood still when a newer one was discovered, and still does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deposed {
    pub(crate) member: usize,
    /// When the newer one was discovered.
    pub(crate) at: Instant,
    pub(crate) limit: Duration,
}

/// Is what lay between a client and a member, as somebody sees who sees everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Truth {
    /// Until when something was amiss that no round trip tells of: the process stood still, a cut, a reset, another address.
    pub(crate) amiss_until: Instant,
    /// Until when what was sent on a slow link may still be under way, and how slow that was.
    pub(crate) slow_until: Instant,
    pub(crate) slow: Duration,
}

/// How many times something travels from one side to the other while a connection is opened: TCP, TLS, hello.
const WAYS: u32 = 6;

impl World {
    /// Starts an attempt of a server's probe.
    pub(crate) fn probe(&mut self, c: usize, host: &HostKey, id: ProbeId, again: bool) {
        self.note(|_| format!("client {c}: asks {host} for a sign of life{}", if again { " again" } else { "" }));
        if !again && let Some(pool) = self.pool_of(c, host) {
            pool.listen();
        }
        self.start_opening(c, host, Purpose::Probe { id });
    }

    /// Tells the topology whether the connections of a server's pool have received anything.
    pub(crate) fn overhear(&mut self, c: usize, host: &HostKey, id: ProbeId) {
        let anything = self.pool_of(c, host).is_some_and(|pool| pool.has_heard());
        let now = self.local(c);
        self.clients[c].topology.handle_overheard(host, id, anything, now);
    }

    /// Ends all attempts of a server's probe.
    pub(crate) fn end_probe(&mut self, c: usize, host: &HostKey) {
        let of_it = |purpose: Purpose| matches!(purpose, Purpose::Probe { .. });
        let openings = self.clients[c].openings.iter().filter(|(_, opening)| opening.host == *host && of_it(opening.purpose));
        let ended: Vec<u64> = openings.map(|(id, _)| *id).collect();
        for opening in ended {
            self.drop_opening(c, opening);
        }
    }

    /// An attempt of a probe has ended.
    pub(crate) fn probed(&mut self, c: usize, host: &HostKey, id: ProbeId, outcome: Result<(), Error>) {
        self.topology_act(c, false, |topology, now| topology.handle_probed(host, id, outcome, now));
    }

    fn pool_of(&mut self, c: usize, host: &HostKey) -> Option<&mut super::pools::ServerPool> {
        let client = &mut self.clients[c];
        client.pools.get_mut(client.places.get(host)?)
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
            | Fault::DnsFails { .. }
            | Fault::DnsHangs { .. }
            | Fault::DnsForgets { .. }
            | Fault::DnsSlow { .. }
            | Fault::Burst { .. } => return,
        };
        // Which reply it comes to is not known yet.
        let later = matches!(fault, Fault::Reply { .. } | Fault::Request { .. } | Fault::FailPoint { .. });
        let until = if later { self.start + self.plan.quiet_at } else { self.now + fault.lasts() };
        for client in clients {
            for member in &members {
                let Some(truth) = self.truths.get_mut(client).and_then(|truths| truths.get_mut(*member)) else { continue };
                match slow {
                    Some(delay) => {
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
        let way = self.plan.delay + self.plan.jitter + lost + slow;
        let settings = &self.clients[c].settings;
        let staggers = 3 * STAGGER + 8 * settings.wake_delay;
        let needed = WAYS * way + staggers;
        // TCP and TLS have the connect time-out together.
        let hopeless = 4 * way + staggers > settings.connect_timeout;
        // Only what is slower than it was before can't be known: the usual delay is in the measured round trips.
        let slower = !slow.is_zero() && needed > elapsed;
        let explained = truth.amiss_until >= asked || slower || hopeless || self.is_moved(member);
        living_is_not_silent(&new.host, explained, elapsed, needed);
    }

    /// Notes a primary that stood still when a newer one was discovered.
    pub(crate) fn note_deposed(&mut self, c: usize, previous: &TopologyDescription) {
        let published = Arc::clone(&self.clients[c].published);
        let (Some(former), Some(new)) = (previous.primary(), published.primary()) else { return };
        if former.host == new.host || published.server(&former.host).is_none_or(|server| server.is_known()) {
            return;
        }
        let Some(member) = self.member_of(&former.host).filter(|member| self.servers.cluster.is_frozen(*member)) else { return };
        let deposed = Deposed { member, at: self.local(c), limit: sign_of_life::limit(DEPOSED_FLOOR, former.round_trip_time) };
        let host = former.host.clone();
        self.clients[c].deposed.insert(host, deposed);
    }

    /// Looks whether those are let go who wait for a deposed primary that stands still.
    pub(crate) fn look_at_deposed(&mut self, c: usize) {
        let now = self.local(c);
        if self.clients[c].deposed.is_empty() || self.plan.has(is_of_dns) {
            return;
        }
        let slack = 8 * self.plan.dns_delay + 10 * self.clients[c].settings.wake_delay + Duration::from_millis(5);
        let frozen: BTreeSet<usize> = (0..self.plan.members).filter(|member| self.servers.cluster.is_frozen(*member)).collect();
        let client = &mut self.clients[c];
        let published = Arc::clone(&client.published);
        client.deposed.retain(|host, deposed| frozen.contains(&deposed.member) && published.server(host).is_some());
        for (host, deposed) in &self.clients[c].deposed {
            let late = now.saturating_duration_since(deposed.at + deposed.limit + slack);
            if late.is_zero() {
                continue;
            }
            let Some(pool) = self.clients[c].places.get(host).copied() else { continue };
            let waits = |call: &Call| call.exchanges_since(pool).is_some_and(|since| since <= deposed.at);
            let waiting = self.clients[c].calls.iter().find(|(_, call)| waits(call));
            deposed_lets_go(host, waiting.map(|(id, _)| *id), deposed.limit, late);
        }
    }

    fn member_of(&self, host: &HostKey) -> Option<usize> {
        (0..self.plan.members).find(|member| {
            let names = super::servers::names(*member);
            names.iter().filter_map(|name| HostKey::parse(name).ok()).any(|key| key == *host)
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
        let truth = Truth { amiss_until: start, slow_until: start, slow: Duration::ZERO };
        vec![vec![truth; members]; clients]
    }
}

fn is_of_dns(fault: &Fault) -> bool {
    matches!(fault, Fault::DnsFails { .. } | Fault::DnsHangs { .. } | Fault::DnsForgets { .. } | Fault::DnsSlow { .. } | Fault::Move { .. })
}
