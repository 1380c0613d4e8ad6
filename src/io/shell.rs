//! The shell of a state machine: lock, step, drain, re-arm, unlock, apply.
//!
//! Design section 3. One piece of code for the pools, the topology and the name resolver. The machine and its owner's state are
//! under one lock, which is never held across an await. The effects of a step are collected under the lock and applied after it
//! was released: sockets, tasks, wakers and the log's subscribers never run under it. Does not decide the effect of an action.

use std::sync::{Arc, Weak};
use std::time::Instant;

use super::clock;
use super::sync::{Mutex, MutexGuard, Notify, PoisonError};
use crate::machine::{Driven, Machine, Output};

/// The lock around a machine's state, and what wakes the machine's timer.
#[derive(Debug)]
pub(super) struct Shell<S> {
    state: Mutex<S>,
    timer: Arc<Notify>,
}

/// The owner of a [`Shell`]: carries out the actions of its machine.
pub(super) trait Owner: Send + Sync + Sized + 'static {
    /// The machine.
    type Machine: Machine;
    /// The state under the lock: the machine, and its owner's data.
    type State: Send;
    /// Which events and log lines are wanted, determined before the lock is taken.
    type Wanted: Copy;
    /// The work left after the lock was released. Created only if a step has an output.
    type Effects;

    /// Returns the shell.
    fn shell(&self) -> &Shell<Self::State>;

    /// Returns the machine.
    fn driven(state: &mut Self::State) -> &mut Driven<Self::Machine>;

    /// Returns what is wanted. Not called under a lock, because it calls the log's subscribers.
    fn wanted(&self) -> Self::Wanted;

    /// Passes what is wanted to the machine, before each step.
    #[inline]
    fn prepare(_state: &mut Self::State, _wanted: Self::Wanted) {}

    /// Creates an empty collection of effects.
    fn effects(wanted: Self::Wanted) -> Self::Effects;

    /// Collects the effects of an output, under the lock.
    fn collect(self: &Arc<Self>, state: &mut Self::State, output: OutputOf<Self>, now: Instant, effects: &mut Self::Effects);

    /// Publishes, under the lock, the values that others read without it.
    #[inline]
    fn publish(&self, _state: &Self::State) {}

    /// Applies effects. No lock is held.
    fn apply(self: &Arc<Self>, effects: Self::Effects);

    /// Wakes the timer, because it is armed anew or the machine is over.
    fn wake_timer(&self) {
        self.shell().timer.notify_one();
    }

    /// Handles the end of the timer's task, or its abort.
    fn handle_timer_ended(self: &Arc<Self>) {}

    /// Passes a fact to the machine and collects the effects: lock, step, drain, re-arm, unlock.
    #[inline]
    fn step<R>(
        self: &Arc<Self>,
        now: Instant,
        wanted: Self::Wanted,
        fact: impl FnOnce(&mut Self::State, Instant) -> R,
    ) -> (R, PendingEffects<Self>) {
        let mut state = self.shell().lock();
        let now = Self::driven(&mut state).advance(now);
        Self::prepare(&mut state, wanted);
        let outcome = fact(&mut state, now);
        let first = Self::driven(&mut state).next_output();
        // Without an output nothing is created, as on every warm path.
        let effects = first.map(|first| drain(self, &mut state, first, now, wanted));
        let driven = Self::driven(&mut state);
        let wakes_timer = driven.rearm() || driven.is_over();
        self.publish(&state);
        drop(state);
        (outcome, PendingEffects { effects, wakes_timer })
    }

    /// Passes a fact to the machine and applies the effects.
    #[inline]
    fn act_at<R>(self: &Arc<Self>, now: Instant, fact: impl FnOnce(&mut Self::State, Instant) -> R) -> R {
        let (outcome, pending) = self.step(now, self.wanted(), fact);
        pending.apply(self);
        outcome
    }

    /// Passes a fact to the machine, with the current time, and applies the effects.
    fn act<R>(self: &Arc<Self>, fact: impl FnOnce(&mut Self::State, Instant) -> R) -> R {
        self.act_at(clock::now(), fact)
    }

    /// Passes a fact to the machine under the lock of another; the effects are applied after that was released.
    fn defer<R>(self: &Arc<Self>, wanted: Self::Wanted, fact: impl FnOnce(&mut Self::State, Instant) -> R) -> (R, DeferredEffects<Self>) {
        let (outcome, pending) = self.step(clock::now(), wanted, fact);
        (outcome, DeferredEffects { owner: Arc::clone(self), pending })
    }
}

/// An output of an owner's machine.
pub(super) type OutputOf<O> = Output<<<O as Owner>::Machine as Machine>::Action, <<O as Owner>::Machine as Machine>::Event>;

/// The effects of a step.
#[must_use]
pub(super) struct PendingEffects<O: Owner> {
    effects: Option<O::Effects>,
    wakes_timer: bool,
}

/// The effects of a step that was taken under the lock of another machine.
#[must_use]
pub(super) struct DeferredEffects<O: Owner> {
    owner: Arc<O>,
    pending: PendingEffects<O>,
}

impl<S> Shell<S> {
    /// Creates a shell; its owner starts [`run_timer`].
    pub(super) fn new(state: S) -> Self {
        Self { state: Mutex::new(state), timer: Arc::default() }
    }

    /// Locks the state, to read it or to change the owner's data.
    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, S> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Drop for Shell<S> {
    /// Wakes the timer a last time, so that its task ends.
    fn drop(&mut self) {
        self.timer.notify_one();
    }
}

impl<O: Owner> PendingEffects<O> {
    /// Applies the effects. No lock may be held.
    #[inline]
    pub(super) fn apply(self, owner: &Arc<O>) {
        if let Some(effects) = self.without_timer(owner) {
            owner.apply(effects);
        }
    }

    /// Wakes the timer if need be, and returns the effects.
    #[inline]
    pub(super) fn without_timer(self, owner: &Arc<O>) -> Option<O::Effects> {
        if self.wakes_timer {
            owner.wake_timer();
        }
        self.effects
    }
}

impl<O: Owner> DeferredEffects<O> {
    /// Creates deferred effects that do not come from a step.
    pub(super) fn new(owner: &Arc<O>, effects: O::Effects) -> Self {
        Self { owner: Arc::clone(owner), pending: PendingEffects { effects: Some(effects), wakes_timer: false } }
    }

    /// Applies the effects. No lock may be held.
    pub(super) fn apply(self) {
        self.pending.apply(&self.owner);
    }
}

/// Collects the effects of all outputs.
fn drain<O: Owner>(owner: &Arc<O>, state: &mut O::State, first: OutputOf<O>, now: Instant, wanted: O::Wanted) -> O::Effects {
    let mut effects = O::effects(wanted);
    let mut next = Some(first);
    while let Some(output) = next {
        owner.collect(state, output, now, &mut effects);
        next = O::driven(state).next_output();
    }
    effects
}

/// A guard that reports the end of the timer's task to the owner, even if the task was never polled.
struct TimerGuard<O: Owner>(Weak<O>);

impl<O: Owner> Drop for TimerGuard<O> {
    fn drop(&mut self) {
        if let Some(owner) = self.0.upgrade() {
            owner.handle_timer_ended();
        }
    }
}

/// Runs the timer of an owner's machine, until the machine is over or the owner was dropped.
pub(super) fn run_timer<O: Owner>(owner: &Arc<O>) -> impl Future<Output = ()> + Send + use<O> {
    let (guard, timer) = (TimerGuard(Arc::downgrade(owner)), Arc::clone(&owner.shell().timer));
    async move {
        let guard = guard;
        loop {
            let Some(armed) = guard.0.upgrade().and_then(|owner| {
                let mut state = owner.shell().lock();
                let driven = O::driven(&mut state);
                (!driven.is_over()).then(|| driven.armed())
            }) else {
                return;
            };
            tokio::select! {
                () = clock::sleep_until(armed) => {
                    let Some(owner) = guard.0.upgrade() else { return };
                    owner.act(|state, now| O::driven(state).handle_timer(now));
                }
                () = timer.notified() => {}
            }
        }
    }
}
