//! The shared-memory primitives of the parts that threads meet in.
//!
//! The files that `tests/schedules` names use these only. `tests/schedules` compiles the same files with primitives whose
//! schedules a model checker chooses.

pub(super) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
pub(super) use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
pub(super) use std::thread_local;

pub(super) use futures_util::task::AtomicWaker;
pub(super) use tokio::sync::Notify;
