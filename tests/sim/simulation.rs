//! What is the simulation made of?
//!
//! The one list of its modules: the tests and the examples have it through this file.
#![allow(dead_code, reason = "none of those who share the modules uses all of them")]

pub(crate) mod balancer;
pub(crate) mod calls;
pub(crate) mod client;
pub(crate) mod deployments;
pub(crate) mod excess;
pub(crate) mod faults;
pub(crate) mod invariants;
pub(crate) mod logins;
pub(crate) mod net;
pub(crate) mod openings;
pub(crate) mod plan;
pub(crate) mod pools;
pub(crate) mod promises;
pub(crate) mod queue;
pub(crate) mod reading;
pub(crate) mod replay;
pub(crate) mod requests;
pub(crate) mod resolver;
pub(crate) mod run;
pub(crate) mod servers;
pub(crate) mod shell;
pub(crate) mod silence;
pub(crate) mod srv;
pub(crate) mod trace;
pub(crate) mod world;
