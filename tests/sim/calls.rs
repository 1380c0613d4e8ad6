//! What becomes of a call?
//!
//! Does what `client/attempt.rs` does: select, check out, exchange, each with its deadline; callers may go away at any moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{RawDocumentBuf, rawdoc};
use mongolink::cursor::CursorState;
use mongolink::deadline::Deadline;
use mongolink::operation::{ReplyHead, command_error};
use mongolink::pool::{Lease, WaiterId};
use mongolink::selection::{self, Criteria, Refusal};
use mongolink::topology::{Fault, SelectId};
use mongolink::wire::{Flags, Message, Request};
use mongolink::{Error, ReadPreference, ServerAddress, Stage};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::balancer::{is_batch, look_at_refusal, scroll_command};
use super::excess::error_is_small;
use super::invariants::{call_ends_in_time, reply_is_ones_own};
use super::logins::callers_are_logged_in;
use super::net::{Exchange, User};
use super::pools::{Answer, WAIT_QUEUE_TIMEOUT};
use super::promises::selected_is_near_and_free;
use super::queue::{CallKind, Event, Timer};
use super::world::World;

/// One call under way.
pub(crate) struct Call {
    pub(crate) kind: CallKind,
    /// Where its cursor stands, and how many batches it had.
    pub(crate) cursor: Option<CursorState>,
    pub(crate) batches: u32,
    key: i32,
    criteria: Arc<Criteria>,
    selection: Deadline,
    deadline: Option<Deadline>,
    limit: Option<Deadline>,
    operation: Option<u64>,
    pub(crate) state: State,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum State {
    /// Between two waits.
    Going,
    Selecting {
        select: SelectId,
    },
    Waiting {
        pool: u64,
        waiter: WaiterId,
    },
    Exchanging {
        pool: u64,
        lease: Lease,
        conn: u64,
        since: Instant,
    },
    /// Keeps its connection for the next batch.
    Resting {
        pool: u64,
        lease: Lease,
        conn: u64,
    },
}

impl State {
    /// Names it; a moment would differ from run to run.
    fn name(self) -> &'static str {
        match self {
            Self::Going => "going",
            Self::Selecting { .. } => "selecting",
            Self::Waiting { .. } => "waiting",
            Self::Exchanging { .. } => "exchanging",
            Self::Resting { .. } => "resting",
        }
    }
}

impl Call {
    /// Returns since when a connection of this pool is used.
    pub(crate) fn exchanges_since(&self, of: u64) -> Option<Instant> {
        match self.state {
            State::Exchanging { pool, since, .. } if pool == of => Some(since),
            State::Exchanging { .. } | State::Going | State::Selecting { .. } | State::Waiting { .. } | State::Resting { .. } => None,
        }
    }

    /// Tells whether a cursor keeps a connection of this pool.
    pub(crate) fn keeps(&self, of: u64) -> bool {
        match self.state {
            State::Exchanging { pool, .. } | State::Resting { pool, .. } => pool == of && self.batches > 0,
            State::Going | State::Selecting { .. } | State::Waiting { .. } => false,
        }
    }
}

/// After how long a failed attempt is followed by another.
pub(crate) const PROBE_PAUSE: Duration = Duration::from_millis(20);

impl World {
    pub(crate) fn begin_call(&mut self, c: usize, kind: CallKind, patience: Option<Duration>) {
        if self.clients[c].is_shut_down {
            return;
        }
        let (now, limit) = (self.local(c), self.plan.probe_limit());
        let client = &mut self.clients[c];
        let id = client.number();
        let deadline = match kind {
            CallKind::Probe => Some(Deadline::new("timeout", limit, now)),
            CallKind::Ping | CallKind::Insert | CallKind::Find | CallKind::Scroll => {
                Deadline::maybe("timeoutMS", client.settings.call_timeout, now)
            }
        };
        let own = Deadline::new("serverSelectionTimeoutMS", client.settings.selection_timeout, now);
        let selection = Deadline::earliest(Some(own), deadline).unwrap_or(own);
        let key = match kind {
            CallKind::Find => client.acknowledged.last().copied().unwrap_or(-1),
            CallKind::Ping | CallKind::Insert | CallKind::Scroll | CallKind::Probe => (c * 1_000_000) as i32 + id as i32,
        };
        let criteria = Arc::new(match kind {
            CallKind::Find | CallKind::Scroll => Criteria::read(ReadPreference::nearest()),
            CallKind::Ping => Criteria::read(ReadPreference::primary_preferred()),
            CallKind::Insert | CallKind::Probe => Criteria::write(),
        });
        let state = State::Going;
        let call = Call { kind, key, criteria, selection, deadline, limit: None, operation: None, state, cursor: None, batches: 0 };
        client.calls.insert(id, call);
        self.figures.calls += 1;
        self.note(|_| format!("client {c}: call {id}: {kind:?}"));
        if let Some(patience) = patience {
            self.queue.push(self.now + patience, Event::GiveUp { client: c, call: id });
        }
        self.look_at_clocks(c);
        self.select(c, id);
    }

    fn select(&mut self, c: usize, id: u64) {
        let client = &mut self.clients[c];
        let Some(call) = client.calls.get_mut(&id) else { return };
        client.draws += 1;
        let mut random = SmallRng::seed_from_u64(client.draws);
        let loads =
            |host: &ServerAddress| client.snapshot.get(host).and_then(|pool| client.pools.get(pool)).map_or(0, |pool| pool.operations);
        match selection::select(&client.published, &call.criteria, &loads, &mut random) {
            Ok(server) => {
                selected_is_near_and_free(&client.published, &server.host, &loads);
                let pool = client.snapshot.get(&server.host).copied();
                let Some(pool) = pool else {
                    super::invariants::violated("selected_has_a_pool", format!("{} was selected without a pool", server.host));
                };
                self.check_out_for(c, id, pool);
            }
            Err(Refusal::NoServer(_)) => {
                let select = SelectId(client.number());
                let (criteria, deadline) = match client.calls.get_mut(&id) {
                    Some(call) => {
                        call.state = State::Selecting { select };
                        (Arc::clone(&call.criteria), call.selection)
                    }
                    None => return,
                };
                client.selects.insert(select, (id, deadline.at));
                self.topology_act(c, false, |topology, now| topology.handle_select(select, criteria, Some(deadline), now));
            }
            Err(Refusal::Invalid(error)) => self.end_call(c, id, Err(error.at(Stage::Selection))),
        }
    }

    /// The topology has answered.
    pub(crate) fn selected(&mut self, c: usize, id: u64, select: u64, outcome: Result<(), Error>) {
        let Some(call) = self.clients[c].calls.get_mut(&id) else { return };
        if !matches!(call.state, State::Selecting { select: own } if own.0 == select) {
            return;
        }
        call.state = State::Going;
        match outcome {
            Ok(()) => self.select(c, id),
            Err(error) => self.end_call(c, id, Err(error)),
        }
    }

    fn check_out_for(&mut self, c: usize, id: u64, pool: u64) {
        let now = self.local(c);
        let client = &mut self.clients[c];
        let Some(call) = client.calls.get_mut(&id) else { return };
        let deadline = call.deadline.or_else(|| Deadline::maybe(WAIT_QUEUE_TIMEOUT, client.settings.wait_queue_timeout, now));
        call.operation = Some(pool);
        if let Some(pool) = client.pools.get_mut(&pool) {
            pool.operations += 1;
        }
        match self.check_out(c, pool, id, deadline) {
            Answer::Lent(lease, conn) => self.exchange(c, id, pool, lease, conn),
            Answer::Waits(waiter) => {
                if let Some(call) = self.clients[c].calls.get_mut(&id) {
                    call.state = State::Waiting { pool, waiter };
                }
            }
            Answer::Refused(error) => self.end_call(c, id, Err(error)),
        }
    }

    /// A connection comes to a caller, who may be gone.
    pub(crate) fn delivered(&mut self, c: usize, id: u64, pool: u64, lease: Lease, conn: u64) {
        match self.clients[c].calls.contains_key(&id) {
            true => self.exchange(c, id, pool, lease, conn),
            false => self.check_in(c, pool, lease, conn),
        }
    }

    pub(crate) fn denied(&mut self, c: usize, id: u64, error: Error) {
        self.end_call(c, id, Err(error));
    }

    fn exchange(&mut self, c: usize, id: u64, pool: u64, lease: Lease, conn: u64) {
        let Some(call) = self.clients[c].calls.get(&id) else { return };
        let (request, preference) = command(call.kind, call.key);
        self.exchange_on(c, id, (pool, lease, conn), "sim", &request, preference.as_deref());
    }

    /// Puts a command on a caller's connection.
    pub(crate) fn exchange_on(
        &mut self,
        c: usize,
        id: u64,
        (pool, lease, conn): (u64, Lease, u64),
        database: &str,
        request: &Request,
        preference: Option<&bson::RawDocument>,
    ) {
        let now = self.local(c);
        let settings = &self.clients[c].settings;
        let socket = settings.socket_timeout.map(|limit| Deadline::new("socketTimeoutMS", limit, now));
        let Some(call) = self.clients[c].calls.get_mut(&id) else { return };
        call.state = State::Exchanging { pool, lease, conn, since: now };
        call.limit = call.deadline.or(socket);
        let limit = call.limit;
        if let Some(conn) = self.net.conns.get_mut(&conn) {
            conn.user = User::Call { pool, lease, call: id };
        }
        self.note(|_| format!("client {c}: call {id} is sent on conn {conn}"));
        self.send_command(conn, database, Flags::default(), request, preference);
        // A connection may come so late that there is no time left for it.
        self.arm(c, Timer::Exchange(c, id), limit.map(|limit| limit.at.max(now)));
    }

    /// The next command of a cursor has the time of a call of its own.
    pub(crate) fn renew_deadline(&mut self, c: usize, id: u64, now: Instant) {
        let limit = self.clients[c].settings.call_timeout;
        if let Some(call) = self.clients[c].calls.get_mut(&id) {
            call.deadline = Deadline::maybe("timeoutMS", limit, now);
        }
    }

    /// The time of an exchange is over: its own limit keeps the connection, `socketTimeoutMS` costs it.
    pub(crate) fn exchange_late(&mut self, c: usize, id: u64) {
        let now = self.local(c);
        let Some(call) = self.clients[c].calls.get(&id) else { return };
        let (State::Exchanging { pool, lease, conn, .. }, Some(limit)) = (call.state, call.limit) else { return };
        if call.deadline.is_none()
            && let Some(conn) = self.net.conns.get_mut(&conn)
        {
            conn.exchange = Exchange::Broken;
        }
        self.exchange_ends(c, id, pool, lease, conn, Err(limit.error(Stage::Read, now)));
    }

    /// A reply has come, or can't.
    pub(crate) fn call_read(&mut self, c: usize, id: u64, pool: u64, lease: Lease, conn: u64, outcome: Result<Message, Error>) {
        // A caller that has gone has left nothing to be read for it.
        super::invariants::in_order(self.clients[c].calls.contains_key(&id), || format!("conn {conn}: a reply for {id}, which is over"));
        self.exchange_ends(c, id, pool, lease, conn, outcome);
    }

    fn exchange_ends(&mut self, c: usize, id: u64, pool: u64, lease: Lease, conn: u64, outcome: Result<Message, Error>) {
        let service = self.service_of(c, pool, lease);
        let Some(host) = self.clients[c].pools.get(&pool).map(|pool| pool.host.clone()) else { return };
        let outcome = match outcome {
            Ok(message) => {
                let head = ReplyHead::read(message.body().as_bytes());
                if (!head.succeeded || head.has_write_concern_error)
                    && let Some(fault) = Fault::in_reply(&host, message.body(), lease.generation)
                {
                    self.fault(c, &host, fault.of_service(service));
                }
                match command_error(message.body()) {
                    Some(error) => {
                        callers_are_logged_in(&host, &error);
                        Err(error)
                    }
                    None => Ok(message),
                }
            }
            Err(error) => {
                super::invariants::sent_is_not_repeated(id, &error);
                self.fault(c, &host, Fault::new(error.clone(), lease.generation).of_service(service));
                Err(error)
            }
        };
        if let (Err(error), Some(call)) = (&outcome, self.clients[c].calls.get(&id)) {
            look_at_refusal(id, call.kind, error);
            self.look_at_failed_service(c, pool, lease, error);
        }
        if let Ok(message) = &outcome
            && self.scroll(c, id, (pool, lease, conn), message)
        {
            return self.arm(c, Timer::Exchange(c, id), None);
        }
        self.check_in(c, pool, lease, conn);
        if let (Ok(message), Some(call)) = (&outcome, self.clients[c].calls.get(&id)) {
            check_reply(id, call, message);
            if matches!(call.kind, CallKind::Insert) {
                let key = call.key;
                self.clients[c].acknowledged.push(key);
            }
        }
        self.end_call(c, id, outcome.map(|_| ()));
    }

    /// The caller goes away, wherever its call is.
    pub(crate) fn give_up(&mut self, c: usize, id: u64) {
        let Some(call) = self.clients[c].calls.get(&id) else { return };
        let state = call.state;
        self.note(|_| format!("client {c}: the caller of {id} goes away ({})", state.name()));
        self.forget_call(c, id);
        self.figures.given_up += 1;
        match state {
            State::Going => {}
            State::Selecting { select } => {
                self.clients[c].selects.remove(&select);
                self.topology_act(c, false, |topology, _| topology.handle_cancel_select(select));
            }
            State::Waiting { pool, waiter } => self.cancel_waiter(c, pool, waiter),
            State::Exchanging { pool, lease, conn, .. } | State::Resting { pool, lease, conn } => self.check_in(c, pool, lease, conn),
        }
    }

    fn end_call(&mut self, c: usize, id: u64, outcome: Result<(), Error>) {
        let now = self.local(c);
        let Some(call) = self.forget_call(c, id) else { return };
        self.note(|_| match &outcome {
            Ok(()) => format!("client {c}: call {id} is done"),
            Err(error) => format!("client {c}: call {id} fails: {error}"),
        });
        if let Err(error) = &outcome {
            error_is_small(error);
        }
        if let Some(deadline) = call.deadline {
            // A task may notice late that it was woken, once for each thing it waits for.
            let allowed = deadline.at + 3 * self.clients[c].settings.wake_delay;
            call_ends_in_time(c, id, now.saturating_duration_since(allowed));
        }
        match &outcome {
            Ok(()) => self.figures.succeeded += 1,
            Err(_) => self.figures.failed += 1,
        }
        if call.kind == CallKind::Probe {
            match outcome {
                Ok(()) => self.recovered(c),
                Err(_) => self.queue.push(self.now + PROBE_PAUSE, Event::Probe { client: c }),
            }
        }
    }

    fn forget_call(&mut self, c: usize, id: u64) -> Option<Call> {
        let call = self.clients[c].calls.remove(&id)?;
        self.arm(c, Timer::Exchange(c, id), None);
        if let Some(pool) = call.operation.and_then(|pool| self.clients[c].pools.get_mut(&pool)) {
            pool.operations -= 1;
        }
        Some(call)
    }

    /// Who waits for a server, and until when.
    pub(crate) fn selecting(&self, c: usize) -> impl Iterator<Item = (SelectId, Option<Instant>)> {
        self.clients[c].selects.iter().map(|(id, (_, deadline))| (*id, Some(*deadline)))
    }
}

/// Nobody waits for a server that is there.
pub(crate) fn look_at_selections(client: &super::client::Client) {
    for call in client.selects.values().filter_map(|(call, _)| client.calls.get(call)) {
        super::invariants::nobody_selects_for_nothing(&client.published, &call.criteria);
    }
}

fn command(kind: CallKind, key: i32) -> (Request, Option<RawDocumentBuf>) {
    match kind {
        CallKind::Ping => (Request::from(rawdoc! { "ping": 1 }), None),
        CallKind::Find => {
            let body = rawdoc! { "find": "c", "filter": { "_id": key }, "batchSize": 2 };
            (Request::from(body), Some(rawdoc! { "mode": "nearest" }))
        }
        CallKind::Scroll => (scroll_command(), Some(rawdoc! { "mode": "nearest" })),
        CallKind::Insert | CallKind::Probe => {
            let documents = vec![rawdoc! { "_id": key }.into()];
            (Request { body: rawdoc! { "insert": "c" }.into(), sequences: vec![("documents".to_owned(), documents)] }, None)
        }
    }
}

/// Each reply is the one to its own request, by its content.
fn check_reply(id: u64, call: &Call, message: &Message) {
    let body = message.body();
    let holds = match call.kind {
        CallKind::Ping => body.get("n").is_ok_and(|n| n.is_none()) && body.get("cursor").is_ok_and(|cursor| cursor.is_none()),
        CallKind::Insert | CallKind::Probe => body.get_i32("n").is_ok_and(|n| n == 1),
        CallKind::Scroll => is_batch(message),
        CallKind::Find => body.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch")).is_ok_and(|batch| {
            let ids: Vec<Option<i32>> =
                batch.into_iter().map(|item| item.ok().and_then(|item| item.as_document()?.get_i32("_id").ok())).collect();
            if call.key == -1 { ids.is_empty() } else { ids == [Some(call.key)] }
        }),
    };
    reply_is_ones_own(id, holds, &format!("{body:?}"));
}
