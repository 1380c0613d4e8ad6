//! How are a pool's wishes carried out?
//!
//! Lock, decide, unlock, act: the rules are asked under a lock that is never held across an await; sockets are opened,
//! looked at, drained and closed outside of it. Every wait of a caller may be dropped at any moment.
//!
//! An order of the topology is given under the topology's lock. What it leads to is returned as [`Pending`], and done after
//! that lock was released.

mod checked_out;
mod checkout;
mod timer;
mod work;

use std::borrow::Borrow;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use crossbeam_utils::CachePadded;
use tokio::sync::{Notify, oneshot};

pub(crate) use checked_out::CheckedOut;
pub(crate) use checkout::CheckoutFuture;
use checkout::{PendingCheckout, QueuedCheckout};
use timer::Keeper;
pub(crate) use work::Pending;
use work::{PoolEffect, PoolWork};

use super::clock;
use super::conn::{Conn, Interrupt};
use super::open::{Opener, Purpose};
use super::tasks::{Tasks, runtime_ended};
use super::topology::TopologyDriver;
use crate::error::{Error, ErrorKind, Stage};
use crate::host::ServerAddress;
use crate::observe::events::{EventHub, Wanted};
use crate::operation::deadline::Deadline;
use crate::pool::{Checkout, Health, Lease, Pool, PoolAction, PoolEvent, PoolStats, Queue, WaiterId};

/// Carries out one server's pool.
pub(crate) struct ServerPool {
    host: ServerAddress,
    shared: CachePadded<PoolShared>,
    timer: Arc<Notify>,
    opener: Arc<Opener>,
    tasks: Weak<Tasks>,
    driver: Weak<TopologyDriver>,
    events: EventHub,
}

struct PoolShared {
    guarded: Mutex<PoolState>,
    /// How many callers have, or wait for, a connection; for selection.
    load: AtomicU32,
    /// The server's average round-trip time in microseconds; 0 if unknown.
    round_trip: AtomicU64,
}

struct PoolState {
    pool: Pool<Box<Conn>>,
    waiters: Queue<oneshot::Sender<Result<CheckedOut, Error>>>,
    /// The latest time that the rules were told. Callers read the clock before they have the lock, in any order.
    latest: Instant,
    /// By slot: how to stop whoever opens, uses or drains the connection.
    interrupts: Vec<Option<Arc<Interrupt>>>,
    /// What the timer task sleeps until.
    armed: Option<Instant>,
}

impl ServerPool {
    pub(crate) fn new(
        host: ServerAddress,
        rules: Pool<Box<Conn>>,
        opener: Arc<Opener>,
        tasks: &Arc<Tasks>,
        driver: Weak<TopologyDriver>,
        events: EventHub,
    ) -> Arc<Self> {
        let (waiters, interrupts, latest) = (Queue::default(), Vec::new(), clock::now());
        let guarded = PoolState { pool: rules, waiters, latest, interrupts, armed: None };
        let pool = Arc::new(Self {
            host,
            shared: CachePadded::new(PoolShared { guarded: Mutex::new(guarded), load: AtomicU32::new(0), round_trip: AtomicU64::new(0) }),
            timer: Arc::default(),
            opener,
            tasks: Arc::downgrade(tasks),
            driver,
            events,
        });
        tasks.spawn("pool timer", timer::run(Keeper(Arc::downgrade(&pool)), Arc::clone(&pool.timer)));
        pool
    }

    /// Tells that the pool exists.
    pub(crate) fn announce(self: &Arc<Self>, wanted: Wanted) -> Pending {
        let mut work = PoolWork::default();
        let options = self.lock().pool.config().clone();
        self.events.pools(&self.host, [PoolEvent::PoolCreated { options }], wanted, &mut work.told);
        Pending { pool: Arc::clone(self), work: Some(work) }
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

    /// Asks for a connection: there is one, or what was asked for is [pursued](PendingCheckout::pursue).
    #[inline]
    pub(crate) fn checkout<P: Borrow<Arc<Self>>>(
        of: P,
        deadline: Option<Deadline>,
        now: Instant,
    ) -> Result<CheckedOut<P>, PendingCheckout<P>> {
        Self::ask(of, now, |guarded, now| guarded.pool.handle_checkout(deadline, now))
    }

    #[inline]
    fn ask<P: Borrow<Arc<Self>>>(
        of: P,
        now: Instant,
        step: impl FnOnce(&mut PoolState, Instant) -> Checkout<Box<Conn>>,
    ) -> Result<CheckedOut<P>, PendingCheckout<P>> {
        let answer = of.borrow().act_at(now, |guarded, now| match step(guarded, now) {
            Checkout::CheckedOut { lease, connection, liveness_check } => CheckoutReply::Lent(lease, connection, liveness_check),
            Checkout::Waiting(waiter) => {
                let (sender, receiver) = oneshot::channel();
                guarded.waiters.insert(waiter, sender);
                CheckoutReply::Wait(waiter, receiver)
            }
            Checkout::Refused(error) => CheckoutReply::Refused(error),
        });
        match answer {
            CheckoutReply::Lent(lease, conn, liveness_check) => {
                let out = CheckedOut { conn: Some(conn), lease, lent_at: now, pool: of };
                match liveness_check {
                    None => Ok(out),
                    Some(waiter) => Err(PendingCheckout::Look(out, waiter)),
                }
            }
            CheckoutReply::Wait(waiter, answer) => Err(PendingCheckout::Wait(QueuedCheckout { of, waiter, answer, answered: false })),
            CheckoutReply::Refused(error) => Err(PendingCheckout::Refused(error.on(&of.borrow().host))),
        }
    }

    pub(crate) fn ready(self: &Arc<Self>, wanted: Wanted) -> Pending {
        self.order(wanted, |guarded, now| guarded.pool.handle_ready(now)).1
    }

    pub(crate) fn clear(self: &Arc<Self>, cause: &Error, interrupt_in_use: bool, wanted: Wanted) -> Pending {
        self.order(wanted, |guarded, now| guarded.pool.handle_clear(cause, interrupt_in_use, now)).1
    }

    /// Clears the connections of one service behind a load balancer.
    pub(crate) fn clear_service(self: &Arc<Self>, service: ObjectId, generation: u64, cause: &Error, wanted: Wanted) -> Pending {
        self.order(wanted, |guarded, now| guarded.pool.handle_clear_service(service, generation, cause, now)).1
    }

    /// Tells the average round-trip time of the server; does nothing if it is the same as before.
    pub(crate) fn round_trip(self: &Arc<Self>, average: Option<Duration>, wanted: Wanted) -> Option<Pending> {
        let micros = average.map_or(0, |average| u64::try_from(average.as_micros()).unwrap_or(u64::MAX));
        if self.shared.round_trip.swap(micros, Ordering::Relaxed) == micros {
            return None;
        }
        Some(self.order(wanted, |guarded, now| guarded.pool.handle_round_trip(average, now)).1)
    }

    pub(crate) fn resumed(self: &Arc<Self>) {
        self.act(|guarded, now| guarded.pool.handle_resumed(now));
    }

    /// Ends the pool; tells whether connections of it are still in use.
    pub(crate) fn close(self: &Arc<Self>, why: &Error, interrupt_in_use: bool, wanted: Wanted) -> (bool, Pending) {
        self.order(wanted, |guarded, now| {
            guarded.pool.handle_close(why, interrupt_in_use, now);
            guarded.pool.load() > 0
        })
    }

    /// Ends the pool, when no lock is held.
    pub(crate) fn close_now(self: &Arc<Self>, why: &Error) {
        self.close(why, true, self.events.pools_wanted()).1.run();
    }

    /// Makes the error of those who relied on tasks that have ended.
    fn lost(&self) -> Error {
        self.tasks.upgrade().map_or_else(runtime_ended, |tasks| tasks.lost()).at(Stage::Checkout)
    }

    /// Begins to note whether the server's connections receive anything.
    pub(crate) fn listen(&self) {
        self.lock().interrupts.iter().flatten().for_each(|interrupt| interrupt.listen());
    }

    /// Tells whether they have received anything since.
    pub(crate) fn has_heard(&self) -> bool {
        self.lock().interrupts.iter().flatten().any(|interrupt| interrupt.has_heard())
    }

    #[inline]
    fn checkin(self: &Arc<Self>, lease: Lease, conn: Box<Conn>, now: Instant) {
        let work = self.returned(lease, conn, now);
        self.finish(work);
    }

    #[inline]
    fn returned(self: &Arc<Self>, lease: Lease, mut conn: Box<Conn>, now: Instant) -> Option<PoolWork> {
        conn.forget_task();
        let health = conn.health();
        if health == Health::Good {
            conn.rest();
        }
        let (_, work) = self.decide(now, self.events.pools_wanted(), |guarded, now| {
            if let Some(cause) = conn.cause() {
                guarded.pool.handle_cause(lease, cause);
            }
            guarded.pool.handle_checkin(lease, conn, health, now);
        });
        work
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.shared.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lent(self: &Arc<Self>, lease: Lease, connection: Box<Conn>, now: Instant) -> CheckedOut {
        CheckedOut { conn: Some(connection), lease, lent_at: now, pool: Arc::clone(self) }
    }

    fn act<R>(self: &Arc<Self>, step: impl FnOnce(&mut PoolState, Instant) -> R) -> R {
        self.act_at(clock::now(), step)
    }

    /// Lock, decide, unlock, act.
    #[inline]
    fn act_at<R>(self: &Arc<Self>, now: Instant, step: impl FnOnce(&mut PoolState, Instant) -> R) -> R {
        let (outcome, work) = self.decide(now, self.events.pools_wanted(), step);
        self.finish(work);
        outcome
    }

    /// Lock, decide, unlock: what is left to do is done when the topology's lock was released, too.
    fn order<R>(self: &Arc<Self>, wanted: Wanted, step: impl FnOnce(&mut PoolState, Instant) -> R) -> (R, Pending) {
        let (outcome, work) = self.decide(clock::now(), wanted, step);
        (outcome, Pending { pool: Arc::clone(self), work })
    }

    /// Returns `None` for work where nothing is left to do, as on every warm path.
    #[inline]
    fn decide<R>(self: &Arc<Self>, now: Instant, wanted: Wanted, step: impl FnOnce(&mut PoolState, Instant) -> R) -> (R, Option<PoolWork>) {
        let mut guarded = self.lock();
        let now = now.max(guarded.latest);
        guarded.latest = now;
        guarded.pool.record_events(wanted.any());
        let outcome = step(&mut guarded, now);
        let first = guarded.pool.poll_action();
        let is_silent = first.is_none() && !wanted.any() && !guarded.pool.has_note();
        let mut work = if is_silent { None } else { Some(self.collect(&mut guarded, first, now, wanted)) };
        let due = guarded.pool.poll_timeout().map(|(at, _)| at);
        let earlier = due.is_some_and(|due| guarded.armed.is_none_or(|armed| due < armed));
        if earlier {
            guarded.armed = due;
        }
        if earlier || guarded.pool.is_over() {
            work.get_or_insert_default().wakes_timer = true;
        }
        // Written by whoever holds the lock.
        self.shared.load.store(guarded.pool.load(), Ordering::Relaxed);
        drop(guarded);
        (outcome, work)
    }

    /// Takes all that the rules wish for and tell.
    fn collect(self: &Arc<Self>, guarded: &mut PoolState, first: Option<PoolAction<Box<Conn>>>, now: Instant, wanted: Wanted) -> PoolWork {
        let mut work = PoolWork::default();
        let mut next = first;
        while let Some(action) = next {
            let effect = self.effect(guarded, action, now);
            if work.first.is_none() {
                work.first = effect
            } else {
                work.more.extend(effect)
            }
            next = guarded.pool.poll_action();
        }
        if wanted.any() {
            self.events.pools(&self.host, std::iter::from_fn(|| guarded.pool.poll_event()), wanted, &mut work.told);
        }
        while let Some(note) = guarded.pool.poll_note() {
            self.events.note(note, &mut work.told);
        }
        work
    }

    /// Finds, under the lock, what a wish needs to be carried out outside of it.
    fn effect(self: &Arc<Self>, guarded: &mut PoolState, action: PoolAction<Box<Conn>>, now: Instant) -> Option<PoolEffect> {
        match action {
            PoolAction::Open(lease) => {
                let interrupt = Arc::<Interrupt>::default();
                if guarded.interrupts.len() <= lease.slot {
                    guarded.interrupts.resize_with(lease.slot + 1, || None);
                }
                if let Some(place) = guarded.interrupts.get_mut(lease.slot) {
                    *place = Some(Arc::clone(&interrupt));
                }
                Some(PoolEffect::Open(lease, interrupt))
            }
            PoolAction::Close(_, conn) => Some(PoolEffect::Close(conn)),
            PoolAction::Deliver { waiter, lease, connection } => {
                let out = self.lent(lease, connection, now);
                Some(PoolEffect::Tell(guarded.waiters.remove(waiter), Ok(out)))
            }
            PoolAction::Refuse(waiter, error) => Some(PoolEffect::Tell(guarded.waiters.remove(waiter), Err(error))),
            PoolAction::Interrupt(lease, error) => {
                let interrupt = guarded.interrupts.get(lease.slot)?.clone()?;
                Some(PoolEffect::Interrupt(interrupt, error))
            }
            PoolAction::Drain(lease, conn) => Some(PoolEffect::Drain(lease, conn)),
            PoolAction::Unanswered => Some(PoolEffect::TellUnanswered),
        }
    }

    fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        if let Some(tasks) = self.tasks.upgrade() {
            tasks.spawn(name, future);
        }
    }
}

enum CheckoutReply {
    Lent(Lease, Box<Conn>, Option<WaiterId>),
    Wait(WaiterId, oneshot::Receiver<Result<CheckedOut, Error>>),
    Refused(Error),
}

async fn open(pool: Arc<ServerPool>, mut lease: Lease, interrupt: Arc<Interrupt>) {
    let mut timeline = super::dial::Timeline::default();
    let mut service = None;
    let mut greeted = |named| {
        service = Some(named);
        lease = pool.act(|guarded, _| guarded.pool.handle_greeted(lease, named));
    };
    let outcome = tokio::select! {
        biased;
        error = interrupt.fired() => Err(error.at(Stage::Tcp)),
        outcome = pool.opener.open_telling(&pool.host, Purpose::Application, Arc::clone(&interrupt), &mut timeline, &mut greeted) => outcome,
    };
    match outcome {
        Ok(opened) => pool.act(|guarded, now| {
            guarded.pool.handle_opened(lease, Box::new(opened.conn), now);
            // Behind a load balancer, nothing else measures round trips.
            if service.is_some() {
                guarded.pool.handle_round_trip(Some(opened.round_trip), now);
            }
        }),
        Err(error) => {
            tracing::debug!(host = %pool.host, %error, "connection could not be opened");
            pool.act(|guarded, now| guarded.pool.handle_open_failed(lease, &error, now));
            if error.kind() != ErrorKind::Interrupted
                && error.kind() != ErrorKind::PoolClosed
                && let Some(driver) = pool.driver.upgrade()
            {
                driver.opening_failed(&pool.host, lease.generation, service, &error);
            }
            pool.act(|guarded, now| guarded.pool.handle_refill(now));
        }
    }
}

async fn drain(pool: Arc<ServerPool>, lease: Lease, mut conn: Box<Conn>) {
    if let Err(error) = conn.drain().await {
        tracing::debug!(host = %pool.host, %error, "late reply did not come");
    }
    pool.checkin(lease, conn, clock::now());
}

impl Drop for ServerPool {
    fn drop(&mut self) {
        self.timer.notify_one();
    }
}
