//! What happens next?
//!
//! One queue for everything: ordered by moment, then by the order in which things were put in. Each timer of each machine
//! has at most one place in it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mongolink::Error;
use mongolink::dns::{AddressFamily, QueryId};
use mongolink::pool::Lease;

use super::servers::End;
use super::srv::SrvEvent;

/// Names the timer of one machine; the first number is the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Servers,
    Topology(usize),
    Cache(usize),
    Pool(usize, u64),
    Monitor(usize, u64),
    Race(usize, u64),
    Greeting(usize, u64),
    Exchange(usize, u64),
    Rescan(usize),
}

/// A message between a client and a server.
#[derive(Clone, Debug)]
pub(crate) enum Parcel {
    /// The server's kernel has accepted.
    Accepted,
    /// Nobody listens.
    Refused,
    /// The client begins TLS, or the server has finished it.
    Tls,
    Bytes(Vec<u8>),
    /// The sender has closed.
    Fin,
    /// The connection is gone.
    Reset,
    /// It is broken off on its way: the server hears of it, and so does the client.
    Cut {
        reset: bool,
    },
}

/// An event at an instant.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Timer(Timer),
    Fault(usize),
    /// A fault of a member is over.
    Mend(End),
    /// A client's attempt to connect reaches the server.
    Knock {
        conn: u64,
    },
    ToServer {
        conn: u64,
        parcel: Parcel,
    },
    ToClient {
        client: usize,
        conn: u64,
        parcel: Parcel,
    },
    DnsAnswer {
        client: usize,
        name: String,
        query: QueryId,
        family: AddressFamily,
    },
    SystemAnswer {
        client: usize,
        name: String,
        query: QueryId,
    },
    QueryEnds {
        client: usize,
        name: String,
        query: QueryId,
    },
    /// A task of a client goes on: each is what its wake-up is for.
    Orders {
        client: usize,
        watch: u64,
    },
    Resolved {
        client: usize,
        opening: u64,
        waiter: u64,
    },
    /// Addresses have arrived that a race does not know.
    Overtaken {
        client: usize,
        opening: u64,
    },
    /// Keys for a login are derived.
    Derived {
        client: usize,
        opening: u64,
    },
    /// A user's logins are taken again.
    Admit,
    Interrupted {
        client: usize,
        conn: u64,
    },
    OpeningInterrupted {
        client: usize,
        opening: u64,
        error: Error,
    },
    Selected {
        client: usize,
        call: u64,
        select: u64,
        outcome: Result<(), Error>,
    },
    Delivered {
        client: usize,
        pool: u64,
        call: u64,
        lease: Lease,
        conn: u64,
    },
    Denied {
        client: usize,
        call: u64,
        error: Error,
    },
    Exchange {
        client: usize,
        conn: u64,
    },
    /// Callers come and go.
    Call {
        client: usize,
        kind: CallKind,
        patience: Option<Duration>,
    },
    GiveUp {
        client: usize,
        call: u64,
    },
    /// A caller goes on with its cursor.
    NextBatch {
        client: usize,
        call: u64,
    },
    Srv {
        client: usize,
        what: SrvEvent,
    },
    /// The client's kernel ends a connection on which nothing was heard for too long.
    TcpGivesUp {
        conn: u64,
    },
    Quiet,
    /// The faults are over: from now on it counts how long the client takes.
    Recovering {
        client: usize,
    },
    /// The client must be usable by now.
    Overdue {
        client: usize,
    },
    Probe {
        client: usize,
    },
    Shutdown {
        client: usize,
    },
    /// By now nothing of the client may be left.
    Left {
        client: usize,
    },
    End,
}

/// Says what a caller wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallKind {
    Ping,
    Insert,
    Find,
    /// A cursor of several batches.
    Scroll,
    /// An insert that shows that the client is usable.
    Probe,
}

impl Event {
    /// The client that must be awake for it.
    pub(crate) fn client(&self) -> Option<usize> {
        match self {
            Self::Timer(timer) => timer.client(),
            Self::ToClient { client, .. }
            | Self::DnsAnswer { client, .. }
            | Self::SystemAnswer { client, .. }
            | Self::QueryEnds { client, .. }
            | Self::Orders { client, .. }
            | Self::Resolved { client, .. }
            | Self::Overtaken { client, .. }
            | Self::Derived { client, .. }
            | Self::Interrupted { client, .. }
            | Self::OpeningInterrupted { client, .. }
            | Self::Selected { client, .. }
            | Self::Delivered { client, .. }
            | Self::Denied { client, .. }
            | Self::Exchange { client, .. }
            | Self::Call { client, .. }
            | Self::GiveUp { client, .. }
            | Self::NextBatch { client, .. }
            | Self::Srv { client, .. }
            | Self::Recovering { client }
            | Self::Overdue { client }
            | Self::Probe { client }
            | Self::Shutdown { client }
            | Self::Left { client } => Some(*client),
            Self::Fault(_)
            | Self::Mend(_)
            | Self::Admit
            | Self::Knock { .. }
            | Self::ToServer { .. }
            | Self::TcpGivesUp { .. }
            | Self::Quiet
            | Self::End => None,
        }
    }
}

impl Timer {
    pub(crate) fn client(self) -> Option<usize> {
        match self {
            Self::Servers => None,
            Self::Topology(client)
            | Self::Rescan(client)
            | Self::Cache(client)
            | Self::Pool(client, _)
            | Self::Monitor(client, _)
            | Self::Race(client, _)
            | Self::Greeting(client, _)
            | Self::Exchange(client, _) => Some(client),
        }
    }
}

/// Holds what is to happen.
#[derive(Default)]
pub(crate) struct Queue {
    events: BTreeMap<(Instant, u64), Event>,
    timers: BTreeMap<Timer, (Instant, u64)>,
    sequence: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, at: Instant, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }

    /// Sets a timer, or takes it back.
    pub(crate) fn arm(&mut self, timer: Timer, at: Option<Instant>) {
        let armed = self.timers.get(&timer).copied();
        if armed.map(|(at, _)| at) == at {
            return;
        }
        if let Some(place) = armed {
            self.events.remove(&place);
            self.timers.remove(&timer);
        }
        if let Some(at) = at {
            self.push(at, Event::Timer(timer));
            self.timers.insert(timer, (at, self.sequence));
        }
    }

    pub(crate) fn next(&mut self) -> Option<(Instant, Event)> {
        let ((at, _), event) = self.events.pop_first()?;
        if let Event::Timer(timer) = &event {
            self.timers.remove(timer);
        }
        Some((at, event))
    }

    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    /// Lets all timers of a client run out later: its clock stands still meanwhile.
    pub(crate) fn delay_timers(&mut self, client: usize, by: Duration) {
        let timers: Vec<(Timer, Instant)> =
            self.timers.iter().filter(|(timer, _)| timer.client() == Some(client)).map(|(timer, (at, _))| (*timer, *at)).collect();
        for (timer, at) in timers {
            self.arm(timer, Some(at + by));
        }
    }

    /// Which timers of a client run.
    pub(crate) fn timers_of(&self, client: usize) -> Vec<Timer> {
        self.timers.keys().copied().filter(|timer| timer.client() == Some(client)).collect()
    }
}
