//! One attempt of an operation: select, check out, build, exchange, classify.
//!
//! Strictly in turns. A future that is dropped at any step leaves a connection that goes back by itself, and a session as
//! `abandoned` decides. Does not decide whether a failed attempt is repeated (`executor`).
//!
//! The future is made by hand: an attempt that need not wait for a server or a connection allocates nothing, and little is
//! moved. What has to wait is boxed, which is rare, or has a position in the pool's queue.

use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Context, Poll};
use std::time::Instant;

use super::checkout::{CheckedOutConn, check_out, selected_at};
use super::exchange::{Attempted, Exchange, ExchangeScope};
use super::running::{CallOrigin, ClientCore};
use super::sessions::SessionInUse;
use super::time_limits::Time;
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind, Result, Stage};
use crate::io::clock;
use crate::io::pool::checkout::CheckoutFuture;
use crate::io::topology::select::SelectedServer;
use crate::observe::log;
use crate::operation::{Command, Failure, SessionRule};
use crate::selection::Criteria;

/// An attempt in progress.
pub(super) struct Attempt {
    step: AttemptStep,
    /// The deadline of the operation, once its first attempt has begun.
    deadline: Option<Deadline>,
    /// Whether the connection belongs to the caller.
    keeps_conn: bool,
}

/// What an attempt borrows from its operation.
pub(super) struct AttemptScope<'a> {
    pub(super) core: &'a Arc<ClientCore>,
    pub(super) database: &'a Arc<str>,
    pub(super) command: &'a mut dyn Command,
    pub(super) session: &'a mut Option<SessionInUse>,
    /// How long the operation may take.
    pub(super) time: &'a Time,
    /// The target of an attempt that avoids servers; the command's own otherwise.
    pub(super) avoiding: Option<&'a Arc<Criteria>>,
}

enum AttemptStep {
    /// Nothing is done yet.
    Start,
    /// The attempt waits for a server or a connection.
    Waiting(CheckoutFuture<SelectedServer>),
    /// The command is being sent, or the reply awaited.
    Exchanging(CheckedOutConn, Exchange),
    /// The attempt is over. A connection that is kept is here.
    Over(Option<CheckedOutConn>),
}

impl Attempt {
    /// Creates the first attempt of an operation.
    pub(super) fn new() -> Self {
        Self { step: AttemptStep::Start, deadline: None, keeps_conn: false }
    }

    /// Creates an attempt on a connection that its caller keeps. [`take_conn`](Self::take_conn) returns it.
    pub(super) fn on(conn: CheckedOutConn, deadline: Option<Deadline>) -> Self {
        Self { step: AttemptStep::Waiting(CheckoutFuture::Boxed(Box::pin(ready(Ok(conn))))), deadline, keeps_conn: true }
    }

    /// Creates a further attempt of an operation with a deadline.
    pub(super) fn again(deadline: Option<Deadline>) -> Self {
        Self { step: AttemptStep::Start, deadline, keeps_conn: false }
    }

    /// Returns the deadline of the operation.
    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.deadline
    }

    /// Ends an attempt whose caller does not wait for the reply. Does nothing before the command is sent, or after the end.
    pub(super) fn abandon(&mut self, core: &Arc<ClientCore>, command: &dyn Command, session: &mut Option<SessionInUse>) {
        if let AttemptStep::Exchanging(conn, exchange) = &mut self.step {
            exchange.abandon(&core.sessions, command, session, conn);
            core.end_lost_sessions();
        }
    }

    /// Takes the connection that a completed attempt has kept.
    pub(super) fn take_conn(&mut self) -> Option<CheckedOutConn> {
        match &mut self.step {
            AttemptStep::Over(conn) => conn.take(),
            AttemptStep::Start | AttemptStep::Waiting(..) | AttemptStep::Exchanging(..) => None,
        }
    }

    /// Continues the attempt until it is over.
    pub(super) fn poll(&mut self, scope: &mut AttemptScope<'_>, context: &mut Context<'_>) -> Poll<Attempted> {
        loop {
            let next = match &mut self.step {
                AttemptStep::Start => self.start(scope),
                AttemptStep::Waiting(checkout) => match task::ready!(Pin::new(checkout).poll(context)) {
                    Ok(conn) => self.send(scope, conn),
                    Err(error) => Err(error),
                },
                AttemptStep::Exchanging(conn, exchange) => {
                    let outcome = task::ready!(exchange.poll(conn, context));
                    let now = clock::now();
                    let attempted =
                        exchange.finish(exchange_scope(scope.core, scope.database), &*scope.command, scope.session, conn, outcome, now);
                    self.end(scope, attempted.is_ok(), now);
                    return Poll::Ready(attempted);
                }
                AttemptStep::Over(_) => {
                    let error = Error::new(ErrorKind::Internal, "an attempt that is over goes on").at(Stage::Read);
                    return Poll::Ready(Err(Box::new(Failure::before_sending(error, scope.command.request()))));
                }
            };
            if let Err(error) = next {
                if !matches!(self.step, AttemptStep::Over(_)) {
                    self.step = AttemptStep::Over(None);
                }
                return Poll::Ready(Err(Box::new(Failure::before_sending(error, scope.command.request()))));
            }
        }
    }

    /// Selects a server and asks its pool for a connection.
    #[inline]
    fn start(&mut self, scope: &mut AttemptScope<'_>) -> Result<()> {
        let (core, now) = (scope.core, clock::now());
        if self.deadline.is_none() {
            self.deadline = core.limits().operation(scope.time, now);
        }
        let criteria = scope.avoiding.or(scope.command.target()).unwrap_or(core.primary());
        let is_logged = log::wants_selections();
        if is_logged {
            log::selection_started(scope.command.name(), criteria, &core.description());
        }
        let found = match core.select_now(criteria, now) {
            Ok(Some(selected)) => Ok(selected),
            Ok(None) => {
                let origin = match scope.command.rules().session {
                    SessionRule::OfCursor | SessionRule::None => CallOrigin::Continued,
                    SessionRule::Implicit | SessionRule::OpensCursor => CallOrigin::New,
                };
                let name = scope.command.name().to_owned();
                let later = select_and_check_out(Arc::clone(core), name, Arc::clone(criteria), self.deadline, origin);
                self.step = AttemptStep::Waiting(CheckoutFuture::Boxed(Box::pin(later)));
                return Ok(());
            }
            Err(error) => Err(error),
        };
        if is_logged {
            log_selection(core, scope.command.name(), criteria, &found);
        }
        let selected = found?;
        let now = selected_at(&selected, is_logged, now);
        match check_out(core.limits(), selected, self.deadline, now) {
            Ok(conn) => self.send(scope, conn),
            Err(later) => {
                self.step = AttemptStep::Waiting(later);
                Ok(())
            }
        }
    }

    /// Builds the command and puts it into the connection's buffer.
    #[inline]
    fn send(&mut self, scope: &mut AttemptScope<'_>, mut conn: CheckedOutConn) -> Result<()> {
        // A connection that the caller keeps was checked out for an earlier command.
        let began = if self.keeps_conn { clock::now() } else { conn.checked_out_at() };
        match Exchange::start(exchange_scope(scope.core, scope.database), scope.command, scope.session, &mut conn, self.deadline, began) {
            Ok(exchange) => {
                self.step = AttemptStep::Exchanging(conn, exchange);
                Ok(())
            }
            Err(error) => {
                self.step = AttemptStep::Over(Some(conn).filter(|_| self.keeps_conn));
                Err(error)
            }
        }
    }

    /// Checks the connection in, or keeps it.
    fn end(&mut self, scope: &AttemptScope<'_>, succeeded: bool, now: Instant) {
        let AttemptStep::Exchanging(conn, _) = std::mem::replace(&mut self.step, AttemptStep::Over(None)) else { return };
        if self.keeps_conn {
            self.step = AttemptStep::Over(Some(conn));
        } else if succeeded && conn.facts().service_id.is_some() && scope.command.rules().session == SessionRule::OpensCursor {
            conn.pin();
            self.step = AttemptStep::Over(Some(conn));
        } else {
            conn.check_in(now);
        }
        if !succeeded {
            scope.core.end_lost_sessions();
        }
    }
}

/// Returns what an exchange uses of the client.
#[inline]
fn exchange_scope<'a>(core: &'a ClientCore, database: &'a Arc<str>) -> ExchangeScope<'a> {
    ExchangeScope { limits: core.limits(), sessions: &core.sessions, database }
}

/// Logs the outcome of a selection.
#[cold]
fn log_selection(core: &ClientCore, operation: &str, criteria: &Criteria, found: &Result<SelectedServer>) {
    match found {
        Ok(selected) => log::selection_succeeded(operation, criteria, selected.description(), selected.pool().host()),
        Err(error) => log::selection_failed(operation, criteria, &core.description(), error),
    }
}

/// Waits for a server, then for a connection.
async fn select_and_check_out(
    core: Arc<ClientCore>,
    operation: String,
    criteria: Arc<Criteria>,
    deadline: Option<Deadline>,
    origin: CallOrigin,
) -> Result<CheckedOutConn> {
    let _waits = core.wait();
    let found = core.select_later(&operation, &criteria, deadline, origin).await;
    if log::wants_selections() {
        log_selection(&core, &operation, &criteria, &found);
    }
    let selected = found?;
    selected.driver().check_clocks();
    match check_out(core.limits(), selected, deadline, clock::now()) {
        Ok(conn) => Ok(conn),
        Err(later) => later.await,
    }
}
