//! What the actions of the address cache lead to: queries, and answers to callers.
//!
//! Collected under the resolver's lock, applied after it was released. Does not decide when a name is queried: `dns::cache` does.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::query::{RunningQuery, run_query};
use super::{ResolverShared, ResolverState};
use crate::dns::{Cache, CacheAction, LookupAnswer};
use crate::error::Error;
use crate::io::shell::{OutputOf, Owner, Shell};
use crate::io::tasks::Tasks;
use crate::machine::{Driven, Output};

/// The answer to a waiting caller, and the sender that delivers it.
type PendingAnswer = (oneshot::Sender<Result<LookupAnswer, Error>>, Result<LookupAnswer, Error>);

/// The effects of one step.
#[derive(Default)]
pub(in crate::io) struct ResolverEffects {
    has_arrivals: bool,
    answers: Vec<PendingAnswer>,
    queries: Vec<(Option<Instant>, RunningQuery)>,
}

impl Owner for ResolverShared {
    type Machine = Cache;
    type State = ResolverState;
    type Wanted = ();
    type Effects = ResolverEffects;

    fn shell(&self) -> &Shell<ResolverState> {
        &self.shell
    }

    fn driven(state: &mut ResolverState) -> &mut Driven<Cache> {
        &mut state.cache
    }

    fn wanted(&self) {}

    fn effects((): ()) -> ResolverEffects {
        ResolverEffects::default()
    }

    fn collect(self: &Arc<Self>, state: &mut ResolverState, output: OutputOf<Self>, _now: Instant, effects: &mut ResolverEffects) {
        let (waiters, outcome) = match output {
            Output::Event(_) => {
                effects.has_arrivals = true;
                return;
            }
            Output::Action(CacheAction::Query(name, id)) => {
                return effects.queries.push((state.cache.deadline(&name), RunningQuery::new(self, name, id)));
            }
            Output::Action(CacheAction::Answer(waiters, answer)) => (waiters, Ok(answer)),
            Output::Action(CacheAction::Refuse(waiters, error)) => (waiters, Err(error)),
            Output::Note(_) => return,
        };
        let senders = waiters.iter().filter_map(|waiter| state.waiters.remove(waiter));
        effects.answers.extend(senders.map(|sender| (sender, outcome.clone())));
    }

    fn apply(self: &Arc<Self>, effects: ResolverEffects) {
        let ResolverEffects { has_arrivals, answers, queries } = effects;
        if has_arrivals {
            self.arrived.notify_waiters();
        }
        for (sender, outcome) in answers {
            // The caller may be gone.
            drop(sender.send(outcome));
        }
        for (by, query) in queries {
            self.start(query, by);
        }
    }

    /// Wakes all waiting callers: they keep the timer, so that they depend on no other runtime.
    fn wake_timer(&self) {
        self.sooner.notify_waiters();
    }
}

impl ResolverShared {
    fn start(&self, query: RunningQuery, by: Option<Instant>) {
        let tasks = {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            if !tasks.as_ref().is_some_and(|tasks| tasks.is_alive()) {
                *tasks = Tasks::new().map(Arc::new);
            }
            tasks.clone()
        };
        // Without tasks the query is dropped, which counts as abandoned.
        if let Some(tasks) = tasks {
            tasks.spawn("dns", run_query(query, by, self.budget));
        }
    }
}
