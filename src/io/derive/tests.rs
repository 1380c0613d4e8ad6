use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use futures_util::future::join_all;

use super::*;
use crate::auth::Secret;
use crate::auth::scram::{ClientFirst, ITERATIONS_MAX, ScramHash};

/// A derivation whose salt is this text.
fn derivation(salt: &str, iterations: u32) -> Derivation {
    let client = ClientFirst::with_nonce(ScramHash::Sha256, "ann", &Secret::new("pencil"), "n".to_owned());
    let first = format!("r=nx,s={},i={iterations}", BASE64_STANDARD.encode(salt));
    client.handle_server_first(first.as_bytes()).expect("server first").0
}

/// Returns the remaining iterations of a derivation in progress.
fn left(derivations: &Derivations, key: &CacheKey) -> Option<String> {
    let shared = derivations.lock();
    let (_, flight) = shared.under_way.iter().find(|(own, _)| own == key)?;
    let flight = flight.upgrade()?;
    let deriving = flight.deriving.lock().unwrap_or_else(PoisonError::into_inner);
    Some(format!("{deriving:?}"))
}

#[tokio::test]
async fn callers_of_one_derivation_share_it() {
    let derivations = Derivations::new();
    let own = derivation("salt", 10 * SLICE_ITERATIONS);
    let outcomes = join_all((0..5).map(|_| derivations.derive(&own))).await;
    let keys: Vec<ScramKeys> = outcomes.into_iter().map(|outcome| outcome.expect("keys")).collect();
    assert!(keys.iter().all(|other| other.is_same(&keys[0])), "each caller derived keys of its own");
    let again = derivations.derive(&own).await.expect("keys");
    assert!(again.is_same(&keys[0]), "what is known is not derived again");
}

#[tokio::test]
async fn small_derivation_does_not_wait_for_a_large_one() {
    let derivations = Derivations::new();
    let (large, small) = (derivation("large", ITERATIONS_MAX), derivation("small", 2 * SLICE_ITERATIONS));
    tokio::select! {
        biased;
        _ = derivations.derive(&large) => panic!("the large one came first"),
        keys = derivations.derive(&small) => drop(keys.expect("keys")),
    }
}

#[tokio::test]
async fn derivation_ends_with_its_last_caller_and_goes_on_with_any_other() {
    let derivations = Derivations::new();
    let own = derivation("salt", ITERATIONS_MAX);
    let key = own.cache_key();
    let (first, mut second) = (derivations.derive(&own), Box::pin(derivations.derive(&own)));
    tokio::select! {
        biased;
        _ = first => panic!("too early"),
        _ = &mut second => panic!("too early"),
        () = async { while left(&derivations, &key).is_none_or(|left| left.ends_with("left: 999999, .. }")) { tokio::task::yield_now().await } } => {}
    }
    let before = left(&derivations, &key).expect("the second caller keeps it");
    tokio::select! {
        biased;
        _ = &mut second => panic!("too early"),
        () = async { while left(&derivations, &key).is_some_and(|left| left == before) { tokio::task::yield_now().await } } => {}
    }
    drop(second);
    let ended = async {
        while left(&derivations, &key).is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("nobody wants the keys");
}

#[test]
fn runtime_that_ends_waits_for_no_derivation() {
    let derivations = Arc::new(Derivations::new());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let own = derivation("salt", ITERATIONS_MAX);
    let key = own.cache_key();
    let shared = Arc::clone(&derivations);
    #[allow(clippy::disallowed_methods, reason = "ends with the runtime")]
    drop(runtime.spawn(async move { drop(shared.derive(&own).await) }));
    while left(&derivations, &key).is_none() {
        std::thread::yield_now();
    }
    drop(runtime);
    assert!(derivations.lock().known.get(&key).is_none(), "the runtime waited for all of it");
}
