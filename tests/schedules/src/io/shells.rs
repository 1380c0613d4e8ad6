//! The shell of a machine: deadlines that threads set while the timer is being armed are all served, in the machine's order,
//! and effects are applied outside the lock.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use shuttle::{future, thread};

use super::clock::{expire, reset};
use super::shell::{OutputOf, Owner, Shell, run_timer};
use super::sync::Mutex;
use crate::SCHEDULES;
use crate::machine::{Driven, Machine, Output};

/// Number of turns that the timer's task gets: it needs some dozens.
const STEPS_MAX: usize = 10_000;

/// A machine of deadlines; each is answered by an action when it has passed.
#[derive(Default)]
struct Alarms {
    waiting: BTreeSet<Instant>,
    rung: VecDeque<Instant>,
    is_over: bool,
}

impl Machine for Alarms {
    type Action = Instant;
    type Event = ();

    fn handle_timeout(&mut self, now: Instant) {
        let later = self.waiting.split_off(&(now + Duration::from_nanos(1)));
        self.rung.extend(std::mem::replace(&mut self.waiting, later));
    }

    fn poll_action(&mut self) -> Option<Instant> {
        self.rung.pop_front()
    }

    fn poll_event(&mut self) -> Option<()> {
        None
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.waiting.first().map(|at| (*at, "alarm"))
    }

    fn is_over(&self) -> bool {
        self.is_over
    }
}

struct Clockwork {
    shell: Shell<Driven<Alarms>>,
    applied: Mutex<Vec<Instant>>,
}

impl Owner for Clockwork {
    type Machine = Alarms;
    type State = Driven<Alarms>;
    type Wanted = ();
    type Effects = Vec<Instant>;

    fn shell(&self) -> &Shell<Self::State> {
        &self.shell
    }

    fn driven(state: &mut Self::State) -> &mut Driven<Alarms> {
        state
    }

    fn wanted(&self) -> Self::Wanted {}

    fn effects((): ()) -> Self::Effects {
        Vec::new()
    }

    fn collect(self: &std::sync::Arc<Self>, _state: &mut Self::State, output: OutputOf<Self>, _now: Instant, effects: &mut Self::Effects) {
        if let Output::Action(at) = output {
            effects.push(at);
        }
    }

    fn apply(self: &std::sync::Arc<Self>, effects: Self::Effects) {
        // Blocks for ever if the shell's lock were held.
        drop(self.shell.lock());
        self.applied.lock().expect("applied").extend(effects);
    }
}

#[test]
fn every_deadline_is_served_however_threads_meet_the_timer() {
    shuttle::check_random(
        || {
            #[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
            let start = Instant::now();
            reset(start);
            let clockwork =
                std::sync::Arc::new(Clockwork { shell: Shell::new(Driven::new(Alarms::default(), start)), applied: Mutex::default() });
            let timer = future::spawn(run_timer(&clockwork));
            let deadlines = [3, 1, 2].map(|seconds| start + Duration::from_secs(seconds));
            let callers = deadlines.map(|at| {
                let clockwork = std::sync::Arc::clone(&clockwork);
                thread::spawn(move || clockwork.act(|alarms, _| alarms.waiting.insert(at)))
            });
            callers.into_iter().for_each(|caller| assert!(caller.join().expect("a caller")));
            expire(start + Duration::from_secs(3));
            // Only the timer's task can serve them now.
            for _ in 0..STEPS_MAX {
                if clockwork.applied.lock().expect("applied").len() == deadlines.len() {
                    break;
                }
                thread::yield_now();
            }
            assert_eq!(clockwork.applied.lock().expect("applied").iter().copied().collect::<BTreeSet<_>>(), deadlines.into());
            clockwork.act(|alarms, _| alarms.is_over = true);
            future::block_on(timer).expect("the timer's task ends with the machine");
        },
        SCHEDULES,
    );
}
