//! How are SRV records looked at again?
//!
//! Does what `io/srv_poll.rs` does, against records that change, fail, hang, and name hosts that nobody may believe in.
//! What the hosts must be is worked out beside the rules, from the answers that a client was given.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mongolink::dns::{Rescan, RescanAction, RescanConfig, SrvRecord, srv};
use mongolink::{Error, ErrorKind, ServerAddress, Stage};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::invariants::{in_order, timer_lies_ahead, waiting_has_a_timer};
use super::plan::{Fault, Plan, millis, pick};
use super::promises::{
    hosts_are_the_last_good, hosts_are_those_of_the_records, only_routers_are_polled, polling_keeps_its_distance, removed_is_gone,
    srv_one_query, those_who_stay_are_left_alone,
};
use super::queue::{Event, Timer};
use super::servers::names;
use super::world::World;

/// The name of the connection string: the servers' names are right below it.
const NAME: &str = "sim";

/// The longest that a record lives, in any plan.
const TTL_MAX: Duration = Duration::from_millis(4_000);

/// The SRV configuration of the clients, and the initial records.
#[derive(Clone, Debug)]
pub(crate) struct SrvPlan {
    /// By client: `srvMaxHosts`, and the shortest time between two scans.
    clients: Vec<(u32, Duration)>,
    records: Vec<Record>,
}

/// One record; the plan knows itself whether it may be believed.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    target: String,
    port: u16,
    lives_for: Duration,
    allowed: bool,
}

/// A change or fault of SRV records.
#[derive(Clone, Debug)]
pub(crate) enum SrvFault {
    /// They are others from now on.
    Change {
        records: Vec<Record>,
    },
    Empty {
        lasts: Duration,
    },
    Fails {
        lasts: Duration,
    },
    /// Answers come when it is over, which may be too late.
    Hangs {
        lasts: Duration,
    },
}

/// The state of the name in DNS.
#[derive(Default)]
pub(crate) struct SrvZone {
    records: Vec<Record>,
    empty_until: Option<Instant>,
    fails_until: Option<Instant>,
    hangs_until: Option<Instant>,
}

/// A client's look at SRV records: the rules, and what they must come to.
pub(crate) struct SrvPoll {
    rescan: Rescan,
    max_hosts: usize,
    floor: Duration,
    /// The number of the question under way.
    question: Option<u64>,
    asked: u64,
    /// When the next question is due, by the answers so far.
    due: Instant,
    /// The hosts of the last answer with any that may be believed, and those that the client uses of them.
    good: Vec<ServerAddress>,
    hosts: BTreeSet<ServerAddress>,
}

/// An event of a client's SRV look-up.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SrvEvent {
    /// Its task wakes up, because there is a new description.
    Sees,
    Answer {
        question: u64,
    },
    /// By now its hosts must be those of the records.
    Converged,
}

impl SrvPlan {
    pub(crate) fn draw(random: &mut SmallRng, clients: usize, members: usize, limited: bool) -> Self {
        let lives_for = Record::life(random);
        let mut client = || {
            let max_hosts = if limited { pick(random, &[0, 0, 0, 1, 2, 3]) } else { 0 };
            (max_hosts, pick(random, &[100, 500, 1_000, 1_000, 2_000, 4_000].map(Duration::from_millis)))
        };
        Self { clients: (0..clients).map(|_| client()).collect(), records: Record::of_all(members, lives_for) }
    }

    pub(crate) fn max_hosts(&self, client: usize) -> u32 {
        self.clients.get(client).map_or(0, |(max_hosts, _)| *max_hosts)
    }

    /// Returns the hosts that a client begins with, as `io/resolver.rs` finds them.
    pub(crate) fn first_seeds(&self, plan: &Plan, client: usize, draws: u64) -> Vec<ServerAddress> {
        let records: Vec<SrvRecord> = self.first_records(plan).iter().map(Record::told).collect();
        let seeds = srv::seeds(NAME, &records).expect("the first records are good");
        srv::choose(seeds, self.max_hosts(client), &mut SmallRng::seed_from_u64(draws))
    }

    fn first_records(&self, plan: &Plan) -> Vec<Record> {
        // A load balancer has one name.
        let count = if plan.is_balanced() { 1 } else { self.records.len() };
        self.records.iter().take(count).cloned().collect()
    }
}

impl Record {
    fn of_all(members: usize, lives_for: Duration) -> Vec<Self> {
        (0..members).map(|member| Self { target: format!("host{member}.sim"), port: 27017, lives_for, allowed: true }).collect()
    }

    fn life(random: &mut SmallRng) -> Duration {
        pick(random, &[Duration::ZERO, Duration::from_millis(700), Duration::from_millis(2_000), TTL_MAX])
    }

    fn draw(random: &mut SmallRng, members: usize) -> Self {
        let lives_for = Self::life(random);
        let member = random.random_range(0..members);
        let port = if random.random_bool(0.1) { 27018 } else { 27017 };
        let (target, allowed) = match random.random_range(0..12) {
            0 => (format!("host{member}.evil"), false),
            1 => (format!("host{member}.notsim"), false),
            2 => ("sim".to_owned(), false),
            3 => (format!("ghost{member}.sim"), true),
            4 => (format!("HOST{member}.Sim."), true),
            5 => (names(member).get(1).map_or_else(String::new, |name| name.replace(":27017", "")), true),
            _ => (format!("host{member}.sim"), true),
        };
        Self { target, port, lives_for, allowed }
    }

    fn told(&self) -> SrvRecord {
        SrvRecord { target: self.target.clone(), port: self.port, ttl: self.lives_for }
    }

    /// The host that it names, if it may be believed.
    fn host(&self) -> Option<ServerAddress> {
        let name = self.target.trim_end_matches('.');
        self.allowed.then(|| ServerAddress::parse(&format!("{name}:{}", self.port)).expect("a name"))
    }
}

impl SrvFault {
    pub(crate) fn draw(random: &mut SmallRng, members: usize) -> Self {
        let lasts = millis(random, 100, 5_000);
        match random.random_range(0..10) {
            0 => Self::Empty { lasts },
            1 => Self::Fails { lasts },
            2 => Self::Hangs { lasts },
            _ => {
                // Sometimes none at all, and sometimes one host twice.
                let count = random.random_range(0..=members + 1);
                let records = (0..count).map(|_| Record::draw(random, members)).collect();
                Self::Change { records }
            }
        }
    }

    pub(crate) fn lasts(&self) -> Duration {
        match self {
            Self::Change { .. } => Duration::ZERO,
            Self::Empty { lasts } | Self::Fails { lasts } | Self::Hangs { lasts } => *lasts,
        }
    }
}

/// The hosts of some records that may be believed, each once.
fn believable(records: &[Record]) -> Vec<ServerAddress> {
    let mut hosts: Vec<ServerAddress> = Vec::new();
    for host in records.iter().filter_map(Record::host) {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}

impl World {
    /// Gives all clients their look at SRV records, if that is how they found the servers.
    pub(crate) fn begin_polling(&mut self) {
        let Some(plan) = self.plan.srv.clone() else { return };
        self.srv_zone.records = plan.first_records(&self.plan);
        let lives_for = self.srv_zone.records.iter().map(|record| record.lives_for).min();
        for (c, (max_hosts, floor)) in plan.clients.into_iter().enumerate() {
            let client = &mut self.clients[c];
            let config = RescanConfig {
                host: NAME.to_owned(),
                floor,
                heartbeat_frequency: client.settings.heartbeat_frequency,
                look_up_limit: client.settings.dns_timeout,
            };
            client.srv = Some(SrvPoll {
                rescan: Rescan::new(config, lives_for, self.start),
                max_hosts: if max_hosts == 0 { usize::MAX } else { max_hosts as usize },
                floor,
                question: None,
                asked: 0,
                due: self.start + lives_for.unwrap_or_default().max(floor),
                good: believable(&self.srv_zone.records),
                hosts: client.published.servers().iter().map(|server| server.host.clone()).collect(),
            });
            self.srv_act(c, false, |_, _| ());
        }
    }

    /// Hands a fact to the rules, and carries out their wishes; a task that wakes up looks at the description first.
    pub(crate) fn srv_act(&mut self, c: usize, after_timeout: bool, step: impl FnOnce(&mut Rescan, Instant)) {
        let now = self.local(c);
        let kind = self.clients[c].published.kind();
        let Some(poll) = self.clients[c].srv.as_mut() else { return };
        poll.rescan.handle_topology(kind.name(), kind.follows_srv());
        step(&mut poll.rescan, now);
        let heartbeat = self.clients[c].settings.heartbeat_frequency;
        while let Some(poll) = self.clients[c].srv.as_mut() {
            match poll.rescan.poll_action() {
                Some(RescanAction::Query) => self.ask_srv(c, now),
                Some(RescanAction::Abandon) => {
                    in_order(poll.question.take().is_some(), || format!("client {c}: a question is abandoned that nobody asked"));
                    // It is late, or of no use to this topology any more.
                    poll.due = now + heartbeat;
                }
                Some(RescanAction::Hosts(hosts)) => self.take_srv_hosts(c, hosts),
                None => break,
            }
        }
        let Some(poll) = self.clients[c].srv.as_ref() else { return };
        let timer = poll.rescan.poll_timeout();
        timer_lies_ahead("SRV records", timer, now, after_timeout);
        waiting_has_a_timer("SRV records", !poll.rescan.is_stopped(), timer);
        self.arm(c, Timer::Rescan(c), timer.map(|(at, _)| at));
    }

    fn ask_srv(&mut self, c: usize, now: Instant) {
        self.figures.polls += 1;
        let kind = self.clients[c].published.kind();
        only_routers_are_polled(c, kind, self.clients[c].is_shut_down);
        let Some(poll) = self.clients[c].srv.as_mut() else { return };
        srv_one_query(c, poll.question.is_some());
        polling_keeps_its_distance(c, poll.due, now);
        poll.asked += 1;
        poll.question = Some(poll.asked);
        let question = poll.asked;
        self.note(|_| format!("client {c}: asks DNS for the SRV records"));
        let delay = self.plan.dns_delay.mul_f64(self.random.random_range(0.5..2.0));
        self.queue.push(self.now + delay, Event::Srv { client: c, what: SrvEvent::Answer { question } });
    }

    pub(crate) fn srv_event(&mut self, c: usize, what: SrvEvent) {
        match what {
            SrvEvent::Sees => self.srv_act(c, false, |_, _| ()),
            SrvEvent::Answer { question } => self.srv_answers(c, question),
            SrvEvent::Converged => self.look_at_records(c),
        }
    }

    fn srv_answers(&mut self, c: usize, question: u64) {
        let now = self.local(c);
        let zone = &self.srv_zone;
        if let Some(until) = zone.hangs_until.filter(|until| *until > self.now) {
            return self.queue.push(until, Event::Srv { client: c, what: SrvEvent::Answer { question } });
        }
        // The task looks at the description first, and may be too late for the answer.
        self.srv_act(c, false, |_, _| ());
        let zone = &self.srv_zone;
        let is_on = |until: Option<Instant>| until.is_some_and(|until| until > self.now);
        let answer = if is_on(zone.fails_until) {
            Err(Error::new(ErrorKind::DnsFailed, "SERVFAIL").at(Stage::Srv))
        } else if is_on(zone.empty_until) {
            Ok(Vec::new())
        } else {
            Ok(zone.records.clone())
        };
        let heartbeat = self.clients[c].settings.heartbeat_frequency;
        let follows = self.clients[c].published.kind().follows_srv();
        let Some(poll) = self.clients[c].srv.as_mut().filter(|poll| poll.question == Some(question)) else { return };
        poll.question = None;
        poll.due = now + heartbeat;
        if let Ok(records) = &answer
            && !believable(records).is_empty()
        {
            let lives_for = records.iter().map(|record| record.lives_for).min().unwrap_or_default();
            poll.due = now + lives_for.max(poll.floor);
            if follows {
                poll.good = believable(records);
            }
        }
        self.note(|_| format!("client {c}: DNS says of the SRV records: {answer:?}"));
        self.srv_act(c, false, |rescan, now| match answer {
            Ok(records) => rescan.handle_answered(&records.iter().map(Record::told).collect::<Vec<_>>(), now),
            Err(error) => rescan.handle_failed(&error, now),
        });
    }

    /// The hosts are others now: all that may be believed, or as many as the client may have.
    fn take_srv_hosts(&mut self, c: usize, hosts: Vec<ServerAddress>) {
        self.figures.followed += 1;
        let follows = self.clients[c].published.kind().follows_srv();
        self.topology_act(c, false, |topology, now| topology.handle_srv_hosts(hosts, now));
        let now_has: BTreeSet<ServerAddress> = self.clients[c].published.servers().iter().map(|server| server.host.clone()).collect();
        let Some(poll) = self.clients[c].srv.as_mut().filter(|_| follows) else { return };
        those_who_stay_are_left_alone(c, &poll.hosts, &poll.good, &now_has);
        hosts_are_the_last_good(c, &now_has, &poll.good, poll.max_hosts);
        poll.hosts = now_has;
    }

    /// There is a new description, which the task notices a little later.
    pub(crate) fn srv_sees(&mut self, c: usize) {
        if self.clients[c].srv.is_some() {
            let at = self.soon(c);
            self.queue.push(at, Event::Srv { client: c, what: SrvEvent::Sees });
        }
    }

    /// The machine has slept.
    pub(crate) fn srv_slept(&mut self, c: usize, gap: Duration) {
        let now = self.local(c);
        let Some(poll) = self.clients[c].srv.as_mut() else { return };
        if poll.question.is_none() {
            poll.due = poll.due.checked_sub(gap).map_or(now, |due| due.max(now));
        }
        self.srv_act(c, false, |rescan, now| rescan.handle_slept(gap, now));
    }

    pub(crate) fn strike_srv(&mut self, fault: SrvFault) {
        let now = self.now;
        match fault {
            SrvFault::Change { records } => self.srv_zone.records = records,
            SrvFault::Empty { lasts } => self.srv_zone.empty_until = Some(now + lasts),
            SrvFault::Fails { lasts } => self.srv_zone.fails_until = Some(now + lasts),
            SrvFault::Hangs { lasts } => self.srv_zone.hangs_until = Some(now + lasts),
        }
    }

    /// The records are good again, and the clients must follow them soon.
    pub(crate) fn mend_srv(&mut self) {
        let Some(plan) = &self.plan.srv else { return };
        self.srv_zone = SrvZone { records: plan.first_records(&self.plan), ..SrvZone::default() };
        for c in 0..self.clients.len() {
            let at = self.now + self.convergence_bound(c);
            self.queue.push(at, Event::Srv { client: c, what: SrvEvent::Converged });
        }
    }

    /// By when a client's hosts are those of the records, after these are good again.
    ///
    /// The question that is under way may get no answer: it is given up at `dnsTimeoutMS`. The next one follows at
    /// `heartbeatFrequencyMS` after a failure, else when the records' life is over, or the floor. Then DNS answers.
    pub(crate) fn convergence_bound(&self, c: usize) -> Duration {
        let Some(poll) = &self.clients[c].srv else { return Duration::ZERO };
        let settings = &self.clients[c].settings;
        let rest = settings.heartbeat_frequency.max(poll.floor).max(TTL_MAX);
        settings.dns_timeout + rest + 2 * self.plan.dns_delay + 2 * settings.wake_delay
    }

    /// How much later a client is usable because it may have followed records to hosts that are not there.
    pub(crate) fn astray(&self, c: usize) -> Duration {
        let strays = !self.plan.is_balanced() && self.plan.has(|fault| matches!(fault, Fault::Srv(SrvFault::Change { .. })));
        if strays { self.convergence_bound(c) } else { Duration::ZERO }
    }

    /// When a client's hosts are looked at for the last time.
    pub(crate) fn looked_at_until(&self, c: usize) -> Instant {
        self.start + self.plan.quiet_at + self.convergence_bound(c) + Duration::from_micros(1)
    }

    fn look_at_records(&self, c: usize) {
        let client = &self.clients[c];
        let Some(poll) = client.srv.as_ref().filter(|_| client.published.kind().follows_srv()) else { return };
        hosts_are_those_of_the_records(c, &poll.hosts, &believable(&self.srv_zone.records), poll.max_hosts);
    }

    /// What must hold between two steps: no host comes or goes but by an answer, and nothing is left of one that is gone.
    pub(crate) fn look_at_hosts(&self, c: usize) {
        let client = &self.clients[c];
        if client.is_shut_down {
            return;
        }
        let hosts: BTreeSet<&ServerAddress> = client.published.servers().iter().map(|server| &server.host).collect();
        if let Some(poll) = client.srv.as_ref().filter(|_| client.published.kind().follows_srv()) {
            in_order(poll.hosts.iter().eq(hosts.iter().copied()), || {
                format!("client {c}: the hosts are {hosts:?}, by the SRV records it uses {:?}", poll.hosts)
            });
        }
        let stray = client.watches.iter().find(|(id, watch)| watch.is_stray(**id, &client.watched));
        removed_is_gone(
            c,
            &hosts,
            client.places.keys(),
            client.watched.keys(),
            stray.map(|(_, watch)| &watch.host),
            self.plan.is_balanced(),
        );
        for (id, server) in &client.pools {
            if client.places.get(&server.host) != Some(id) {
                super::promises::removed_pool_is_empty(&server.host, &server.pool.stats(), &server.ledger);
            }
        }
    }

    /// The task ends with the client's others; an answer that comes all the same changes nothing.
    pub(crate) fn stop_polling(&mut self, c: usize) {
        let Some(poll) = self.clients[c].srv.take() else { return };
        self.arm(c, Timer::Rescan(c), None);
        let hosts = poll.good;
        self.topology_act(c, false, |topology, now| topology.handle_srv_hosts(hosts, now));
        let left = self.clients[c].published.servers().len();
        in_order(left == 0, || format!("client {c}: {left} hosts after the shutdown"));
    }
}
