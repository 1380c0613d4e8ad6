//! The owner of tasks.
//!
//! Every task belongs to a [`Tasks`], which ends it when it is stopped or dropped: a client has one for its monitors, one for
//! its pools, and its resolver one. All other work is look-ups by the operating system, on few threads of their own, and key
//! derivation and file reading on the runtime's blocking pool, which are awaited.
//!
//! A task that panics is not restarted alone, because others may rely on its state: all sets of its group end, and the client's
//! next use starts everything anew, as after the end of a runtime.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::clock;
use crate::error::{Error, ErrorKind};

/// A set of tasks on one runtime; they end when it is stopped or dropped.
#[derive(Debug)]
pub(crate) struct Tasks {
    runtime: Handle,
    set: Arc<TaskSet>,
    lifeline: Lifeline,
    /// The task that holds the other end of the lifeline.
    anchor: AbortHandle,
    group: Arc<TaskGroup>,
}

/// The tasks of one set; `None` once it has been stopped.
type TaskSet = Mutex<Option<JoinSet<()>>>;

/// The sets that end together when a task of one of them panics.
#[derive(Debug, Default)]
struct TaskGroup {
    sets: Mutex<Vec<Weak<TaskSet>>>,
    has_panicked: AtomicBool,
}

/// A signal that the tasks have ended, or their runtime has.
#[derive(Clone, Debug)]
pub(crate) struct Lifeline(watch::Receiver<()>);

/// How long `stop` waits for aborted tasks: on a runtime that nobody drives they never end.
const STOP_LIMIT: Duration = Duration::from_secs(1);

impl Lifeline {
    /// Waits until the tasks have ended.
    pub(crate) async fn ended(&self) {
        // Nothing is ever sent: the only event is the end.
        while self.0.clone().changed().await.is_ok() {}
    }

    fn holds(&self) -> bool {
        self.0.has_changed().is_ok()
    }
}

impl Tasks {
    /// Creates an empty set on the current runtime; `None` outside of a runtime.
    pub(crate) fn new() -> Option<Self> {
        Self::of(Arc::default())
    }

    /// Creates a set on the current runtime in the same group: both end when a task of either panics.
    pub(crate) fn sibling(&self) -> Option<Self> {
        Self::of(Arc::clone(&self.group))
    }

    #[allow(clippy::disallowed_methods, reason = "the one place that spawns")]
    fn of(group: Arc<TaskGroup>) -> Option<Self> {
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
        let set = Arc::new(Mutex::new(Some(set)));
        group.lock().push(Arc::downgrade(&set));
        Some(Self { runtime, set, lifeline: Lifeline(lifeline), anchor, group })
    }

    /// Starts a task; does nothing once stopped.
    ///
    /// May be called under a lock: nothing foreign runs in here. A future that the ending runtime does not accept is dropped
    /// after the set's lock was released: its drop may start other tasks.
    #[allow(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub(crate) fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let kept = Arc::new(Mutex::new(Some(Box::pin(future))));
        let (taken, group) = (Arc::clone(&kept), Arc::clone(&self.group));
        let task = async move {
            let future = taken.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(taken);
            let Some(future) = future else { return };
            tracing::trace!(task = name, "task starts");
            if let Err(panic) = AssertUnwindSafe(future).catch_unwind().await {
                group.fail(name, &*panic);
            }
        };
        let mut set = lock(&self.set);
        if let Some(set) = set.as_mut() {
            while set.try_join_next().is_some() {}
            set.spawn_on(task, &self.runtime);
        }
        drop(set);
        drop(kept);
    }

    /// Returns whether the tasks' runtime still runs them.
    pub(crate) fn is_alive(&self) -> bool {
        self.lifeline.holds()
    }

    /// Returns a signal for the end of the tasks.
    pub(crate) fn lifeline(&self) -> Lifeline {
        self.lifeline.clone()
    }

    /// Returns the error for callers that relied on tasks that have ended without a shutdown.
    pub(crate) fn lost(&self) -> Error {
        if self.group.has_panicked.load(Ordering::Acquire) {
            let text = "a background task of the client panicked, and all its tasks have ended; the next call restarts them";
            return Error::new(ErrorKind::Shutdown, text);
        }
        runtime_ended()
    }

    /// Returns the number of running tasks, without the set's own.
    pub(crate) fn count(&self) -> usize {
        let mut set = lock(&self.set);
        set.as_mut().map_or(0, |set| {
            while set.try_join_next().is_some() {}
            set.len().saturating_sub(1)
        })
    }

    /// Ends all tasks without waiting for them.
    pub(crate) fn abort(&self) {
        let set = lock(&self.set).take();
        drop(set);
    }

    /// Waits until all tasks have ended by themselves, up to a time limit, and aborts the rest.
    pub(crate) async fn finish(&self, limit: Duration) {
        self.anchor.abort();
        let set = lock(&self.set).take();
        if let Some(mut set) = set {
            // The remaining tasks are aborted when the set is dropped.
            let ended = async { while set.join_next().await.is_some() {} };
            clock::until(clock::now() + limit, ended).await;
        }
    }

    /// Aborts all tasks and waits until they have ended.
    pub(crate) async fn stop(&self) {
        let set = lock(&self.set).take();
        if let Some(mut set) = set {
            set.abort_all();
            let ended = async { while set.join_next().await.is_some() {} };
            clock::until(clock::now() + STOP_LIMIT, ended).await;
        }
    }
}

impl TaskGroup {
    fn lock(&self) -> MutexGuard<'_, Vec<Weak<TaskSet>>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all sets of the group because a task has panicked.
    fn fail(&self, name: &str, panic: &(dyn Any + Send)) {
        let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        tracing::error!(task = name, panic = text, "a task has panicked: all tasks of the client end, its next use restarts them");
        self.has_panicked.store(true, Ordering::Release);
        let sets = std::mem::take(&mut *self.lock());
        for set in sets.iter().filter_map(Weak::upgrade) {
            let tasks = lock(&set).take();
            drop(tasks);
        }
    }
}

fn lock(set: &TaskSet) -> MutexGuard<'_, Option<JoinSet<()>>> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the error for callers that relied on the tasks of a runtime that has ended.
pub(crate) fn runtime_ended() -> Error {
    Error::new(ErrorKind::Shutdown, "the runtime of the client's tasks has ended; the next call restarts them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn task_that_panics_ends_all_sets_of_its_group() {
        let first = Tasks::new().expect("a runtime");
        let (second, other) = (first.sibling().expect("a runtime"), Tasks::new().expect("a runtime"));
        first.spawn("waits", std::future::pending());
        second.spawn("panics", async { panic!("out of luck") });
        tokio::time::timeout(Duration::from_secs(30), async { tokio::join!(first.lifeline.ended(), second.lifeline.ended()) })
            .await
            .expect("they end");
        assert!(!first.is_alive() && !second.is_alive() && other.is_alive());
        assert!(first.lost().to_string().contains("panicked") && other.lost().to_string().contains("runtime"));
        second.spawn("too late", async { panic!("nobody starts this") });
        assert_eq!((first.count(), second.count()), (0, 0));
    }

    /// A future that is dropped because its runtime has ended may start further tasks in its drop.
    #[test]
    fn future_that_is_not_taken_is_dropped_without_a_lock() {
        struct Again(Weak<Tasks>);
        impl Drop for Again {
            fn drop(&mut self) {
                if let Some(tasks) = self.0.upgrade() {
                    tasks.spawn("again", async {});
                }
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let tasks = Arc::new(runtime.block_on(async { Tasks::new() }).expect("a set"));
        drop(runtime);
        assert!(!tasks.is_alive());
        let again = Again(Arc::downgrade(&tasks));
        let (tell, done) = std::sync::mpsc::channel();
        #[allow(clippy::disallowed_methods, reason = "a deadlock must not hang the test")]
        std::thread::spawn(move || {
            tasks.spawn("not taken", async move { drop(again) });
            tell.send(()).expect("somebody waits");
        });
        done.recv_timeout(Duration::from_secs(30)).expect("no deadlock");
    }
}
