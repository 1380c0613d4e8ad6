//! The connection pool: check-out, check-in, opening and closing of connections.
//!
//! connection-monitoring-and-pooling, without sockets: [`Pool`] receives facts and the time and returns actions. Its payload `C` is the
//! connection itself. Does not decide how a connection is opened, checked or drained (`io::pool`), nor what an error means
//! for the server (`topology::fault`).

mod action;
mod event;
mod login;
mod machine;
mod refusal;
mod services;
mod slots;
mod timers;
mod unanswered;
mod waiters;

pub use action::{Checkout, Health, PoolAction, PoolConfig};
pub use event::{CheckOutFailure, CloseReason, PoolEvent, PoolStats};
#[cfg(feature = "internals")]
pub use login::{LOGIN_PAUSE_MAX, LOGIN_PAUSE_MIN};
pub use machine::Pool;
pub use refusal::{closed, interrupted};
pub use slots::Lease;
pub use unanswered::UNANSWERED_AFTER;
pub use waiters::{Queue, QueuePosition, WaiterId};

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
