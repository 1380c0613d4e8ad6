//! The world around one pool, on virtual time: threads, connections, and the topology's reactions.
//!
//! The shipped parts, joined without sockets: the pool opens its connections by the handshake's conversation, as bytes of
//! `wire`, with a sandbox server whose fail points decide how that goes, and what fails is judged by the topology, which
//! orders the pool to be cleared. Only what the shell does, carrying wishes out in the order of `io/pool.rs`, is done here,
//! and threads are queues of operations.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{Bson, Document, RawDocumentBuf, doc};
use mongolink::deadline::Deadline;
use mongolink::handshake::{ClientMetadata, Conversation, ConversationConfig, Environment, HandshakeStep};
use mongolink::pool::{Checkout, Health, Lease, Pool, PoolAction, WaiterId, closed};
use mongolink::sandbox::{Config, FakeDeployment, SandboxAction as ServerAction};
use mongolink::topology::{Fault, Topology, TopologyAction, TopologyConfig};
use mongolink::uri::ConnectionString;
use mongolink::wire::{Decoder, Flags, MESSAGE_SIZE_MAX, Message, Request, WriteBuffer, encode_message};
use mongolink::{CheckOutFailure, ClientOptions, CloseReason, Error, ErrorKind, PoolConfig, PoolEvent, ServerAddress, Stage};
use serde_json::{Value, json};

/// Where the server is.
pub(super) const HOST: &str = "localhost:27017";

/// The name of the thread that runs the operations of no other.
const MAIN: &str = "";

/// An operation of a thread.
pub(super) enum Operation {
    Wait(Duration),
    /// With the label under which the connection is checked in.
    CheckOut(Option<String>),
    CheckIn(String),
    /// And whether connections in use are interrupted.
    Clear(bool),
    Close,
    Ready,
}

pub(super) struct World {
    now: Instant,
    host: ServerAddress,
    options: ClientOptions,
    metadata: ClientMetadata,
    /// Whether what a background thread would do is done.
    background: bool,
    pool: Pool<u64>,
    topology: Topology,
    server: FakeDeployment,
    next_connection: u64,
    next_request: i32,
    dials: BTreeMap<u64, Dial>,
    threads: BTreeMap<String, Thread>,
    /// By label.
    lent: BTreeMap<String, (Lease, u64)>,
    /// Connections without a label: they are never returned.
    kept: Vec<(Lease, u64)>,
    /// Interrupted while they were in use.
    taken: Vec<u64>,
    events: Vec<Value>,
}

/// A connection being opened.
struct Dial {
    lease: Lease,
    conversation: Conversation,
    decoder: Decoder,
    deadline: Option<Deadline>,
}

#[derive(Default)]
struct Thread {
    queue: VecDeque<Operation>,
    state: State,
    error: Option<Error>,
}

#[derive(Default)]
enum State {
    #[default]
    Free,
    Sleeping {
        until: Instant,
    },
    CheckingOut {
        waiter: WaiterId,
        label: Option<String>,
    },
}

impl World {
    pub(super) fn new(uri: &str, background: Option<i64>) -> Result<Self, String> {
        let now = Instant::now();
        let read = ConnectionString::parse(uri).map_err(|error| error.to_string())?;
        if let Some(warning) = read.warnings.first() {
            return Err(format!("an option is not taken: {warning:?}"));
        }
        let options = read.options;
        let host = options.hosts.first().ok_or("no host")?.clone();
        let config = PoolConfig::from_options(&options);
        let mut pool = Pool::new(config.clone(), 0);
        pool.record_events(true);
        let environment = Environment {
            os_type: "Linux".into(),
            os_name: None,
            os_architecture: None,
            os_version: None,
            platform: "Rust".into(),
            docker: false,
            variables: Arc::new(|_| None),
        };
        let mut world = Self {
            now,
            topology: Topology::new(TopologyConfig::from_options(&options), 1, now),
            metadata: ClientMetadata::new(options.app_name.as_deref(), &environment).map_err(|error| error.to_string())?,
            background: background.is_none_or(|millis| millis >= 0),
            pool,
            server: FakeDeployment::new(Config::standalone(HOST), 1, now).map_err(|error| error.to_string())?,
            next_connection: 1,
            next_request: 1,
            dials: BTreeMap::new(),
            threads: BTreeMap::from([(MAIN.to_owned(), Thread::default())]),
            lent: BTreeMap::new(),
            kept: Vec::new(),
            taken: Vec::new(),
            events: Vec::new(),
            host,
            options,
        };
        while world.topology.poll_action().is_some() {}
        let created = event(&world.host, &PoolEvent::PoolCreated { options: config });
        world.events.push(created);
        Ok(world)
    }

    pub(super) fn set_fail_point(&mut self, command: &Value) -> Result<(), String> {
        let Bson::Document(command) = Bson::try_from(command.clone()).map_err(|error| error.to_string())? else {
            return Err(format!("fail point {command}"));
        };
        self.server.set_fail_point(0, &command).map_err(|error| error.to_string())
    }

    /// Asks the server for its version.
    pub(super) fn server_version(&mut self) -> Result<String, String> {
        let connection = self.connect();
        let body = RawDocumentBuf::try_from(&doc! { "buildInfo": 1 }).map_err(|error| error.to_string())?;
        self.send(connection, body, "admin");
        let Some(ServerAction::Reply { bytes, .. }) = self.server.poll_action() else { return Err("no reply to buildInfo".into()) };
        let mut decoder = Decoder::new(MESSAGE_SIZE_MAX);
        decoder.buffer().extend_from_slice(&bytes);
        let reply = next_message(&mut decoder).map_err(|error| error.to_string())?.ok_or("half a reply")?;
        let reply = Document::try_from(reply.body()).map_err(|error| error.to_string())?;
        self.server.handle_closed(0, connection, self.now);
        reply.get_str("version").map(str::to_owned).map_err(|error| error.to_string())
    }

    pub(super) fn events(&self) -> &[Value] {
        &self.events
    }

    pub(super) fn start(&mut self, name: &str) -> Result<(), String> {
        match self.threads.insert(name.to_owned(), Thread::default()) {
            None => Ok(()),
            Some(_) => Err(format!("thread {name:?} is started twice")),
        }
    }

    /// Gives a thread something to do after what it has.
    pub(super) fn give(&mut self, name: &str, operation: Operation) -> Result<(), String> {
        let thread = self.threads.get_mut(name).ok_or_else(|| format!("there is no thread {name:?}"))?;
        thread.queue.push_back(operation);
        self.settle()
    }

    /// Does something on the main thread, and waits until it is done.
    pub(super) fn run(&mut self, operation: Operation, limit: Duration) -> Result<Result<(), Error>, String> {
        self.give(MAIN, operation)?;
        self.wait_for_thread(MAIN, limit)
    }

    /// Waits until a thread has nothing left to do; the inner error is the thread's.
    pub(super) fn wait_for_thread(&mut self, name: &str, limit: Duration) -> Result<Result<(), Error>, String> {
        if !self.threads.contains_key(name) {
            return Err(format!("there is no thread {name:?}"));
        }
        let is_done = |world: &Self| world.threads.get(name).is_some_and(|thread| thread.queue.is_empty() && thread.is_free());
        if !self.pass_until(limit, is_done)? {
            return Err(format!("thread {name:?} is not done after {limit:?}; events were {:?}", self.events));
        }
        Ok(self.threads.get_mut(name).and_then(|thread| thread.error.take()).map_or(Ok(()), Err))
    }

    pub(super) fn wait_for_event(&mut self, name: &str, count: usize, limit: Duration) -> Result<(), String> {
        let is_seen = |world: &Self| world.events.iter().filter(|event| event["type"] == name).count() >= count;
        if self.pass_until(limit, is_seen)? {
            return Ok(());
        }
        Err(format!("not {count} times {name} after {limit:?}; events were {:?}", self.events))
    }

    /// Lets time pass, timer by timer, until something holds; tells whether it does within the limit.
    fn pass_until(&mut self, limit: Duration, holds: impl Fn(&Self) -> bool) -> Result<bool, String> {
        let end = self.now + limit;
        while !holds(self) {
            let Some(due) = self.next_due().filter(|due| *due <= end) else { return Ok(false) };
            self.now = self.now.max(due);
            self.server.handle_timeout(self.now);
            if self.pool_due().is_some_and(|due| due <= self.now) {
                self.pool.handle_timeout(self.now);
            }
            let late: Vec<u64> =
                self.dials.iter().filter(|(_, dial)| dial.due().is_some_and(|due| due <= self.now)).map(|(id, _)| *id).collect();
            for connection in late {
                let deadline = self.dials.get(&connection).and_then(|dial| dial.deadline);
                if let Some(deadline) = deadline {
                    self.give_up(connection, deadline.error(Stage::Hello, self.now))?;
                }
            }
            for thread in self.threads.values_mut() {
                if matches!(thread.state, State::Sleeping { until } if until <= self.now) {
                    thread.state = State::Free;
                }
            }
            self.settle()?;
        }
        Ok(true)
    }

    fn next_due(&self) -> Option<Instant> {
        let server = self.server.poll_timeout().map(|(due, _)| due);
        let sleepers = self.threads.values().filter_map(|thread| match thread.state {
            State::Sleeping { until } => Some(until),
            State::Free | State::CheckingOut { .. } => None,
        });
        let dials = self.dials.values().filter_map(Dial::due);
        server.into_iter().chain(self.pool_due()).chain(sleepers).chain(dials).min()
    }

    /// Without a background thread, what is idle for too long stays, and nothing is opened ahead.
    fn pool_due(&self) -> Option<Instant> {
        let (due, name) = self.pool.poll_timeout()?;
        let for_nobody = matches!(name, "maxIdleTimeMS" | "minPoolSize");
        (self.background || !for_nobody).then_some(due)
    }

    /// Applies actions and runs threads until nothing more happens.
    fn settle(&mut self) -> Result<(), String> {
        loop {
            self.take_events();
            if let Some(action) = self.pool.poll_action() {
                self.carry_out(action)?;
            } else if let Some(action) = self.server.poll_action() {
                self.hear(action)?;
            } else if !self.step()? {
                return Ok(());
            }
        }
    }

    fn take_events(&mut self) {
        while let Some(told) = self.pool.poll_event() {
            self.events.push(event(&self.host, &told));
        }
    }

    /// Lets one free thread do one thing.
    fn step(&mut self) -> Result<bool, String> {
        let free = self.threads.iter_mut().find(|(_, thread)| thread.is_free() && !thread.queue.is_empty());
        let Some((name, operation)) = free.and_then(|(name, thread)| Some((name.clone(), thread.queue.pop_front()?))) else {
            return Ok(false);
        };
        let now = self.now;
        let state = match operation {
            Operation::Wait(span) => State::Sleeping { until: now + span },
            Operation::CheckOut(label) => {
                let deadline = Deadline::maybe("waitQueueTimeoutMS", self.options.wait_queue_timeout_or_default(), now);
                match self.pool.handle_checkout(deadline, now) {
                    Checkout::CheckedOut { lease, connection, liveness_check } => {
                        if liveness_check.is_some() {
                            // Every liveness check of this world succeeds.
                            self.pool.handle_alive(lease, now, now);
                        }
                        self.keep(label, lease, connection);
                        State::Free
                    }
                    Checkout::Waiting(waiter) => State::CheckingOut { waiter, label },
                    Checkout::Refused(error) => {
                        self.fail(&name, error);
                        State::Free
                    }
                }
            }
            Operation::CheckIn(label) => {
                let (lease, connection) = self.lent.remove(&label).ok_or_else(|| format!("there is no connection {label:?}"))?;
                // What was interrupted has come back already.
                if !self.taken.contains(&connection) {
                    self.pool.handle_checkin(lease, connection, Health::Good, now);
                }
                State::Free
            }
            Operation::Clear(interrupt) => {
                self.pool.handle_clear(&Error::new(ErrorKind::Closed, "cleared by the case").at(Stage::Read), interrupt, now);
                State::Free
            }
            Operation::Close => {
                self.pool.handle_close(&closed(), false, now);
                State::Free
            }
            Operation::Ready => {
                self.pool.handle_ready(now);
                State::Free
            }
        };
        if let Some(thread) = self.threads.get_mut(&name) {
            thread.state = state;
        }
        Ok(true)
    }

    fn carry_out(&mut self, action: PoolAction<u64>) -> Result<(), String> {
        match action {
            PoolAction::Open(lease) => self.dial(lease),
            PoolAction::Close(_, connection) => self.server.handle_closed(0, connection, self.now),
            PoolAction::Deliver { waiter, lease, connection } => {
                let (_, label) = self.awaken(waiter)?;
                self.keep(label, lease, connection);
            }
            PoolAction::Refuse(waiter, error) => {
                let (name, _) = self.awaken(waiter)?;
                self.fail(&name, error);
            }
            PoolAction::Interrupt(lease, error) => self.interrupt(lease, error)?,
            // A connection that a thread keeps for long: nobody is there to be asked.
            PoolAction::Unanswered => {}
            PoolAction::Drain(lease, _) => return Err(format!("connection {} is drained, though no command was sent", lease.id)),
        }
        Ok(())
    }

    /// Frees the thread that waits as a waiter of the pool.
    fn awaken(&mut self, id: WaiterId) -> Result<(String, Option<String>), String> {
        for (name, thread) in &mut self.threads {
            match std::mem::take(&mut thread.state) {
                State::CheckingOut { waiter, label } if waiter == id => return Ok((name.clone(), label)),
                other @ (State::Free | State::Sleeping { .. } | State::CheckingOut { .. }) => thread.state = other,
            }
        }
        Err(format!("no thread waits as waiter {}", id.0))
    }

    fn keep(&mut self, label: Option<String>, lease: Lease, connection: u64) {
        match label {
            Some(label) => drop(self.lent.insert(label, (lease, connection))),
            None => self.kept.push((lease, connection)),
        }
    }

    /// An error ends its thread.
    fn fail(&mut self, name: &str, error: Error) {
        if let Some(thread) = self.threads.get_mut(name) {
            thread.queue.clear();
            thread.error.get_or_insert(error.on(&self.host));
        }
    }

    fn connect(&mut self) -> u64 {
        let connection = self.next_connection;
        self.next_connection += 1;
        self.server.handle_connected(0, connection, self.now);
        connection
    }

    fn send(&mut self, connection: u64, body: RawDocumentBuf, database: &str) {
        let mut bytes = WriteBuffer::default();
        encode_message(&mut bytes, self.next_request, 0, Flags::default(), &Request::from(body), |body| body.string(c"$db", database));
        self.next_request += 1;
        self.server.handle_bytes(0, connection, &bytes.to_bytes(), self.now);
    }

    fn dial(&mut self, lease: Lease) {
        let client = Arc::clone(self.metadata.document());
        let config = ConversationConfig { client, credential: None, hello_ok: false, load_balanced: false, nonces: Default::default() };
        let (mut command, conversation) = Conversation::new(config);
        let connection = self.connect();
        let deadline = Deadline::maybe("connectTimeoutMS", self.options.connect_timeout_or_default(), self.now);
        self.dials.insert(connection, Dial { lease, conversation, decoder: Decoder::new(MESSAGE_SIZE_MAX), deadline });
        self.send(connection, command.body.take(), &command.database);
    }

    /// Takes what the server does; only connections that are being opened are of interest.
    fn hear(&mut self, action: ServerAction) -> Result<(), String> {
        match action {
            ServerAction::Reply { conn, bytes, .. } => {
                let Some(mut dial) = self.dials.remove(&conn) else { return Ok(()) };
                dial.decoder.buffer().extend_from_slice(&bytes);
                let lease = dial.lease;
                match next_message(&mut dial.decoder)
                    .and_then(|message| message.map(|reply| dial.conversation.handle_reply(reply.body())).transpose())
                {
                    Ok(Some(HandshakeStep::Ready(_))) => self.pool.handle_opened(lease, conn, self.now),
                    Ok(Some(HandshakeStep::Send(..) | HandshakeStep::Work(..))) => return Err("a login without a user".into()),
                    Ok(None) => return Err("half a reply".into()),
                    Err(error) => self.opening_failed(conn, lease, error)?,
                }
            }
            ServerAction::Close { conn, .. } => {
                let error = Error::new(ErrorKind::Closed, "closed by the server").at(Stage::Hello);
                // As every network error of a connection's set-up is labelled (client-backpressure).
                self.give_up(conn, error.with_label("SystemOverloadedError").with_label("RetryableError"))?;
            }
            other => return Err(format!("the server does {other:?}")),
        }
        Ok(())
    }

    fn give_up(&mut self, connection: u64, error: Error) -> Result<(), String> {
        match self.dials.remove(&connection) {
            Some(dial) => self.opening_failed(connection, dial.lease, error),
            None => Ok(()),
        }
    }

    /// Does what `io/pool.rs` does when a connection could not be opened.
    fn opening_failed(&mut self, connection: u64, lease: Lease, error: Error) -> Result<(), String> {
        self.server.handle_closed(0, connection, self.now);
        let error = error.on(&self.host);
        self.pool.handle_open_failed(lease, &error, self.now);
        if !matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::PoolClosed) {
            self.topology.handle_fault(&self.host, Fault::new(error, lease.generation).during_handshake(), self.now);
            while let Some(order) = self.topology.poll_action() {
                if let TopologyAction::ClearPool { cause, interrupt, .. } = order {
                    self.pool.handle_clear(&cause, interrupt, self.now);
                }
            }
        }
        self.pool.handle_refill(self.now);
        Ok(())
    }

    fn interrupt(&mut self, lease: Lease, error: Error) -> Result<(), String> {
        let dial = self.dials.iter().find(|(_, dial)| dial.lease == lease).map(|(connection, _)| *connection);
        if let Some(connection) = dial {
            return self.give_up(connection, error);
        }
        // Whoever uses it gets the error, and the connection comes back broken.
        let lent = self.lent.values().chain(&self.kept).find(|(own, _)| *own == lease).copied();
        if let Some((lease, connection)) = lent {
            self.taken.push(connection);
            self.pool.handle_checkin(lease, connection, Health::Broken, self.now);
        }
        Ok(())
    }
}

impl Dial {
    fn due(&self) -> Option<Instant> {
        self.deadline.map(|deadline| deadline.at)
    }
}

impl Thread {
    fn is_free(&self) -> bool {
        matches!(self.state, State::Free)
    }
}

fn next_message(decoder: &mut Decoder) -> Result<Option<Message>, Error> {
    decoder.next_frame()?.map(Message::parse).transpose()
}

/// Writes an event as the format does.
fn event(host: &ServerAddress, event: &PoolEvent) -> Value {
    let millis = |span: &Duration| json!(span.as_secs_f64() * 1e3);
    let (name, mut value) = match event {
        PoolEvent::PoolCreated { options, .. } => ("ConnectionPoolCreated", json!({ "options": limits(options) })),
        PoolEvent::PoolReady => ("ConnectionPoolReady", json!({})),
        PoolEvent::PoolCleared { interrupt_in_use, .. } => {
            ("ConnectionPoolCleared", json!({ "interruptInUseConnections": interrupt_in_use }))
        }
        PoolEvent::PoolClosed => ("ConnectionPoolClosed", json!({})),
        PoolEvent::ConnectionCreated { connection_id, .. } => ("ConnectionCreated", json!({ "connectionId": connection_id })),
        PoolEvent::ConnectionReady { connection_id, duration, .. } => {
            ("ConnectionReady", json!({ "connectionId": connection_id, "duration": millis(duration) }))
        }
        PoolEvent::ConnectionClosed { connection_id, reason, .. } => {
            ("ConnectionClosed", json!({ "connectionId": connection_id, "reason": close_reason(*reason) }))
        }
        PoolEvent::CheckOutStarted => ("ConnectionCheckOutStarted", json!({})),
        PoolEvent::CheckOutFailed { reason, duration, .. } => {
            ("ConnectionCheckOutFailed", json!({ "reason": failure_reason(*reason), "duration": millis(duration) }))
        }
        PoolEvent::CheckedOut { connection_id, duration, .. } => {
            ("ConnectionCheckedOut", json!({ "connectionId": connection_id, "duration": millis(duration) }))
        }
        PoolEvent::CheckedIn { connection_id, .. } => ("ConnectionCheckedIn", json!({ "connectionId": connection_id })),
        other => ("unknown", json!({ "event": format!("{other:?}") })),
    };
    value["type"] = json!(name);
    value["address"] = json!(host.canonical());
    value
}

fn limits(config: &PoolConfig) -> Value {
    json!({
        "maxPoolSize": config.max_size.unwrap_or(0),
        "minPoolSize": config.min_size,
        "maxConnecting": config.max_connecting,
        "maxIdleTimeMS": config.max_idle_time.map_or(0, |limit| limit.as_millis()),
    })
}

fn close_reason(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Stale => "stale",
        CloseReason::Idle => "idle",
        CloseReason::Error => "error",
        CloseReason::PoolClosed => "poolClosed",
        _ => "unknown",
    }
}

fn failure_reason(reason: CheckOutFailure) -> &'static str {
    match reason {
        CheckOutFailure::PoolClosed => "poolClosed",
        CheckOutFailure::Timeout => "timeout",
        CheckOutFailure::ConnectionError => "connectionError",
        _ => "unknown",
    }
}
