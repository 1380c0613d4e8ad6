//! How do bytes travel?
//!
//! Links between clients and members, with delay, jitter, loss, cuts in either direction, and connections that stand for
//! TCP: in order, all or nothing, reset or closed. Each address leads to a member, to a machine where nobody listens, or
//! nowhere. What the bytes say is in `conn` and `servers`.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use mongolink::wire::{Decoder, MESSAGE_SIZE_MAX};
use mongolink::{Error, ServerAddress};
use rand::RngExt;

use super::plan::{Harm, RESEND};
use super::queue::{Event, Parcel};
use super::requests::RequestHarm;
use super::world::World;
use mongolink::pool::Lease;
use mongolink::race::AttemptId;

/// The link between a client and a member.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) extra: Duration,
    pub(crate) slow_until: Instant,
    pub(crate) to_server_cut_until: Instant,
    pub(crate) to_client_cut_until: Instant,
    /// What happens to the next replies.
    pub(crate) harms: VecDeque<Harm>,
    /// And to the next requests.
    pub(crate) request_harms: VecDeque<RequestHarm>,
}

/// Says where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Member(usize),
    /// It decides which member a connection reaches.
    Balancer,
    NobodyListens,
    Nowhere,
}

/// One connection: what travels on it, and the client's side of it.
pub(crate) struct Conn {
    pub(crate) client: usize,
    pub(crate) host: ServerAddress,
    pub(crate) place: Place,
    pub(crate) dialled: Instant,
    /// Whether the server knows of it.
    pub(crate) accepted: bool,
    pub(crate) server_closed: bool,
    pub(crate) client_closed: bool,
    /// Nothing arrives any more, in either direction.
    pub(crate) silent: bool,
    pub(crate) last_to_server: Instant,
    pub(crate) last_to_client: Instant,
    /// What the client's kernel has received and nobody has read.
    pub(crate) inbox: VecDeque<Parcel>,
    pub(crate) decoder: Decoder,
    pub(crate) exchange: Exchange,
    pub(crate) last_request: i32,
    pub(crate) interrupted: Option<Error>,
    pub(crate) user: User,
}

/// Where a request and its reply stand; writing takes no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exchange {
    Idle,
    Awaiting(i32),
    Broken,
}

/// Says who has a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    Attempt {
        opening: u64,
        attempt: AttemptId,
    },
    Greeting {
        opening: u64,
    },
    Monitor {
        watch: u64,
    },
    /// In a pool, at rest.
    Idle {
        pool: u64,
    },
    /// On its way to a caller, or used by one.
    Call {
        pool: u64,
        lease: Lease,
        call: u64,
    },
    Drain {
        pool: u64,
        lease: Lease,
    },
    Nobody,
}

/// Holds the links, the addresses and the connections.
pub(crate) struct Net {
    /// By client, then by member.
    pub(crate) links: Vec<Vec<Link>>,
    pub(crate) places: BTreeMap<IpAddr, Place>,
    pub(crate) conns: BTreeMap<u64, Conn>,
    pub(crate) accept_delay: Vec<(Duration, Instant)>,
    next: u64,
    next_address: u16,
}

impl Net {
    pub(crate) fn new(clients: usize, members: usize, now: Instant) -> Self {
        let link = Link {
            extra: Duration::ZERO,
            slow_until: now,
            to_server_cut_until: now,
            to_client_cut_until: now,
            harms: VecDeque::new(),
            request_harms: VecDeque::new(),
        };
        Self {
            links: vec![vec![link; members]; clients],
            places: BTreeMap::new(),
            conns: BTreeMap::new(),
            accept_delay: vec![(Duration::ZERO, now); members],
            next: 0,
            next_address: 0,
        }
    }

    /// Makes a new address that leads to a place.
    pub(crate) fn address(&mut self, v6: bool, place: Place) -> IpAddr {
        self.next_address += 1;
        let [high, low] = self.next_address.to_be_bytes();
        let address = match v6 {
            true => IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, self.next_address)),
            false => IpAddr::V4(Ipv4Addr::new(10, 0, high, low)),
        };
        self.places.insert(address, place);
        address
    }
}

impl World {
    /// Begins to connect.
    pub(crate) fn dial(&mut self, client: usize, host: &ServerAddress, ip: IpAddr, user: User) -> u64 {
        self.net.next += 1;
        let id = self.net.next;
        let place = self.net.places.get(&ip).copied().unwrap_or(Place::Nowhere);
        let conn = Conn {
            client,
            host: host.clone(),
            place,
            dialled: self.now,
            accepted: false,
            server_closed: false,
            client_closed: false,
            silent: false,
            last_to_server: self.now,
            last_to_client: self.now,
            inbox: VecDeque::new(),
            decoder: Decoder::new(MESSAGE_SIZE_MAX),
            exchange: Exchange::Idle,
            last_request: 0,
            interrupted: None,
            user,
        };
        self.net.conns.insert(id, conn);
        self.note(|_| format!("client {client}: conn {id}: dials {host} at {ip} ({place:?})"));
        let at = self.travel(id, true, Duration::ZERO);
        self.queue.push(at, Event::Knock { conn: id });
        id
    }

    /// An attempt to connect arrives.
    pub(crate) fn knock(&mut self, id: u64) {
        let Some(conn) = self.net.conns.get(&id).filter(|conn| !conn.client_closed && !conn.silent) else { return };
        let member = match conn.place {
            Place::Nowhere => return,
            Place::NobodyListens => return self.send_to_client(id, Parcel::Refused, Duration::ZERO),
            Place::Member(member) => member,
            Place::Balancer => match self.route(id) {
                Some(member) => member,
                None => return,
            },
        };
        if self.servers.cluster.is_stopped(member) {
            return self.send_to_client(id, Parcel::Refused, Duration::ZERO);
        }
        let (delay, until) = self.net.accept_delay[member];
        let delay = if until > self.now { delay } else { Duration::ZERO };
        if let Some(conn) = self.net.conns.get_mut(&id) {
            conn.accepted = true;
        }
        self.send_to_client(id, Parcel::Accepted, delay);
        let now = self.now;
        self.servers.cluster.handle_connected(member, id, now);
        self.drain_servers();
    }

    pub(crate) fn send_to_server(&mut self, id: u64, parcel: Parcel) {
        let at = self.travel(id, true, Duration::ZERO);
        self.queue.push(at, Event::ToServer { conn: id, parcel });
    }

    pub(crate) fn send_to_client(&mut self, id: u64, parcel: Parcel, delay: Duration) {
        let at = self.travel(id, false, delay);
        if let Some(conn) = self.net.conns.get(&id) {
            self.queue.push(at, Event::ToClient { client: conn.client, conn: id, parcel });
        }
    }

    /// Sends bytes to the client, in pieces where the plan says so.
    pub(crate) fn send_bytes_to_client(&mut self, id: u64, mut bytes: Vec<u8>, delay: Duration) {
        if self.plan.chopped {
            while bytes.len() > 1 && self.random.random_bool(0.5) {
                let at = self.random.random_range(1..bytes.len());
                let rest = bytes.split_off(at);
                self.send_to_client(id, Parcel::Bytes(std::mem::replace(&mut bytes, rest)), delay);
            }
        }
        self.send_to_client(id, Parcel::Bytes(bytes), delay);
    }

    /// The client closes a connection; what is on its way to it is lost.
    pub(crate) fn close(&mut self, id: u64) {
        let Some(conn) = self.net.conns.get_mut(&id).filter(|conn| !conn.client_closed) else { return };
        conn.client_closed = true;
        conn.user = User::Nobody;
        conn.inbox.clear();
        self.note(|_| format!("conn {id}: closed by the client"));
        self.send_to_server(id, Parcel::Fin);
    }

    /// Something arrives at a server.
    pub(crate) fn arrive_at_server(&mut self, id: u64, parcel: Parcel) {
        let Some(conn) = self.net.conns.get(&id).filter(|conn| !conn.silent) else { return };
        let Place::Member(member) = conn.place else { return self.forget_if_over(id) };
        let (accepted, closed, now) = (conn.accepted, conn.server_closed, self.now);
        match parcel {
            Parcel::Fin | Parcel::Reset => {
                if accepted && !closed {
                    self.servers.cluster.handle_closed(member, id, now);
                }
                self.net.conns.remove(&id);
            }
            _ if !accepted || closed => {}
            Parcel::Cut { reset } => {
                self.reset(id);
                self.send_to_client(id, if reset { Parcel::Reset } else { Parcel::Fin }, Duration::ZERO);
            }
            Parcel::Bytes(bytes) => self.servers.cluster.handle_bytes(member, id, &bytes, now),
            // A process that stands still answers no greeting, its kernel does.
            Parcel::Tls if !self.servers.cluster.is_frozen(member) => self.send_to_client(id, Parcel::Tls, Duration::ZERO),
            Parcel::Tls | Parcel::Accepted | Parcel::Refused => {}
        }
        self.drain_servers();
    }

    /// The connection breaks on the way: either side is told.
    pub(crate) fn reset(&mut self, id: u64) {
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        let closed = std::mem::replace(&mut conn.server_closed, true);
        if let Place::Member(member) = conn.place
            && conn.accepted
            && !closed
        {
            let now = self.now;
            self.servers.cluster.handle_closed(member, id, now);
        }
    }

    /// Nothing was heard on a silent connection for so long that the client's kernel ends it.
    pub(crate) fn tcp_gives_up(&mut self, id: u64) {
        if let Some(conn) = self.net.conns.get_mut(&id) {
            conn.silent = false;
            conn.server_closed = true;
            let client = conn.client;
            self.queue.push(self.now, Event::ToClient { client, conn: id, parcel: Parcel::Reset });
        }
    }

    fn forget_if_over(&mut self, id: u64) {
        if self.net.conns.get(&id).is_some_and(|conn| conn.client_closed) {
            self.net.conns.remove(&id);
        }
    }

    /// Says when something that is sent now arrives: never before what was sent earlier.
    fn travel(&mut self, id: u64, to_server: bool, late: Duration) -> Instant {
        let Some(conn) = self.net.conns.get(&id) else { return self.now };
        let (client, place) = (conn.client, conn.place);
        let mut delay = late
            + match place {
                Place::Member(member) => self.plan.delay_to(member),
                Place::Balancer | Place::NobodyListens | Place::Nowhere => self.plan.delay,
            };
        if !self.plan.jitter.is_zero() {
            delay += self.plan.jitter.mul_f64(self.random.random_range(0.0..1.0));
        }
        if self.plan.loss > 0.0 && self.random.random_bool(self.plan.loss) {
            delay += RESEND;
        }
        let mut at = self.now + delay;
        if let Place::Member(member) = place {
            let link = &self.net.links[client][member];
            if link.slow_until > self.now {
                at += link.extra;
            }
            let cut_until = if to_server { link.to_server_cut_until } else { link.to_client_cut_until };
            if cut_until > self.now {
                at = at.max(cut_until + delay);
            }
        }
        if let Some(conn) = self.net.conns.get_mut(&id) {
            let last = if to_server { &mut conn.last_to_server } else { &mut conn.last_to_client };
            at = at.max(*last);
            *last = at;
        }
        at
    }
}
