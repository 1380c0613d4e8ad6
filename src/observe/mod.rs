//! Observation: event queues, log lines and observers, all served from one publish point.
//!
//! Follows the monitoring and logging sections of the specifications. Does not decide what happened: the state machines and the
//! client report it.

pub(crate) mod events;
pub(crate) mod log;
mod outbox;
mod size;
