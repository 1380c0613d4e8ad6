//! What does a seed stand for?
//!
//! A deployment, its clients with their settings, what callers do, and every fault with its moment: drawn from the seed
//! alone, before anything runs. What a fault does is in `faults`.

use std::time::Duration;

use mongolink::race::STAGGER;
use mongolink::sandbox::Config;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::balancer::BalancerFault;
use super::deployments::{Deployment, Variation};
use super::excess::{self, Excess};
use super::logins::{LoginFault, Logins};
use super::queue::CallKind;
use super::requests::{self, RequestHarm};
use super::resolver;
use super::srv::{SrvFault, SrvPlan};

/// All that a seed decides beforehand; the rest is drawn from the same sequence while it runs.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) members: usize,
    pub(crate) standalone: bool,
    pub(crate) deployment: Deployment,
    /// What clients know of SRV records, if they found the servers by them.
    pub(crate) srv: Option<SrvPlan>,
    /// How much farther than the others each member is, where they differ.
    pub(crate) far: Vec<Duration>,
    pub(crate) election_timeout: Duration,
    pub(crate) step_down_delay: Duration,
    pub(crate) notice_delay: Duration,
    pub(crate) wire_versions: (i32, i32),
    pub(crate) clients: Vec<ClientPlan>,
    /// One way, between any client and any member; each link adds its own.
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    /// The chance that a packet is lost, and sent again.
    pub(crate) loss: f64,
    /// Whether messages arrive in pieces.
    pub(crate) chopped: bool,
    /// The lifetime of DNS answers.
    pub(crate) time_to_live: Duration,
    pub(crate) dns_delay: Duration,
    /// Whether names are resolved by the operating system, not by DNS queries.
    pub(crate) names_by_system: bool,
    pub(crate) faults: Vec<(Duration, Fault)>,
    /// How clients log in, if they have to.
    pub(crate) logins: Option<Logins>,
    /// When the last fault is over.
    pub(crate) quiet_at: Duration,
}

/// One client: its settings and its callers.
#[derive(Clone, Debug)]
pub(crate) struct ClientPlan {
    pub(crate) settings: Settings,
    pub(crate) calls: Vec<(Duration, CallKind, Option<Duration>)>,
}

/// The options of a client that the rules look at.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) heartbeat_frequency: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) dns_timeout: Duration,
    pub(crate) selection_timeout: Duration,
    pub(crate) wait_queue_timeout: Option<Duration>,
    pub(crate) call_timeout: Option<Duration>,
    pub(crate) socket_timeout: Option<Duration>,
    pub(crate) max_pool_size: u32,
    pub(crate) min_pool_size: u32,
    pub(crate) max_connecting: u32,
    pub(crate) max_idle_time: Option<Duration>,
    pub(crate) streaming: bool,
    pub(crate) tls: bool,
    pub(crate) names_the_set: bool,
    /// How late a task notices what it was woken for, at the most.
    pub(crate) wake_delay: Duration,
}

/// A fault, with its duration.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    Crash {
        member: usize,
        lasts: Duration,
    },
    Freeze {
        member: usize,
        lasts: Duration,
    },
    StepDown,
    Elect {
        member: usize,
    },
    /// The member gets another spelling of its name, or another name.
    Rename {
        member: usize,
        name: usize,
    },
    Remove {
        member: usize,
        lasts: Duration,
    },
    Upgrade {
        member: usize,
        newest: i32,
    },
    /// The member's hellos tell of another election or configuration than the true one, and older.
    Lie {
        member: usize,
        lie: Lie,
        lasts: Duration,
    },
    /// The member says too much.
    Excess {
        member: usize,
        excess: Excess,
        lasts: Duration,
    },
    /// Commands fail on purpose.
    FailPoint {
        member: usize,
        command: &'static str,
        code: Option<i32>,
        delay: Duration,
        times: i32,
    },
    CutToServer {
        client: usize,
        member: usize,
        lasts: Duration,
    },
    CutToClient {
        client: usize,
        member: usize,
        lasts: Duration,
    },
    Slow {
        client: usize,
        member: usize,
        delay: Duration,
        lasts: Duration,
    },
    SlowAccept {
        member: usize,
        delay: Duration,
        lasts: Duration,
    },
    /// All connections of now between the two carry nothing any more, and nobody says so.
    Silence {
        client: usize,
        member: usize,
    },
    /// Something happens to the next reply.
    Reply {
        client: usize,
        member: usize,
        harm: Harm,
    },
    /// The name leads to another address, and nobody answers, or listens, at the old one.
    Move {
        member: usize,
        silent: bool,
    },
    DnsFails {
        lasts: Duration,
    },
    DnsHangs {
        lasts: Duration,
    },
    DnsForgets {
        lasts: Duration,
    },
    /// DNS answers late, so that old answers are gone by meanwhile.
    DnsSlow {
        delay: Duration,
        lasts: Duration,
    },
    Suspend {
        client: usize,
        lasts: Duration,
    },
    /// Something happens to the next request.
    Request {
        client: usize,
        member: usize,
        harm: RequestHarm,
    },
    Login(LoginFault),
    /// Callers come at once, and give up at once.
    Burst {
        client: usize,
        callers: u32,
        patience: Duration,
    },
    /// Something happens to the SRV records.
    Srv(SrvFault),
    /// Something happens to the load balancer.
    Balancer(BalancerFault),
}

/// What is untrue in a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// An older election, and the true configuration.
    OldElection,
    /// An older election with a newer configuration, or the reverse, where that orders lower.
    Swapped,
    /// No election at all.
    NoElection,
}

/// What happens to a reply on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    ResetAt(usize),
    CutAt(usize),
    Oversized,
    Twice,
    Late(Duration),
}

/// The kinds of faults, so that a seed can do without some of them.
const KINDS: usize = 21;

/// When the first fault may come.
pub(crate) const CALM: Duration = Duration::from_millis(500);

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let random = &mut random;
        let mut variation = Variation::of(seed);
        let standalone = random.random_bool(0.08) && variation.allows_standalone();
        let members = if standalone { 1 } else { pick(random, &[3, 3, 3, 3, 5, 2]) };
        let clients = pick(random, &[1, 1, 1, 2, 3]);
        let span = millis(random, 6_000, 20_000);
        let mut faults = draw_faults(random, members, clients, span);
        let moment = |part: f64| CALM + Duration::from_secs_f64(span.as_secs_f64() * part);
        let logins = Logins::draw(seed, members, clients, moment, &mut faults);
        requests::draw_faults(seed, members, clients, moment, &mut faults);
        resolver::draw_faults(seed, members, moment, &mut faults);
        excess::draw_faults(seed, members, moment, &mut faults);
        variation.change_faults(&mut faults, members, clients, span);
        faults.sort_by_key(|(at, _)| *at);
        let wire_versions = (0, pick(random, &[21, 21, 17, 13]));
        let mixed = faults.iter().any(|(_, fault)| matches!(fault, Fault::Upgrade { .. }));
        for (_, fault) in faults.iter_mut().filter(|_| mixed) {
            // Where members order elections differently, what is older to one is newer to another, and true for good.
            if let Fault::Lie { lie, .. } = fault {
                *lie = Lie::OldElection;
            }
        }
        // Without an election an older server's version is taken for true, and then a newer election that never was.
        let blind = wire_versions.1 < 17 && faults.iter().any(|(_, fault)| matches!(fault, Fault::Lie { lie: Lie::NoElection, .. }));
        for (_, fault) in faults.iter_mut().filter(|_| blind) {
            if let Fault::Lie { lie: lie @ Lie::Swapped, .. } = fault {
                *lie = Lie::OldElection;
            }
        }
        let quiet_at = faults.iter().map(|(at, fault)| *at + fault.lasts()).max().unwrap_or(CALM);
        let mut clients: Vec<ClientPlan> = (0..clients).map(|_| ClientPlan::draw(random, quiet_at)).collect();
        let srv = variation.change_clients(&mut clients, members);
        // Mostly near; sometimes another continent, and now and then a link on which a round trip takes up to five seconds.
        let farthest = match random.random_range(0.0..1.0) {
            0.0..0.03 => 2_500_000,
            0.03..0.2 => 150_000,
            _ => 3_000,
        };
        let delay = Duration::from_micros(random.random_range(50..farthest));
        let plan = Self {
            members,
            standalone,
            deployment: variation.deployment,
            srv,
            far: variation.distances(members),
            election_timeout: millis(random, 100, 2_000),
            step_down_delay: millis(random, 10, 500),
            notice_delay: millis(random, 50, 3_000),
            wire_versions,
            clients: Vec::new(),
            delay,
            jitter: Duration::from_micros(random.random_range(0..2_000)),
            loss: pick(random, &[0.0, 0.0, 0.001, 0.02]),
            chopped: random.random_bool(0.2),
            time_to_live: pick(random, &[Duration::ZERO, Duration::from_secs(5), Duration::from_secs(8), Duration::from_secs(60)]),
            dns_delay: Duration::from_micros(random.random_range(100..40_000)),
            names_by_system: resolver::draws_system(seed),
            faults,
            logins,
            quiet_at,
        };
        // Nobody can use servers that are farther away than the time there is to connect to them: TCP and TLS have it together,
        // and an address that leads nowhere comes first.
        let least = 3 * plan.round_trip_max() + 2 * STAGGER;
        for client in &mut clients {
            client.settings.connect_timeout = client.settings.connect_timeout.max(least);
            client.settings.socket_timeout = client.settings.socket_timeout.map(|limit| limit.max(plan.round_trip_max()));
        }
        Self { clients, ..plan }
    }

    /// A plan without faults and chance: three members, one client, one caller now and then.
    pub(crate) fn plain() -> Self {
        Self {
            members: 3,
            standalone: false,
            deployment: Deployment::Members,
            srv: None,
            far: Vec::new(),
            election_timeout: Duration::from_secs(2),
            step_down_delay: Duration::from_millis(20),
            notice_delay: Duration::from_millis(100),
            wire_versions: (0, 21),
            clients: Vec::new(),
            delay: Duration::from_millis(1),
            jitter: Duration::ZERO,
            loss: 0.0,
            chopped: false,
            time_to_live: Duration::from_secs(60),
            dns_delay: Duration::from_millis(5),
            names_by_system: false,
            faults: Vec::new(),
            logins: None,
            quiet_at: CALM,
        }
    }

    /// Describes the deployment to the sandbox.
    pub(crate) fn config(&self, names: &[&str]) -> Config {
        let mut config = match (self.config_of_routers(names), self.standalone, names.first()) {
            (Some(config), ..) => config,
            (None, true, Some(name)) => Config::standalone(*name),
            (None, true, None) | (None, false, _) => Config::replica_set("rs0", names.iter().copied()),
        };
        config.election_timeout = self.election_timeout;
        config.step_down_delay = self.step_down_delay;
        config.notice_delay = self.notice_delay;
        config.wire_versions = self.wire_versions;
        if let Some(logins) = &self.logins {
            logins.furnish(&mut config);
        }
        config
    }

    /// The longest that anything takes from a client to a server and back, after the faults: a lost packet is sent again.
    pub(crate) fn round_trip_max(&self) -> Duration {
        let lost = if self.loss > 0.0 { RESEND } else { Duration::ZERO };
        2 * (2 * self.delay_max() + self.jitter + lost)
    }

    /// How long one attempt to use a client after the faults may take: opening a connection and a command are four round trips,
    /// and a login is some more.
    pub(crate) fn probe_limit(&self) -> Duration {
        let login = self.logins.as_ref().map_or(Duration::ZERO, |logins| logins.extra(self.round_trip_max()));
        PROBE_LIMIT.max(2 * self.round_trip_max()) + login
    }

    /// The longest that a command is held up on purpose.
    pub(crate) fn held_up_max(&self) -> Duration {
        let delays = self.faults.iter().map(|(_, fault)| if let Fault::FailPoint { delay, .. } = fault { *delay } else { Duration::ZERO });
        delays.max().unwrap_or_default()
    }

    pub(crate) fn has(&self, kind: impl Fn(&Fault) -> bool) -> bool {
        self.faults.iter().any(|(_, fault)| kind(fault))
    }
}

/// How long one attempt to use the client after the faults may take at the least.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// After how long a lost packet is sent again.
pub(crate) const RESEND: Duration = Duration::from_millis(200);

impl ClientPlan {
    fn draw(random: &mut SmallRng, quiet_at: Duration) -> Self {
        let settings = Settings::draw(random);
        let rate = random.random_range(1.0..6.0);
        let until = quiet_at.as_secs_f64() + 1.0;
        let mut calls = Vec::new();
        let mut at = random.random_range(0.0..0.3);
        // A long plan has no more calls than a short one: what happens between faults is what counts.
        while at < until && calls.len() < CALLS_MAX {
            let kind = pick(random, &[CallKind::Ping, CallKind::Insert, CallKind::Insert, CallKind::Find]);
            let patience = random.random_bool(0.25).then(|| millis(random, 0, 1_500));
            calls.push((Duration::from_secs_f64(at), kind, patience));
            at += random.random_range(0.0..2.0) / rate;
        }
        Self { settings, calls }
    }
}

/// How many calls a plan has for one client, bursts apart.
const CALLS_MAX: usize = 60;

impl Settings {
    fn draw(random: &mut SmallRng) -> Self {
        let max_pool_size = pick(random, &[1, 2, 2, 3, 5, 10]);
        Self {
            heartbeat_frequency: pick(random, &[500, 1_000, 2_000, 10_000].map(Duration::from_millis)),
            connect_timeout: pick(random, &[500, 1_000, 2_000, 5_000].map(Duration::from_millis)),
            dns_timeout: pick(random, &[500, 1_500, 5_000].map(Duration::from_millis)),
            selection_timeout: pick(random, &[200, 2_000, 30_000].map(Duration::from_millis)),
            wait_queue_timeout: pick(random, &[None, Some(100), Some(1_000)]).map(Duration::from_millis),
            call_timeout: pick(random, &[None, None, Some(300), Some(2_000)]).map(Duration::from_millis),
            socket_timeout: pick(random, &[None, None, None, Some(700)]).map(Duration::from_millis),
            max_pool_size,
            min_pool_size: pick(random, &[0, 0, 1, 2]).min(max_pool_size),
            max_connecting: pick(random, &[1, 2, 2, 3]),
            max_idle_time: pick(random, &[None, None, Some(1_500), Some(10_000)]).map(Duration::from_millis),
            streaming: random.random_bool(0.7),
            tls: random.random_bool(0.3),
            names_the_set: random.random_bool(0.5),
            wake_delay: Duration::from_micros(pick(random, &[0, 0, 100, 20_000])),
        }
    }
}

fn draw_faults(random: &mut SmallRng, members: usize, clients: usize, span: Duration) -> Vec<(Duration, Fault)> {
    let count = random.random_range(1..12);
    // Few kinds at a time, so that each is also seen without all the others.
    let kinds: Vec<usize> = (0..random.random_range(1..6)).map(|_| random.random_range(0..KINDS)).collect();
    let mut faults = Vec::new();
    for _ in 0..count {
        let at = CALM + Duration::from_secs_f64(span.as_secs_f64() * random.random_range(0.0..1.0));
        faults.push((at, Fault::draw(pick(random, &kinds), random, members, clients)));
    }
    faults
}

impl Fault {
    fn draw(kind: usize, random: &mut SmallRng, members: usize, clients: usize) -> Self {
        let member = random.random_range(0..members);
        let client = random.random_range(0..clients);
        let lasts = if random.random_bool(0.5) { millis(random, 20, 1_000) } else { millis(random, 1_000, 9_000) };
        match kind {
            0 => Self::Crash { member, lasts },
            1 => Self::Freeze { member, lasts },
            2 => Self::StepDown,
            3 => Self::Elect { member },
            4 => Self::Rename { member, name: random.random_range(0..4) },
            5 => Self::Remove { member, lasts },
            6 => Self::Upgrade { member, newest: pick(random, &[13, 16, 17, 21, 25]) },
            7 => Self::Lie { member, lie: pick(random, &[Lie::OldElection, Lie::Swapped, Lie::NoElection]), lasts },
            8 => {
                let command = pick(random, &["insert", "find", "ping", "hello", "isMaster"]);
                let code = pick(random, &[None, Some(91), Some(189), Some(10107), Some(11600), Some(11602), Some(13435), Some(8)]);
                let delay = pick(random, &[0, 50, 700, 3_000, 8_000]).min(lasts.as_millis() as u64);
                Self::FailPoint { member, command, code, delay: Duration::from_millis(delay), times: random.random_range(1..6) }
            }
            9 => Self::CutToServer { client, member, lasts },
            10 => Self::CutToClient { client, member, lasts },
            11 => Self::Slow { client, member, delay: millis(random, 10, 2_500), lasts },
            12 => Self::SlowAccept { member, delay: millis(random, 50, 3_000), lasts },
            13 => Self::Silence { client, member },
            14 | 15 => Self::Reply { client, member, harm: Harm::draw(random) },
            16 => Self::Move { member, silent: random.random_bool(0.5) },
            17 => match random.random_range(0..3) {
                0 => Self::DnsFails { lasts },
                1 => Self::DnsHangs { lasts },
                _ => Self::DnsForgets { lasts },
            },
            18 => Self::Suspend { client, lasts: lasts * pick(random, &[1, 1, 8]) },
            _ => Self::Burst { client, callers: random.random_range(5..40), patience: millis(random, 0, 300) },
        }
    }

    /// How long it goes on; what is over at once may have consequences all the same.
    pub(crate) fn lasts(&self) -> Duration {
        match self {
            Self::Crash { lasts, .. }
            | Self::Freeze { lasts, .. }
            | Self::Remove { lasts, .. }
            | Self::Lie { lasts, .. }
            | Self::Excess { lasts, .. }
            | Self::CutToServer { lasts, .. }
            | Self::CutToClient { lasts, .. }
            | Self::DnsFails { lasts }
            | Self::DnsHangs { lasts }
            | Self::DnsForgets { lasts }
            | Self::Suspend { lasts, .. } => *lasts,
            // What is on its way at the end is slow to the last.
            Self::Slow { delay, lasts, .. } | Self::DnsSlow { delay, lasts } | Self::SlowAccept { delay, lasts, .. } => *delay + *lasts,
            Self::Login(fault) => fault.lasts(),
            Self::Reply { harm: Harm::Late(by), .. } => *by,
            Self::FailPoint { delay, .. } => *delay,
            Self::Srv(fault) => fault.lasts(),
            Self::Balancer(fault) => fault.lasts(),
            Self::StepDown
            | Self::Elect { .. }
            | Self::Rename { .. }
            | Self::Upgrade { .. }
            | Self::Silence { .. }
            | Self::Reply { .. }
            | Self::Request { .. }
            | Self::Move { .. }
            | Self::Burst { .. } => Duration::ZERO,
        }
    }
}

impl Harm {
    fn draw(random: &mut SmallRng) -> Self {
        match random.random_range(0..5) {
            0 => Self::ResetAt(random.random_range(0..400)),
            1 => Self::CutAt(random.random_range(1..400)),
            2 => Self::Oversized,
            3 => Self::Twice,
            _ => Self::Late(millis(random, 100, 4_000)),
        }
    }
}

pub(crate) fn pick<T: Clone>(random: &mut SmallRng, from: &[T]) -> T {
    from[random.random_range(0..from.len())].clone()
}

pub(crate) fn millis(random: &mut SmallRng, from: u64, to: u64) -> Duration {
    Duration::from_millis(random.random_range(from..to))
}
