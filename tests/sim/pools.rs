//! How are a pool's wishes carried out?
//!
//! Does what `io/pool.rs` does. A ledger beside each pool counts where its connections are and who waits, and is compared
//! with the pool's own idea after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use mongolink::deadline::Deadline;
use mongolink::machine::Driven;
use mongolink::pool::{Checkout, Health, Lease, Pool, PoolAction, PoolEvent, QueuePosition, WaiterId};
use mongolink::topology::Fault;
use mongolink::wire::Message;
use mongolink::{Error, ErrorKind, HelloReply, ServerAddress};
use std::time::Duration;

use super::balancer::Services;
use super::invariants::{
    PoolLedger, connections_add_up, delivered_is_current, generations_agree, in_order, late_replies_make_room, nobody_is_passed,
    nobody_outstays_the_queue, nobody_waits_for_nothing, nothing_is_open_ended, opening_is_limited, timer_lies_ahead, waiter_still_waits,
    waiters_are_known, waiting_has_a_timer,
};
use super::net::{Exchange, User};
use super::openings::Purpose;
use super::promises::service_is_current;
use super::queue::{Event, Timer};
use super::replay::PoolReplay;
use super::shell::Place;
use super::world::{DRAIN, DRAIN_FLOOR, World};

/// The limit that counts in the wait queue only.
pub(crate) const WAIT_QUEUE_TIMEOUT: &str = "waitQueueTimeoutMS";

/// One server's pool, and what the shell keeps for it. The connections are named by their numbers.
pub(crate) struct ServerPool {
    pub(crate) host: ServerAddress,
    pub(crate) pool: Driven<Pool<u64>>,
    pub(crate) ledger: PoolLedger,
    pub(crate) replay: PoolReplay,
    pub(crate) services: Services,
    pub(crate) operations: u32,
    /// What the pool knows of its server's round-trip time.
    round_trip: Option<Duration>,
    /// When somebody last asked whose time was over already: it is refused at once, by a timer.
    came_late: Option<Instant>,
    /// By slot: what is stopped by an interrupt.
    slots: BTreeMap<usize, Occupant>,
    waiters: BTreeMap<WaiterId, u64>,
    /// The slots whose connections have received something since somebody began to listen.
    heard: BTreeSet<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Occupant {
    Opening(u64),
    Conn(u64),
}

/// Names the pool of a client.
#[derive(Clone, Copy)]
struct PoolPlace(usize, u64);

impl Place for PoolPlace {
    type Machine = Pool<u64>;

    fn client(self) -> usize {
        self.0
    }

    fn timer(self) -> Timer {
        Timer::Pool(self.0, self.1)
    }

    fn driven(self, world: &mut World) -> Option<&mut Driven<Pool<u64>>> {
        world.clients[self.0].pools.get_mut(&self.1).map(|server| &mut server.pool)
    }

    fn event(self, world: &mut World, event: PoolEvent, _now: Instant) {
        let Some(server) = world.clients[self.0].pools.get_mut(&self.1) else { return };
        world.trace.note(world.now, || format!("client {}: {}: {}", self.0, server.host, super::trace::pool_event(&event)));
        server.replay.take(&server.host, &event);
    }

    fn collect(self, world: &mut World, action: PoolAction<u64>, now: Instant) -> Option<PoolAction<u64>> {
        let server = world.clients[self.0].pools.get_mut(&self.1)?;
        if let PoolAction::Deliver { waiter, lease, .. } = &action {
            server.look_at_lent(*lease);
            waiter_still_waits(&server.host, &server.ledger, *waiter);
            nobody_is_passed(&server.host, &server.ledger, *waiter);
        }
        match &action {
            PoolAction::Open(lease) => {
                server.ledger.opening.insert(lease.id);
                server.ledger.since.insert(lease.id, now);
                server.ledger.generations.insert(lease.id, lease.generation);
                server.heard.remove(&lease.slot);
            }
            PoolAction::Close(lease, _) => drop(server.ledger.idle.remove(&lease.id)),
            PoolAction::Deliver { waiter, lease, .. } => {
                server.ledger.idle.remove(&lease.id);
                server.ledger.in_use.insert(lease.id);
                server.ledger.waiting.remove(waiter);
            }
            PoolAction::Refuse(waiter, _) => {
                waiter_still_waits(&server.host, &server.ledger, *waiter);
                server.ledger.waiting.remove(waiter);
                server.ledger.leaving.remove(waiter);
            }
            PoolAction::Interrupt(lease, _) => drop(server.ledger.interrupted.insert(lease.id)),
            PoolAction::Drain(lease, _) => {
                server.ledger.since.insert(lease.id, now);
                server.ledger.idle.remove(&lease.id);
                server.ledger.draining.insert(lease.id);
            }
            PoolAction::Unanswered => {}
        }
        Some(action)
    }

    fn apply(self, world: &mut World, action: PoolAction<u64>) {
        let Self(c, id) = self;
        let at = world.soon(c);
        match action {
            PoolAction::Open(lease) => {
                let host = world.clients[c].pools.get(&id).map(|server| server.host.clone()).expect("a pool stays");
                let opening = world.start_opening(c, &host, Purpose::Pool { pool: id, lease });
                if let Some(server) = world.clients[c].pools.get_mut(&id) {
                    server.slots.insert(lease.slot, Occupant::Opening(opening));
                }
            }
            PoolAction::Close(_, conn) => world.close(conn),
            PoolAction::Unanswered => {
                let host = world.clients[c].pools.get(&id).map(|server| server.host.clone()).expect("a pool stays");
                world.topology_act(c, false, |topology, now| topology.handle_unanswered(&host, now));
            }
            PoolAction::Deliver { waiter, lease, connection } => {
                let call = world.clients[c].pools.get_mut(&id).and_then(|server| server.waiters.remove(&waiter)).expect("somebody waits");
                if let Some(conn) = world.net.conns.get_mut(&connection) {
                    conn.user = User::Call { pool: id, lease, call };
                }
                world.queue.push(at, Event::Delivered { client: c, pool: id, call, lease, conn: connection });
            }
            PoolAction::Refuse(waiter, error) => {
                let call = world.clients[c].pools.get_mut(&id).and_then(|server| server.waiters.remove(&waiter)).expect("somebody waits");
                world.queue.push(at, Event::Denied { client: c, call, error });
            }
            PoolAction::Interrupt(lease, error) => {
                let occupant = world.clients[c].pools.get(&id).and_then(|server| server.slots.get(&lease.slot)).copied();
                match occupant.expect("whoever is interrupted has a slot") {
                    Occupant::Opening(opening) => world.queue.push(at, Event::OpeningInterrupted { client: c, opening, error }),
                    Occupant::Conn(conn) => {
                        if let Some(conn) = world.net.conns.get_mut(&conn) {
                            conn.interrupted.get_or_insert(error);
                        }
                        world.queue.push(at, Event::Interrupted { client: c, conn });
                    }
                }
            }
            PoolAction::Drain(lease, connection) => {
                if let Some(conn) = world.net.conns.get_mut(&connection) {
                    conn.user = User::Drain { pool: id, lease };
                }
                world.queue.push(at, Event::Exchange { client: c, conn: connection });
            }
        }
    }
}

/// The answer to a caller.
pub(crate) enum Answer {
    Lent(Lease, u64),
    Waits(WaiterId),
    Refused(Error),
}

impl ServerPool {
    pub(crate) fn new(host: ServerAddress, mut pool: Pool<u64>, by_service: bool, now: Instant) -> Self {
        pool.record_events(true);
        Self {
            host,
            pool: Driven::new(pool, now),
            ledger: PoolLedger { by_service, ..PoolLedger::default() },
            services: Services::default(),
            replay: PoolReplay::default(),
            operations: 0,
            round_trip: None,
            came_late: None,
            slots: BTreeMap::new(),
            waiters: BTreeMap::new(),
            heard: BTreeSet::new(),
        }
    }

    /// Looks whether what is lent is current: by the pool's generation, or by its service's.
    fn look_at_lent(&self, lease: Lease) {
        let mut stats = self.pool.stats();
        if self.ledger.by_service {
            service_is_current(&self.host, lease.id, self.services.is_obsolete(lease.id) || self.services.of(lease.id).is_none());
            stats.generation = lease.generation;
        }
        delivered_is_current(&self.host, &stats, lease);
    }

    /// Begins to note whether the server's connections receive anything.
    pub(crate) fn listen(&mut self) {
        self.heard.clear();
    }

    /// Tells whether they have received anything since.
    pub(crate) fn has_heard(&self) -> bool {
        !self.heard.is_empty()
    }

    /// A connection has received something.
    pub(crate) fn hear(&mut self, slot: usize) {
        self.heard.insert(slot);
    }
}

impl World {
    /// Hands a fact to a pool, and carries out its wishes.
    pub(crate) fn pool_act<R>(
        &mut self,
        c: usize,
        id: u64,
        after_timeout: bool,
        step: impl FnOnce(&mut Driven<Pool<u64>>, Instant) -> R,
    ) -> Option<R> {
        let server = self.clients[c].pools.get(&id)?;
        let coming = server.ledger.coming(server.pool.stats().generation);
        let outcome = self.hand(PoolPlace(c, id), step)?;
        self.drain_pool(c, id, after_timeout.then_some(coming));
        Some(outcome)
    }

    /// Tells a pool the average round-trip time of its server.
    pub(crate) fn tell_round_trip(&mut self, c: usize, id: u64, average: Duration) {
        let Some(server) = self.clients[c].pools.get_mut(&id) else { return };
        if server.round_trip != Some(average) {
            server.round_trip = Some(average);
            self.pool_act(c, id, false, |pool, now| pool.handle_round_trip(Some(average), now));
        }
    }

    /// Asks for a connection, as `Pool::handle_checkout` and its kin answer.
    fn ask_pool(
        &mut self,
        c: usize,
        id: u64,
        call: u64,
        deadline: Option<Deadline>,
        place: Option<WaiterId>,
        step: impl FnOnce(&mut Driven<Pool<u64>>, Instant) -> Checkout<u64>,
    ) -> Checkout<u64> {
        let now = self.local(c);
        let answer = self.hand(PoolPlace(c, id), step).expect("a pool stays");
        let server = self.clients[c].pools.get_mut(&id).expect("a pool stays");
        match &answer {
            Checkout::CheckedOut { lease, .. } => {
                server.look_at_lent(*lease);
                nobody_is_passed(&server.host, &server.ledger, place.unwrap_or(WaiterId(u64::MAX)));
                server.ledger.idle.remove(&lease.id);
                server.ledger.in_use.insert(lease.id);
            }
            Checkout::Waiting(waiter) => {
                server.ledger.waiting.insert(*waiter, deadline.map(|deadline| deadline.at.max(now)));
                if deadline.is_some_and(|deadline| deadline.name == WAIT_QUEUE_TIMEOUT) {
                    server.ledger.queued.insert(*waiter);
                }
                if deadline.is_some_and(|deadline| deadline.at < now) {
                    server.came_late = Some(now);
                }
                server.waiters.insert(*waiter, call);
            }
            Checkout::Refused(_) => {}
        }
        self.drain_pool(c, id, None);
        answer
    }

    /// Asks for a connection; one that was idle for long is looked at first.
    pub(crate) fn check_out(&mut self, c: usize, id: u64, call: u64, deadline: Option<Deadline>) -> Answer {
        let requested_at = self.local(c);
        let mut answer = self.ask_pool(c, id, call, deadline, None, |pool, now| pool.handle_checkout(deadline, now));
        loop {
            match answer {
                Checkout::CheckedOut { lease, connection, liveness_check: None } => return Answer::Lent(lease, connection),
                Checkout::CheckedOut { lease, connection, liveness_check: Some(waiter) } => {
                    let dead = self.net.conns.get(&connection).is_none_or(|conn| !conn.inbox.is_empty() || !conn.decoder.is_empty());
                    if !dead {
                        self.pool_act(c, id, false, |pool, now| pool.handle_alive(lease, requested_at, now));
                        return Answer::Lent(lease, connection);
                    }
                    let place = QueuePosition { waiter, requested_at, deadline };
                    self.move_in(c, id, lease);
                    answer = self.ask_pool(c, id, call, deadline, Some(waiter), |pool, now| {
                        pool.handle_liveness_check_failed(lease, connection, place, now)
                    });
                }
                Checkout::Waiting(waiter) => return Answer::Waits(waiter),
                Checkout::Refused(error) => return Answer::Refused(error),
            }
        }
    }

    /// A caller no longer waits.
    pub(crate) fn cancel_waiter(&mut self, c: usize, id: u64, waiter: WaiterId) {
        if let Some(server) = self.clients[c].pools.get_mut(&id) {
            server.ledger.waiting.remove(&waiter);
            server.waiters.remove(&waiter);
        }
        self.pool_act(c, id, false, |pool, now| pool.handle_cancel(waiter, now));
    }

    /// A connection comes back, in whatever state it is.
    pub(crate) fn check_in(&mut self, c: usize, id: u64, lease: Lease, conn: u64) {
        let health = match self.net.conns.get(&conn) {
            Some(conn) => match conn.exchange {
                Exchange::Idle if conn.decoder.is_empty() => Health::Good,
                Exchange::Idle | Exchange::Broken => Health::Broken,
                Exchange::Awaiting(_) => Health::ReplyOutstanding,
            },
            None => Health::Broken,
        };
        self.note(|_| format!("client {c}: conn {conn} comes back {health:?}"));
        self.move_in(c, id, lease);
        if let Some(conn) = self.net.conns.get_mut(&conn) {
            conn.user = User::Idle { pool: id };
        }
        self.pool_act(c, id, false, |pool, now| pool.handle_checkin(lease, conn, health, now));
    }

    /// A connection for a pool is open and greeted, or could not be.
    pub(crate) fn pool_opened(&mut self, c: usize, id: u64, lease: Lease, outcome: Result<(u64, Box<HelloReply>, Duration), Error>) {
        let service = self.service_of(c, id, lease);
        let Some(server) = self.clients[c].pools.get_mut(&id) else { return };
        server.ledger.opening.remove(&lease.id);
        let host = server.host.clone();
        match outcome {
            Ok((conn, _, round_trip)) => {
                server.ledger.idle.insert(lease.id);
                server.slots.insert(lease.slot, Occupant::Conn(conn));
                if let Some(conn) = self.net.conns.get_mut(&conn) {
                    conn.user = User::Idle { pool: id };
                }
                self.pool_act(c, id, false, |pool, now| pool.handle_opened(lease, conn, now));
                if service.is_some() {
                    self.tell_round_trip(c, id, round_trip);
                }
            }
            Err(error) => {
                self.note(|_| format!("client {c}: connection {} to {host} could not be opened: {error}", lease.id));
                self.fail_to_open(c, id, lease, &error);
                if error.kind() != ErrorKind::Interrupted && error.kind() != ErrorKind::PoolClosed {
                    let before = self.clients[c].topology.generation(&host);
                    self.fault(c, &host, Fault::new(error.clone(), lease.generation).during_handshake().of_service(service));
                    self.look_at_failed_login(c, &host, lease, &error, before);
                }
                if let Some(server) = self.clients[c].pools.get_mut(&id) {
                    server.ledger.failing = 0;
                }
                self.pool_act(c, id, false, |pool, now| pool.handle_refill(now));
                let server = self.clients[c].pools.get(&id);
                in_order(server.is_none_or(|server| server.ledger.leaving.is_empty()), || format!("{host}: a waiter is told nothing"));
            }
        }
        self.settle_pool(c, id);
    }

    /// A connection could not be opened: whoever has waited longest leaves the queue, and is told a little later.
    fn fail_to_open(&mut self, c: usize, id: u64, lease: Lease, error: &Error) {
        let Some(waiting) = self.clients[c].pools.get(&id).map(|server| server.pool.stats().waiting) else { return };
        self.hand(PoolPlace(c, id), |pool, now| pool.handle_open_failed(lease, error, now));
        let Some(server) = self.clients[c].pools.get_mut(&id) else { return };
        server.ledger.failing = 1;
        if server.pool.stats().waiting < waiting
            && let Some((first, _)) = server.ledger.waiting.pop_first()
        {
            server.ledger.leaving.insert(first);
        }
        self.drain_pool(c, id, None);
    }

    /// The late reply of a connection that nobody waits for has come, or will not.
    pub(crate) fn drained(&mut self, c: usize, id: u64, lease: Lease, conn: u64, _outcome: Result<Message, Error>) {
        self.check_in(c, id, lease, conn);
    }

    fn move_in(&mut self, c: usize, id: u64, lease: Lease) {
        let Some(server) = self.clients[c].pools.get_mut(&id) else { return };
        let ledger = &mut server.ledger;
        let was_out = ledger.in_use.remove(&lease.id) || ledger.draining.remove(&lease.id);
        in_order(was_out, || format!("{}: connection {} comes back twice", server.host, lease.id));
        ledger.idle.insert(lease.id);
    }

    /// Carries out what a pool wants done, then compares.
    fn drain_pool(&mut self, c: usize, id: u64, after_timeout: Option<usize>) {
        self.drain(PoolPlace(c, id));
        let now = self.local(c);
        let Some(server) = self.clients[c].pools.get_mut(&id) else { return };
        if let Some(coming) = after_timeout {
            server.ledger.leave_the_queue(coming, now);
        }
        if server.came_late != Some(now) {
            timer_lies_ahead("pool", server.pool.poll_timeout(), now, after_timeout.is_some());
        }
        self.settle_pool(c, id);
    }

    /// Compares what the pool counts with what there is.
    fn settle_pool(&self, c: usize, id: u64) {
        let client = &self.clients[c];
        let Some(server) = client.pools.get(&id) else { return };
        let (host, stats, ledger) = (&server.host, server.pool.stats(), &server.ledger);
        let settings = &client.settings;
        connections_add_up(host, &stats, ledger, settings.max_pool_size);
        opening_is_limited(host, &stats, settings.max_connecting);
        waiters_are_known(host, &stats, ledger);
        waiting_has_a_timer("pool", ledger.needs_a_timer(), server.pool.poll_timeout());
    }

    /// What must hold between two steps of the whole.
    pub(crate) fn look_at_pools(&self, c: usize) {
        let client = &self.clients[c];
        let now = self.local(c);
        for (id, server) in &client.pools {
            let (stats, settings) = (server.pool.stats(), &client.settings);
            let (opening, draining) = (client.open_timeout() + settings.wake_delay, DRAIN + settings.wake_delay);
            nothing_is_open_ended(&server.host, &server.ledger, opening, draining, now);
            nobody_waits_for_nothing(&server.host, &stats, &server.ledger, settings.max_pool_size, settings.max_connecting);
            nobody_outstays_the_queue(&server.host, &stats, &server.ledger);
            let patience = server.round_trip.map_or(DRAIN_FLOOR, |average| (4 * average).max(DRAIN_FLOOR)).min(DRAIN) + settings.wake_delay;
            let limits = (settings.max_pool_size, settings.max_connecting);
            late_replies_make_room(&server.host, &stats, &server.ledger, limits, patience, now);
            if client.places.get(&server.host) == Some(id) && !client.is_shut_down {
                generations_agree(&server.host, client.topology.generation(&server.host), &stats);
            }
            in_order(server.replay.pending() == server.ledger.waiting.len(), || {
                format!("{}: {} check-outs have no end, {} callers wait", server.host, server.replay.pending(), server.ledger.waiting.len())
            });
            in_order(server.replay.open_connections() + server.ledger.aborted() == stats.total(), || {
                format!(
                    "{}: by its events there are {} connections, and {} given up, by its count {}",
                    server.host,
                    server.replay.open_connections(),
                    server.ledger.aborted(),
                    stats.total()
                )
            });
        }
    }
}
