//! The tasks that monitor servers.
//!
//! One task per server carries out the actions of `topology::Monitor`; while replies are streamed, a second one measures
//! round-trip times with the same rules on a connection of its own.

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bson::RawDocumentBuf;
use tokio::sync::{AcquireError, Notify, OwnedSemaphorePermit, Semaphore};

use super::clock;
use super::conn::Conn;
use super::dial::Timeline;
use super::interrupt::Interrupt;
use super::open::{Opened, Opener, Purpose};
use super::reports::Reports;
use super::tasks::Tasks;
use crate::error::{Error, ErrorKind};
use crate::handshake::{HelloReply, monitor_hello};
use crate::host::ServerAddress;
use crate::machine::{Machine, Output};
use crate::observe::events::EventHub;
use crate::observe::log::{self, CheckedOn};
use crate::operation::{DriverFields, command_error};
use crate::topology::monitor::FLOOD_PAUSE;
use crate::topology::{Monitor, MonitorAction, MonitorConfig, MonitorEvent, RoundTrips};
use crate::wire::{Flags, Request};

/// The orders to a monitor's task.
#[derive(Clone, Debug, Default)]
pub(crate) struct MonitorOrders(Arc<Orders>);

#[derive(Debug, Default)]
struct Orders {
    pending: AtomicU8,
    notify: Notify,
}

const CHECK_NOW: u8 = 1;
const CANCEL_CHECK: u8 = 2;
const RESUMED: u8 = 4;
const STOP: u8 = 8;

impl MonitorOrders {
    pub(crate) fn check_now(&self) {
        self.give(CHECK_NOW);
    }

    pub(crate) fn cancel_check(&self) {
        self.give(CANCEL_CHECK);
    }

    pub(crate) fn resumed(&self) {
        self.give(RESUMED);
    }

    pub(crate) fn stop(&self) {
        self.give(STOP);
    }

    fn give(&self, order: u8) {
        self.0.pending.fetch_or(order, Ordering::AcqRel);
        self.0.notify.notify_one();
    }

    /// Waits for orders and takes them.
    async fn next(&self) -> u8 {
        loop {
            let orders = self.0.pending.swap(0, Ordering::AcqRel);
            if orders != 0 {
                return orders;
            }
            self.0.notify.notified().await;
        }
    }
}

/// The maximum number of connections that the monitors of a client open at once: more than the members of a replica set.
/// Servers that are only named cost no more sockets than that.
pub(crate) const MONITOR_DIALS_MAX: usize = 64;

/// The state that a server's two tasks need.
#[derive(Clone)]
pub(crate) struct Watch {
    pub(crate) host: ServerAddress,
    pub(crate) config: MonitorConfig,
    pub(crate) opener: Arc<Opener>,
    /// A permit for each connection that the client's monitors may open at once.
    pub(crate) dials: Arc<Semaphore>,
    pub(crate) reports: Weak<dyn Reports>,
    pub(crate) tasks: Weak<Tasks>,
    pub(crate) events: EventHub,
    pub(crate) round_trips: Arc<Mutex<RoundTrips>>,
}

/// The role of one of a server's two tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MonitorRole {
    /// Its replies become the description.
    Checks,
    /// Its replies are only measured.
    RoundTrips,
}

/// The current work of the task.
enum MonitorWork {
    Nothing,
    /// Waits for a permit to open a connection.
    Queued(Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>),
    Opening(Pin<Box<dyn Future<Output = Result<Opened, Error>> + Send>>),
    Exchanging,
}

enum Fact {
    Admitted(OwnedSemaphorePermit),
    Opened(Box<Opened>),
    Reply { reply: Box<HelloReply>, more_to_come: bool, raw: Option<RawDocumentBuf> },
    Failed(Error),
}

/// Starts to monitor a server.
pub(crate) fn watch(watch: Watch, orders: MonitorOrders) {
    if let Some(tasks) = watch.tasks.upgrade() {
        tasks.spawn("monitor", run(watch, orders, MonitorRole::Checks));
    }
}

async fn run(watch: Watch, orders: MonitorOrders, role: MonitorRole) {
    let mut monitor = Monitor::new(watch.config.clone(), clock::now());
    let mut conn: Option<Box<Conn>> = None;
    let mut work = MonitorWork::Nothing;
    let mut on = CheckedOn::first();
    let mut measuring: Option<MonitorOrders> = None;
    loop {
        while let Some(output) = monitor.next_output() {
            let action = match output {
                Output::Event(event) => {
                    watch.publish(role, &on, event);
                    continue;
                }
                Output::Action(action) => action,
                Output::Note(_) => continue,
            };
            if matches!(action, MonitorAction::Close) {
                on.closed();
            }
            carry_out(&watch, role, action, &mut conn, &mut work, &mut measuring);
            if matches!(work, MonitorWork::Queued(_)) {
                monitor.handle_queued();
            }
        }
        let due = monitor.poll_timeout().map(|(at, _)| at);
        tokio::select! {
            biased;
            given = orders.next() => {
                if obey(&watch, &mut monitor, given, clock::now()) {
                    break;
                }
            }
            fact = advance(&mut work, &mut conn) => {
                work = MonitorWork::Nothing;
                let now = clock::now();
                match fact {
                    Fact::Admitted(permit) => {
                        work = watch.open(permit);
                        monitor.handle_dialling(now);
                    }
                    Fact::Opened(opened) => {
                        on.opened(opened.hello.connection_id, opened.reply);
                        conn = Some(Box::new(opened.conn));
                        monitor.handle_opened(*opened.hello, opened.round_trip, now);
                    }
                    Fact::Reply { reply, more_to_come, raw } => {
                        on.answered(raw);
                        monitor.handle_reply(*reply, more_to_come, now);
                    }
                    Fact::Failed(error) => monitor.handle_failed(error, now),
                }
            }
            () = clock::sleep_until(due) => monitor.handle_timeout(clock::now()),
        }
        if let Some(reports) = watch.reports.upgrade() {
            reports.check_clocks();
        }
    }
    while let Some(event) = monitor.poll_event() {
        watch.publish(role, &on, event);
    }
    if let Some(measuring) = measuring {
        measuring.stop();
    }
}

/// Passes orders to the rules; returns whether monitoring ends.
fn obey(watch: &Watch, monitor: &mut Monitor, given: u8, now: Instant) -> bool {
    if given & STOP != 0 {
        monitor.handle_stop(now);
        return true;
    }
    if given & RESUMED != 0 {
        watch.lock_round_trips().reset();
        monitor.handle_resumed(now);
    }
    if given & CANCEL_CHECK != 0 {
        monitor.handle_cancel_check(now);
    }
    if given & CHECK_NOW != 0 {
        monitor.handle_check_now(now);
    }
    false
}

fn carry_out(
    watch: &Watch,
    role: MonitorRole,
    action: MonitorAction,
    conn: &mut Option<Box<Conn>>,
    work: &mut MonitorWork,
    measuring: &mut Option<MonitorOrders>,
) {
    match action {
        MonitorAction::Open => {
            *work = match Arc::clone(&watch.dials).try_acquire_owned() {
                Ok(permit) => watch.open(permit),
                Err(_) => MonitorWork::Queued(Box::pin(Arc::clone(&watch.dials).acquire_owned())),
            };
        }
        MonitorAction::Send { hello_ok, awaited } => {
            let flags = if awaited.is_some() { Flags::EXHAUST_ALLOWED } else { Flags::default() };
            if let Some(conn) = conn {
                let fields = DriverFields { database: "admin", ..DriverFields::default() };
                conn.queue(flags, &Request::from(monitor_hello(hello_ok, awaited)), &fields);
            }
            *work = MonitorWork::Exchanging;
        }
        MonitorAction::Read => *work = MonitorWork::Exchanging,
        MonitorAction::Close => {
            *work = MonitorWork::Nothing;
            *conn = None;
        }
        MonitorAction::Answered { reply, round_trip } => watch.answered(role, *reply, round_trip),
        MonitorAction::Failed(error) => watch.failed(role, error),
        MonitorAction::WarnOfFlood => {
            let seconds = FLOOD_PAUSE.as_secs();
            tracing::warn!(host = %watch.host, seconds, "server streams hello replies without pause, and is polled for a while");
        }
        MonitorAction::MeasureRoundTrips(wanted) => {
            if let Some(measuring) = measuring.take() {
                measuring.stop();
            }
            if wanted && role == MonitorRole::Checks {
                *measuring = Some(watch.measure());
            }
        }
    }
}

/// Waits for the current work; can be cancelled and called again.
async fn advance(work: &mut MonitorWork, conn: &mut Option<Box<Conn>>) -> Fact {
    match (work, conn) {
        (MonitorWork::Queued(turn), _) => match turn.await {
            Ok(permit) => Fact::Admitted(permit),
            Err(_) => std::future::pending().await,
        },
        (MonitorWork::Opening(opening), _) => match opening.await {
            Ok(opened) => Fact::Opened(Box::new(opened)),
            Err(error) => Fact::Failed(error),
        },
        (MonitorWork::Exchanging, Some(conn)) => match check(conn).await {
            Ok(fact) => fact,
            Err(error) => Fact::Failed(error),
        },
        (MonitorWork::Exchanging | MonitorWork::Nothing, _) => std::future::pending().await,
    }
}

async fn check(conn: &mut Conn) -> Result<Fact, Error> {
    let began = clock::now();
    let outcome = conn.exchange().await;
    let elapsed = clock::now().saturating_duration_since(began);
    let place = |error: Error| error.on(conn.host()).with_address(conn.address()).after(elapsed);
    let message = outcome.map_err(place)?;
    if let Some(error) = command_error(message.body()) {
        return Err(place(error));
    }
    let reply = HelloReply::parse(message.body()).map_err(place)?;
    let raw = log::wants_topology().then(|| message.body().to_owned());
    Ok(Fact::Reply { reply: Box::new(reply), more_to_come: message.flags.has(Flags::MORE_TO_COME), raw })
}

impl Watch {
    /// Opens a connection; the permit is released when it is open, or opening was cancelled.
    fn open(&self, permit: OwnedSemaphorePermit) -> MonitorWork {
        let (opener, host) = (Arc::clone(&self.opener), self.host.clone());
        MonitorWork::Opening(Box::pin(async move {
            let _permit = permit;
            let mut timeline = Timeline::default();
            opener.open(&host, Purpose::Monitor, Arc::<Interrupt>::default(), &mut timeline).await
        }))
    }

    /// Starts to measure round-trip times.
    fn measure(&self) -> MonitorOrders {
        let orders = MonitorOrders::default();
        let config = MonitorConfig { streaming: false, ..self.config.clone() };
        let watch = Self { config, ..self.clone() };
        if let Some(tasks) = self.tasks.upgrade() {
            // Boxed, because this task starts the other from within itself.
            let task: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(run(watch, orders.clone(), MonitorRole::RoundTrips));
            tasks.spawn("round trips", task);
        }
        orders
    }

    /// Publishes an event of the checks. The measurements have no events.
    fn publish(&self, role: MonitorRole, on: &CheckedOn, event: MonitorEvent) {
        if role == MonitorRole::Checks {
            self.events.heartbeat(&self.host, on, event);
        }
    }

    fn answered(&self, role: MonitorRole, reply: HelloReply, round_trip: Option<Duration>) {
        let Some(reports) = self.reports.upgrade() else { return };
        let measured = {
            let mut trips = self.lock_round_trips();
            if role == MonitorRole::Checks && !reports.is_known(&self.host) {
                trips.reset();
            }
            if let Some(sample) = round_trip {
                trips.handle_sample(sample);
            }
            (trips.average(), trips.minimum())
        };
        if role == MonitorRole::Checks {
            Arc::clone(&reports).hello(&self.host, reply, measured.0);
        }
        if let (Some(average), Some(_)) = (measured.0, round_trip) {
            reports.round_trip(&self.host, average, measured.1);
        }
    }

    fn failed(&self, role: MonitorRole, error: Error) {
        let error = error.on(&self.host);
        match role {
            MonitorRole::Checks => {
                if error.kind() != ErrorKind::LocalResources {
                    self.lock_round_trips().reset();
                }
                if let Some(reports) = self.reports.upgrade() {
                    reports.check_failed(&self.host, error);
                }
            }
            // server-monitoring, "Measuring RTT": an error of the measurement says nothing about the server.
            MonitorRole::RoundTrips => tracing::debug!(host = %self.host, %error, "round-trip time could not be measured"),
        }
    }

    fn lock_round_trips(&self) -> std::sync::MutexGuard<'_, RoundTrips> {
        self.round_trips.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
