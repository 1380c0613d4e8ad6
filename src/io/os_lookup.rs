//! The operating system's look-up of a name (`getaddrinfo`), on threads of its own.
//!
//! The call blocks and can't be cancelled. A call that does not return in time counts as hung and is replaced by another
//! thread, so that it holds up its own name only; the number of threads is limited all the same. Does not decide which
//! names are looked up here (`dns::system_config`).

use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::clock;
use crate::dns::names;
use crate::error::{Error, ErrorKind, LimitValue, Stage};

/// A function that blocks until it has a name's addresses. Tests bring their own.
pub(crate) type GetAddresses = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// The operating system's look-up; clones share its threads.
#[derive(Clone)]
pub(crate) struct OsLookup {
    get_addresses: Arc<GetAddresses>,
    hung_after: Duration,
    /// One permit for each thread at work.
    working: Arc<Semaphore>,
    /// One permit for each thread whose call hangs.
    hung: Arc<Semaphore>,
    /// One permit for each look-up that runs or waits for a thread.
    places: Arc<Semaphore>,
}

impl OsLookup {
    /// Creates the look-up by `getaddrinfo`.
    pub(crate) fn new() -> Self {
        Self::with(Arc::new(get_addresses), HUNG_AFTER)
    }

    /// Creates a look-up by a function; a call of it counts as hung after `hung_after`.
    pub(crate) fn with(get_addresses: Arc<GetAddresses>, hung_after: Duration) -> Self {
        let [working, hung, places] = [OS_THREADS_MAX, OS_THREADS_HUNG_MAX, OS_LOOKUPS_MAX].map(|count| Arc::new(Semaphore::new(count)));
        Self { get_addresses, hung_after, working, hung, places }
    }

    /// Returns the addresses of a name, in the system's order, each once. `on_wait` receives what the look-up waits for.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchName`] and [`ErrorKind::NoAddresses`] if the system says so; otherwise
    /// [`ErrorKind::DnsFailed`], also if too many look-ups wait already, or [`ErrorKind::LocalResources`]. If the future is
    /// dropped, its thread continues until the system returns, and counts as hung.
    pub(crate) async fn lookup(&self, name: String, on_wait: impl Fn(String)) -> Result<Vec<IpAddr>, Error> {
        let Ok(_place) = self.places.try_acquire() else {
            let error = Error::new(ErrorKind::DnsFailed, "too many names wait for the operating system's look-up").at(Stage::Dns);
            return Err(error.against("OS_LOOKUPS_MAX", LimitValue::Count(OS_LOOKUPS_MAX as u64)));
        };
        let thread = match Arc::clone(&self.working).try_acquire_owned() {
            Ok(thread) => thread,
            Err(_) => {
                on_wait(no_thread());
                Arc::clone(&self.working).acquire_owned().await.map_err(|_| no_answer())?
            }
        };
        on_wait(RUNNING.to_owned());
        let state = Arc::new(Mutex::new(ThreadState::Working(thread)));
        let mut receiver = self.start(name, Arc::clone(&state))?;
        let call = RunningCall { state, hung: &self.hung };
        let hung_at = clock::now().checked_add(self.hung_after);
        tokio::select! {
            biased;
            outcome = &mut receiver => return outcome.unwrap_or_else(|_| Err(no_answer())),
            () = clock::sleep_until(hung_at) => {}
        }
        tokio::select! {
            biased;
            outcome = &mut receiver => return outcome.unwrap_or_else(|_| Err(no_answer())),
            Ok(permit) = Arc::clone(&self.hung).acquire_owned() => call.replace(permit),
        }
        receiver.await.unwrap_or_else(|_| Err(no_answer()))
    }

    /// Starts the thread of one call.
    fn start(&self, name: String, state: Arc<Mutex<ThreadState>>) -> Result<oneshot::Receiver<Result<Vec<IpAddr>, Error>>, Error> {
        let (sender, receiver) = oneshot::channel();
        let get_addresses = Arc::clone(&self.get_addresses);
        #[allow(clippy::disallowed_methods, reason = "the one place that starts threads: bounded, and each ends with its look-up")]
        let spawned = std::thread::Builder::new().name("mongolink-getaddrinfo".into()).spawn(move || {
            let outcome = get_addresses(&name).map(without_repetitions).map_err(failure);
            *state.lock().unwrap_or_else(PoisonError::into_inner) = ThreadState::Returned;
            // The caller may be gone.
            drop(sender.send(outcome));
        });
        spawned.map(|_| receiver).map_err(|error| {
            let text = format!("no thread could be started for the operating system's look-up: {error}");
            Error::new(ErrorKind::LocalResources, text).at(Stage::Dns).because(error)
        })
    }
}

/// The permit that a thread holds.
enum ThreadState {
    Working(#[allow(dead_code, reason = "held until the state changes")] OwnedSemaphorePermit),
    Hung(#[allow(dead_code, reason = "held until the state changes")] OwnedSemaphorePermit),
    Returned,
}

/// A call that has not returned. Dropped before that, it counts as hung if there is a permit left.
struct RunningCall<'a> {
    state: Arc<Mutex<ThreadState>>,
    hung: &'a Arc<Semaphore>,
}

impl RunningCall<'_> {
    /// Gives the thread's permit back, so that another thread can take its place.
    fn replace(&self, permit: OwnedSemaphorePermit) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let ThreadState::Working(_) = *state {
            *state = ThreadState::Hung(permit);
        }
    }
}

impl Drop for RunningCall<'_> {
    fn drop(&mut self) {
        if let Ok(permit) = Arc::clone(self.hung).try_acquire_owned() {
            self.replace(permit);
        }
    }
}

fn get_addresses(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok((name, 0u16).to_socket_addrs()?.map(|address| address.ip()).collect())
}

fn without_repetitions(found: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

fn failure(error: io::Error) -> Error {
    let text = error.to_string();
    Error::new(names::system_failure_kind(&text), format!("the operating system's look-up: {text}")).at(Stage::Dns).because(error)
}

fn no_answer() -> Error {
    Error::new(ErrorKind::DnsFailed, "the operating system's look-up ended without an answer").at(Stage::Dns)
}

fn no_thread() -> String {
    format!(
        "all threads for the operating system's look-up are busy with other names (limits OS_THREADS_MAX of {OS_THREADS_MAX} and \
         OS_THREADS_HUNG_MAX of {OS_THREADS_HUNG_MAX})"
    )
}

/// What a running call waits for.
const RUNNING: &str = "the operating system's look-up (getaddrinfo) did not return";

/// Maximum number of threads that look up names at once, without those that hang.
const OS_THREADS_MAX: usize = 4;

/// Maximum number of hung threads that are replaced: together with [`OS_THREADS_MAX`], no client has more than 36 threads.
const OS_THREADS_HUNG_MAX: usize = 32;

/// How long a call may take before it counts as hung. Answers of the system mostly take milliseconds.
const HUNG_AFTER: Duration = Duration::from_secs(1);

/// Maximum number of look-ups that run or wait for a thread.
const OS_LOOKUPS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Condvar;

    use super::*;

    /// A name service whose calls for some names hang until they are released.
    #[derive(Clone, Default)]
    struct NameService(Arc<(Mutex<BTreeSet<String>>, Condvar)>);

    impl NameService {
        /// Returns a look-up in which names that start with `hung` hang.
        fn lookup(&self) -> OsLookup {
            let service = self.clone();
            let get_addresses = move |name: &str| {
                if name.starts_with("hung") {
                    let (hanging, changed) = &*service.0;
                    let mut guard = hanging.lock().expect("names");
                    guard.insert(name.to_owned());
                    drop(changed.wait_while(guard, |hanging| hanging.contains(name)).expect("names"));
                }
                Ok(vec![IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 1])])
            };
            OsLookup::with(Arc::new(get_addresses), Duration::from_millis(20))
        }

        fn hanging(&self) -> usize {
            self.0.0.lock().expect("names").len()
        }

        fn release(&self) {
            self.0.0.lock().expect("names").clear();
            self.0.1.notify_all();
        }
    }

    /// Starts look-ups that hang; dropping the set gives them up.
    fn hang(os: &OsLookup, count: usize) -> tokio::task::JoinSet<Result<Vec<IpAddr>, Error>> {
        let mut calls = tokio::task::JoinSet::new();
        for number in 0..count {
            let os = os.clone();
            #[allow(clippy::disallowed_methods, reason = "a task of the test's own")]
            calls.spawn(async move { os.lookup(format!("hung{number}.example"), |_| ()).await });
        }
        calls
    }

    async fn eventually(what: &str, is_so: impl Fn() -> bool) {
        for _ in 0..2000 {
            if is_so() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never: {what}");
    }

    fn permits(os: &OsLookup) -> [usize; 3] {
        [&os.working, &os.hung, &os.places].map(|permits| permits.available_permits())
    }

    const ALL: [usize; 3] = [OS_THREADS_MAX, OS_THREADS_HUNG_MAX, OS_LOOKUPS_MAX];

    #[tokio::test]
    async fn system_knows_localhost() {
        let os = OsLookup::new();
        for _ in 0..3 {
            let addresses = os.lookup("localhost".into(), |_| ()).await.expect("localhost");
            assert!(!addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
        }
        assert_eq!(permits(&os), ALL);
    }

    #[tokio::test]
    async fn hung_calls_are_replaced_up_to_a_limit() {
        let service = NameService::default();
        let os = service.lookup();
        let mut calls = hang(&os, OS_THREADS_MAX);
        let addresses = os.lookup("db.example".into(), |_| ()).await.expect("another thread");
        assert_eq!(addresses, [IpAddr::from([10, 0, 0, 1])]);

        calls.abort_all();
        while calls.join_next().await.is_some() {}
        let calls = hang(&os, 100);
        let threads_max = OS_THREADS_MAX + OS_THREADS_HUNG_MAX;
        eventually("all threads hang", || service.hanging() >= threads_max - OS_THREADS_MAX && os.working.available_permits() == 0).await;
        let waits_for = Mutex::new(String::new());
        let other = os.lookup("db.example".into(), |what| *waits_for.lock().expect("text") = what);
        assert!(tokio::time::timeout(Duration::from_millis(200), other).await.is_err(), "there is no thread left");
        let text = waits_for.lock().expect("text").clone();
        assert!(text.contains("OS_THREADS_MAX of 4") && text.contains("OS_THREADS_HUNG_MAX of 32"), "{text}");

        drop(calls);
        eventually("the threads end", || {
            service.release();
            permits(&os) == ALL
        })
        .await;
        os.lookup("db.example".into(), |_| ()).await.expect("a thread");
    }

    #[tokio::test]
    async fn given_up_call_is_replaced_at_once() {
        let service = NameService::default();
        let os = OsLookup { hung_after: Duration::from_secs(3600), ..service.lookup() };
        let mut calls = hang(&os, OS_THREADS_MAX);
        eventually("all threads hang", || service.hanging() == OS_THREADS_MAX).await;
        calls.abort_all();
        while calls.join_next().await.is_some() {}
        assert_eq!(permits(&os), [OS_THREADS_MAX, OS_THREADS_HUNG_MAX - OS_THREADS_MAX, OS_LOOKUPS_MAX]);
        service.release();
        eventually("the threads end", || permits(&os) == ALL).await;
    }

    #[tokio::test]
    async fn too_many_look_ups_are_refused_with_their_limit() {
        let os = OsLookup::new();
        let taken = Arc::clone(&os.places).acquire_many_owned(OS_LOOKUPS_MAX as u32).await.expect("places");
        let error = os.lookup("localhost".into(), |_| ()).await.expect_err("full");
        assert_eq!(error.limit().map(|limit| limit.name), Some("OS_LOOKUPS_MAX"));
        drop(taken);
    }
}
