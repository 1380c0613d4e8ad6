//! The shell of a machine: step, drain, re-arm, apply, as `io/shell.rs` does it, without lock and tasks.
//!
//! The order of outputs, the time that a machine is given and the moments when its timer is armed are those of the shipped
//! [`Driven`]. What an output leads to is in `pools`, `client` and `resolver`.

use std::time::Instant;

use mongolink::machine::{Driven, Machine, Output};

use super::queue::Timer;
use super::world::World;

/// The place of a machine in the world, and what its outputs lead to.
pub(crate) trait Place: Copy {
    /// The machine.
    type Machine: Machine;

    /// Returns the client that the machine belongs to.
    fn client(self) -> usize;

    /// Returns the machine's timer.
    fn timer(self) -> Timer;

    /// Returns the machine, if it still exists.
    fn driven(self, world: &mut World) -> Option<&mut Driven<Self::Machine>>;

    /// Takes an event.
    fn event(self, world: &mut World, event: <Self::Machine as Machine>::Event, now: Instant);

    /// Carries out an action, or returns it to be applied after the drain.
    fn collect(
        self,
        world: &mut World,
        action: <Self::Machine as Machine>::Action,
        now: Instant,
    ) -> Option<<Self::Machine as Machine>::Action>;

    /// Applies an action that was collected.
    fn apply(self, _world: &mut World, _action: <Self::Machine as Machine>::Action) {}
}

impl World {
    /// Hands a fact to a machine. Its outputs stay where they are until [`drain`](Self::drain).
    pub(crate) fn hand<P: Place, R>(&mut self, place: P, fact: impl FnOnce(&mut Driven<P::Machine>, Instant) -> R) -> Option<R> {
        let now = self.local(place.client());
        let driven = place.driven(self)?;
        let now = driven.advance(now);
        Some(fact(driven, now))
    }

    /// Takes all outputs of a machine, arms its timer, then applies what was collected.
    pub(crate) fn drain<P: Place>(&mut self, place: P) {
        let now = self.local(place.client());
        let mut effects = Vec::new();
        while let Some(output) = place.driven(self).and_then(|driven| driven.next_output()) {
            match output {
                Output::Event(event) => place.event(self, event, now),
                Output::Action(action) => effects.extend(place.collect(self, action, now)),
                Output::Note(_) => {}
            }
        }
        self.rearm(place);
        for effect in effects {
            place.apply(self, effect);
        }
    }

    fn rearm<P: Place>(&mut self, place: P) {
        let is_shut_down = self.clients[place.client()].is_shut_down;
        let Some(driven) = place.driven(self) else { return };
        let (is_earlier, armed) = (driven.rearm(), driven.armed());
        // Timers end with their machine, or with the tasks of the client.
        let has_ended = driven.is_over() || is_shut_down && driven.poll_timeout().is_none();
        if has_ended {
            self.arm(place.client(), place.timer(), None);
        } else if is_earlier {
            self.arm(place.client(), place.timer(), armed);
        }
    }
}
