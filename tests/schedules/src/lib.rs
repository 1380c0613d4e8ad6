//! The parts of the shell that share memory, run under many schedules.
//!
//! The files below are those of the library, not copies: only `io::sync` differs, whose primitives give each choice of the
//! next thread to shuttle. Each test runs thousands of random schedules. `tests/schedules.rs` runs them, and runs them again
//! with each fault of `faults/` planted, which they must find.

#![cfg(test)]

mod error;
mod interrupts;
mod io;
#[path = "../../../src/machine.rs"]
mod machine;
#[path = "../../../src/note.rs"]
mod note;
mod sessions;

/// Number of schedules for each test: the planted faults show within some dozens.
const SCHEDULES: usize = 3_000;
