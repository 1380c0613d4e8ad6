//! The wait for a connection: in the pool's queue, or for the liveness check of an idle connection.
//!
//! Can be dropped at any moment: the position in the queue is given up with it, and a connection that was delivered is checked in.
//! Does not decide which waiter is served next: `pool` does.

use std::borrow::Borrow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::sync::oneshot;

use super::{CheckedOut, CheckoutResult, PoolState, ServerPool};
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind};
use crate::io::clock;
use crate::io::conn::Conn;
use crate::io::shell::Owner;
use crate::pool::{Checkout, Lease, QueuePosition, WaiterId};

/// A check-out that was not served at once.
pub(crate) enum PendingCheckout<P: Borrow<Arc<ServerPool>>> {
    /// The connection was idle for long and has to pass a liveness check. If it is dead, the id is the caller's place in the queue.
    LivenessCheck(CheckedOut<P>, WaiterId),
    /// The caller waits in the queue.
    Queued(QueuedCheckout<P>),
    /// The check-out has failed.
    Refused(Error),
}

/// A position in the queue. Given up on drop.
pub(crate) struct QueuedCheckout<P: Borrow<Arc<ServerPool>>> {
    of: P,
    waiter: WaiterId,
    answer: oneshot::Receiver<CheckoutResult>,
    is_answered: bool,
}

/// The future of a check-out that was not served at once.
pub(crate) enum CheckoutFuture<P: Borrow<Arc<ServerPool>>> {
    /// Waits for the answer only. Small, because there may be many.
    Queued(QueuedCheckout<P>),
    /// Runs everything else.
    Boxed(Pin<Box<dyn Future<Output = Result<CheckedOut<P>, Error>> + Send>>),
}

/// The pool's answer to a check-out.
enum CheckoutReply {
    CheckedOut(Lease, Box<Conn>, Option<WaiterId>),
    Queued(WaiterId, oneshot::Receiver<CheckoutResult>),
    Refused(Error),
}

impl ServerPool {
    /// Checks a connection out. Returns the connection, or a check-out that has to [wait](PendingCheckout::wait).
    #[inline]
    pub(crate) fn checkout<P: Borrow<Arc<Self>>>(
        of: P,
        deadline: Option<Deadline>,
        now: Instant,
    ) -> Result<CheckedOut<P>, PendingCheckout<P>> {
        Self::request(of, now, |state, now| state.pool.handle_checkout(deadline, now))
    }

    #[inline]
    fn request<P: Borrow<Arc<Self>>>(
        of: P,
        now: Instant,
        fact: impl FnOnce(&mut PoolState, Instant) -> Checkout<Box<Conn>>,
    ) -> Result<CheckedOut<P>, PendingCheckout<P>> {
        let reply = of.borrow().act_at(now, |state, now| match fact(state, now) {
            Checkout::CheckedOut { lease, connection, liveness_check } => CheckoutReply::CheckedOut(lease, connection, liveness_check),
            Checkout::Waiting(waiter) => {
                let (sender, receiver) = oneshot::channel();
                state.waiters.insert(waiter, sender);
                CheckoutReply::Queued(waiter, receiver)
            }
            Checkout::Refused(error) => CheckoutReply::Refused(error),
        });
        match reply {
            CheckoutReply::CheckedOut(lease, conn, liveness_check) => {
                let out = CheckedOut { conn: Some(conn), lease, checked_out_at: now, pool: of };
                match liveness_check {
                    None => Ok(out),
                    Some(waiter) => Err(PendingCheckout::LivenessCheck(out, waiter)),
                }
            }
            CheckoutReply::Queued(waiter, answer) => {
                Err(PendingCheckout::Queued(QueuedCheckout { of, waiter, answer, is_answered: false }))
            }
            CheckoutReply::Refused(error) => Err(PendingCheckout::Refused(error.on(&of.borrow().host))),
        }
    }

    /// Adds the host to the error of a check-out, and the look-up of its name if that is still running.
    #[cold]
    fn with_look_up(&self, error: Error) -> Error {
        let look_up = if error.kind() == ErrorKind::Timeout { self.opener.still_asked(&self.host) } else { None };
        let error = error.on(&self.host);
        look_up.map_or(error.clone(), |look_up| error.adding(look_up.message()))
    }
}

impl<P: Borrow<Arc<ServerPool>> + Clone + Send + Sync + Unpin + 'static> PendingCheckout<P> {
    /// Waits for the connection.
    pub(crate) fn wait(self, deadline: Option<Deadline>) -> CheckoutFuture<P> {
        match (self, deadline) {
            (Self::Queued(queued), None) => CheckoutFuture::Queued(queued),
            (pending, deadline) => CheckoutFuture::Boxed(Box::pin(pending.check_or_wait(deadline))),
        }
    }

    async fn check_or_wait(mut self, deadline: Option<Deadline>) -> Result<CheckedOut<P>, Error> {
        let requested_at = clock::now();
        loop {
            match self {
                Self::LivenessCheck(mut out, waiter) => {
                    let pool = Arc::clone(out.of().borrow());
                    let lease = out.lease;
                    if !out.is_dead() {
                        pool.act(|state, now| state.pool.handle_alive(lease, requested_at, now));
                        return Ok(out);
                    }
                    let Some(conn) = out.conn.take() else { return Err(pool.lost().on(&pool.host)) };
                    let position = QueuePosition { waiter, requested_at, deadline };
                    let dead = |state: &mut PoolState, now| state.pool.handle_liveness_check_failed(lease, conn, position, now);
                    match ServerPool::request(out.of().clone(), clock::now(), dead) {
                        Ok(out) => return Ok(out),
                        Err(pending) => self = pending,
                    }
                }
                Self::Queued(queued) => {
                    return match deadline {
                        Some(deadline) => queued.until(deadline).await,
                        None => queued.await,
                    };
                }
                Self::Refused(error) => return Err(error),
            }
        }
    }
}

impl<P: Borrow<Arc<ServerPool>> + Clone + Unpin> QueuedCheckout<P> {
    /// Waits with a timer of the caller's own: it must not depend on the runtime that the pool's tasks run on.
    async fn until(mut self, deadline: Deadline) -> Result<CheckedOut<P>, Error> {
        let pool = Arc::clone(self.of.borrow());
        let mut due = Some(deadline.at);
        loop {
            tokio::select! {
                biased;
                answer = &mut self => return answer,
                () = clock::sleep_until(due) => {
                    due = None;
                    pool.act(|state, now| state.pool.handle_timeout(now));
                }
            }
        }
    }
}

impl<P: Borrow<Arc<ServerPool>> + Clone + Unpin> Future for QueuedCheckout<P> {
    type Output = Result<CheckedOut<P>, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(context));
        self.is_answered = true;
        Poll::Ready(match answer.unwrap_or_else(|_| Err(self.of.borrow().lost())) {
            Ok(out) => Ok(out.with_handle(self.of.clone())),
            Err(error) => Err(self.of.borrow().with_look_up(error)),
        })
    }
}

impl<P: Borrow<Arc<ServerPool>> + Clone + Unpin> Future for CheckoutFuture<P> {
    type Output = Result<CheckedOut<P>, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Queued(queued) => Pin::new(queued).poll(context),
            Self::Boxed(future) => future.as_mut().poll(context),
        }
    }
}

impl<P: Borrow<Arc<ServerPool>>> Drop for QueuedCheckout<P> {
    fn drop(&mut self) {
        if !self.is_answered {
            let waiter = self.waiter;
            // Dropping the sender may wake the caller, which is foreign code: not under the lock.
            drop(self.of.borrow().act(|state, now| {
                state.pool.handle_cancel(waiter, now);
                state.waiters.remove(waiter)
            }));
        }
    }
}
