//! The shell of one server's pool: the facts it hands to the pool's machine.
//!
//! What the machine's actions lead to is in `effects`, how a caller waits for a connection in `checkout`. Every wait of a caller may
//! be dropped at any moment. Does not decide which connection is checked out, opened or closed: `pool` does.

mod checked_out;
pub(crate) mod checkout;
mod effects;

use std::borrow::Borrow;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, Weak};
use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use crossbeam_utils::CachePadded;
use tokio::sync::oneshot;

use checked_out::CheckIn;
pub(crate) use checked_out::CheckedOut;

use super::clock;
use super::conn::Conn;
use super::interrupt::Interrupt;
use super::open::Opener;
use super::reports::Reports;
use super::shell::{DeferredEffects, Owner, PendingEffects, Shell, run_timer};
use super::tasks::{Tasks, runtime_ended};
use crate::error::{Error, Stage};
use crate::host::ServerAddress;
use crate::machine::Driven;
use crate::observe::events::{EventHub, Wanted};
use crate::pool::{Health, Lease, Pool, PoolStats, Queue};

/// One server's pool.
pub(crate) struct ServerPool {
    host: ServerAddress,
    shared: CachePadded<PoolShared>,
    opener: Arc<Opener>,
    tasks: Weak<Tasks>,
    reports: Weak<dyn Reports>,
    events: EventHub,
}

struct PoolShared {
    shell: Shell<PoolState>,
    /// How many callers have, or wait for, a connection; for selection.
    load: AtomicU32,
    /// The server's average round-trip time in microseconds; 0 if unknown.
    round_trip: AtomicU64,
}

/// What the pool's lock protects.
pub(super) struct PoolState {
    pool: Driven<Pool<Box<Conn>>>,
    waiters: Queue<oneshot::Sender<CheckoutResult>>,
    /// By slot: stops the opening, the use or the draining of the connection.
    interrupts: Vec<Option<Arc<Interrupt>>>,
}

/// What a waiter receives.
type CheckoutResult = Result<CheckedOut<Arc<ServerPool>>, Error>;

impl ServerPool {
    pub(super) fn new(
        host: ServerAddress,
        machine: Pool<Box<Conn>>,
        opener: Arc<Opener>,
        tasks: &Arc<Tasks>,
        reports: Weak<dyn Reports>,
        events: EventHub,
    ) -> Arc<Self> {
        let state = PoolState { pool: Driven::new(machine, clock::now()), waiters: Queue::default(), interrupts: Vec::new() };
        let pool = Arc::new(Self {
            host,
            shared: CachePadded::new(PoolShared { shell: Shell::new(state), load: AtomicU32::new(0), round_trip: AtomicU64::new(0) }),
            opener,
            tasks: Arc::downgrade(tasks),
            reports,
            events,
        });
        tasks.spawn("pool timer", run_timer(&pool));
        pool
    }

    pub(crate) fn host(&self) -> &ServerAddress {
        &self.host
    }

    pub(crate) fn events(&self) -> &EventHub {
        &self.events
    }

    pub(crate) fn stats(&self) -> PoolStats {
        self.lock().pool.stats()
    }

    /// Returns how many callers have, or wait for, a connection.
    pub(crate) fn load(&self) -> u32 {
        self.shared.load.load(Ordering::Relaxed)
    }

    pub(super) fn ready(self: &Arc<Self>, wanted: Wanted) -> DeferredEffects<Self> {
        self.defer(wanted, |state, now| state.pool.handle_ready(now)).1
    }

    pub(super) fn clear(self: &Arc<Self>, cause: &Error, interrupt_in_use: bool, wanted: Wanted) -> DeferredEffects<Self> {
        self.defer(wanted, |state, now| state.pool.handle_clear(cause, interrupt_in_use, now)).1
    }

    /// Clears the connections of one service behind a load balancer.
    pub(super) fn clear_service(
        self: &Arc<Self>,
        service: ObjectId,
        generation: u64,
        cause: &Error,
        wanted: Wanted,
    ) -> DeferredEffects<Self> {
        self.defer(wanted, |state, now| state.pool.handle_clear_service(service, generation, cause, now)).1
    }

    /// Sets the average round-trip time of the server. Does nothing if it is the same as before.
    pub(super) fn round_trip(self: &Arc<Self>, average: Option<Duration>, wanted: Wanted) -> Option<DeferredEffects<Self>> {
        let micros = average.map_or(0, |average| u64::try_from(average.as_micros()).unwrap_or(u64::MAX));
        if self.shared.round_trip.swap(micros, Ordering::Relaxed) == micros {
            return None;
        }
        Some(self.defer(wanted, |state, now| state.pool.handle_round_trip(average, now)).1)
    }

    pub(super) fn resumed(self: &Arc<Self>) {
        self.act(|state, now| state.pool.handle_resumed(now));
    }

    /// Closes the pool. Returns whether connections of it are still in use.
    pub(super) fn close(self: &Arc<Self>, why: &Error, interrupt_in_use: bool, wanted: Wanted) -> (bool, DeferredEffects<Self>) {
        self.defer(wanted, |state, now| {
            state.pool.handle_close(why, interrupt_in_use, now);
            state.pool.load() > 0
        })
    }

    /// Closes the pool. No lock may be held.
    pub(super) fn close_now(self: &Arc<Self>, why: &Error) {
        self.close(why, true, self.wanted()).1.apply();
    }

    /// Returns the error of callers that relied on tasks that have ended.
    fn lost(&self) -> Error {
        self.tasks.upgrade().map_or_else(runtime_ended, |tasks| tasks.lost()).at(Stage::Checkout)
    }

    /// Begins to record whether the server's connections receive anything.
    pub(super) fn start_traffic_check(&self) {
        self.lock().interrupts.iter().flatten().for_each(|interrupt| interrupt.start_traffic_check());
    }

    /// Returns whether they have received anything since.
    pub(super) fn has_traffic(&self) -> bool {
        self.lock().interrupts.iter().flatten().any(|interrupt| interrupt.had_traffic())
    }

    /// Hands a connection back without applying what that leads to.
    #[inline]
    fn check_in_deferred(self: &Arc<Self>, lease: Lease, mut conn: Box<Conn>, now: Instant) -> PendingEffects<Self> {
        conn.forget_task();
        let health = conn.health();
        if health == Health::Good {
            conn.rest();
        }
        let ((), pending) = self.step(now, self.wanted(), |state, now| {
            if let Some(cause) = conn.cause() {
                state.pool.handle_cause(lease, cause);
            }
            state.pool.handle_checkin(lease, conn, health, now);
        });
        pending
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.shared.shell.lock()
    }
}

impl<P: Borrow<Arc<ServerPool>>> CheckIn for P {
    #[inline]
    fn check_in(&self, lease: Lease, conn: Box<Conn>, now: Instant) {
        let pool: &Arc<ServerPool> = self.borrow();
        pool.check_in_deferred(lease, conn, now).apply(pool);
    }

    fn pin(&self, lease: Lease) {
        let pool: &Arc<ServerPool> = self.borrow();
        pool.act(|state, _| state.pool.handle_pinned(lease));
    }
}
