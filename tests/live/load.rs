//! Callers that send commands during faults, and record the outcomes.
//!
//! They call all the time, and each call carries a number of its own, which must come back with the document it asked for.
//! Each notes when its calls began and ended, and how. Whether they are served as often as before is a matter of the machine
//! too, which others use: so it is compared with what callers get at the same time whose way is well.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mongolink::bson::{Document, RawDocumentBuf, doc, rawdoc};
use mongolink::{Client, ErrorKind, ReadPreference};
use tokio::task::JoinSet;

use crate::support::{CALL, CHANGE, eventually};

/// How many callers there are, unless a scenario says otherwise.
pub(crate) const CALLERS: usize = 30;

/// How many callers there are beside them whose way is well.
pub(crate) const BESIDE: usize = 6;

/// How long each call may take, by its own deadline.
const DEADLINE: Duration = Duration::from_secs(1);

/// How much later than its deadline a call may end on a busy machine.
const GRACE: Duration = Duration::from_secs(1);

/// How long a caller rests between calls, so that it is the network and not the machine that is tried.
const REST: Duration = Duration::from_millis(20);

/// How soon after a fault everything must be as before.
const RECOVERY: Duration = Duration::from_secs(1);

/// For how long the rate is measured.
const WINDOW: Duration = Duration::from_secs(1);

/// How long a pause has to be for the machine to have stood still: calls may fail for it.
pub(crate) const STILL: Duration = Duration::from_millis(200);

/// The number of parts of the time in which the rate is measured, so that a failure says when no call succeeded.
const PARTS: usize = 10;

/// How many documents there are to ask for.
const THINGS: i64 = 100;

/// The result of one call.
#[derive(Clone, Debug)]
struct Call {
    began: Instant,
    outcome: Result<(), String>,
}

/// The number of calls that began in each part of a window, and of those without a fault on their path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    here: [usize; PARTS],
    beside: [usize; PARTS],
}

impl Rate {
    /// Tells whether callers are served half as often as they were, had the machine as much time for them.
    ///
    /// Half of it leaves room for chance.
    fn is_half_of(&self, before: &Self) -> bool {
        let sum = |parts: &[usize; PARTS]| parts.iter().sum::<usize>();
        2 * sum(&self.here) * sum(&before.beside) >= sum(&before.here) * sum(&self.beside)
    }
}

/// Running callers.
pub(crate) struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

struct Shared {
    client: Client,
    preference: ReadPreference,
    stop: AtomicBool,
    next: AtomicI64,
    calls: Vec<Mutex<Vec<Call>>>,
}

impl Load {
    pub(crate) fn start(client: &Client, callers: usize, preference: ReadPreference) -> Self {
        let shared = Arc::new(Shared {
            client: client.clone(),
            preference,
            stop: AtomicBool::new(false),
            next: AtomicI64::new(0),
            calls: (0..callers).map(|_| Mutex::default()).collect(),
        });
        let mut tasks = JoinSet::new();
        for number in 0..callers {
            tasks.spawn(Arc::clone(&shared).call_on(number));
        }
        Self { shared, tasks }
    }

    /// Sees that every caller is served in a time without faults.
    pub(crate) async fn goes_well(&self) {
        self.has_begun().await;
        self.window(Instant::now()).await.expect("all is well");
    }

    /// Returns how often callers are served in a time without faults.
    pub(crate) async fn rate(&self, beside: &Self) -> Rate {
        tokio::join!(self.has_begun(), beside.has_begun());
        self.rate_from(Instant::now(), beside).await
    }

    /// Sees that from a second after the end of a fault everybody is served, about as often as before.
    pub(crate) async fn is_back(&self, before: Rate, ended: Instant, beside: &Self) {
        let now = self.rate_from(ended + RECOVERY, beside).await;
        assert!(now.is_half_of(&before), "calls that began in each tenth of a second, before the fault and after it:\n{before:?}\n{now:?}");
    }

    /// Counts the calls that have failed.
    pub(crate) fn failures(&self) -> usize {
        self.each().map(|calls| calls.iter().filter(|call| call.outcome.is_err()).count()).sum()
    }

    /// Ends the callers; tells how many calls failed.
    pub(crate) async fn end(mut self) -> usize {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no caller panics");
        }
        let calls: usize = self.each().map(|calls| calls.len()).sum();
        println!("{calls} calls, {} failures", self.failures());
        self.failures()
    }

    async fn has_begun(&self) {
        let well = |calls: &[Call]| calls.iter().filter(|call| call.outcome.is_ok()).count() >= 3;
        eventually("every caller is served", CHANGE, async || self.each().all(|calls| well(&calls))).await;
    }

    /// Counts the calls of a window. One in which a call fails is judged only if the machine did not stand still; else the next.
    async fn rate_from(&self, mut from: Instant, beside: &Self) -> Rate {
        loop {
            let (counted, pause) = with_pause(async { tokio::join!(self.window(from), beside.window(from)) }).await;
            match counted {
                (Ok(here), Ok(beside)) => return Rate { here, beside },
                (Err(why), _) | (_, Err(why)) => assert!(pause > STILL, "{why}"),
            }
            from = Instant::now() + RECOVERY;
        }
    }

    /// Waits until all calls that began within a window have ended, and returns when they began, or which of them failed.
    async fn window(&self, from: Instant) -> Result<[usize; PARTS], String> {
        let to = from + WINDOW;
        tokio::time::sleep_until(to.into()).await;
        let passed = |calls: &[Call]| calls.last().is_some_and(|call| call.began >= to);
        eventually("every caller goes on", CHANGE, async || !self.is_at_work() || self.each().all(|calls| passed(&calls))).await;
        assert!(self.is_at_work(), "a caller has ended: see its panic");
        let mut parts = [0; PARTS];
        for (number, calls) in self.each().enumerate() {
            let mut served = false;
            for call in calls.iter().filter(|call| (from..to).contains(&call.began)) {
                let at = call.began.saturating_duration_since(from);
                call.outcome.as_ref().map_err(|why| format!("caller {number}, begun {at:?} into the window: {why}"))?;
                let part = at.as_millis() * PARTS as u128 / WINDOW.as_millis();
                *parts.get_mut(part as usize).expect("within the window") += 1;
                served = true;
            }
            if !served {
                return Err(format!("caller {number} was not served"));
            }
        }
        Ok(parts)
    }

    /// Tells whether all callers live; one that panics has ended.
    fn is_at_work(&self) -> bool {
        Arc::strong_count(&self.shared) == self.shared.calls.len() + 1
    }

    fn each(&self) -> impl Iterator<Item = MutexGuard<'_, Vec<Call>>> {
        self.shared.calls.iter().map(|calls| calls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shared {
    async fn call_on(self: Arc<Self>, number: usize) {
        while !self.stop.load(Ordering::Relaxed) {
            let call = self.call().await;
            self.calls.get(number).expect("one for each").lock().unwrap_or_else(PoisonError::into_inner).push(call);
            tokio::time::sleep(REST).await;
        }
    }

    async fn call(&self) -> Call {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let thing = number % THINGS;
        let find = doc! { "find": "things", "filter": { "_id": thing }, "projection": { "text": 1, "number": { "$literal": number } } };
        let began = Instant::now();
        let find = self.client.database("luck").run_command(find).read_preference(self.preference.clone());
        let outcome = find.timeout(DEADLINE).await;
        let took = began.elapsed();
        assert!(took <= DEADLINE + GRACE, "a call took {took:?}, its deadline was {DEADLINE:?}: {outcome:?}");
        let outcome = match outcome {
            Ok(reply) => {
                let wanted = doc! { "_id": thing, "text": text(thing), "number": number };
                assert_eq!(documents(&reply), Some(vec![wanted]), "the reply to another request: {reply}");
                Ok(())
            }
            Err(error) => {
                assert!(error.stage().is_some(), "{error}");
                assert!(!matches!(error.kind(), ErrorKind::Internal | ErrorKind::Protocol), "{error}");
                Err(format!("after {took:?}: {error}"))
            }
        };
        Call { began, outcome }
    }
}

/// Returns also the longest time for which nothing went on meanwhile.
pub(crate) async fn with_pause<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let (mut work, mut longest) = (pin!(work), Duration::ZERO);
    loop {
        let before = Instant::now();
        let outcome = tokio::time::timeout(Duration::from_millis(10), &mut work).await;
        longest = longest.max(before.elapsed());
        if let Ok(outcome) = outcome {
            return (outcome, longest);
        }
    }
}

/// Makes the documents that callers ask for, on so many servers.
pub(crate) async fn insert_things(client: &Client, servers: i32) {
    let things: Vec<RawDocumentBuf> = (0..THINGS).map(|thing| rawdoc! { "_id": thing, "text": text(thing) }).collect();
    let insert =
        client.database("luck").run_command(doc! { "insert": "things", "writeConcern": { "w": servers } }).documents("documents", things);
    let reply = insert.timeout(CALL).await.expect("inserted");
    assert_eq!(reply.get_i32("n").ok().map(i64::from), Some(THINGS), "{reply}");
}

fn text(thing: i64) -> String {
    format!("thing {thing} ").repeat(20)
}

fn documents(reply: &Document) -> Option<Vec<Document>> {
    let batch = reply.get_document("cursor").ok()?.get_array("firstBatch").ok()?;
    batch.iter().map(|document| document.as_document().cloned()).collect()
}
