//! Models of the state machines, each compared with the real one on random sequences of facts.
//!
//! A model is as simple as possible: lists that are searched from end to end. `tests/sim/faults/run` shows which faults these
//! tests find.

#![allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
#![allow(clippy::wildcard_enum_match_arm, reason = "what a model does not use")]

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
