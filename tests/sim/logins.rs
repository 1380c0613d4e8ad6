//! Who logs in, and what comes between?
//!
//! In some seeds the servers want a login: which mechanism each client has, how long its keys take, and what goes wrong in
//! the middle of it. Does what `io/open.rs` does between a hello and a connection that can be used. All that is drawn for
//! it comes from a sequence of its own, so that the other seeds stay what they are.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use mongolink::ConnectionString;
use mongolink::auth::scram::keys::{CacheKey, Derivation, ScramKeyCache};
use mongolink::auth::{Credential, Mechanism};
use mongolink::handshake::{Conversation, HandshakeStep, HandshakeWorkResult};
use mongolink::pool::Lease;
use mongolink::sandbox::{self, Config};
use mongolink::{Error, ErrorKind, ServerAddress, Stage};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::invariants::violated;
use super::net::{Place, User};
use super::openings::Purpose;
use super::plan::Fault;
use super::queue::Event;
use super::world::World;

/// The authentication of a plan's clients.
#[derive(Clone, Debug)]
pub(crate) struct Logins {
    /// By client; `None` leaves the choice to the conversation.
    mechanisms: Vec<Option<Mechanism>>,
    /// How long keys are derived.
    derivation: Duration,
}

/// A fault of authentication.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LoginFault {
    /// The user is refused everywhere.
    Barred { lasts: Duration },
    /// The next login on a member comes to it in the middle: after the client has sent its proof, or its first message.
    Snare { member: usize, snare: Snare, lasts: Duration },
    /// The member says that it is an arbiter, to everybody who greets it in order to log in.
    Disguised { member: usize, lasts: Duration },
}

/// What happens to a member in the middle of a login.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Snare {
    Freeze,
    Crash,
    CutToServer,
    CutToClient,
    /// The user is refused from that moment on.
    Bar,
}

/// The authentication state of a run.
pub(crate) struct LoginState {
    random: SmallRng,
    /// By client.
    credentials: Vec<Option<Credential>>,
    /// What each client has derived.
    known: Vec<ScramKeyCache>,
    /// By opening: what is derived, and for whom.
    deriving: BTreeMap<(usize, u64), (Derivation, Conversation)>,
    /// What each client derives, and until when.
    flights: Vec<(usize, CacheKey, Instant)>,
    /// By member.
    snares: BTreeMap<usize, (Snare, Duration)>,
    /// By member: until when it says that it is an arbiter.
    disguises: BTreeMap<usize, Instant>,
}

const USER: &str = "ada";

const PASSWORD: &str = "p3n=cil,9 sharp";

/// The share of seeds with logins.
const SHARE: f64 = 0.15;

/// The servers' keys, the same in all runs: to derive them is expensive, on purpose.
static ACCOUNT: LazyLock<sandbox::User> = LazyLock::new(|| sandbox::User::new(USER, PASSWORD).with_keys(1));

thread_local! {
    /// What clients have derived in earlier runs.
    static COMPUTED: RefCell<ScramKeyCache> = RefCell::default();
}

/// The server's code for a command that nobody logged in for.
const UNAUTHORIZED: i64 = 13;

fn sequence(seed: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed ^ 0x0106_1051_u64)
}

impl Logins {
    /// Draws whether and how a plan's clients log in, and what goes wrong with it.
    pub(crate) fn draw(
        seed: u64,
        members: usize,
        clients: usize,
        moment: impl Fn(f64) -> Duration,
        faults: &mut Vec<(Duration, Fault)>,
    ) -> Option<Self> {
        let mut random = sequence(seed);
        let random = &mut random;
        if !random.random_bool(SHARE) {
            return None;
        }
        let mechanisms = [None, None, Some(Mechanism::ScramSha256), Some(Mechanism::ScramSha1)];
        let mechanisms = (0..clients).map(|_| mechanisms[random.random_range(0..mechanisms.len())]).collect();
        let derivation = Duration::from_micros(random.random_range(0..40_000));
        for _ in 0..random.random_range(0..4) {
            let at = moment(random.random_range(0.0..1.0));
            let fault = draw_fault(random, members);
            faults.push((at, fault));
        }
        let mut disguises = SmallRng::seed_from_u64(seed ^ 0x0d15_6015_u64);
        for _ in 0..disguises.random_range(0..3) {
            let (member, lasts) = (disguises.random_range(0..members), Duration::from_millis(disguises.random_range(20..4_000)));
            faults.push((moment(disguises.random_range(0.0..1.0)), Fault::Login(LoginFault::Disguised { member, lasts })));
        }
        Some(Self { mechanisms, derivation })
    }

    /// Makes the one user known to a deployment.
    pub(crate) fn furnish(&self, config: &mut Config) {
        config.users.push(ACCOUNT.clone());
    }

    /// How much longer than without a login it takes until a connection can be used, in round trips and otherwise.
    pub(crate) fn extra(&self, round_trip: Duration) -> Duration {
        // The mechanism begins after hello if it was not guessed there; and a refusal may be on its way when all is well.
        3 * round_trip + self.derivation
    }
}

fn draw_fault(random: &mut SmallRng, members: usize) -> Fault {
    let member = random.random_range(0..members);
    let longest = if random.random_bool(0.5) { 1_000 } else { 6_000 };
    let lasts = Duration::from_millis(random.random_range(20..longest));
    match random.random_range(0..5) {
        0 => Fault::Login(LoginFault::Barred { lasts }),
        1 => {
            let command = if random.random_bool(0.7) { "saslContinue" } else { "saslStart" };
            let codes = [Some(18), Some(18), Some(11), Some(91), Some(11600), None];
            let code = codes[random.random_range(0..codes.len())];
            let delay = Duration::from_millis([0, 0, 300, 3_000][random.random_range(0..4)]).min(lasts);
            Fault::FailPoint { member, command, code, delay, times: random.random_range(1..4) }
        }
        _ => {
            let snares = [Snare::Freeze, Snare::Freeze, Snare::Crash, Snare::CutToServer, Snare::CutToClient, Snare::Bar];
            Fault::Login(LoginFault::Snare { member, snare: snares[random.random_range(0..snares.len())], lasts })
        }
    }
}

impl LoginFault {
    pub(crate) fn lasts(&self) -> Duration {
        match self {
            Self::Barred { lasts } | Self::Snare { lasts, .. } | Self::Disguised { lasts, .. } => *lasts,
        }
    }
}

impl LoginState {
    pub(crate) fn new(seed: u64, logins: Option<&Logins>) -> Self {
        let credential = |mechanism: &Option<Mechanism>| Some(credential(*mechanism));
        let credentials: Vec<_> = logins.iter().flat_map(|logins| logins.mechanisms.iter().map(credential)).collect();
        Self {
            random: sequence(!seed),
            known: vec![ScramKeyCache::default(); credentials.len()],
            credentials,
            deriving: BTreeMap::new(),
            flights: Vec::new(),
            snares: BTreeMap::new(),
            disguises: BTreeMap::new(),
        }
    }
}

/// Makes the credential as a connection string does.
fn credential(mechanism: Option<Mechanism>) -> Credential {
    let text = match mechanism {
        Some(mechanism) => format!("mongodb://ada:p3n%3Dcil%2C9%20sharp@a.sim/?authMechanism={}", mechanism.name()),
        None => "mongodb://ada:p3n%3Dcil%2C9%20sharp@a.sim/".to_owned(),
    };
    let options = ConnectionString::parse(&text).expect("a connection string").options;
    options.credential().expect("a credential").expect("somebody")
}

impl World {
    /// Whom a connection logs in as: none that watches does.
    pub(crate) fn credential_for(&mut self, c: usize, purpose: Purpose) -> (Option<Credential>, [[u8; 24]; 2]) {
        let credential = self.logins.credentials.get(c).cloned().flatten();
        let credential = credential.filter(|_| matches!(purpose, Purpose::Pool { .. }));
        let mut nonces = [[0; 24]; 2];
        if credential.is_some() {
            self.logins.random.fill(nonces.as_flattened_mut());
        }
        (credential, nonces)
    }

    /// Finds a derivation's keys if the client has them, else derives them, which takes a while.
    pub(crate) fn derive(
        &mut self,
        c: usize,
        opening: u64,
        derivation: Derivation,
        then: Conversation,
    ) -> Option<Result<HandshakeStep, Error>> {
        let key = derivation.cache_key();
        if let Some(keys) = self.logins.known.get(c).and_then(|known| known.get(&key)) {
            return Some(then.handle_work(HandshakeWorkResult::Keys(keys)));
        }
        let takes = self.plan.logins.as_ref().map_or(Duration::ZERO, |logins| logins.derivation);
        // Whoever wants the same keys meanwhile shares the derivation.
        self.logins.flights.retain(|(.., ends)| self.now <= *ends);
        let shared = self.logins.flights.iter().find(|(own, known, _)| *own == c && *known == key).map(|(.., ends)| *ends);
        let ends = shared.unwrap_or(self.now + takes);
        if shared.is_none() {
            self.logins.flights.push((c, key, ends));
        }
        self.logins.deriving.insert((c, opening), (derivation, then));
        self.queue.push(ends, Event::Derived { client: c, opening });
        None
    }

    /// Keys are there; the connection may be gone.
    pub(crate) fn derived(&mut self, c: usize, opening: u64) {
        let Some((derivation, then)) = self.logins.deriving.remove(&(c, opening)) else { return };
        let keys = COMPUTED.with_borrow_mut(|computed| {
            computed.get(&derivation.cache_key()).unwrap_or_else(|| {
                let keys = derivation.run();
                computed.put(derivation.cache_key(), keys.clone());
                keys
            })
        });
        if let Some(known) = self.logins.known.get_mut(c) {
            known.put(derivation.cache_key(), keys.clone());
        }
        if self.clients[c].openings.contains_key(&opening) {
            self.greeting_goes_on(c, opening, then.handle_work(HandshakeWorkResult::Keys(keys)));
        }
    }

    /// Does what a fault of logins does.
    pub(crate) fn disturb_logins(&mut self, fault: LoginFault) {
        match fault {
            LoginFault::Barred { lasts } => {
                self.servers.cluster.bar_user(USER);
                self.queue.push(self.now + lasts, Event::Admit);
            }
            LoginFault::Snare { member, snare, lasts } => drop(self.logins.snares.insert(member, (snare, lasts))),
            LoginFault::Disguised { member, lasts } => drop(self.logins.disguises.insert(member, self.now + lasts)),
        }
    }

    pub(crate) fn admit(&mut self) {
        self.servers.cluster.admit_user(USER);
    }

    /// All faults are over, and no snare is left.
    pub(crate) fn clear_snares(&mut self) {
        self.logins.snares.clear();
        self.logins.disguises.clear();
        self.admit();
    }

    /// Tells whether a member says to a connection that it is an arbiter.
    pub(crate) fn is_disguised(&self, member: usize, conn: u64) -> bool {
        let is_now = self.logins.disguises.get(&member).is_some_and(|until| self.now < *until);
        is_now && self.net.conns.get(&conn).is_some_and(|conn| self.logs_in(conn.client, conn.user))
    }

    fn logs_in(&self, c: usize, user: User) -> bool {
        let User::Greeting { opening } = user else { return false };
        let purpose = self.clients[c].openings.get(&opening).map(|opening| opening.purpose);
        matches!(purpose, Some(Purpose::Pool { .. })) && self.logins.credentials.get(c).is_some_and(Option::is_some)
    }

    /// A client goes on with a login: a snare may lie there.
    pub(crate) fn spring_snare(&mut self, c: usize, conn: u64) {
        let Some(Place::Member(member)) = self.net.conns.get(&conn).map(|conn| conn.place) else { return };
        let Some((snare, lasts)) = self.logins.snares.remove(&member) else { return };
        // It is over when all faults are.
        let lasts = lasts.min((self.start + self.plan.quiet_at).saturating_duration_since(self.now));
        self.befall(match snare {
            Snare::Freeze => Fault::Freeze { member, lasts },
            Snare::Crash => Fault::Crash { member, lasts },
            Snare::CutToServer => Fault::CutToServer { client: c, member, lasts },
            Snare::CutToClient => Fault::CutToClient { client: c, member, lasts },
            Snare::Bar => Fault::Login(LoginFault::Barred { lasts }),
        });
    }

    /// Looks at what came of a login that failed; `before` is the pool's generation before that was told.
    pub(crate) fn look_at_failed_login(&mut self, c: usize, host: &ServerAddress, lease: Lease, error: &Error, before: Option<u64>) {
        if error.stage() != Some(Stage::Auth) {
            return;
        }
        self.figures.logins.1 += 1;
        secrets_are_kept(host, error);
        login_is_no_overload(host, error);
        let client = &self.clients[c];
        // Behind a load balancer it is the service that is cleared.
        if before != Some(lease.generation) || self.plan.is_balanced() {
            return;
        }
        let after = client.topology.generation(host);
        let is_known = client.published.server(host).is_some_and(|server| server.is_known());
        let is_ready = client.places.get(host).and_then(|pool| client.pools.get(pool)).is_some_and(|server| server.pool.stats().ready);
        failed_login_clears(host, error, (lease.generation, after), is_known || is_ready);
    }
}

/// A server where a login fails is unknown, and its pool is cleared, once.
fn failed_login_clears(host: &ServerAddress, error: &Error, (before, after): (u64, Option<u64>), is_used: bool) {
    if after != Some(before + 1) || is_used {
        let text = format!("{host}: after {error} its pool goes from generation {before} to {after:?}, and is used on: {is_used}");
        violated("failed_login_clears", text);
    }
}

/// What fails at a login is no sign of overload.
fn login_is_no_overload(host: &ServerAddress, error: &Error) {
    if error.has_label("SystemOverloadedError") || error.has_label("RetryableError") {
        violated("login_is_no_overload", format!("{host}: {error} has the labels of an overloaded server"));
    }
}

/// No error tells the password.
fn secrets_are_kept(host: &ServerAddress, error: &Error) {
    let text = format!("{error} {error:?}");
    if text.contains(PASSWORD) {
        violated("secrets_are_kept", format!("{host}: {text}"));
    }
}

/// Nobody is given a connection that is not logged in.
pub(crate) fn callers_are_logged_in(host: &ServerAddress, error: &Error) {
    if error.kind() == ErrorKind::Command && error.code() == Some(UNAUTHORIZED) {
        violated("callers_are_logged_in", format!("{host}: a command was sent on a connection that is not logged in: {error}"));
    }
}
