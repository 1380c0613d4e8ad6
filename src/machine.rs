//! The verbs that all concurrent state machines share, and a machine with its time and its timer.
//!
//! Design section 3. [`Driven`] is the pure part of a shell, used by the client and by the simulation alike: the order in which outputs
//! are taken, the time that a machine is given, and when its timer is armed anew. Does not decide what an output leads to.

use std::ops::{Deref, DerefMut};
use std::time::Instant;

use crate::note::Note;

/// A state machine that has a timer. It receives facts by `handle_<fact>` methods of its own.
///
/// `now` never goes back. A `handle_timeout` that comes too early does nothing. After `handle_timeout(t)`, `poll_timeout` returns
/// `None` or a moment later than `t`.
pub trait Machine {
    /// What the shell has to carry out.
    type Action;
    /// What subscribers learn.
    type Event;

    /// Does what is due at `now`.
    fn handle_timeout(&mut self, now: Instant);

    /// Takes the next action.
    fn poll_action(&mut self) -> Option<Self::Action>;

    /// Takes the next event.
    fn poll_event(&mut self) -> Option<Self::Event>;

    /// Takes the next line for the log.
    fn poll_note(&mut self) -> Option<Note> {
        None
    }

    /// Returns when `handle_timeout` is due, and the name of the limit that runs out then.
    fn poll_timeout(&self) -> Option<(Instant, &'static str)>;

    /// Returns whether the machine has ended and its timer with it.
    fn is_over(&self) -> bool {
        false
    }

    /// Takes the next output: the events first, then one action, and the lines for the log when nothing else is left.
    ///
    /// An action may be carried out before the next output is taken, and may hand the machine further facts.
    #[inline]
    fn next_output(&mut self) -> Option<Output<Self::Action, Self::Event>> {
        if let Some(event) = self.poll_event() {
            return Some(Output::Event(event));
        }
        if let Some(action) = self.poll_action() {
            return Some(Output::Action(action));
        }
        self.poll_note().map(Output::Note)
    }
}

/// One output of a [`Machine`].
#[derive(Debug)]
pub enum Output<A, E> {
    /// Something happened.
    Event(E),
    /// Something has to be done.
    Action(A),
    /// A line for the log.
    Note(Note),
}

/// A machine, the latest time that it was given, and the moment that its timer is armed for.
#[derive(Debug)]
pub struct Driven<M> {
    machine: M,
    latest: Instant,
    armed: Option<Instant>,
}

impl<M: Machine> Driven<M> {
    /// Starts to drive a machine. Its timer is not armed.
    pub fn new(machine: M, now: Instant) -> Self {
        Self { machine, latest: now, armed: None }
    }

    /// Returns the time for the next fact: the latest that any caller has read.
    ///
    /// Callers read the clock before they have the lock, so their times arrive in any order.
    #[inline]
    pub fn advance(&mut self, now: Instant) -> Instant {
        self.latest = now.max(self.latest);
        self.latest
    }

    /// Arms the timer for the machine's next deadline, if that is earlier than what the timer is armed for.
    ///
    /// Returns whether it did. A later deadline leaves the timer as it is: `handle_timeout` then comes too early and arms it anew.
    #[inline]
    pub fn rearm(&mut self) -> bool {
        let due = self.machine.poll_timeout().map(|(at, _)| at);
        let is_earlier = due.is_some_and(|due| self.armed.is_none_or(|armed| due < armed));
        if is_earlier {
            self.armed = due;
        }
        is_earlier
    }

    /// Returns the moment that the timer is armed for.
    pub fn armed(&self) -> Option<Instant> {
        self.armed
    }

    /// Takes that the timer has run out. It is armed again by the next [`rearm`](Self::rearm).
    pub fn handle_timer(&mut self, now: Instant) {
        self.armed = None;
        self.machine.handle_timeout(now);
    }
}

impl<M> Deref for Driven<M> {
    type Target = M;

    #[inline]
    fn deref(&self) -> &M {
        &self.machine
    }
}

impl<M> DerefMut for Driven<M> {
    #[inline]
    fn deref_mut(&mut self) -> &mut M {
        &mut self.machine
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use super::*;

    /// Two queues and a deadline that the test sets.
    #[derive(Default)]
    struct Queues {
        actions: VecDeque<u8>,
        events: VecDeque<char>,
        note: bool,
        due: Option<Instant>,
    }

    impl Machine for Queues {
        type Action = u8;
        type Event = char;

        fn handle_timeout(&mut self, now: Instant) {
            self.due = self.due.filter(|due| *due > now);
        }

        fn poll_action(&mut self) -> Option<u8> {
            self.actions.pop_front()
        }

        fn poll_event(&mut self) -> Option<char> {
            self.events.pop_front()
        }

        fn poll_note(&mut self) -> Option<Note> {
            std::mem::take(&mut self.note).then(|| Note { level: tracing::Level::INFO, text: String::new() })
        }

        fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
            self.due.map(|due| (due, "limit"))
        }
    }

    #[test]
    fn outputs_come_events_first_and_notes_last() {
        let mut machine = Driven::new(Queues::default(), Instant::now());
        machine.actions.extend([1, 2]);
        machine.events.push_back('a');
        machine.note = true;
        let mut seen = String::new();
        while let Some(output) = machine.next_output() {
            match output {
                Output::Event(event) => seen.push(event),
                Output::Action(action) => {
                    seen.push_str(&action.to_string());
                    // What an action leads to comes before the next action.
                    if action == 1 {
                        machine.events.push_back('b');
                    }
                }
                Output::Note(_) => seen.push('n'),
            }
        }
        assert_eq!(seen, "a1b2n");
    }

    #[test]
    fn time_never_goes_back() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let mut machine = Driven::new(Queues::default(), start);
        assert_eq!([machine.advance(later), machine.advance(start), machine.advance(later)], [later; 3]);
    }

    #[test]
    fn timer_is_armed_anew_only_for_an_earlier_deadline() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut machine = Driven::new(Queues::default(), start);
        assert!(!machine.rearm());
        let mut armed = |due| {
            machine.due = Some(at(due));
            (machine.rearm(), machine.armed())
        };
        assert_eq!(armed(10), (true, Some(at(10))));
        assert_eq!(armed(20), (false, Some(at(10))));
        assert_eq!(armed(5), (true, Some(at(5))));
        assert_eq!(armed(20), (false, Some(at(5))));
        machine.handle_timer(at(5));
        assert!(machine.rearm());
        assert_eq!(machine.armed(), Some(at(20)));
    }
}
