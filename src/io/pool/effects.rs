//! The effects of a pool's actions: opening, draining and closing connections, answers to waiters.
//!
//! Collected under the pool's lock, applied after it was released. Does not decide which connection is opened, drained or
//! closed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::oneshot;

use super::{CheckedOut, CheckoutResult, PoolState, ServerPool};
use crate::error::{Error, ErrorKind, Stage};
use crate::io::clock;
use crate::io::conn::Conn;
use crate::io::dial::Timeline;
use crate::io::interrupt::Interrupt;
use crate::io::open::Purpose;
use crate::io::shell::{DeferredEffects, OutputOf, Owner, Shell};
use crate::machine::{Driven, Output};
use crate::observe::events::{PendingWakeups, Wanted};
use crate::pool::{Lease, Pool, PoolAction, PoolEvent};

/// The effects of one step.
pub(in crate::io) struct PoolEffects {
    /// There is seldom more than one, and then no list is allocated.
    first: Option<PoolEffect>,
    more: Vec<PoolEffect>,
    wakeups: PendingWakeups,
    wanted: Wanted,
}

enum PoolEffect {
    Open(Lease, Arc<Interrupt>),
    Close(Box<Conn>),
    Answer(Option<oneshot::Sender<CheckoutResult>>, CheckoutResult),
    Interrupt(Arc<Interrupt>, Error),
    Drain(Lease, Box<Conn>),
    ReportUnanswered,
}

impl Owner for ServerPool {
    type Machine = Pool<Box<Conn>>;
    type State = PoolState;
    type Wanted = Wanted;
    type Effects = PoolEffects;

    #[inline]
    fn shell(&self) -> &Shell<PoolState> {
        &self.shared.shell
    }

    #[inline]
    fn driven(state: &mut PoolState) -> &mut Driven<Self::Machine> {
        &mut state.pool
    }

    #[inline]
    fn wanted(&self) -> Wanted {
        self.events.pools_wanted()
    }

    #[inline]
    fn prepare(state: &mut PoolState, wanted: Wanted) {
        state.pool.record_events(wanted.any());
    }

    fn effects(wanted: Wanted) -> PoolEffects {
        PoolEffects { first: None, more: Vec::new(), wakeups: PendingWakeups::default(), wanted }
    }

    fn collect(self: &Arc<Self>, state: &mut PoolState, output: OutputOf<Self>, now: Instant, effects: &mut PoolEffects) {
        match output {
            // All events that are queued go to the subscribers at once.
            Output::Event(first) => {
                let events = std::iter::once(first).chain(std::iter::from_fn(|| state.pool.poll_event()));
                self.events.pools(&self.host, events, effects.wanted, &mut effects.wakeups);
            }
            Output::Action(action) => {
                let effect = self.effect(state, action, now);
                if effects.first.is_none() { effects.first = effect } else { effects.more.extend(effect) }
            }
            Output::Note(note) => self.events.note(note, &mut effects.wakeups),
        }
    }

    #[inline]
    fn publish(&self, state: &PoolState) {
        self.shared.load.store(state.pool.load(), Ordering::Relaxed);
    }

    fn apply(self: &Arc<Self>, effects: PoolEffects) {
        let undelivered = self.apply_all(effects);
        if !undelivered.is_empty() {
            self.check_in_all(undelivered);
        }
    }

    /// Closes the pool: nothing opens or drains connections any more, the sockets are dead, and nothing else answers the waiters.
    fn handle_timer_ended(self: &Arc<Self>) {
        self.close_now(&self.lost());
    }
}

impl ServerPool {
    /// Publishes that the pool exists.
    pub(in crate::io) fn announce(self: &Arc<Self>, wanted: Wanted) -> DeferredEffects<Self> {
        let mut effects = Self::effects(wanted);
        let options = self.lock().pool.config().clone();
        self.events.pools(&self.host, [PoolEvent::PoolCreated { options }], wanted, &mut effects.wakeups);
        DeferredEffects::new(self, effects)
    }

    /// Takes from the state what an action needs after the lock was released.
    fn effect(self: &Arc<Self>, state: &mut PoolState, action: PoolAction<Box<Conn>>, now: Instant) -> Option<PoolEffect> {
        match action {
            PoolAction::Open(lease) => {
                let interrupt = Arc::<Interrupt>::default();
                if state.interrupts.len() <= lease.slot {
                    state.interrupts.resize_with(lease.slot + 1, || None);
                }
                if let Some(place) = state.interrupts.get_mut(lease.slot) {
                    *place = Some(Arc::clone(&interrupt));
                }
                Some(PoolEffect::Open(lease, interrupt))
            }
            PoolAction::Close(_, conn) => Some(PoolEffect::Close(conn)),
            PoolAction::Deliver { waiter, lease, connection } => {
                let out = CheckedOut { conn: Some(connection), lease, checked_out_at: now, pool: Arc::clone(self) };
                Some(PoolEffect::Answer(state.waiters.remove(waiter), Ok(out)))
            }
            PoolAction::Refuse(waiter, error) => Some(PoolEffect::Answer(state.waiters.remove(waiter), Err(error))),
            PoolAction::Interrupt(lease, error) => {
                let interrupt = state.interrupts.get(lease.slot)?.clone()?;
                Some(PoolEffect::Interrupt(interrupt, error))
            }
            PoolAction::Drain(lease, conn) => Some(PoolEffect::Drain(lease, conn)),
            PoolAction::Unanswered => Some(PoolEffect::ReportUnanswered),
        }
    }

    /// Checks in connections whose waiters are gone, until each of them has another waiter or is idle. In a loop: a drop that
    /// checks in one within the drop of another would need stack for each waiter that is gone.
    #[cold]
    fn check_in_all(self: &Arc<Self>, mut undelivered: Vec<CheckedOut<Arc<Self>>>) {
        while let Some(mut out) = undelivered.pop() {
            if let Some(conn) = out.conn.take() {
                let pending = self.check_in_deferred(out.lease, conn, clock::now());
                undelivered.extend(pending.without_timer(self).into_iter().flat_map(|effects| self.apply_all(effects)));
            }
        }
    }

    /// Applies the effects. Returns the connections that could not be delivered.
    fn apply_all(self: &Arc<Self>, effects: PoolEffects) -> Vec<CheckedOut<Arc<Self>>> {
        let PoolEffects { first, more, wakeups, .. } = effects;
        let mut undelivered = Vec::new();
        if let Some(first) = first {
            undelivered.extend(self.apply_one(first));
            undelivered.extend(more.into_iter().filter_map(|effect| self.apply_one(effect)));
        }
        self.events.finish(wakeups);
        undelivered
    }

    /// Returns a connection that could not be delivered.
    fn apply_one(self: &Arc<Self>, effect: PoolEffect) -> Option<CheckedOut<Arc<Self>>> {
        match effect {
            PoolEffect::Open(lease, interrupt) => self.spawn("open connection", open(Arc::clone(self), lease, interrupt)),
            PoolEffect::Close(conn) => drop(conn),
            PoolEffect::Answer(sender, outcome) => {
                let outcome = match sender {
                    Some(sender) => sender.send(outcome),
                    None => Err(outcome),
                };
                // The waiter may be gone.
                return outcome.err()?.ok();
            }
            PoolEffect::Interrupt(interrupt, error) => interrupt.fire(error.on(&self.host)),
            PoolEffect::ReportUnanswered => {
                if let Some(reports) = self.reports.upgrade() {
                    reports.unanswered(&self.host);
                }
            }
            PoolEffect::Drain(lease, conn) => self.spawn("drain late reply", drain(Arc::clone(self), lease, conn)),
        }
        None
    }

    fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        if let Some(tasks) = self.tasks.upgrade() {
            tasks.spawn(name, future);
        }
    }
}

/// Opens a connection for a slot of the pool.
async fn open(pool: Arc<ServerPool>, mut lease: Lease, interrupt: Arc<Interrupt>) {
    let mut timeline = Timeline::default();
    let mut service = None;
    let mut greeted = |named| {
        service = Some(named);
        lease = pool.act(|state, _| state.pool.handle_greeted(lease, named));
    };
    let outcome = tokio::select! {
        biased;
        error = interrupt.fired() => Err(error.at(Stage::Tcp)),
        outcome = pool.opener.open_telling(&pool.host, Purpose::Application, Arc::clone(&interrupt), &mut timeline, &mut greeted) => outcome,
    };
    match outcome {
        Ok(opened) => pool.act(|state, now| {
            state.pool.handle_opened(lease, Box::new(opened.conn), now);
            // Behind a load balancer, nothing else measures round trips.
            if service.is_some() {
                state.pool.handle_round_trip(Some(opened.round_trip), now);
            }
        }),
        Err(error) => {
            tracing::debug!(host = %pool.host, %error, "connection could not be opened");
            pool.act(|state, now| state.pool.handle_open_failed(lease, &error, now));
            if error.kind() != ErrorKind::Interrupted
                && error.kind() != ErrorKind::PoolClosed
                && let Some(reports) = pool.reports.upgrade()
            {
                reports.opening_failed(&pool.host, lease.generation, service, &error);
            }
            pool.act(|state, now| state.pool.handle_refill(now));
        }
    }
}

/// Reads the late reply of a connection whose command was abandoned.
async fn drain(pool: Arc<ServerPool>, lease: Lease, mut conn: Box<Conn>) {
    if let Err(error) = conn.drain().await {
        tracing::debug!(host = %pool.host, %error, "late reply did not come");
    }
    pool.check_in_deferred(lease, conn, clock::now()).apply(&pool);
}
