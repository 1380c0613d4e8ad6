//! How does somebody wait for a connection?
//!
//! In the pool's queue, or for a look at an idle connection that may be dead. Can be given up at any moment: the place in the
//! queue is given up with it, and what was lent goes back.

use std::borrow::Borrow;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::{CheckedOut, ServerPool, gone};
use crate::error::Error;
use crate::io::clock;
use crate::op::deadline::Deadline;
use crate::pool::{Place, WaiterId};

/// Is a connection that was asked for, and not there at once.
pub(crate) enum Asked<P: Borrow<Arc<ServerPool>>> {
    /// It may be dead; whoever finds it so has a place in the queue.
    Look(CheckedOut<P>, WaiterId),
    /// It will be told.
    Wait(Waiting<P>, Receiver),
    /// It will not be had.
    Refused(Error),
}

/// Takes a waiter out of the queue when its caller goes away.
pub(crate) struct Waiting<P: Borrow<Arc<ServerPool>>> {
    pub(super) of: P,
    pub(super) waiter: WaiterId,
    pub(super) answered: bool,
}

type Receiver = oneshot::Receiver<Result<CheckedOut, Error>>;

/// Is the wait for a connection.
pub(crate) type Lending<P> = Pin<Box<dyn Future<Output = Result<CheckedOut<P>, Error>> + Send>>;

impl<P: Borrow<Arc<ServerPool>> + Clone + Send + Sync + 'static> Asked<P> {
    /// Waits for it.
    ///
    /// Without a deadline nothing but the answer is waited for, which keeps the wait small: there may be many.
    pub(crate) fn pursue(self, deadline: Option<Deadline>) -> Lending<P> {
        match (self, deadline) {
            (Self::Wait(waiting, receiver), None) => Box::pin(waiting.answer(receiver)),
            (asked, deadline) => Box::pin(asked.look_or_wait(deadline)),
        }
    }

    async fn look_or_wait(mut self, deadline: Option<Deadline>) -> Result<CheckedOut<P>, Error> {
        let asked_at = clock::now();
        loop {
            match self {
                Self::Look(mut out, ticket) => {
                    let pool = Arc::clone(out.of().borrow());
                    let lease = out.lease;
                    if !out.is_dead() {
                        pool.act(|guarded, now| guarded.pool.handle_alive(lease, asked_at, now));
                        return Ok(out);
                    }
                    let Some(conn) = out.conn.take() else { return Err(gone().on(&pool.host)) };
                    let place = Place { ticket, asked_at, deadline };
                    let dead = |guarded: &mut super::Guarded, now| guarded.pool.handle_dead_on_look(lease, conn, place, now);
                    match ServerPool::ask(out.of().clone(), clock::now(), dead) {
                        Ok(out) => return Ok(out),
                        Err(asked) => self = asked,
                    }
                }
                Self::Wait(waiting, receiver) => {
                    return match deadline {
                        Some(deadline) => waiting.answer_until(receiver, deadline).await,
                        None => waiting.answer(receiver).await,
                    };
                }
                Self::Refused(error) => return Err(error),
            }
        }
    }
}

impl<P: Borrow<Arc<ServerPool>> + Clone> Waiting<P> {
    async fn answer(self, receiver: Receiver) -> Result<CheckedOut<P>, Error> {
        self.told(receiver.await.unwrap_or_else(|_| Err(gone())))
    }

    /// The caller keeps its own time: it must not depend on the runtime that the pool's tasks run on.
    async fn answer_until(self, mut receiver: Receiver, deadline: Deadline) -> Result<CheckedOut<P>, Error> {
        let mut due = Some(deadline.at);
        let told = loop {
            tokio::select! {
                biased;
                told = &mut receiver => break told.unwrap_or_else(|_| Err(gone())),
                () = clock::sleep_until(due) => {
                    due = None;
                    self.of.borrow().act(|guarded, now| guarded.pool.handle_timeout(now));
                }
            }
        };
        self.told(told)
    }

    fn told(mut self, told: Result<CheckedOut, Error>) -> Result<CheckedOut<P>, Error> {
        self.answered = true;
        match told {
            Ok(out) => Ok(out.hand_to(self.of.clone())),
            Err(error) => Err(error.on(&self.of.borrow().host)),
        }
    }
}

impl<P: Borrow<Arc<ServerPool>>> Drop for Waiting<P> {
    fn drop(&mut self) {
        if !self.answered {
            let waiter = self.waiter;
            self.of.borrow().act(|guarded, now| {
                guarded.waiters.remove(waiter);
                guarded.pool.handle_cancel(waiter, now);
            });
        }
    }
}
