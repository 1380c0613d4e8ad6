//! Do the rules keep what they promise, whatever happens in whatever order?
//!
//! Each pure part meets random sequences of facts, drawn from seeds, and is compared with a model that is as plain as can
//! be, or held to what must be true after every step. `tests/sim/faults/run` shows what these tests see.

#![allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
#![allow(clippy::wildcard_enum_match_arm, reason = "what a model does not look at")]

mod balanced_random;
mod cache_model;
mod hello_model;
mod liveness_model;
mod liveness_random;
mod monitor_model;
mod pool_exhaustive;
mod pool_model;
mod pool_pair;
mod pool_random;
mod race_model;
mod selection_model;
mod support;
mod topology_model;
mod topology_random;
