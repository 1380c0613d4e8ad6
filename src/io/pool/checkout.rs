//! How does somebody wait for a connection?
//!
//! In the pool's queue, or for a look at an idle connection that may be dead. Can be given up at any moment: the position in the
//! queue is given up with it, and what was lent goes back.

use std::borrow::Borrow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use super::{CheckedOut, ServerPool};
use crate::error::{Error, ErrorKind};
use crate::io::clock;
use crate::operation::deadline::Deadline;
use crate::pool::{QueuePosition, WaiterId};

/// Is a connection that was asked for, and not there at once.
pub(crate) enum PendingCheckout<P: Borrow<Arc<ServerPool>>> {
    /// It may be dead; whoever finds it so has a position in the queue.
    Look(CheckedOut<P>, WaiterId),
    /// It will be told.
    Wait(QueuedCheckout<P>),
    /// It will not be had.
    Refused(Error),
}

/// Is a position in the queue, which is given up when its caller goes away.
pub(crate) struct QueuedCheckout<P: Borrow<Arc<ServerPool>>> {
    pub(super) of: P,
    pub(super) waiter: WaiterId,
    pub(super) answer: oneshot::Receiver<Result<CheckedOut, Error>>,
    pub(super) answered: bool,
}

/// Is the wait for a connection.
pub(crate) enum CheckoutFuture<P: Borrow<Arc<ServerPool>>> {
    /// Only for the answer: it is small, for there may be many.
    Queued(QueuedCheckout<P>),
    /// For whatever it takes.
    Boxed(Pin<Box<dyn Future<Output = Result<CheckedOut<P>, Error>> + Send>>),
}

impl<P: Borrow<Arc<ServerPool>> + Clone + Send + Sync + Unpin + 'static> PendingCheckout<P> {
    /// Waits for it.
    pub(crate) fn pursue(self, deadline: Option<Deadline>) -> CheckoutFuture<P> {
        match (self, deadline) {
            (Self::Wait(waiting), None) => CheckoutFuture::Queued(waiting),
            (asked, deadline) => CheckoutFuture::Boxed(Box::pin(asked.look_or_wait(deadline))),
        }
    }

    async fn look_or_wait(mut self, deadline: Option<Deadline>) -> Result<CheckedOut<P>, Error> {
        let requested_at = clock::now();
        loop {
            match self {
                Self::Look(mut out, waiter) => {
                    let pool = Arc::clone(out.of().borrow());
                    let lease = out.lease;
                    if !out.is_dead() {
                        pool.act(|guarded, now| guarded.pool.handle_alive(lease, requested_at, now));
                        return Ok(out);
                    }
                    let Some(conn) = out.conn.take() else { return Err(pool.lost().on(&pool.host)) };
                    let position = QueuePosition { waiter, requested_at, deadline };
                    let dead = |guarded: &mut super::PoolState, now| guarded.pool.handle_liveness_check_failed(lease, conn, position, now);
                    match ServerPool::ask(out.of().clone(), clock::now(), dead) {
                        Ok(out) => return Ok(out),
                        Err(asked) => self = asked,
                    }
                }
                Self::Wait(waiting) => {
                    return match deadline {
                        Some(deadline) => waiting.until(deadline).await,
                        None => waiting.await,
                    };
                }
                Self::Refused(error) => return Err(error),
            }
        }
    }
}

impl<P: Borrow<Arc<ServerPool>> + Clone + Unpin> QueuedCheckout<P> {
    /// The caller keeps its own time: it must not depend on the runtime that the pool's tasks run on.
    async fn until(mut self, deadline: Deadline) -> Result<CheckedOut<P>, Error> {
        let pool = Arc::clone(self.of.borrow());
        let mut due = Some(deadline.at);
        loop {
            tokio::select! {
                biased;
                told = &mut self => return told,
                () = clock::sleep_until(due) => {
                    due = None;
                    pool.act(|guarded, now| guarded.pool.handle_timeout(now));
                }
            }
        }
    }
}

impl<P: Borrow<Arc<ServerPool>> + Clone + Unpin> Future for QueuedCheckout<P> {
    type Output = Result<CheckedOut<P>, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let told = ready!(Pin::new(&mut self.answer).poll(context));
        self.answered = true;
        Poll::Ready(match told.unwrap_or_else(|_| Err(self.of.borrow().lost())) {
            Ok(out) => Ok(out.hand_to(self.of.clone())),
            Err(error) => Err(self.of.borrow().naming_look_up(error)),
        })
    }
}

impl ServerPool {
    /// Names the host of a check-out that failed, and says so if its name is still being looked up.
    #[cold]
    fn naming_look_up(&self, error: Error) -> Error {
        let look_up = if error.kind() == ErrorKind::Timeout { self.opener.still_asked(&self.host) } else { None };
        let error = error.on(&self.host);
        look_up.map_or(error.clone(), |look_up| error.adding(look_up.message()))
    }
}

impl<P: Borrow<Arc<ServerPool>> + Clone + Unpin> Future for CheckoutFuture<P> {
    type Output = Result<CheckedOut<P>, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Queued(waiting) => Pin::new(waiting).poll(context),
            Self::Boxed(future) => future.as_mut().poll(context),
        }
    }
}

impl<P: Borrow<Arc<ServerPool>>> Drop for QueuedCheckout<P> {
    fn drop(&mut self) {
        if !self.answered {
            let waiter = self.waiter;
            // To drop the sender may wake the caller, which is foreign code: not under the lock.
            drop(self.of.borrow().act(|guarded, now| {
                guarded.pool.handle_cancel(waiter, now);
                guarded.waiters.remove(waiter)
            }));
        }
    }
}
