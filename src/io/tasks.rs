//! Who owns the tasks?
//!
//! Every task belongs to a [`Tasks`], which ends it when it is stopped or dropped: a client has one for its monitors, one
//! for its pools, and its resolver one. Beside them there are only look-ups by the operating system, on few threads of
//! their own, and key derivation and file reading on the runtime's blocking pool, which are awaited.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};

/// Owns a set of tasks on one runtime; they end when it is stopped or dropped.
#[derive(Debug)]
pub(crate) struct Tasks {
    runtime: Handle,
    set: Mutex<Option<JoinSet<()>>>,
    alive: Arc<()>,
    /// Holds a token of `alive` for as long as the runtime keeps its tasks.
    lifeline: AbortHandle,
}

impl Tasks {
    /// Makes an empty set on the current runtime; `None` outside of one.
    #[allow(clippy::disallowed_methods, reason = "the set's own task is in the set")]
    pub(crate) fn new() -> Option<Self> {
        let runtime = Handle::try_current().ok()?;
        let alive = Arc::new(());
        let token = Arc::clone(&alive);
        let mut set = JoinSet::new();
        let lifeline = set.spawn_on(
            async move {
                std::future::pending::<()>().await;
                drop(token);
            },
            &runtime,
        );
        Some(Self { runtime, set: Mutex::new(Some(set)), alive, lifeline })
    }

    /// Starts a task; does nothing once stopped.
    #[allow(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub(crate) fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let mut set = self.lock();
        if let Some(set) = set.as_mut() {
            while set.try_join_next().is_some() {}
            tracing::trace!(task = name, "task starts");
            set.spawn_on(future, &self.runtime);
        }
    }

    /// Tells whether the runtime that the tasks were started on still keeps them.
    pub(crate) fn is_alive(&self) -> bool {
        Arc::strong_count(&self.alive) > 1
    }

    /// Returns how many tasks are running, without the set's own.
    pub(crate) fn count(&self) -> usize {
        let mut set = self.lock();
        set.as_mut().map_or(0, |set| {
            while set.try_join_next().is_some() {}
            set.len().saturating_sub(1)
        })
    }

    /// Ends all tasks without waiting for them.
    pub(crate) fn abort(&self) {
        drop(self.lock().take());
    }

    /// Waits until all tasks have ended by themselves, for as long as the limit allows, and ends the rest.
    pub(crate) async fn finish(&self, limit: Duration) {
        self.lifeline.abort();
        let set = self.lock().take();
        if let Some(mut set) = set {
            let ended = async { while set.join_next().await.is_some() {} };
            if tokio::time::timeout(limit, ended).await.is_err() {
                set.shutdown().await;
            }
        }
    }

    /// Ends all tasks and waits until they are gone.
    pub(crate) async fn stop(&self) {
        let set = self.lock().take();
        if let Some(mut set) = set {
            set.shutdown().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<JoinSet<()>>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
