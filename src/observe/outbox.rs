//! The log lines that wait until no lock is held.
//!
//! A `tracing` subscriber is foreign code: it may take its time, or use the client. Lines are therefore queued under the lock
//! of the machine that decides on them, and written after it was released, in the order in which they were queued. One
//! thread writes at a time, so that the order stays; another thread leaves its lines to it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::log::{self, CheckedOn, LogSubject};
use super::size::{of_heartbeat, of_pool, of_topology};
use crate::host::ServerAddress;
use crate::note::Note;
use crate::pool::PoolEvent;
use crate::topology::{MonitorEvent, TopologyEvent};

/// The lines of a client that are still to be written.
#[derive(Debug, Default)]
pub(crate) struct Outbox(Mutex<QueuedLines>);

#[derive(Debug, Default)]
struct QueuedLines {
    lines: VecDeque<(Line, usize)>,
    size_bytes: usize,
    /// How many lines had no room.
    lost: u64,
    /// Whether a thread writes.
    is_written: bool,
}

/// A line, or what a line is made of.
#[derive(Debug)]
pub(crate) enum Line {
    Topology(LogSubject, TopologyEvent),
    Heartbeat(LogSubject, ServerAddress, CheckedOn, MonitorEvent),
    Pool(LogSubject, ServerAddress, PoolEvent),
    Note(Note),
}

/// How many lines are queued while a subscriber takes its time: as many as a listener's events.
const LINES_MAX: usize = 4096;

/// How many bytes they hold at the most. A single line is queued whatever its size.
const LINES_BYTES_MAX: usize = 8 * 1024 * 1024;

impl Outbox {
    /// Queues a line. May be called under a lock: nothing foreign runs in here.
    pub(crate) fn push(&self, line: Line) {
        let size_bytes = line.size_bytes();
        let mut waiting = self.lock();
        let has_room = waiting.lines.len() < LINES_MAX && waiting.size_bytes.saturating_add(size_bytes) <= LINES_BYTES_MAX;
        if has_room || waiting.lines.is_empty() {
            waiting.size_bytes += size_bytes;
            waiting.lines.push_back((line, size_bytes));
        } else {
            waiting.lost += 1;
            drop(waiting);
            drop(line);
        }
    }

    /// Writes what is queued, unless another thread does. Must not be called under a lock.
    ///
    /// A turn ends after [`LINES_MAX`] lines, so that no caller writes the lines of others for ever; the next line brings the next turn.
    pub(crate) fn write(&self) {
        let Some(turn) = Turn::begin(self) else { return };
        for _ in 0..LINES_MAX {
            let mut waiting = self.lock();
            let lost = std::mem::take(&mut waiting.lost);
            let line = waiting.lines.pop_front();
            if line.is_none() && lost == 0 {
                // Under the same lock, so that no line is left behind.
                waiting.is_written = false;
                std::mem::forget(turn);
                return;
            }
            waiting.size_bytes -= line.as_ref().map_or(0, |(_, size_bytes)| *size_bytes);
            drop(waiting);
            if let Some((line, _)) = line {
                line.write();
            }
            if lost > 0 {
                log::lines_lost(lost, LINES_MAX);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueuedLines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Returns about how many bytes of memory it holds.
    fn size_bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Topology(_, event) => of_topology(event),
                Self::Heartbeat(.., event) => of_heartbeat(event),
                Self::Pool(.., event) => of_pool(event),
                Self::Note(note) => note.text.len(),
            }
    }

    fn write(self) {
        match self {
            Self::Topology(subject, event) => subject.topology(&event),
            Self::Heartbeat(subject, host, on, event) => subject.heartbeat(&host, &on, &event),
            Self::Pool(subject, host, event) => subject.pool(&host, &event),
            Self::Note(note) => log::note(&note),
        }
    }
}

/// The turn of the thread that writes. It ends also if a subscriber panics, and the next thread goes on.
struct Turn<'a>(&'a Outbox);

impl<'a> Turn<'a> {
    fn begin(outbox: &'a Outbox) -> Option<Self> {
        let mut waiting = outbox.lock();
        let is_free = !waiting.is_written && (!waiting.lines.is_empty() || waiting.lost > 0);
        waiting.is_written |= is_free;
        is_free.then(|| Self(outbox))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().is_written = false;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Level, Metadata, Subscriber};

    use super::*;

    /// Writes a further line with each of the first three, and panics once.
    struct Subject {
        outbox: Arc<Outbox>,
        lines: Arc<Mutex<Vec<String>>>,
        panics: AtomicBool,
        further: AtomicUsize,
    }

    struct Text<'a>(&'a mut String);

    impl Visit for Text<'_> {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            if field.name() == "message" {
                *self.0 = format!("{value:?}");
            }
        }
    }

    impl Subscriber for Subject {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, event: &Event<'_>) {
            let mut text = String::new();
            event.record(&mut Text(&mut text));
            self.lines.lock().expect("lines").push(text);
            assert!(!self.panics.swap(false, Ordering::SeqCst), "a subscriber that panics");
            let further = self.further.fetch_add(1, Ordering::SeqCst);
            if further < 3 {
                self.outbox.push(note(&format!("further {further}")));
                self.outbox.write();
            }
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    fn note(text: &str) -> Line {
        Line::Note(Note { level: Level::INFO, text: text.to_owned() })
    }

    fn with(panics: bool, further: usize, run: impl FnOnce(&Outbox)) -> Vec<String> {
        let (outbox, lines) = (Arc::<Outbox>::default(), Arc::<Mutex<Vec<String>>>::default());
        let subject = Subject { outbox: Arc::clone(&outbox), lines: Arc::clone(&lines), panics: panics.into(), further: further.into() };
        tracing::subscriber::with_default(subject, || run(&outbox));
        std::mem::take(&mut *lines.lock().expect("lines"))
    }

    #[test]
    fn subscriber_that_causes_lines_gets_them_in_order() {
        let lines = with(false, 0, |outbox| {
            outbox.push(note("first"));
            outbox.push(note("second"));
            outbox.write();
        });
        assert_eq!(lines, ["first", "second", "further 0", "further 1", "further 2"]);
    }

    #[test]
    fn subscriber_that_panics_costs_one_line() {
        let lines = with(true, 3, |outbox| {
            outbox.push(note("first"));
            outbox.push(note("second"));
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| outbox.write())).expect_err("it panics");
            outbox.write();
        });
        assert_eq!(lines, ["first", "second"]);
    }

    #[test]
    fn lines_without_room_are_counted() {
        let lines = with(false, 3, |outbox| {
            for _ in 0..LINES_MAX + 7 {
                outbox.push(note("a line"));
            }
            outbox.write();
        });
        assert_eq!(lines.len(), LINES_MAX + 1);
        assert!(lines.iter().any(|line| line.starts_with("7 lines of the log were lost")), "{}", lines[1]);
    }
}
