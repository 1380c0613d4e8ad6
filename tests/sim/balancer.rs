//! How does a client use servers behind a load balancer?
//!
//! One address, behind it services that come and go. Does what `io/pool.rs` and `client/pin.rs` do there: connections are
//! told of their service, faults name it, and cursors keep their connections. A ledger of the services stands beside each
//! pool.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use bson::rawdoc;
use mongolink::cursor::{CursorState, GetMoreOptions};
use mongolink::pool::Lease;
use mongolink::topology::{TopologyAction, TopologyType};
use mongolink::wire::{Message, Request};
use mongolink::{Error, ServerAddress};
use rand::RngExt;
use rand::rngs::SmallRng;

use super::calls::State;
use super::net::Place;
use super::promises::{
    balancer_is_not_watched, balancer_stays_known, cursor_stays_at_its_service, failed_service_is_cleared, generation_is_new,
    only_the_service_is_cleared, pinned_add_up, service_is_cleared_once, service_is_current,
};
use super::queue::{CallKind, Event, Parcel};
use super::world::World;

/// A fault of the load balancer itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BalancerFault {
    /// All connections through it are reset, or every other one.
    Drops { half: bool },
    /// It takes no connections, and says nothing.
    Deaf { lasts: Duration },
    /// It takes connections, and closes them at once.
    Empty { lasts: Duration },
}

/// The state of the load balancer.
#[derive(Default)]
pub(crate) struct Balancer {
    deaf_until: Option<Instant>,
    empty_until: Option<Instant>,
}

/// Which service every connection of a pool reaches, and what was ordered for them.
#[derive(Debug, Default)]
pub(crate) struct Services {
    /// By the connection's number: its service, and the generation it was given.
    reached: BTreeMap<u64, (ObjectId, u64)>,
    /// The newest generation of each service that is obsolete.
    cleared: BTreeMap<ObjectId, u64>,
}

/// The longest that a cursor rests between two batches, and how many batches it has at the most.
const REST_MAX: Duration = Duration::from_millis(100);
const BATCHES_MAX: u32 = 3;

/// What a server answers that ends: ShutdownInProgress, InterruptedAtShutdown.
const SHUTTING_DOWN: [i64; 2] = [91, 11600];

/// How many documents a batch has.
const BATCH: u32 = 2;

impl BalancerFault {
    pub(crate) fn draw(random: &mut SmallRng, lasts: Duration) -> Self {
        match random.random_range(0..3) {
            0 => Self::Drops { half: random.random_bool(0.6) },
            1 => Self::Deaf { lasts },
            _ => Self::Empty { lasts },
        }
    }

    pub(crate) fn lasts(self) -> Duration {
        match self {
            Self::Drops { .. } => Duration::ZERO,
            Self::Deaf { lasts } | Self::Empty { lasts } => lasts,
        }
    }
}

impl Services {
    pub(crate) fn of(&self, connection: u64) -> Option<ObjectId> {
        self.reached.get(&connection).map(|(service, _)| *service)
    }

    /// Tells whether a connection is of no use any more.
    pub(crate) fn is_obsolete(&self, connection: u64) -> bool {
        let reached = self.reached.get(&connection);
        reached.is_some_and(|(service, generation)| self.cleared.get(service).is_some_and(|cleared| generation <= cleared))
    }

    fn is_cleared(&self, service: ObjectId, generation: u64) -> bool {
        self.cleared.get(&service).is_some_and(|cleared| generation <= *cleared)
    }
}

impl World {
    pub(crate) fn strike_balancer(&mut self, fault: BalancerFault) {
        match fault {
            BalancerFault::Deaf { lasts } => self.balancer.deaf_until = Some(self.now + lasts),
            BalancerFault::Empty { lasts } => self.balancer.empty_until = Some(self.now + lasts),
            BalancerFault::Drops { half } => {
                let through = self.net.conns.iter().filter(|(_, conn)| conn.accepted && !conn.server_closed && !conn.silent);
                let ids: Vec<u64> = through.map(|(id, _)| *id).step_by(if half { 2 } else { 1 }).collect();
                for id in ids {
                    self.send_to_client(id, Parcel::Reset, Duration::ZERO);
                    self.reset(id);
                }
            }
        }
    }

    /// A connection comes to the load balancer, which gives it to a service; returns whom it reaches.
    pub(crate) fn route(&mut self, id: u64) -> Option<usize> {
        let is_on = |until: Option<Instant>| until.is_some_and(|until| until > self.now);
        if is_on(self.balancer.deaf_until) {
            return None;
        }
        if is_on(self.balancer.empty_until) {
            self.send_to_client(id, Parcel::Accepted, Duration::ZERO);
            self.send_to_client(id, Parcel::Fin, Duration::ZERO);
            return None;
        }
        let member = self.servers.cluster.route(0);
        if let Some(conn) = self.net.conns.get_mut(&id) {
            conn.place = Place::Member(member);
        }
        self.note(|_| format!("conn {id}: the load balancer gives it to member {member}"));
        Some(member)
    }

    /// A connection has heard which service it reaches; returns its new lease.
    pub(crate) fn greeted_by(&mut self, c: usize, pool: u64, lease: Lease, service: ObjectId) -> Lease {
        let Some(renewed) = self.pool_act(c, pool, false, |pool, _| pool.handle_greeted(lease, service)) else { return lease };
        if let Some(server) = self.clients[c].pools.get_mut(&pool) {
            let services = &mut server.services;
            // One that is being given up keeps what it had.
            if !server.ledger.interrupted.contains(&lease.id) {
                generation_is_new(&server.host, service, renewed.generation, services.cleared.get(&service).copied());
            }
            services.reached.insert(lease.id, (service, renewed.generation));
        }
        renewed
    }

    /// Returns which service a connection reaches, if that is known.
    pub(crate) fn service_of(&self, c: usize, pool: u64, lease: Lease) -> Option<ObjectId> {
        self.clients[c].pools.get(&pool).and_then(|pool| pool.services.of(lease.id))
    }

    /// Carries out the order to clear a service.
    pub(crate) fn clear_service(&mut self, c: usize, host: &ServerAddress, service: ObjectId, generation: u64, cause: &Error) {
        self.note(|_| format!("client {c}: service {service} of generation {generation} is cleared: {cause}"));
        self.figures.services_cleared += 1;
        let Some(id) = self.clients[c].places.get(host).copied() else { return };
        let idle = |world: &Self| world.clients[c].pools.get(&id).map(|pool| pool.ledger.idle.clone()).unwrap_or_default();
        let opening = |world: &Self| {
            let ledger = world.clients[c].pools.get(&id).map(|pool| &pool.ledger);
            ledger.map(|ledger| ledger.opening.difference(&ledger.interrupted).copied().collect::<BTreeSet<_>>()).unwrap_or_default()
        };
        let told = |world: &Self| world.clients[c].pools.get(&id).map_or(0, |pool| pool.replay.cleared);
        let (before, told_before) = ((idle(self), opening(self)), told(self));
        let is_old = self.clients[c].pools.get(&id).is_some_and(|pool| pool.services.is_cleared(service, generation));
        if let Some(pool) = self.clients[c].pools.get_mut(&id) {
            let cleared = pool.services.cleared.entry(service).or_insert(generation);
            *cleared = (*cleared).max(generation);
        }
        self.pool_act(c, id, false, |pool, now| pool.handle_clear_service(service, generation, cause, now));
        let after = (idle(self), opening(self));
        service_is_cleared_once(host, service, is_old, told(self) - told_before);
        let Some(pool) = self.clients[c].pools.get(&id) else { return };
        let gone = before.0.difference(&after.0).chain(before.1.difference(&after.1));
        for connection in gone {
            only_the_service_is_cleared(host, *connection, service, pool.services.of(*connection), pool.services.is_obsolete(*connection));
        }
    }

    /// What must hold of an order where nobody but callers goes.
    pub(crate) fn look_at_order(&self, action: &TopologyAction) {
        if self.plan.is_balanced() {
            balancer_is_not_watched(action);
        }
    }

    /// A connection broke, or its server ends: its service must have been cleared.
    pub(crate) fn look_at_failed_service(&self, c: usize, pool: u64, lease: Lease, error: &Error) {
        let Some(server) = self.clients[c].pools.get(&pool).filter(|_| self.plan.is_balanced()) else { return };
        let broke = error.is_network() && !error.is_timeout();
        let proves = broke || error.command().is_some_and(|failure| SHUTTING_DOWN.contains(&failure.code));
        let open = self.clients[c].places.get(&server.host) == Some(&pool) && !self.clients[c].is_shut_down;
        if let Some(service) = server.services.of(lease.id).filter(|_| proves && open) {
            failed_service_is_cleared(&server.host, service, server.services.is_cleared(service, lease.generation));
        }
    }

    /// What must hold between two steps.
    pub(crate) fn look_at_services(&self, c: usize) {
        let client = &self.clients[c];
        if !self.plan.is_balanced() || client.is_shut_down {
            return;
        }
        balancer_stays_known(&client.published, client.published.kind() == TopologyType::LoadBalanced, client.watches.len());
        for (id, server) in &client.pools {
            for connection in &server.ledger.idle {
                service_is_current(&server.host, *connection, server.services.is_obsolete(*connection));
            }
            let held = client.calls.values().filter(|call| call.keeps(*id)).count();
            pinned_add_up(&server.host, server.pool.stats().pinned, held);
        }
    }

    /// A caller has a batch; if there is more, its connection is kept for that.
    ///
    /// Returns whether it goes on.
    pub(crate) fn scroll(&mut self, c: usize, id: u64, (pool, lease, conn): (u64, Lease, u64), message: &Message) -> bool {
        let Some(call) = self.clients[c].calls.get_mut(&id).filter(|call| call.kind == CallKind::Scroll) else { return false };
        let Ok((cursor, _)) = CursorState::parse(message.body().as_bytes().to_vec().into()) else { return false };
        call.batches += 1;
        if cursor.id == 0 {
            return false;
        }
        call.cursor = Some(cursor);
        call.state = State::Resting { pool, lease, conn };
        self.note(|_| format!("client {c}: call {id} keeps conn {conn} for its cursor"));
        self.pool_act(c, pool, false, |pool, _| pool.handle_pinned(lease));
        let rest = REST_MAX.mul_f64(self.random.random_range(0.0..1.0));
        self.queue.push(self.now + rest, Event::NextBatch { client: c, call: id });
        true
    }

    /// A caller wants the next batch, or has had enough; it has as much time again as for the first.
    pub(crate) fn next_batch(&mut self, c: usize, id: u64) {
        let now = self.local(c);
        let Some(call) = self.clients[c].calls.get(&id) else { return };
        let (State::Resting { pool, lease, conn }, Some(cursor)) = (call.state, call.cursor.clone()) else { return };
        let enough = call.batches >= BATCHES_MAX;
        self.figures.batches += 1;
        self.renew_deadline(c, id, now);
        let mut options = GetMoreOptions::default();
        options.batch_size = Some(BATCH);
        let request = if enough { cursor.kill() } else { cursor.get_more(&options) };
        if let Some(call) = self.clients[c].calls.get_mut(&id).filter(|_| enough) {
            call.cursor = None;
        }
        self.exchange_on(c, id, (pool, lease, conn), &cursor.database, &Request::from(request), None);
    }

    /// Those who rest with a cursor go away.
    pub(crate) fn end_scrolls(&mut self, c: usize) {
        let resting = |call: &super::calls::Call| matches!(call.state, State::Resting { .. });
        let ids: Vec<u64> = self.clients[c].calls.iter().filter(|(_, call)| resting(call)).map(|(id, _)| *id).collect();
        for id in ids {
            self.give_up(c, id);
        }
    }

    /// How long those hold connections who were scrolling when the faults were over.
    pub(crate) fn scrolling(&self, c: usize) -> Duration {
        let scrolls = self.clients[c].calls.values().filter(|call| call.kind == CallKind::Scroll).count() as u32;
        scrolls * (BATCHES_MAX + 1) * (REST_MAX + self.plan.round_trip_max())
    }
}

/// Makes the command that a cursor begins with.
pub(crate) fn scroll_command() -> Request {
    Request::from(rawdoc! { "find": "c", "filter": {}, "batchSize": i64::from(BATCH), "limit": i64::from(BATCH * 4) })
}

/// Tells whether this is a batch, or what was killed; a cursor that its server does not know went to another.
pub(crate) fn is_batch(message: &Message) -> bool {
    let body = message.body();
    body.get_document("cursor").is_ok() || body.get_array("cursorsKilled").is_ok_and(|killed| killed.into_iter().count() == 1)
}

/// Looks at a refusal of a command that follows a cursor.
pub(crate) fn look_at_refusal(id: u64, kind: CallKind, error: &Error) {
    if kind == CallKind::Scroll {
        cursor_stays_at_its_service(id, error.command().map(|failure| failure.code));
    }
}
