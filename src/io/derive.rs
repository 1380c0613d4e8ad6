//! Where are SCRAM keys derived, and how is that stopped?
//!
//! On a thread of the runtime's blocking pool, in slices: between two of them a caller may go away, and with the last caller
//! the derivation ends. All callers of one derivation share it, and at most one slice of a client runs at any time. How keys
//! are derived is decided in `auth::scram::keys`.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::sync::Semaphore;

use crate::auth::scram::keys::{CacheKey, Derivation, Deriving, ScramKeyCache, ScramKeys};
use crate::error::{Error, ErrorKind, Stage};

/// The derivations of a client: those that are done, and those under way.
pub(crate) struct Derivations {
    shared: Mutex<DerivationState>,
    /// The one turn that callers take.
    turn: Arc<Semaphore>,
}

#[derive(Default)]
struct DerivationState {
    known: ScramKeyCache,
    under_way: Vec<(CacheKey, Weak<SharedDerivation>)>,
}

/// A derivation under way, kept by its callers.
struct SharedDerivation {
    deriving: Mutex<Deriving>,
    keys: OnceLock<ScramKeys>,
}

/// How many iterations run between two looks at whether anybody still wants the keys: a few milliseconds.
const SLICE_ITERATIONS: u32 = 8192;

impl Derivations {
    pub(crate) fn new() -> Self {
        Self { shared: Mutex::default(), turn: Arc::new(Semaphore::new(1)) }
    }

    /// Derives keys, unless they are known. Can be dropped at any moment.
    ///
    /// # Errors
    /// [`ErrorKind::Shutdown`] if the runtime ends meanwhile.
    pub(crate) async fn derive(&self, derivation: &Derivation) -> Result<ScramKeys, Error> {
        let key = derivation.cache_key();
        let flight = {
            let mut shared = self.lock();
            if let Some(keys) = shared.known.get(&key) {
                return Ok(keys);
            }
            shared.join(&key, derivation)
        };
        loop {
            let turn = Arc::clone(&self.turn).acquire_owned().await;
            let turn = turn.map_err(|error| Error::new(ErrorKind::Internal, "no turn to derive keys").at(Stage::Auth).because(error))?;
            if let Some(keys) = flight.keys.get() {
                return Ok(keys.clone());
            }
            let own = Arc::clone(&flight);
            #[allow(clippy::disallowed_methods, reason = "ends after a slice, and is awaited here")]
            let slice = tokio::task::spawn_blocking(move || {
                own.advance();
                drop(turn);
            });
            slice.await.map_err(|error| Error::new(ErrorKind::Shutdown, "the runtime ends").at(Stage::Auth).because(error))?;
            if let Some(keys) = flight.keys.get() {
                self.lock().known.put(key, keys.clone());
                return Ok(keys.clone());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, DerivationState> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DerivationState {
    /// Returns the flight of a derivation, which begins with its first caller.
    fn join(&mut self, key: &CacheKey, derivation: &Derivation) -> Arc<SharedDerivation> {
        self.under_way.retain(|(_, flight)| flight.strong_count() > 0);
        let found = self.under_way.iter().find(|(own, _)| own == key).and_then(|(_, flight)| flight.upgrade());
        found.unwrap_or_else(|| {
            let flight = Arc::new(SharedDerivation { deriving: Mutex::new(derivation.begin()), keys: OnceLock::new() });
            self.under_way.push((key.clone(), Arc::downgrade(&flight)));
            flight
        })
    }
}

impl SharedDerivation {
    fn advance(&self) {
        let mut deriving = self.deriving.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keys) = deriving.advance(SLICE_ITERATIONS) {
            // Fails only if they are there already.
            drop(self.keys.set(keys));
        }
    }
}

#[cfg(test)]
mod tests;
