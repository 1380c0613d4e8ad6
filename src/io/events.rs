//! How do events reach those who want them?
//!
//! Each listener has a queue: a writer puts an event at its end, a reader takes many at once, so that it seldom
//! meets the writers. The queues are bounded: whoever reads too slowly is told how many events were missed, and nobody waits
//! for a reader. Without listeners no event is made. What of it is logged is decided in `log`.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::task::coop;

use super::log::{self, CheckedOn, Subject};
use super::stripes::Apart;
use crate::host::HostKey;
use crate::op::CommandEvent;
use crate::pool::PoolEvent;
use crate::topology::{MonitorEvent, TopologyEvent};

/// Is something that a client tells of its work.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// What is known of the servers has changed.
    Topology(TopologyEvent),
    /// A server was checked.
    Heartbeat {
        /// The server.
        host: HostKey,
        /// What happened.
        event: MonitorEvent,
    },
    /// Something happened in a server's pool.
    Pool {
        /// The server.
        host: HostKey,
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

/// How many are taken out at once.
const TAKEN_MAX: usize = EVENTS_MAX / 8;

/// How many wait in the queue.
const QUEUED_MAX: usize = EVENTS_MAX - TAKEN_MAX;

/// Commands and replies that are larger, in bytes, are left out of events: a slow reader must not hold them all in memory.
pub const EVENT_DOCUMENT_SIZE_MAX: usize = 64 * 1024;

/// Hands events out. The last one that goes ends what its listeners hear.
#[derive(Clone, Debug)]
pub(crate) struct EventHub {
    speaker: Arc<Speaker>,
    /// What is logged beside them is about this.
    subject: Subject,
}

/// Listens until it is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    hall: Arc<Hall>,
    id: u64,
    /// What was taken out of its queue, and is not read yet.
    taken: VecDeque<Held>,
}

/// Is what all hubs of a client share.
#[derive(Debug, Default)]
struct Speaker(Arc<Hall>);

/// Is where listeners and hubs meet.
#[derive(Debug, Default)]
struct Hall {
    /// How many listen: asked at every step of every command, and therefore not behind the lock.
    listeners: AtomicUsize,
    queues: Apart<Mutex<Queues>>,
}

#[derive(Debug, Default)]
struct Queues {
    all: Vec<Queue>,
    next_id: u64,
    /// Nobody is left to tell anything.
    is_over: bool,
}

/// Is what waits for one listener.
#[derive(Debug)]
struct Queue {
    id: u64,
    events: VecDeque<Held>,
    /// How many were dropped before the first that waits.
    missed: u64,
    /// Who waits for the next.
    reader: Option<Waker>,
}

/// Is an event that waits: mostly for one listener only, and then it is not shared.
#[derive(Debug)]
enum Held {
    Own(Event),
    Shared(Arc<Event>),
}

impl EventHub {
    pub(crate) fn new() -> Self {
        Self { speaker: Arc::default(), subject: Subject::default() }
    }

    /// Hands out to the same readers what happens to one topology.
    pub(crate) fn about(&self, subject: Subject) -> Self {
        Self { subject, ..self.clone() }
    }

    /// Tells whether anybody listens.
    pub(crate) fn wanted(&self) -> bool {
        self.hall().listeners.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn subscribe(&self) -> Listener {
        let hall = Arc::clone(self.hall());
        let mut queues = hall.lock();
        let id = queues.next_id;
        queues.next_id += 1;
        queues.all.push(Queue { id, events: VecDeque::new(), missed: 0, reader: None });
        hall.listeners.store(queues.all.len(), Ordering::Relaxed);
        drop(queues);
        Listener { hall, id, taken: VecDeque::new() }
    }

    #[inline]
    pub(crate) fn send(&self, make: impl FnOnce() -> Event) {
        if self.wanted() {
            self.hall().tell([make()].into_iter());
        }
    }

    /// Tells whether anybody wants to know what happens in a pool.
    #[inline]
    pub(crate) fn pools_wanted(&self) -> bool {
        self.wanted() || log::wants_pools()
    }

    pub(crate) fn topology(&self, event: TopologyEvent) {
        self.subject.topology(&event);
        self.send(|| Event::Topology(event));
    }

    pub(crate) fn heartbeat(&self, host: &HostKey, on: &CheckedOn, event: MonitorEvent) {
        self.subject.heartbeat(host, on, &event);
        self.send(|| Event::Heartbeat { host: host.clone(), event });
    }

    pub(crate) fn pool(&self, host: &HostKey, event: PoolEvent) {
        self.pools(host, [event]);
    }

    /// Tells several; in one go if none of them is logged, for a log may take its time.
    #[inline]
    pub(crate) fn pools(&self, host: &HostKey, events: impl IntoIterator<Item = PoolEvent>) {
        let about = |event| Event::Pool { host: host.clone(), event };
        let mut events = events.into_iter();
        if log::wants_pools() {
            for event in events {
                self.subject.pool(host, &event);
                self.send(|| about(event));
            }
        } else if let Some(first) = events.next() {
            self.hall().tell([first].into_iter().chain(events).map(about));
        }
    }

    fn hall(&self) -> &Arc<Hall> {
        &self.speaker.0
    }
}

impl Hall {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts events into every queue. When the lock is free again, who waits for them is woken, and what had no room dropped.
    fn tell(&self, events: impl Iterator<Item = Event>) {
        let mut queues = self.lock();
        let mut dropped = Vec::new();
        for event in events {
            match queues.all.as_mut_slice() {
                [] => dropped.push(Held::Own(event)),
                [only] => dropped.extend(only.push(Held::Own(event))),
                all => {
                    let event = Arc::new(event);
                    dropped.extend(all.iter_mut().filter_map(|queue| queue.push(Held::Shared(Arc::clone(&event)))));
                }
            }
        }
        self.wake(queues);
    }

    fn wake(&self, mut queues: MutexGuard<'_, Queues>) {
        let mut readers = queues.all.iter_mut().filter_map(|queue| queue.reader.take());
        // Mostly there is none, and seldom more than one.
        let Some(first) = readers.next() else { return };
        let more: Vec<Waker> = readers.collect();
        drop(queues);
        first.wake();
        more.into_iter().for_each(Waker::wake);
    }
}

impl Queue {
    /// Returns what had to make room.
    fn push(&mut self, event: Held) -> Option<Held> {
        let oldest = if self.events.len() == QUEUED_MAX { self.events.pop_front() } else { None };
        self.missed += u64::from(oldest.is_some());
        self.events.push_back(event);
        oldest
    }
}

impl Held {
    fn event(self) -> Event {
        match self {
            Self::Own(event) => event,
            Self::Shared(event) => Arc::unwrap_or_clone(event),
        }
    }
}

impl Listener {
    /// Waits for the next event; there is none after the last hub has gone.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        if let Some(held) = self.taken.pop_front() {
            return Poll::Ready(Some(held.event()));
        }
        // Others are to have their turn in the end, but not so soon that a reader falls behind those who are many.
        ready!(pin!(coop::consume_budget()).poll(context));
        // Wakers are strangers: they are cloned and dropped without the lock.
        let waker = context.waker().clone();
        let mut queues = self.hall.lock();
        let is_over = queues.is_over;
        let Some(own) = queues.all.iter_mut().find(|queue| queue.id == self.id) else { return Poll::Ready(None) };
        if own.missed > 0 {
            return Poll::Ready(Some(Event::Missed(std::mem::take(&mut own.missed))));
        }
        if own.events.len() > TAKEN_MAX {
            self.taken.extend(own.events.drain(..TAKEN_MAX));
        } else {
            std::mem::swap(&mut own.events, &mut self.taken);
        }
        if self.taken.is_empty() && !is_over {
            let previous = own.reader.replace(waker);
            drop(queues);
            drop(previous);
            return Poll::Pending;
        }
        drop(queues);
        Poll::Ready(self.taken.pop_front().map(Held::event))
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        let mut queues = self.0.lock();
        queues.is_over = true;
        self.0.wake(queues);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut queues = self.hall.lock();
        let own = queues.all.iter().position(|queue| queue.id == self.id).map(|index| queues.all.remove(index));
        self.hall.listeners.store(queues.all.len(), Ordering::Relaxed);
        drop(queues);
        drop(own);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn listen(listener: &mut Listener) -> Option<Option<Event>> {
        std::future::poll_fn(|context| listener.poll_next(context)).now_or_never()
    }

    fn send(hub: &EventHub, numbers: std::ops::Range<u64>) {
        for connection_id in numbers {
            hub.send(|| Event::Pool { host: host(), event: PoolEvent::ConnectionCreated { connection_id } });
        }
    }

    fn host() -> HostKey {
        HostKey::parse("a.example").expect("a host")
    }

    /// The numbers that were heard, and in brackets how many were missed.
    fn heard(listener: &mut Listener) -> String {
        let mut heard = String::new();
        while let Some(Some(event)) = listen(listener) {
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
        hub.about(Subject::default()).pools(&host(), [3, 4].map(|connection_id| PoolEvent::ConnectionCreated { connection_id }));
        assert_eq!((heard(&mut first), heard(&mut second)), ("1 2 3 4 ".to_owned(), "3 4 ".to_owned()));
        send(&hub, 5..6);
        assert_eq!((heard(&mut first), heard(&mut second)), ("5 ".to_owned(), "5 ".to_owned()));
    }

    #[test]
    fn nothing_is_made_for_nobody() {
        let hub = EventHub::new();
        let (first, second) = (hub.subscribe(), hub.subscribe());
        drop(first);
        assert!(hub.wanted());
        drop(second);
        assert!(!hub.wanted());
        hub.send(|| panic!("nobody listens"));
    }

    #[test]
    fn who_is_too_slow_is_told_where_how_many_are_missing() {
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

    #[tokio::test]
    async fn who_waits_is_woken_and_told_of_the_end() {
        let hub = EventHub::new();
        let mut listener = hub.subscribe();
        let mut next = Box::pin(async move {
            let first = std::future::poll_fn(|context| listener.poll_next(context)).await;
            (first.is_some(), std::future::poll_fn(|context| listener.poll_next(context)).await.is_none())
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
