//! How are a pool's wishes carried out?
//!
//! Lock, decide, unlock, act: the rules are asked under a lock that is never held across an await; sockets are opened,
//! looked at, drained and closed outside of it. Every wait of a caller may be dropped at any moment.

mod asked;
mod checked_out;
mod timer;

use std::borrow::Borrow;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use bson::oid::ObjectId;
use tokio::sync::{Notify, oneshot};

pub(crate) use asked::Lending;
use asked::{Asked, Waiting};
pub(crate) use checked_out::CheckedOut;
use timer::Keeper;

use super::clock;
use super::conn::{Conn, Interrupt};
use super::events::EventHub;
use super::open::{Opener, Purpose};
use super::stripes::Apart;
use super::tasks::Tasks;
use super::topology::Cluster;
use crate::error::{Error, ErrorKind, Stage};
use crate::host::HostKey;
use crate::op::deadline::Deadline;
use crate::pool::{Action, Checkout, Health, Lease, Pool, PoolEvent, PoolStats, Queue, WaiterId};

/// Carries out one server's pool.
pub(crate) struct ServerPool {
    host: HostKey,
    shared: Apart<Shared>,
    timer: Arc<Notify>,
    opener: Arc<Opener>,
    tasks: Weak<Tasks>,
    cluster: Weak<Cluster>,
    events: EventHub,
}

struct Shared {
    guarded: Mutex<Guarded>,
    /// How many callers have, or wait for, a connection; for selection.
    load: AtomicU32,
}

struct Guarded {
    pool: Pool<Box<Conn>>,
    waiters: Queue<oneshot::Sender<Result<CheckedOut, Error>>>,
    /// Whether the pool's tasks have ended: nobody would answer a waiter.
    abandoned: bool,
    /// By slot: how to stop whoever opens, uses or drains the connection.
    interrupts: Vec<Option<Arc<Interrupt>>>,
    /// What the timer task sleeps until.
    armed: Option<Instant>,
}

impl ServerPool {
    pub(crate) fn new(
        host: HostKey,
        rules: Pool<Box<Conn>>,
        opener: Arc<Opener>,
        tasks: &Arc<Tasks>,
        cluster: Weak<Cluster>,
        events: EventHub,
    ) -> Arc<Self> {
        events.pool(&host, PoolEvent::PoolCreated { options: rules.config().clone() });
        let guarded = Guarded { pool: rules, waiters: Queue::default(), abandoned: false, interrupts: Vec::new(), armed: None };
        let pool = Arc::new(Self {
            host,
            shared: Apart(Shared { guarded: Mutex::new(guarded), load: AtomicU32::new(0) }),
            timer: Arc::default(),
            opener,
            tasks: Arc::downgrade(tasks),
            cluster,
            events,
        });
        tasks.spawn("pool timer", timer::run(Keeper(Arc::downgrade(&pool)), Arc::clone(&pool.timer)));
        pool
    }

    pub(crate) fn host(&self) -> &HostKey {
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

    /// Asks for a connection: there is one, or what was asked for is [pursued](Asked::pursue).
    #[inline]
    pub(crate) fn checkout<P: Borrow<Arc<Self>>>(of: P, deadline: Option<Deadline>, now: Instant) -> Result<CheckedOut<P>, Asked<P>> {
        Self::ask(of, now, |guarded, now| guarded.pool.handle_checkout(deadline, now))
    }

    #[inline]
    fn ask<P: Borrow<Arc<Self>>>(
        of: P,
        now: Instant,
        step: impl FnOnce(&mut Guarded, Instant) -> Checkout<Box<Conn>>,
    ) -> Result<CheckedOut<P>, Asked<P>> {
        let answer = of.borrow().act_at(now, |guarded, now| match step(guarded, now) {
            Checkout::Lent { lease, connection, look } => Answer::Lent(lease, connection, look),
            Checkout::Waiting(waiter) => {
                let (sender, receiver) = oneshot::channel();
                if !guarded.abandoned {
                    guarded.waiters.insert(waiter, sender);
                }
                Answer::Wait(waiter, receiver)
            }
            Checkout::Refused(error) => Answer::Refused(error),
        });
        match answer {
            Answer::Lent(lease, conn, look) => {
                let out = CheckedOut { conn: Some(conn), lease, lent_at: now, pool: of };
                match look {
                    None => Ok(out),
                    Some(ticket) => Err(Asked::Look(out, ticket)),
                }
            }
            Answer::Wait(waiter, answer) => Err(Asked::Wait(Waiting { of, waiter, answer, answered: false })),
            Answer::Refused(error) => Err(Asked::Refused(error.on(&of.borrow().host))),
        }
    }

    pub(crate) fn ready(self: &Arc<Self>) {
        self.act(|guarded, now| guarded.pool.handle_ready(now));
    }

    pub(crate) fn clear(self: &Arc<Self>, cause: &Error, interrupt_in_use: bool) {
        self.act(|guarded, now| guarded.pool.handle_clear(cause, interrupt_in_use, now));
    }

    /// Clears the connections of one service behind a load balancer.
    pub(crate) fn clear_service(self: &Arc<Self>, service: ObjectId, generation: u64, cause: &Error) {
        self.act(|guarded, now| guarded.pool.handle_clear_service(service, generation, cause, now));
    }

    pub(crate) fn resumed(self: &Arc<Self>) {
        self.act(|guarded, now| guarded.pool.handle_resumed(now));
    }

    /// Ends the pool; tells whether connections of it are still in use.
    pub(crate) fn close(self: &Arc<Self>, why: &Error, interrupt_in_use: bool) -> bool {
        self.act(|guarded, now| {
            guarded.pool.handle_close(why, interrupt_in_use, now);
            guarded.pool.load() > 0
        })
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
    fn checkin(self: &Arc<Self>, lease: Lease, mut conn: Box<Conn>, now: Instant) {
        conn.forget_task();
        let health = conn.health();
        if health == Health::Good {
            conn.rest();
        }
        self.act_at(now, |guarded, now| {
            if let Some(cause) = conn.cause() {
                guarded.pool.handle_cause(lease, cause);
            }
            guarded.pool.handle_checkin(lease, conn, health, now);
        });
    }

    fn lock(&self) -> MutexGuard<'_, Guarded> {
        self.shared.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lent(self: &Arc<Self>, lease: Lease, connection: Box<Conn>, now: Instant) -> CheckedOut {
        CheckedOut { conn: Some(connection), lease, lent_at: now, pool: Arc::clone(self) }
    }

    fn act<R>(self: &Arc<Self>, step: impl FnOnce(&mut Guarded, Instant) -> R) -> R {
        self.act_at(clock::now(), step)
    }

    /// Lock, decide, unlock, act.
    #[inline]
    fn act_at<R>(self: &Arc<Self>, now: Instant, step: impl FnOnce(&mut Guarded, Instant) -> R) -> R {
        let mut guarded = self.lock();
        let is_told = self.events.pools_wanted();
        guarded.pool.record_events(is_told);
        let outcome = step(&mut guarded, now);
        // Mostly there is one at the most, and no list is made.
        let (mut first, mut more) = (None, Vec::new());
        while let Some(action) = guarded.pool.poll_action() {
            let deed = self.deed(&mut guarded, action, now);
            if first.is_none() { first = deed } else { more.extend(deed) }
        }
        if is_told {
            self.events.pools(&self.host, std::iter::from_fn(|| guarded.pool.poll_event()));
        }
        let due = guarded.pool.poll_timeout().map(|(at, _)| at);
        let earlier = due.is_some_and(|due| guarded.armed.is_none_or(|armed| due < armed));
        if earlier {
            guarded.armed = due;
        }
        let is_over = guarded.pool.is_over();
        // Written by whoever holds the lock.
        self.shared.load.store(guarded.pool.load(), Ordering::Relaxed);
        drop(guarded);
        if earlier || is_over {
            self.timer.notify_one();
        }
        if let Some(first) = first {
            self.perform(first);
            more.into_iter().for_each(|deed| self.perform(deed));
        }
        outcome
    }

    /// Finds, under the lock, what a wish needs to be carried out outside of it.
    fn deed(self: &Arc<Self>, guarded: &mut Guarded, action: Action<Box<Conn>>, now: Instant) -> Option<Deed> {
        match action {
            Action::Open(lease) => {
                let interrupt = Arc::<Interrupt>::default();
                if guarded.interrupts.len() <= lease.slot {
                    guarded.interrupts.resize_with(lease.slot + 1, || None);
                }
                if let Some(place) = guarded.interrupts.get_mut(lease.slot) {
                    *place = Some(Arc::clone(&interrupt));
                }
                Some(Deed::Open(lease, interrupt))
            }
            Action::Close(_, conn) => Some(Deed::Close(conn)),
            Action::Deliver { waiter, lease, connection } => {
                let out = self.lent(lease, connection, now);
                // Without a sender the guard is dropped outside of the lock, and the connection comes back.
                Some(Deed::Tell(guarded.waiters.remove(waiter), Ok(out)))
            }
            Action::Refuse(waiter, error) => Some(Deed::Tell(guarded.waiters.remove(waiter), Err(error))),
            Action::Interrupt(lease, error) => {
                let interrupt = guarded.interrupts.get(lease.slot)?.clone()?;
                Some(Deed::Interrupt(interrupt, error))
            }
            Action::Drain(lease, conn) => Some(Deed::Drain(lease, conn)),
            Action::Unanswered => Some(Deed::TellUnanswered),
        }
    }

    fn perform(self: &Arc<Self>, deed: Deed) {
        match deed {
            Deed::Open(lease, interrupt) => self.spawn("open connection", open(Arc::clone(self), lease, interrupt)),
            Deed::Close(conn) => drop(conn),
            Deed::Tell(sender, outcome) => {
                if let Some(sender) = sender {
                    // A waiter that is gone hands the connection back by dropping it.
                    drop(sender.send(outcome));
                }
            }
            Deed::Interrupt(interrupt, error) => interrupt.fire(error.on(&self.host)),
            // Only time makes this wish, never an order of the cluster, which would hold the lock that is taken here.
            Deed::TellUnanswered => {
                if let Some(cluster) = self.cluster.upgrade() {
                    cluster.unanswered(&self.host);
                }
            }
            Deed::Drain(lease, conn) => self.spawn("drain late reply", drain(Arc::clone(self), lease, conn)),
        }
    }

    fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        if let Some(tasks) = self.tasks.upgrade() {
            tasks.spawn(name, future);
        }
    }
}

enum Answer {
    Lent(Lease, Box<Conn>, Option<WaiterId>),
    Wait(WaiterId, oneshot::Receiver<Result<CheckedOut, Error>>),
    Refused(Error),
}

enum Deed {
    Open(Lease, Arc<Interrupt>),
    Close(Box<Conn>),
    Tell(Option<oneshot::Sender<Result<CheckedOut, Error>>>, Result<CheckedOut, Error>),
    Interrupt(Arc<Interrupt>, Error),
    Drain(Lease, Box<Conn>),
    TellUnanswered,
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
        Ok(opened) => pool.act(|guarded, now| guarded.pool.handle_opened(lease, Box::new(opened.conn), now)),
        Err(error) => {
            tracing::debug!(host = %pool.host, %error, "connection could not be opened");
            pool.act(|guarded, now| guarded.pool.handle_open_failed(lease, &error, now));
            if error.kind() != ErrorKind::Interrupted
                && error.kind() != ErrorKind::PoolClosed
                && let Some(cluster) = pool.cluster.upgrade()
            {
                cluster.opening_failed(&pool.host, lease.generation, service, &error);
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

fn gone() -> Error {
    Error::new(ErrorKind::Shutdown, "the client has been shut down").at(Stage::Checkout)
}
