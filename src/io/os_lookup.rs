//! How is the operating system asked for a name's addresses?
//!
//! `getaddrinfo` blocks and can't be cancelled, so it runs on threads of its own: at most four at once, each ends with its
//! look-up, and what waits for one is counted. Names that only the system knows (mDNS, NSS) come here after DNS had
//! nothing; when that is so is decided in `dns`.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};

use crate::error::{Error, ErrorKind, LimitValue, Stage};

/// Asks the operating system.
#[derive(Clone, Debug)]
pub(crate) struct OsLookup {
    /// One permit for each thread that may run.
    threads: Arc<Semaphore>,
    /// One permit for each look-up that may run or wait.
    places: Arc<Semaphore>,
}

impl OsLookup {
    pub(crate) fn new() -> Self {
        Self { threads: Arc::new(Semaphore::new(OS_THREADS_MAX)), places: Arc::new(Semaphore::new(OS_LOOKUPS_MAX)) }
    }

    /// Returns the addresses of a name, in the system's order, each once.
    ///
    /// # Errors
    /// [`ErrorKind::DnsFailed`]: the system has no answer, or too many questions are waiting already. Dropping the future
    /// gives up the answer; the thread keeps its place until the system returns.
    pub(crate) async fn lookup(&self, name: String) -> Result<Vec<IpAddr>, Error> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let error = Error::new(ErrorKind::DnsFailed, "too many names wait for the operating system's look-up").at(Stage::Dns);
            return Err(error.against("OS_LOOKUPS_MAX", LimitValue::Count(OS_LOOKUPS_MAX as u64)));
        };
        let Ok(thread) = Arc::clone(&self.threads).acquire_owned().await else { return Err(ended()) };
        let (sender, receiver) = oneshot::channel();
        #[allow(clippy::disallowed_methods, reason = "the one place that starts threads: bounded, and each ends with its look-up")]
        let spawned = std::thread::Builder::new().name("mongolink-getaddrinfo".into()).spawn(move || {
            let outcome = ask(&name);
            drop((thread, place));
            // Whoever asked may be gone.
            drop(sender.send(outcome));
        });
        match spawned {
            Ok(_) => receiver.await.unwrap_or_else(|_| Err(ended())),
            Err(error) => {
                let text = format!("no thread could be started for the operating system's look-up: {error}");
                Err(Error::new(ErrorKind::LocalResources, text).at(Stage::Dns).because(error))
            }
        }
    }
}

fn ask(name: &str) -> Result<Vec<IpAddr>, Error> {
    match (name, 0u16).to_socket_addrs() {
        Ok(found) => {
            let mut addresses: Vec<IpAddr> = Vec::new();
            for address in found.map(|socket| socket.ip()) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            Ok(addresses)
        }
        Err(error) => {
            Err(Error::new(ErrorKind::DnsFailed, format!("the operating system's look-up: {error}")).at(Stage::Dns).because(error))
        }
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::DnsFailed, "the operating system's look-up ended without an answer").at(Stage::Dns)
}

/// How many threads ask the operating system at once.
const OS_THREADS_MAX: usize = 4;

/// How many look-ups may be under way or waiting for a thread.
const OS_LOOKUPS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn system_knows_localhost() {
        let addresses = OsLookup::new().lookup("localhost".into()).await.expect("localhost");
        assert!(addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
    }

    #[tokio::test]
    async fn places_are_given_back() {
        let os = OsLookup::new();
        for _ in 0..3 {
            os.lookup("localhost".into()).await.expect("localhost");
        }
        assert_eq!((os.threads.available_permits(), os.places.available_permits()), (OS_THREADS_MAX, OS_LOOKUPS_MAX));
    }

    #[tokio::test]
    async fn full_house_is_refused_with_its_limit() {
        let os = OsLookup::new();
        let taken = Arc::clone(&os.places).acquire_many_owned(OS_LOOKUPS_MAX as u32).await.expect("places");
        let error = os.lookup("localhost".into()).await.expect_err("full");
        assert_eq!(error.limit().map(|limit| limit.name), Some("OS_LOOKUPS_MAX"));
        drop(taken);
    }
}
