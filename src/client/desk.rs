//! What does a thread keep at hand for its calls?
//!
//! The way to the servers, sessions, and a copy of the newest driver time: threads seldom meet, but for news.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::call::Lent;
use super::running::Inner;
use crate::error::Result;
use crate::io::entropy::entropy;
use crate::io::snapshot::{SelectedServer, SelectionSource};
use crate::op::cluster_time::ClusterTime;
use crate::op::session::{ServerSession, SessionPool};
use crate::selection::Criteria;

/// Is what the calls of a thread find without another's help.
pub(super) struct Desk {
    epoch: u64,
    source: Option<Arc<SelectionSource>>,
    /// Numbers the choices.
    draws: u64,
    /// When the clocks are looked at again.
    look_due: Option<Instant>,
    pub(super) sessions: SessionPool,
    pub(super) cluster_time: Arc<ClusterTime>,
}

/// How long nobody looks at the clocks again who shares a desk: a busy client need not look for every command.
const LOOK_EVERY: Duration = Duration::from_micros(50);

impl Desk {
    pub(super) fn new() -> Self {
        Self { epoch: u64::MAX, source: None, draws: 0, look_due: None, sessions: SessionPool::default(), cluster_time: Arc::default() }
    }
}

impl Inner {
    /// Chooses a server, if the client runs and one suits now.
    pub(super) fn select_now(&self, criteria: &Criteria, now: Instant) -> Result<Option<SelectedServer>> {
        let epoch = self.epoch.load(Ordering::Acquire);
        let mut desk = self.desks.own();
        if desk.epoch != epoch {
            desk.epoch = epoch;
            desk.source = self.open().map(|driver| {
                // Threads choose apart from each other.
                desk.draws = SmallRng::seed_from_u64(driver.draw()).next_u64();
                let snapshot = driver.snapshot();
                driver.source(snapshot)
            });
        }
        desk.draws = desk.draws.wrapping_add(1);
        let is_look_due = desk.look_due.is_none_or(|due| due <= now);
        if is_look_due {
            desk.look_due = Some(now + LOOK_EVERY);
        }
        let (source, mut random) = (desk.source.clone(), SmallRng::seed_from_u64(desk.draws));
        // Not under the lock: an application's selector may take its time.
        drop(desk);
        let Some(source) = source.filter(|source| source.driver.tasks().is_alive()) else { return Ok(None) };
        if is_look_due {
            source.driver.look_at_clocks();
        }
        source.choose(criteria, &mut random)
    }

    /// Makes what the desks know of the servers out of date, and lets go of it.
    pub(super) fn clear_desks(&self) {
        self.epoch.fetch_add(1, Ordering::Release);
        for mut desk in self.desks.each() {
            desk.source = None;
        }
    }

    /// Takes the session that came back last to this desk, or else to another that is not in use, or makes one.
    #[inline]
    pub(super) fn take_session(&self, desk: &mut Desk, timeout: Duration, now: Instant) -> Result<Lent> {
        let own = desk.sessions.take(timeout, now);
        let kept = own.or_else(|| self.desks.idle().find_map(|mut other| other.sessions.take(timeout, now)));
        let session = match kept {
            Some(session) => session,
            None => self.make_session(now)?,
        };
        Ok(Lent { session, timeout })
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
    pub(super) fn put_session(&self, Lent { session, timeout }: Lent, now: Instant) {
        self.desks.own().sessions.put(session, timeout, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Client;
    use crate::io::clock;

    const TIMEOUT: Duration = Duration::from_secs(1800);

    fn taken(inner: &Inner, now: Instant) -> Lent {
        inner.take_session(&mut inner.desks.own(), TIMEOUT, now).expect("a session")
    }

    #[test]
    fn session_that_came_back_to_another_desk_is_found() {
        let client = Client::new("mongodb://a.example/").expect("client");
        let (inner, now) = (client.inner(), clock::now());
        let lent = taken(inner, now);
        let first = lent.session.clone();
        std::thread::scope(|scope| scope.spawn(|| inner.put_session(lent, now)).join()).expect("put");
        let lent = taken(inner, now);
        assert_eq!(lent.session.lsid(), first.lsid());
        assert_ne!(taken(inner, now).session.lsid(), first.lsid(), "it is in use");
        inner.put_session(lent, now);
        assert_eq!(taken(inner, now).session.lsid(), first.lsid());
    }

    /// A command of 100,000 documents, each of which is copied when it is encoded.
    #[cfg(feature = "sandbox")]
    #[tokio::test]
    async fn desk_is_free_while_a_large_command_is_encoded() {
        use std::sync::atomic::{AtomicBool, AtomicU64};
        use std::task::Poll;

        use bson::{doc, rawdoc};

        let sandbox = crate::Sandbox::builder().members(1).start().await.expect("sandbox");
        let client = Client::new(sandbox.uri()).expect("client");
        client.warm_up().await.expect("warm");
        let desks = client.inner().desks.each().count();
        let document = rawdoc! { "text": "x".repeat(100) };
        let (ends, looks, held) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        for _ in 0..100 {
            let insert = client.database("test").run_command(doc! { "insert": "things" });
            let mut insert = insert.documents("documents", vec![document.clone(); 100_000]).into_future();
            ends.store(false, Ordering::SeqCst);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !ends.load(Ordering::SeqCst) {
                        let idle = client.inner().desks.idle().count();
                        looks.fetch_add(1, Ordering::SeqCst);
                        held.fetch_add(u64::from(idle < desks), Ordering::SeqCst);
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
