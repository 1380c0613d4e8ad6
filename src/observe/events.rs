//! The queues of events, one for each subscriber.
//!
//! Each subscriber has a queue: a writer puts an event at its end, a reader takes many at once, so that it seldom
//! meets the writers. The queues are bounded: a slow reader receives the number of missed events, and no writer waits for a
//! reader. Without subscribers no event is made. What of it is logged is decided in `log`.
//!
//! Events are queued under the lock of the machine that decides on them, so that their order is that of its decisions. What is
//! foreign runs after that lock was released ([`PendingWakeups`]): wakers of readers, and the log's subscribers.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use crossbeam_utils::CachePadded;
use tokio::task::coop;

use super::log::{self, CheckedOn, LogSubject};
use super::outbox::{Line, Outbox};
use super::size::size_bytes;
use crate::host::ServerAddress;
use crate::note::Note;
use crate::operation::CommandEvent;
use crate::pool::PoolEvent;
use crate::topology::{MonitorEvent, TopologyEvent};

/// An event in the life of a client.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// What is known of the servers has changed.
    Topology(TopologyEvent),
    /// A server was checked.
    #[non_exhaustive]
    Heartbeat {
        /// The server.
        host: ServerAddress,
        /// What happened.
        event: MonitorEvent,
    },
    /// Something happened in a server's pool.
    #[non_exhaustive]
    Pool {
        /// The server.
        host: ServerAddress,
        /// What happened.
        event: PoolEvent,
    },
    /// Something happened to a command.
    Command(CommandEvent),
    /// The reader was too slow: this many events were dropped here.
    Missed(u64),
}

/// How many events wait for a slow reader, those that it has taken out of its queue included.
pub const EVENTS_MAX: usize = 4096;

/// How many bytes of events wait for a slow reader, those that it has taken out of its queue included: a subscriber that is
/// never read must not cost more.
pub const EVENTS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// How many are taken out at once.
const TAKEN_MAX: usize = EVENTS_MAX / 8;

/// How many wait in the queue.
const QUEUED_MAX: usize = EVENTS_MAX - TAKEN_MAX;

/// Commands and replies that are larger, in bytes, are left out of events: a slow reader must not hold them all in memory.
pub const EVENT_DOCUMENT_SIZE_MAX: usize = 64 * 1024;

/// Hands events out. The last one that goes ends what its subscribers hear.
#[derive(Clone, Debug)]
pub(crate) struct EventHub {
    publisher: Arc<Publisher>,
    /// What is logged beside them is about this.
    subject: LogSubject,
}

/// Listens until it is dropped.
#[derive(Debug)]
pub(crate) struct Subscriber {
    bus: Arc<EventBus>,
    id: u64,
    /// What was taken out of its queue, and is not read yet.
    taken: VecDeque<SizedEvent>,
}

/// The state that all hubs of a client share.
#[derive(Debug, Default)]
struct Publisher(Arc<EventBus>);

/// The queues of all subscribers, which the hubs fill.
#[derive(Debug, Default)]
struct EventBus {
    /// How many listen: asked at every step of every command, and therefore not behind the lock.
    subscribers: AtomicUsize,
    queues: CachePadded<Mutex<SubscriberQueues>>,
    outbox: Outbox,
}

#[derive(Debug, Default)]
struct SubscriberQueues {
    all: Vec<SubscriberQueue>,
    next_id: u64,
    /// Nobody is left to tell anything.
    is_over: bool,
}

/// The queued events of one subscriber.
#[derive(Debug)]
struct SubscriberQueue {
    id: u64,
    events: VecDeque<SizedEvent>,
    /// The bytes of what waits.
    queued_bytes: usize,
    /// The bytes of what its reader has taken out last.
    taken_bytes: usize,
    /// How many were dropped before the first that waits.
    missed: u64,
    /// Who waits for the next.
    reader: Option<Waker>,
}

/// An event that waits, and its size.
#[derive(Debug)]
struct SizedEvent {
    event: QueuedEvent,
    size_bytes: usize,
}

/// What somebody wants to know of a machine's work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    is_heard: bool,
    is_logged: bool,
}

/// What is left to do for events that were queued, when no lock is held any more.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct PendingWakeups {
    reader: Option<Waker>,
    readers: Vec<Waker>,
    dropped: Vec<SizedEvent>,
    is_logged: bool,
}

/// A queued event, shared only if several subscribers wait for it.
#[derive(Debug)]
enum QueuedEvent {
    Own(Event),
    Shared(Arc<Event>),
}

impl Wanted {
    #[inline]
    pub(crate) fn any(self) -> bool {
        self.is_heard || self.is_logged
    }
}

impl EventHub {
    pub(crate) fn new() -> Self {
        Self { publisher: Arc::default(), subject: LogSubject::default() }
    }

    /// Hands out to the same readers what happens to one topology.
    pub(crate) fn about(&self, subject: LogSubject) -> Self {
        Self { subject, ..self.clone() }
    }

    /// Tells whether anybody listens.
    pub(crate) fn wanted(&self) -> bool {
        self.bus().subscribers.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn subscribe(&self) -> Subscriber {
        let bus = Arc::clone(self.bus());
        let mut queues = bus.lock();
        let id = queues.next_id;
        queues.next_id += 1;
        queues.all.push(SubscriberQueue { id, events: VecDeque::new(), queued_bytes: 0, taken_bytes: 0, missed: 0, reader: None });
        bus.subscribers.store(queues.all.len(), Ordering::Relaxed);
        drop(queues);
        Subscriber { bus, id, taken: VecDeque::new() }
    }

    #[inline]
    pub(crate) fn send(&self, make: impl FnOnce() -> Event) {
        if self.wanted() {
            let mut told = PendingWakeups::default();
            self.bus().tell([make()].into_iter(), &mut told);
            self.finish(told);
        }
    }

    /// Asks who wants to know what happens in a pool. Asks the log's subscribers, and must not be called under a lock.
    #[inline]
    pub(crate) fn pools_wanted(&self) -> Wanted {
        Wanted { is_heard: self.wanted(), is_logged: log::wants_pools() }
    }

    /// Asks who wants to know what happens to the topology. Must not be called under a lock.
    pub(crate) fn topology_wanted(&self) -> Wanted {
        Wanted { is_heard: self.wanted(), is_logged: log::wants_topology() }
    }

    /// Queues an event of the topology.
    pub(crate) fn topology(&self, event: TopologyEvent, wanted: Wanted, told: &mut PendingWakeups) {
        if wanted.is_logged {
            told.is_logged = true;
            self.bus().outbox.push(Line::Topology(self.subject, event.clone()));
        }
        if wanted.is_heard {
            self.bus().tell([Event::Topology(event)].into_iter(), told);
        }
    }

    /// Tells of a check. Must not be called under a lock.
    pub(crate) fn heartbeat(&self, host: &ServerAddress, on: &CheckedOn, event: MonitorEvent) {
        let mut told = PendingWakeups { is_logged: log::wants_topology(), ..PendingWakeups::default() };
        if told.is_logged {
            self.bus().outbox.push(Line::Heartbeat(self.subject, host.clone(), on.clone(), event.clone()));
        }
        if self.wanted() {
            self.bus().tell([Event::Heartbeat { host: host.clone(), event }].into_iter(), &mut told);
        }
        self.finish(told);
    }

    /// Queues events of a pool.
    #[inline]
    pub(crate) fn pools(
        &self,
        host: &ServerAddress,
        events: impl IntoIterator<Item = PoolEvent>,
        wanted: Wanted,
        told: &mut PendingWakeups,
    ) {
        let about = |event| Event::Pool { host: host.clone(), event };
        let mut events = events.into_iter();
        if wanted.is_logged {
            self.log_pools(host, events, wanted, told);
        } else if let Some(first) = events.next() {
            self.bus().tell([first].into_iter().chain(events).map(about), told);
        }
    }

    #[cold]
    fn log_pools(&self, host: &ServerAddress, events: impl Iterator<Item = PoolEvent>, wanted: Wanted, told: &mut PendingWakeups) {
        for event in events {
            told.is_logged = true;
            self.bus().outbox.push(Line::Pool(self.subject, host.clone(), event.clone()));
            if wanted.is_heard {
                self.bus().tell([Event::Pool { host: host.clone(), event }].into_iter(), told);
            }
        }
    }

    /// Queues a line of a rule for the log.
    #[cold]
    pub(crate) fn note(&self, note: Note, told: &mut PendingWakeups) {
        told.is_logged = true;
        self.bus().outbox.push(Line::Note(note));
    }

    /// Does what is left to do for queued events. Must not be called under a lock.
    #[inline]
    pub(crate) fn finish(&self, told: PendingWakeups) {
        let PendingWakeups { reader, readers, dropped, is_logged } = told;
        if let Some(reader) = reader {
            reader.wake();
            readers.into_iter().for_each(Waker::wake);
        }
        drop(dropped);
        if is_logged {
            self.bus().outbox.write();
        }
    }

    /// Ends what subscribers hear, now and later: they get what is queued, and then the end.
    pub(crate) fn close(&self) {
        let told = self.bus().end();
        self.finish(told);
    }

    fn bus(&self) -> &Arc<EventBus> {
        &self.publisher.0
    }
}

impl EventBus {
    fn lock(&self) -> MutexGuard<'_, SubscriberQueues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts events into every queue. Readers to be woken, and events that had no room, are added to `told`.
    fn tell(&self, events: impl Iterator<Item = Event>, told: &mut PendingWakeups) {
        let mut queues = self.lock();
        for event in events {
            let size_bytes = size_bytes(&event);
            match queues.all.as_mut_slice() {
                [] => told.dropped.push(SizedEvent { event: QueuedEvent::Own(event), size_bytes }),
                [only] => only.push(SizedEvent { event: QueuedEvent::Own(event), size_bytes }, &mut told.dropped),
                all => {
                    let event = Arc::new(event);
                    for queue in all {
                        queue.push(SizedEvent { event: QueuedEvent::Shared(Arc::clone(&event)), size_bytes }, &mut told.dropped);
                    }
                }
            }
        }
        queues.take_readers(told);
    }

    fn end(&self) -> PendingWakeups {
        let mut told = PendingWakeups::default();
        let mut queues = self.lock();
        queues.is_over = true;
        queues.take_readers(&mut told);
        told
    }
}

impl SubscriberQueues {
    fn take_readers(&mut self, told: &mut PendingWakeups) {
        // Mostly there is none, and seldom more than one.
        for reader in self.all.iter_mut().filter_map(|queue| queue.reader.take()) {
            if told.reader.is_none() { told.reader = Some(reader) } else { told.readers.push(reader) }
        }
    }
}

impl SubscriberQueue {
    /// Adds an event; what has to make room for it goes to `dropped`.
    fn push(&mut self, event: SizedEvent, dropped: &mut Vec<SizedEvent>) {
        let room_bytes = EVENTS_BYTES_MAX.saturating_sub(self.taken_bytes);
        while self.events.len() >= QUEUED_MAX || self.queued_bytes + event.size_bytes > room_bytes {
            let Some(oldest) = self.events.pop_front() else {
                // It is too large by itself.
                self.missed += 1;
                return dropped.push(event);
            };
            self.missed += 1;
            self.queued_bytes -= oldest.size_bytes;
            dropped.push(oldest);
        }
        self.queued_bytes += event.size_bytes;
        self.events.push_back(event);
    }
}

impl QueuedEvent {
    fn event(self) -> Event {
        match self {
            Self::Own(event) => event,
            Self::Shared(event) => Arc::unwrap_or_clone(event),
        }
    }
}

impl Subscriber {
    /// Waits for the next event; there is none after the last hub has gone.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        if let Some(held) = self.taken.pop_front() {
            return Poll::Ready(Some(held.event.event()));
        }
        // Others are to have their turn in the end, but not so soon that a reader falls behind those who are many.
        ready!(pin!(coop::consume_budget()).poll(context));
        // Wakers are strangers: they are cloned and dropped without the lock.
        let waker = context.waker().clone();
        let mut queues = self.bus.lock();
        let is_over = queues.is_over;
        let Some(own) = queues.all.iter_mut().find(|queue| queue.id == self.id) else { return Poll::Ready(None) };
        if own.missed > 0 {
            return Poll::Ready(Some(Event::Missed(std::mem::take(&mut own.missed))));
        }
        if own.events.len() > TAKEN_MAX {
            self.taken.extend(own.events.drain(..TAKEN_MAX));
            own.taken_bytes = self.taken.iter().map(|kept| kept.size_bytes).sum();
        } else {
            std::mem::swap(&mut own.events, &mut self.taken);
            own.taken_bytes = own.queued_bytes;
        }
        own.queued_bytes -= own.taken_bytes;
        if self.taken.is_empty() && !is_over {
            let previous = own.reader.replace(waker);
            drop(queues);
            drop(previous);
            return Poll::Pending;
        }
        drop(queues);
        Poll::Ready(self.taken.pop_front().map(|kept| kept.event.event()))
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let PendingWakeups { reader, readers, .. } = self.0.end();
        reader.into_iter().chain(readers).for_each(Waker::wake);
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let mut queues = self.bus.lock();
        let own = queues.all.iter().position(|queue| queue.id == self.id).map(|index| queues.all.remove(index));
        self.bus.subscribers.store(queues.all.len(), Ordering::Relaxed);
        drop(queues);
        drop(own);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    fn listen(subscriber: &mut Subscriber) -> Option<Option<Event>> {
        std::future::poll_fn(|context| subscriber.poll_next(context)).now_or_never()
    }

    fn send(hub: &EventHub, numbers: std::ops::Range<u64>) {
        for connection_id in numbers {
            hub.send(|| Event::Pool { host: host(), event: PoolEvent::ConnectionCreated { connection_id } });
        }
    }

    fn host() -> ServerAddress {
        ServerAddress::parse("a.example").expect("a host")
    }

    /// The numbers that were heard, and in brackets how many were missed.
    fn heard(subscriber: &mut Subscriber) -> String {
        let mut heard = String::new();
        while let Some(Some(event)) = listen(subscriber) {
            match event {
                Event::Pool { event: PoolEvent::ConnectionCreated { connection_id }, .. } => heard += &format!("{connection_id} "),
                Event::Missed(count) => heard += &format!("({count}) "),
                other @ (Event::Topology(_) | Event::Heartbeat { .. } | Event::Pool { .. } | Event::Command(_)) => {
                    panic!("nobody told {other:?}")
                }
            }
        }
        heard
    }

    #[test]
    fn each_listener_hears_everything_from_when_it_began() {
        let hub = EventHub::new();
        send(&hub, 0..1);
        let mut first = hub.subscribe();
        send(&hub, 1..3);
        let mut second = hub.subscribe();
        let (hub_of_topology, mut told) = (hub.about(LogSubject::default()), PendingWakeups::default());
        let events = [3, 4].map(|connection_id| PoolEvent::ConnectionCreated { connection_id });
        hub_of_topology.pools(&host(), events, hub_of_topology.pools_wanted(), &mut told);
        hub_of_topology.finish(told);
        assert_eq!((heard(&mut first), heard(&mut second)), ("1 2 3 4 ".to_owned(), "3 4 ".to_owned()));
        send(&hub, 5..6);
        assert_eq!((heard(&mut first), heard(&mut second)), ("5 ".to_owned(), "5 ".to_owned()));
    }

    #[test]
    fn no_event_is_made_without_a_subscriber() {
        let hub = EventHub::new();
        let (first, second) = (hub.subscribe(), hub.subscribe());
        drop(first);
        assert!(hub.wanted());
        drop(second);
        assert!(!hub.wanted());
        hub.send(|| panic!("nobody listens"));
    }

    #[test]
    fn slow_subscriber_gets_the_number_of_missing_events_in_place() {
        let hub = EventHub::new();
        let mut slow = hub.subscribe();
        let max = QUEUED_MAX as u64;
        send(&hub, 0..max + 7);
        let all = heard(&mut slow);
        assert!(all.starts_with("(7) 7 8 ") && all.ends_with(&format!(" {} ", max + 6)), "{}", &all[..40]);
        // What was taken out comes before what is missing.
        send(&hub, 0..2);
        assert!(matches!(listen(&mut slow), Some(Some(Event::Pool { .. }))));
        send(&hub, 2..max + 5);
        let all = heard(&mut slow);
        assert!(all.starts_with("1 (3) 5 6 "), "{}", &all[..40]);
        send(&hub, 0..max);
        assert!(heard(&mut slow).starts_with("0 1 "), "nothing is missing of as many as may wait");
    }

    #[test]
    fn listener_that_is_never_read_costs_a_bounded_number_of_bytes() {
        let hub = EventHub::new();
        let mut slow = hub.subscribe();
        let document = bson::rawdoc! { "x": "x".repeat(60 * 1024) };
        let succeeded = |request_id| {
            Event::Command(CommandEvent::Succeeded {
                host: host(),
                connection_id: 1,
                service_id: None,
                request_id,
                name: "find".into(),
                duration: Duration::ZERO,
                reply: document.clone(),
            })
        };
        for number in 0..1000 {
            hub.send(|| succeeded(number));
        }
        let first = listen(&mut slow);
        let Some(Some(Event::Missed(missed))) = first else { panic!("{first:?}") };
        assert!(matches!(listen(&mut slow), Some(Some(Event::Command(_)))));
        // What was taken out counts as well.
        for number in 0..1000 {
            hub.send(|| succeeded(number));
        }
        let (mut bytes, mut missed_later, mut count) = (0, 0, missed + 1);
        while let Some(Some(event)) = listen(&mut slow) {
            match event {
                Event::Missed(number) => missed_later += number,
                event @ (Event::Topology(_) | Event::Heartbeat { .. } | Event::Pool { .. } | Event::Command(_)) => {
                    bytes += size_bytes(&event);
                    count += 1;
                }
            }
        }
        assert!(bytes <= EVENTS_BYTES_MAX && bytes > EVENTS_BYTES_MAX * 9 / 10, "{bytes} bytes");
        assert_eq!(count + missed_later, 2000, "each is read or missed");
        // One that is too large by itself is missed alone, with all before it.
        hub.send(|| succeeded(0));
        let command = bson::rawdoc! { "x": "x".repeat(EVENTS_BYTES_MAX) };
        hub.send(|| {
            Event::Command(CommandEvent::Started {
                host: host(),
                connection_id: 1,
                service_id: None,
                server_connection_id: None,
                request_id: 0,
                database: "test".into(),
                name: "insert".into(),
                command,
            })
        });
        hub.send(|| succeeded(0));
        assert!(matches!(listen(&mut slow), Some(Some(Event::Missed(2)))));
        assert!(matches!(listen(&mut slow), Some(Some(Event::Command(_)))));
        assert!(listen(&mut slow).is_none());
    }

    #[tokio::test]
    async fn waiting_subscriber_wakes_at_the_end() {
        let hub = EventHub::new();
        let mut subscriber = hub.subscribe();
        let mut next = Box::pin(async move {
            let first = std::future::poll_fn(|context| subscriber.poll_next(context)).await;
            (first.is_some(), std::future::poll_fn(|context| subscriber.poll_next(context)).await.is_none())
        });
        assert!(futures_util::poll!(&mut next).is_pending());
        let tell = async {
            send(&hub, 0..1);
            drop(hub);
        };
        let (told, ()) = tokio::join!(next, tell);
        assert_eq!(told, (true, true), "what was told before the end is heard before it");
    }
}
