//! How does a host become a connection that can be used?
//!
//! Does what `io/dial.rs` and `io/open.rs` do: resolve, race, greet, each with the shipped rules and its own deadline.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use mongolink::deadline::Deadline;
use mongolink::dns::{LookupAnswer, LookupId, LookupMode};
use mongolink::handshake::{Conversation, ConversationConfig, HandshakeStep, HandshakeWork};
use mongolink::pool::Lease;
use mongolink::race::{AttemptId, Race, RaceAction, RaceConfig, STAGGER, label_overload};
use mongolink::topology::ProbeId;
use mongolink::wire::{Flags, Message, Request};
use mongolink::{Address, Error, ErrorKind, HelloReply, ServerAddress, Stage};

use super::client::socket_error;
use super::invariants::{timer_lies_ahead, waiting_has_a_timer};
use super::net::User;
use super::queue::{Event, Parcel, Timer};
use super::world::World;

/// A connection that is being opened.
pub(crate) struct Opening {
    pub(crate) host: ServerAddress,
    pub(crate) purpose: Purpose,
    stage: Progress,
}

/// Says for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Pool {
        pool: u64,
        lease: Lease,
    },
    Watch {
        watch: u64,
    },
    /// A server is asked for an answer to a liveness probe.
    Probe {
        id: ProbeId,
    },
}

enum Progress {
    /// The address is looked up beforehand.
    Naming {
        waiter: LookupId,
    },
    Resolving {
        waiter: LookupId,
    },
    Racing {
        race: Box<Race>,
        attempts: BTreeMap<AttemptId, (u64, Address)>,
        later: Option<LookupId>,
        /// The last arrival of addresses that it knows.
        seen: u64,
    },
    Greeting {
        conn: u64,
        /// It has a reply to come; none while keys are derived.
        conversation: Option<Box<Conversation>>,
        deadline: Deadline,
        talk: Talk,
    },
    Over,
}

/// How far a conversation has come.
#[derive(Clone, Copy)]
struct Talk {
    stage: Stage,
    since: Instant,
    /// How long the hello took.
    round_trip: Option<Duration>,
}

/// A connection, what its server said, and how long that took; or why there is none.
type Outcome = Result<(u64, Box<HelloReply>, Duration), Error>;

impl World {
    pub(crate) fn start_opening(&mut self, c: usize, host: &ServerAddress, purpose: Purpose) -> u64 {
        let id = self.clients[c].number();
        let opening = Opening { host: host.clone(), purpose, stage: Progress::Over };
        self.clients[c].openings.insert(id, opening);
        let name = host.name().expect("all servers have names").to_owned();
        let waiter = self.look_up(c, &name, LookupMode::First, id);
        if let Some(opening) = self.clients[c].openings.get_mut(&id) {
            opening.stage = match purpose {
                Purpose::Probe { .. } => Progress::Naming { waiter },
                Purpose::Pool { .. } | Purpose::Watch { .. } => Progress::Resolving { waiter },
            };
        }
        id
    }

    /// A look-up has ended.
    pub(crate) fn resolved(&mut self, c: usize, id: u64, waiter: LookupId) {
        let Some(outcome) = self.clients[c].resolver.answers.remove(&waiter.0) else { return };
        let now = self.local(c);
        let timeout = self.clients[c].settings.connect_timeout;
        let client = &mut self.clients[c];
        let Some(opening) = client.openings.get_mut(&id) else { return };
        let port = opening.host.port();
        let with_port =
            |answer: &LookupAnswer| answer.addresses.iter().map(|ip| Address::Ip(SocketAddr::new(*ip, port))).collect::<Vec<_>>();
        match &mut opening.stage {
            Progress::Naming { waiter: own } if *own == waiter => match outcome {
                Ok(_) => {
                    let (host, purpose) = (opening.host.clone(), opening.purpose);
                    if let Purpose::Probe { id } = purpose {
                        self.topology_act(c, false, |topology, now| topology.handle_probe_resolved(&host, id, now));
                    }
                    let waiter = self.look_up(c, host.name().unwrap_or_default(), LookupMode::First, id);
                    if let Some(opening) = self.clients[c].openings.get_mut(&id) {
                        opening.stage = Progress::Resolving { waiter };
                    }
                }
                Err(error) => {
                    let error = error.on(&opening.host);
                    self.opening_ends(c, id, Err(error));
                }
            },
            Progress::Resolving { waiter: own } if *own == waiter => match outcome {
                Ok(answer) => {
                    // A newer answer may have overtaken it on the way.
                    let name = opening.host.name().unwrap_or_default().to_owned();
                    let (seen, answer) = client.resolver.cache.newer(&name, 0, now).unwrap_or((0, answer));
                    let remembered = client.winners.get(&opening.host).cloned();
                    let config = RaceConfig { stagger: STAGGER, timeout: Some(timeout) };
                    let race = Race::new(config, with_port(&answer), !answer.complete, remembered, now);
                    opening.stage = Progress::Racing { race: Box::new(race), attempts: BTreeMap::new(), later: None, seen };
                    if !answer.complete {
                        let waiter = self.look_up(c, &name, LookupMode::All, id);
                        if let Some(Opening { stage: Progress::Racing { later, .. }, .. }) = self.clients[c].openings.get_mut(&id) {
                            *later = Some(waiter);
                        }
                    }
                    self.race_act(c, id, false, |_, _| ());
                }
                Err(error) => {
                    let error = error.on(&opening.host);
                    self.opening_ends(c, id, Err(error));
                }
            },
            Progress::Racing { later, .. } if *later == Some(waiter) => {
                *later = None;
                let newer =
                    client.resolver.cache.newer(opening.host.name().unwrap_or_default(), 0, now).map(|(_, answer)| with_port(&answer));
                let addresses = outcome.as_ref().map(with_port).unwrap_or_default();
                self.race_act(c, id, false, |race, now| match newer {
                    Some(newer) => race.handle_newer(newer, false, now),
                    None => race.handle_addresses(addresses, false, now),
                });
            }
            Progress::Naming { .. } | Progress::Resolving { .. } | Progress::Racing { .. } | Progress::Greeting { .. } | Progress::Over => {
            }
        }
    }

    /// Hands a fact to a race, and carries out its wishes.
    pub(crate) fn race_act(&mut self, c: usize, id: u64, after_timeout: bool, step: impl FnOnce(&mut Race, Instant)) {
        let now = self.local(c);
        self.bring_up_to_date(c, id);
        let Some(opening) = self.clients[c].openings.get_mut(&id) else { return };
        let host = opening.host.clone();
        let Progress::Racing { race, .. } = &mut opening.stage else { return };
        step(race, now);
        let mut actions = Vec::new();
        while let Some(action) = race.poll_action() {
            actions.push(action);
        }
        let mut over = false;
        for action in actions {
            match action {
                RaceAction::Dial(attempt, address) => {
                    let Address::Ip(ip) = &address else { unreachable!("no unix sockets here") };
                    self.look_at_dialled(c, host.name().unwrap_or_default(), ip.ip());
                    let conn = self.dial(c, &host, ip.ip(), User::Attempt { opening: id, attempt });
                    if let Some(attempts) = self.attempts(c, id) {
                        attempts.insert(attempt, (conn, address));
                    }
                }
                RaceAction::Abort(attempt) => {
                    if let Some((conn, _)) = self.attempts(c, id).and_then(|attempts| attempts.remove(&attempt)) {
                        self.close(conn);
                    }
                }
                RaceAction::Dead(address) => {
                    if let (Some(name), Address::Ip(ip)) = (host.name(), &address) {
                        self.report_dead(c, name, ip.ip());
                    }
                }
                RaceAction::Won(attempt) => {
                    over = true;
                    let won = self.attempts(c, id).and_then(|attempts| attempts.remove(&attempt));
                    let (conn, address) = won.expect("the winner has a connection");
                    self.clients[c].winners.insert(host.clone(), address);
                    self.greet(c, id, conn);
                }
                RaceAction::Lost(error) => {
                    over = true;
                    self.opening_ends(c, id, Err(error.on(&host)));
                }
            }
        }
        if over {
            return self.arm(c, Timer::Race(c, id), None);
        }
        if let Some(Opening { stage: Progress::Racing { race, .. }, .. }) = self.clients[c].openings.get(&id) {
            let timer = race.poll_timeout();
            timer_lies_ahead("race", timer, now, after_timeout);
            waiting_has_a_timer("race", true, timer);
            self.arm(c, Timer::Race(c, id), timer.map(|(at, _)| at));
        }
    }

    /// Hands a race the addresses that have arrived meanwhile, before anything else happens to it.
    fn bring_up_to_date(&mut self, c: usize, id: u64) {
        let now = self.local(c);
        let client = &mut self.clients[c];
        let Some(Opening { host, stage: Progress::Racing { later, seen, .. }, .. }) = client.openings.get_mut(&id) else { return };
        let name = host.name().unwrap_or_default().to_owned();
        let Some((number, answer)) = client.resolver.cache.newer(&name, *seen, now) else { return };
        *seen = number;
        self.figures.overtaken += 1;
        let port = host.port();
        let is_looking = later.is_some();
        if !answer.complete && !is_looking {
            let waiter = self.look_up(c, &name, LookupMode::All, id);
            if let Some(Opening { stage: Progress::Racing { later, .. }, .. }) = self.clients[c].openings.get_mut(&id) {
                *later = Some(waiter);
            }
        }
        let addresses = answer.addresses.iter().map(|ip| Address::Ip(SocketAddr::new(*ip, port))).collect();
        if let Some(Opening { stage: Progress::Racing { race, .. }, .. }) = self.clients[c].openings.get_mut(&id) {
            race.handle_newer(addresses, is_looking || !answer.complete, now);
        }
    }

    /// Addresses have arrived: the races that do not know them are told.
    pub(crate) fn tell_races(&mut self, c: usize) {
        let now = self.local(c);
        let client = &self.clients[c];
        let at = self.now + client.settings.wake_delay;
        for (id, opening) in &client.openings {
            let Progress::Racing { seen, .. } = &opening.stage else { continue };
            if client.resolver.cache.newer(opening.host.name().unwrap_or_default(), *seen, now).is_some() {
                self.queue.push(at, Event::Overtaken { client: c, opening: *id });
            }
        }
    }

    fn attempts(&mut self, c: usize, id: u64) -> Option<&mut BTreeMap<AttemptId, (u64, Address)>> {
        match &mut self.clients[c].openings.get_mut(&id)?.stage {
            Progress::Racing { attempts, .. } => Some(attempts),
            Progress::Naming { .. } | Progress::Resolving { .. } | Progress::Greeting { .. } | Progress::Over => None,
        }
    }

    /// Something comes from an address that is being tried.
    pub(crate) fn attempt_hears(&mut self, c: usize, id: u64, attempt: AttemptId, conn: u64, parcel: &Parcel) {
        let tls = self.clients[c].settings.tls;
        let failed = |kind| socket_error(Stage::Tcp, kind);
        if let (Parcel::Accepted, Some(dialled)) = (parcel, self.net.conns.get(&conn).map(|conn| conn.dialled))
            && let Some(Opening { host, purpose: Purpose::Probe { id }, .. }) = self.clients[c].openings.get(&id)
        {
            let (host, probe, took) = (host.clone(), *id, self.now - dialled);
            self.topology_act(c, false, |topology, now| topology.handle_probe_reached(&host, probe, took, now));
        }
        match parcel {
            Parcel::Accepted if tls => {
                self.race_act(c, id, false, |race, now| race.handle_opened(attempt, now));
                self.send_to_server(conn, Parcel::Tls);
            }
            Parcel::Accepted | Parcel::Tls => self.race_act(c, id, false, |race, now| race.handle_connected(attempt, now)),
            Parcel::Refused => self.attempt_fails(c, id, attempt, failed(std::io::ErrorKind::ConnectionRefused)),
            Parcel::Fin | Parcel::Reset | Parcel::Cut { .. } | Parcel::Bytes(_) => {
                self.attempt_fails(c, id, attempt, failed(std::io::ErrorKind::ConnectionReset));
            }
        }
    }

    fn attempt_fails(&mut self, c: usize, id: u64, attempt: AttemptId, error: Error) {
        if let Some((conn, _)) = self.attempts(c, id).and_then(|attempts| attempts.remove(&attempt)) {
            self.close(conn);
        }
        self.race_act(c, id, false, |race, now| race.handle_failed(attempt, error, now));
    }

    fn greet(&mut self, c: usize, id: u64, conn: u64) {
        let now = self.local(c);
        let limit = self.clients[c].settings.connect_timeout;
        let client = Arc::clone(&self.metadata);
        let Some(purpose) = self.clients[c].openings.get(&id).map(|opening| opening.purpose) else { return };
        let (credential, nonces) = self.credential_for(c, purpose);
        let config = ConversationConfig { client, credential, hello_ok: false, load_balanced: self.plan.is_balanced(), nonces };
        let (mut command, conversation) = Conversation::new(config);
        let deadline = Deadline::new("connectTimeoutMS", limit, now);
        let Some(opening) = self.clients[c].openings.get_mut(&id) else { return };
        if let Progress::Racing { later: Some(waiter), .. } = opening.stage {
            self.cancel_look_up(c, waiter);
        }
        let Some(opening) = self.clients[c].openings.get_mut(&id) else { return };
        let talk = Talk { stage: Stage::Hello, since: now, round_trip: None };
        opening.stage = Progress::Greeting { conn, conversation: Some(Box::new(conversation)), deadline, talk };
        if let Some(conn) = self.net.conns.get_mut(&conn) {
            conn.user = User::Greeting { opening: id };
        }
        self.arm(c, Timer::Greeting(c, id), Some(deadline.at));
        self.send_command(conn, &command.database, Flags::default(), &Request::from(command.body.take()), None);
    }

    /// A reply to the greeting, or none.
    pub(crate) fn greeting_read(&mut self, c: usize, id: u64, outcome: Result<Message, Error>) {
        let now = self.local(c);
        let Some(Opening { stage: Progress::Greeting { conversation, talk, .. }, .. }) = self.clients[c].openings.get_mut(&id) else {
            return;
        };
        talk.round_trip.get_or_insert(now - talk.since);
        let conversation = conversation.take().expect("one reply to one command");
        if let Some(service) = outcome.as_ref().ok().and_then(|message| conversation.service_in(message.body())) {
            self.opening_reaches(c, id, service);
        }
        self.greeting_goes_on(c, id, outcome.and_then(|message| conversation.handle_reply(message.body())));
    }

    /// What comes next in a conversation, or why nothing does.
    pub(crate) fn greeting_goes_on(&mut self, c: usize, id: u64, step: Result<HandshakeStep, Error>) {
        let now = self.local(c);
        let Some(Opening { stage: Progress::Greeting { conn, conversation, talk, .. }, .. }) = self.clients[c].openings.get_mut(&id) else {
            return;
        };
        let conn = *conn;
        if matches!(step, Ok(HandshakeStep::Send(..) | HandshakeStep::Work(..))) && talk.stage == Stage::Hello {
            (talk.stage, talk.since) = (Stage::Auth, now);
            self.figures.logins.0 += 1;
        }
        let talk = *talk;
        match step {
            Ok(HandshakeStep::Ready(hello)) => self.opening_ends(c, id, Ok((conn, hello, talk.round_trip.unwrap_or_default()))),
            Ok(HandshakeStep::Send(mut command, then)) => {
                *conversation = Some(Box::new(then));
                self.send_command(conn, &command.database, Flags::default(), &Request::from(command.body.take()), None);
                self.spring_snare(c, conn);
            }
            Ok(HandshakeStep::Work(HandshakeWork::DeriveKeys(derivation), then)) => {
                if let Some(step) = self.derive(c, id, derivation, then) {
                    self.greeting_goes_on(c, id, step);
                }
            }
            Err(error) => {
                let error = label_overload(as_of(&error, talk.stage)).after(now - talk.since);
                self.opening_ends(c, id, Err(error));
            }
        }
    }

    /// Behind a load balancer the pool is told of the service as soon as that is known.
    fn opening_reaches(&mut self, c: usize, id: u64, service: ObjectId) {
        let Some(Purpose::Pool { pool, lease }) = self.clients[c].openings.get(&id).map(|opening| opening.purpose) else { return };
        let lease = self.greeted_by(c, pool, lease, service);
        if let Some(opening) = self.clients[c].openings.get_mut(&id) {
            opening.purpose = Purpose::Pool { pool, lease };
        }
    }

    /// The time for a greeting is over.
    pub(crate) fn greeting_late(&mut self, c: usize, id: u64) {
        let now = self.local(c);
        if let Some(Opening { stage: Progress::Greeting { deadline, talk, .. }, .. }) = self.clients[c].openings.get(&id) {
            let error = label_overload(deadline.error(talk.stage, now));
            self.opening_ends(c, id, Err(error));
        }
    }

    pub(crate) fn opening_interrupted(&mut self, c: usize, id: u64, error: Error) {
        if self.clients[c].openings.contains_key(&id) {
            self.opening_ends(c, id, Err(error.at(Stage::Tcp)));
        }
    }

    fn opening_ends(&mut self, c: usize, id: u64, outcome: Outcome) {
        let kept = outcome.as_ref().ok().map(|(conn, ..)| *conn);
        let Some(opening) = self.take_opening(c, id, kept) else { return };
        let outcome = outcome.map_err(|error| error.on(&opening.host));
        match opening.purpose {
            Purpose::Pool { pool, lease } => self.pool_opened(c, pool, lease, outcome),
            Purpose::Watch { watch } => self.watch_opened(c, watch, outcome),
            Purpose::Probe { id } => {
                let outcome = outcome.map(|(conn, ..)| self.close(conn));
                self.probed(c, &opening.host, id, outcome);
            }
        }
    }

    /// Nobody wants it any more.
    pub(crate) fn drop_opening(&mut self, c: usize, id: u64) {
        self.take_opening(c, id, None);
    }

    /// Takes an opening out, with all that belongs to it but one connection.
    fn take_opening(&mut self, c: usize, id: u64, kept: Option<u64>) -> Option<Opening> {
        let mut opening = self.clients[c].openings.remove(&id)?;
        self.arm(c, Timer::Race(c, id), None);
        self.arm(c, Timer::Greeting(c, id), None);
        match std::mem::replace(&mut opening.stage, Progress::Over) {
            Progress::Naming { waiter } | Progress::Resolving { waiter } => self.cancel_look_up(c, waiter),
            Progress::Racing { attempts, later, .. } => {
                for (conn, _) in attempts.into_values() {
                    self.close(conn);
                }
                if let Some(waiter) = later {
                    self.cancel_look_up(c, waiter);
                }
            }
            Progress::Greeting { conn, .. } if kept != Some(conn) => self.close(conn),
            Progress::Greeting { .. } | Progress::Over => {}
        }
        Some(opening)
    }
}

/// Names the stage of the conversation instead of the socket's.
fn as_of(error: &Error, stage: Stage) -> Error {
    match (error.stage(), error.kind()) {
        (Some(Stage::Read | Stage::Write) | None, ErrorKind::Io(kind)) => socket_error(stage, kind),
        (Some(Stage::Read | Stage::Write) | None, kind) => Error::new(kind, error.message()).at(stage),
        _ => error.clone(),
    }
}
