//! The log lines of the state machines.
//!
//! A state machine is called under a lock, and a `tracing` subscriber is foreign code that must not run there. A machine
//! therefore queues its log lines, and the shell writes them after it has released the lock (`observe/outbox.rs`).

use std::collections::VecDeque;

use tracing::Level;

/// A log line.
#[derive(Debug)]
pub struct Note {
    pub(crate) level: Level,
    pub(crate) text: String,
}

/// The queued log lines of one machine.
#[derive(Debug, Default)]
pub(crate) struct Notes(VecDeque<Note>);

impl Notes {
    /// Adds a line. Once [`NOTES_MAX`] lines are queued, further lines are dropped.
    pub(crate) fn push(&mut self, level: Level, text: impl Into<String>) {
        if self.0.len() < NOTES_MAX {
            self.0.push_back(Note { level, text: text.into() });
        }
    }

    /// Takes the oldest line.
    pub(crate) fn pop(&mut self) -> Option<Note> {
        self.0.pop_front()
    }
}

/// The maximum number of queued lines: one step writes a few, and a machine without a reader must not grow.
const NOTES_MAX: usize = 64;
