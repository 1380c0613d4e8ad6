//! Who owns the tasks?
//!
//! Every task belongs to a [`Tasks`], which ends it when it is stopped or dropped: a client has one for its monitors, one
//! for its pools, and its resolver one. Beside them there are only look-ups by the operating system, on few threads of
//! their own, and key derivation and file reading on the runtime's blocking pool, which are awaited.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinSet};

/// Owns a set of tasks on one runtime; they end when it is stopped or dropped.
#[derive(Debug)]
pub(crate) struct Tasks {
    runtime: Handle,
    set: Mutex<Option<JoinSet<()>>>,
    lifeline: Lifeline,
    /// The task that holds the other end of the lifeline.
    anchor: AbortHandle,
}

/// Tells whether tasks are kept: it ends with them, or with their runtime.
#[derive(Clone, Debug)]
pub(crate) struct Lifeline(watch::Receiver<()>);

/// How long stopping waits for tasks that have been told to end: those of a runtime that nobody drives never do.
const STOP_LIMIT: Duration = Duration::from_secs(1);

impl Lifeline {
    /// Waits until the tasks are no longer kept.
    pub(crate) async fn ended(&self) {
        // Nothing is ever sent: the only news is the end.
        while self.0.clone().changed().await.is_ok() {}
    }

    fn holds(&self) -> bool {
        self.0.has_changed().is_ok()
    }
}

impl Tasks {
    /// Makes an empty set on the current runtime; `None` outside of one.
    #[allow(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub(crate) fn new() -> Option<Self> {
        let runtime = Handle::try_current().ok()?;
        let (anchored, lifeline) = watch::channel(());
        let mut set = JoinSet::new();
        let anchor = set.spawn_on(
            async move {
                std::future::pending::<()>().await;
                drop(anchored);
            },
            &runtime,
        );
        Some(Self { runtime, set: Mutex::new(Some(set)), lifeline: Lifeline(lifeline), anchor })
    }

    /// Starts a task; does nothing once stopped.
    #[allow(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub(crate) fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let mut set = self.lock();
        if let Some(set) = set.as_mut() {
            reap(set);
            tracing::trace!(task = name, "task starts");
            set.spawn_on(future, &self.runtime);
        }
    }

    /// Tells whether the runtime that the tasks were started on still keeps them.
    pub(crate) fn is_alive(&self) -> bool {
        self.lifeline.holds()
    }

    /// Returns what ends with the tasks.
    pub(crate) fn lifeline(&self) -> Lifeline {
        self.lifeline.clone()
    }

    /// Returns how many tasks are running, without the set's own.
    pub(crate) fn count(&self) -> usize {
        let mut set = self.lock();
        set.as_mut().map_or(0, |set| {
            reap(set);
            set.len().saturating_sub(1)
        })
    }

    /// Ends all tasks without waiting for them.
    pub(crate) fn abort(&self) {
        drop(self.lock().take());
    }

    /// Waits until all tasks have ended by themselves, for as long as the limit allows, and ends the rest.
    pub(crate) async fn finish(&self, limit: Duration) {
        self.anchor.abort();
        let set = self.lock().take();
        if let Some(mut set) = set {
            // What has not ended by then is ended when the set is dropped.
            let ended = async { while set.join_next().await.is_some() {} };
            drop(tokio::time::timeout(limit, ended).await);
        }
    }

    /// Ends all tasks and waits until they are gone.
    pub(crate) async fn stop(&self) {
        let set = self.lock().take();
        if let Some(mut set) = set {
            set.abort_all();
            let ended = async { while set.join_next().await.is_some() {} };
            drop(tokio::time::timeout(STOP_LIMIT, ended).await);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<JoinSet<()>>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes the tasks that have ended; one that panicked is told, since nobody else will.
fn reap(set: &mut JoinSet<()>) {
    while let Some(ended) = set.try_join_next() {
        if ended.as_ref().is_err_and(JoinError::is_panic) {
            tracing::error!(error = ?ended, "a task has panicked");
        }
    }
}
