//! What does a thread keep at hand for its calls?
//!
//! The way to the servers, sessions, and a copy of the newest cluster time: threads seldom meet, but for news.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::call::SessionInUse;
use super::running::ClientCore;
use crate::error::Result;
use crate::io::entropy::entropy;
use crate::io::topology::select::{SelectedServer, SelectionSource};
use crate::operation::cluster_time::ClusterTime;
use crate::operation::session::{ServerSession, SessionPool};
use crate::selection::Criteria;

/// Is what the calls of a thread find without another's help.
pub(super) struct ThreadCache {
    epoch: u64,
    source: Option<Arc<SelectionSource>>,
    /// Numbers the choices.
    draws: u64,
    /// When the clocks are looked at again.
    look_due: Option<Instant>,
    pub(super) sessions: SessionPool,
    pub(super) cluster_time: Arc<ClusterTime>,
}

/// How long nobody looks at the clocks again who shares a thread_cache: a busy client need not look for every command.
const LOOK_EVERY: Duration = Duration::from_micros(50);

impl ThreadCache {
    pub(super) fn new() -> Self {
        Self { epoch: u64::MAX, source: None, draws: 0, look_due: None, sessions: SessionPool::default(), cluster_time: Arc::default() }
    }
}

impl ClientCore {
    /// Chooses a server, if the client runs and one suits now.
    pub(super) fn select_now(&self, criteria: &Criteria, now: Instant) -> Result<Option<SelectedServer>> {
        let epoch = self.epoch.load(Ordering::Acquire);
        let mut thread_cache = self.thread_caches.own();
        if thread_cache.epoch != epoch {
            thread_cache.epoch = epoch;
            thread_cache.source = self.open().map(|driver| {
                // Threads choose apart from each other.
                thread_cache.draws = SmallRng::seed_from_u64(driver.draw()).next_u64();
                let snapshot = driver.snapshot();
                driver.source(snapshot)
            });
        }
        thread_cache.draws = thread_cache.draws.wrapping_add(1);
        let is_look_due = thread_cache.look_due.is_none_or(|due| due <= now);
        if is_look_due {
            thread_cache.look_due = Some(now + LOOK_EVERY);
        }
        let (source, mut random) = (thread_cache.source.clone(), SmallRng::seed_from_u64(thread_cache.draws));
        // Not under the lock: an application's selector may take its time.
        drop(thread_cache);
        let Some(source) = source.filter(|source| source.driver.tasks().is_alive()) else { return Ok(None) };
        if is_look_due {
            source.driver.check_clocks();
        }
        source.choose(criteria, &mut random)
    }

    /// Makes what the thread_caches know of the servers out of date, and lets go of it.
    pub(super) fn clear_thread_caches(&self) {
        self.epoch.fetch_add(1, Ordering::Release);
        for mut thread_cache in self.thread_caches.each() {
            thread_cache.source = None;
        }
    }

    /// Takes the session that came back last to this thread_cache, or else to another that is not in use, or makes one.
    #[inline]
    pub(super) fn take_session(&self, thread_cache: &mut ThreadCache, timeout: Duration, now: Instant) -> Result<SessionInUse> {
        let own = thread_cache.sessions.take(timeout, now);
        let kept = own.or_else(|| self.thread_caches.idle().find_map(|mut other| other.sessions.take(timeout, now)));
        let session = match kept {
            Some(session) => session,
            None => self.make_session(now)?,
        };
        Ok(SessionInUse { session, timeout })
    }

    /// Makes a session that shutting down finds, wherever it is then.
    #[cold]
    fn make_session(&self, now: Instant) -> Result<ServerSession> {
        let session = ServerSession::new(entropy()?, now);
        self.register().enter(&session);
        Ok(session)
    }

    /// Takes a session back that was part of nothing unfinished.
    #[inline]
    pub(super) fn put_session(&self, SessionInUse { session, timeout }: SessionInUse, now: Instant) {
        self.thread_caches.own().sessions.put(session, timeout, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Client;
    use crate::io::clock;

    const TIMEOUT: Duration = Duration::from_secs(1800);

    fn taken(core: &ClientCore, now: Instant) -> SessionInUse {
        core.take_session(&mut core.thread_caches.own(), TIMEOUT, now).expect("a session")
    }

    #[test]
    fn session_that_came_back_to_another_thread_cache_is_found() {
        let client = Client::new("mongodb://a.example/").expect("client");
        let (core, now) = (client.core(), clock::now());
        let in_use = taken(core, now);
        let first = in_use.session.clone();
        std::thread::scope(|scope| scope.spawn(|| core.put_session(in_use, now)).join()).expect("put");
        let in_use = taken(core, now);
        assert_eq!(in_use.session.lsid(), first.lsid());
        assert_ne!(taken(core, now).session.lsid(), first.lsid(), "it is in use");
        core.put_session(in_use, now);
        assert_eq!(taken(core, now).session.lsid(), first.lsid());
    }

    /// A command of 100,000 documents, each of which is copied when it is encoded.
    #[cfg(feature = "sandbox")]
    #[tokio::test]
    async fn thread_cache_is_unlocked_while_a_large_command_is_encoded() {
        use std::sync::atomic::{AtomicBool, AtomicU64};
        use std::task::Poll;

        use bson::{doc, rawdoc};

        let sandbox = crate::Sandbox::builder().members(1).start().await.expect("sandbox");
        let client = Client::new(sandbox.uri()).expect("client");
        client.warm_up().await.expect("warm");
        let thread_caches = client.core().thread_caches.each().count();
        let document = rawdoc! { "text": "x".repeat(100) };
        let (ends, looks, held) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        for _ in 0..100 {
            let insert = client.database("test").run_command(doc! { "insert": "things" });
            let mut insert = insert.documents("documents", vec![document.clone(); 100_000]).into_future();
            ends.store(false, Ordering::SeqCst);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !ends.load(Ordering::SeqCst) {
                        let idle = client.core().thread_caches.idle().count();
                        looks.fetch_add(1, Ordering::SeqCst);
                        held.fetch_add(u64::from(idle < thread_caches), Ordering::SeqCst);
                    }
                });
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                // Goes from the command to the written message, as far as the socket takes it.
                assert!(matches!(std::pin::Pin::new(&mut insert).poll(&mut context), Poll::Pending));
                ends.store(true, Ordering::SeqCst);
            });
            drop(insert);
            if looks.load(Ordering::SeqCst) >= 100 {
                break;
            }
        }
        let (looks, held) = (looks.into_inner(), held.into_inner());
        assert!(looks >= 100 && held < looks / 4, "held at {held} of {looks} looks");
        client.shutdown().await;
    }
}
