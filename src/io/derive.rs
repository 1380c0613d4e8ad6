//! The derivation of SCRAM keys on the blocking pool.
//!
//! A derivation runs in slices: it stops between two slices once its last caller is gone. All callers of one derivation share
//! it, and at most one slice of a client runs at any time. Does not decide how keys are derived (`auth::scram::keys`).

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::sync::Semaphore;

use crate::auth::scram::keys::{CacheKey, Derivation, Deriving, ScramKeyCache, ScramKeys};
use crate::error::{Error, ErrorKind, Stage};

/// The derivations of a client: cached results, and derivations in progress.
pub(crate) struct Derivations {
    shared: Mutex<DerivationState>,
    /// The permit for running a slice.
    turn: Arc<Semaphore>,
}

#[derive(Default)]
struct DerivationState {
    known: ScramKeyCache,
    under_way: Vec<(CacheKey, Weak<SharedDerivation>)>,
}

/// A derivation in progress, kept by its callers.
struct SharedDerivation {
    deriving: Mutex<Deriving>,
    keys: OnceLock<ScramKeys>,
}

/// The number of iterations between two checks for remaining callers: a few milliseconds.
const SLICE_ITERATIONS: u32 = 8192;

impl Derivations {
    pub(crate) fn new() -> Self {
        Self { shared: Mutex::default(), turn: Arc::new(Semaphore::new(1)) }
    }

    /// Derives keys, unless they are cached. Can be dropped at any time.
    ///
    /// # Errors
    /// [`ErrorKind::Shutdown`] if the runtime ends.
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
            let turn =
                turn.map_err(|error| Error::new(ErrorKind::Internal, "the key derivation is closed").at(Stage::Auth).because(error))?;
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
    /// Returns the shared state of a derivation, which its first caller creates.
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
            // Fails only if the keys are set already.
            drop(self.keys.set(keys));
        }
    }
}

#[cfg(test)]
mod tests;
