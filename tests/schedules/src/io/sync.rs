//! The primitives of `src/io/sync.rs`, with schedules chosen by shuttle.

use std::task::Waker;

// A counter whose order does not matter, in a static: one that outlives a schedule.
pub(crate) use std::sync::atomic::AtomicUsize;

pub(crate) use shuttle::sync::atomic::{AtomicBool, Ordering};
pub(crate) use shuttle::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
pub(crate) use shuttle::thread_local;

/// A cell that is written once: `set` and `get` are steps that other threads may come between.
#[derive(Debug)]
pub(crate) struct OnceLock<T> {
    is_set: AtomicBool,
    value: std::sync::OnceLock<T>,
}

impl<T> Default for OnceLock<T> {
    fn default() -> Self {
        Self { is_set: AtomicBool::new(false), value: std::sync::OnceLock::new() }
    }
}

impl<T> OnceLock<T> {
    pub(crate) fn set(&self, value: T) -> Result<(), T> {
        self.value.set(value)?;
        self.is_set.store(true, Ordering::Release);
        Ok(())
    }

    pub(crate) fn get(&self) -> Option<&T> {
        if self.is_set.load(Ordering::Acquire) { self.value.get() } else { None }
    }
}

/// The contract of `futures_util::task::AtomicWaker`: `wake` wakes the waker that was registered last.
#[derive(Debug, Default)]
pub(crate) struct AtomicWaker(Mutex<Option<Waker>>);

impl AtomicWaker {
    pub(crate) fn register(&self, waker: &Waker) {
        *self.0.lock().expect("a waker") = Some(waker.clone());
    }

    pub(crate) fn take(&self) -> Option<Waker> {
        self.0.lock().expect("a waker").take()
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.take() {
            waker.wake();
        }
    }
}

/// The contract of `tokio::sync::Notify` for one waiting task: a notification is kept until it is taken.
#[derive(Debug, Default)]
pub(crate) struct Notify(Mutex<(bool, Option<Waker>)>);

impl Notify {
    pub(crate) fn notify_one(&self) {
        let mut state = self.0.lock().expect("a notification");
        state.0 = true;
        let waker = state.1.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) async fn notified(&self) {
        std::future::poll_fn(|context| {
            let mut state = self.0.lock().expect("a notification");
            if std::mem::take(&mut state.0) {
                return std::task::Poll::Ready(());
            }
            state.1 = Some(context.waker().clone());
            std::task::Poll::Pending
        })
        .await;
    }
}
