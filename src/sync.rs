//! The shared-memory primitives of the parts that threads meet in.
//!
//! The files that `tests/schedules` names use these only. `tests/schedules` compiles the same files with primitives whose
//! schedules a model checker chooses.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
pub(crate) use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
pub(crate) use std::thread_local;

pub(crate) use futures_util::task::AtomicWaker;
pub(crate) use tokio::sync::Notify;
