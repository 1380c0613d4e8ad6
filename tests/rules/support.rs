//! Functions that all models use.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use mongolink::{Error, ErrorKind, ServerAddress, Stage};
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// Runs a test with many seeds, or with the one in `MONGOLINK_SEED`; prints the seed that fails.
pub(crate) fn for_seeds(count: u64, test: impl Fn(&mut SmallRng)) {
    let chosen = std::env::var("MONGOLINK_SEED").ok().and_then(|text| text.parse().ok());
    let seeds = chosen.map_or(0..count, |seed: u64| seed..seed + 1);
    for seed in seeds {
        let mut rng = SmallRng::seed_from_u64(seed);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(&mut rng))) {
            eprintln!("failed with MONGOLINK_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn key(text: &str) -> ServerAddress {
    ServerAddress::parse(text).expect("a host")
}

/// The error of a connection that the peer closed.
pub(crate) fn closed_by_peer() -> Error {
    Error::new(ErrorKind::Closed, "closed").at(Stage::Read)
}
