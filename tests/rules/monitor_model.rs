//! The model of a monitor, on random sequences of facts.
//!
//! The monitor's actions drive a connection that exists or not, its events are counted, and its timers are compared with
//! those of the specification.

use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use mongolink::bson;
use mongolink::topology::{Monitor, MonitorAction, MonitorConfig, MonitorEvent};
use mongolink::{Error, ErrorKind, HelloReply, Stage, TopologyVersion};
use rand::RngExt;
use rand::rngs::SmallRng;

use crate::support::{closed_by_peer, for_seeds, ms};

const SEEDS: u64 = 3_000;
const STEPS: usize = 80;

/// "minHeartbeatFrequencyMS".
const FLOOR: Duration = Duration::from_millis(500);

/// The replies of a stream that may come at once, and the interval after which one more may come.
const BURST: u32 = 20;
const EVERY: Duration = Duration::from_millis(250);

/// How long and how often a server is polled after a stream without pauses.
const FLOOD_PAUSE: Duration = Duration::from_secs(60);

/// The connection, following the monitor's actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Closed,
    Opening,
    Up,
    /// The monitor reads a reply.
    Asked {
        awaited: bool,
    },
}

/// The running check.
#[derive(Clone, Copy, Debug)]
struct Check {
    began: Instant,
    awaited: bool,
}

struct Watch {
    monitor: Monitor,
    config: MonitorConfig,
    now: Instant,
    line: Line,
    check: Option<Check>,
    last_began: Option<Instant>,
    last_ended: Instant,
    /// Whether the last check that ended succeeded.
    known: bool,
    measuring: bool,
    streaming_version: bool,
    /// Whether another reply follows this one.
    more: bool,
    /// The used part of the allowance for streamed replies, and since when.
    used: Duration,
    used_at: Instant,
    flooded_until: Option<Instant>,
    warns: bool,
    /// When a failed check was last repeated at once.
    retried_at: Option<Instant>,
    stopped: bool,
}

/// The events of a monitor.
enum News {
    Event(MonitorEvent),
    Wish(MonitorAction),
}

/// The events that a step may cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    First,
    NetworkFailure,
    Resumed,
    Other,
}

#[test]
fn monitor_keeps_its_times_and_its_order() {
    let began = Instant::now();
    for_seeds(SEEDS, |rng| {
        let mut watch = Watch::new(config(rng), began);
        for _ in 0..STEPS {
            watch.step(rng);
        }
        watch.stop(rng);
    });
}

fn config(rng: &mut SmallRng) -> MonitorConfig {
    MonitorConfig {
        heartbeat_frequency: ms(rng.random_range(500..12_000)),
        connect_timeout: rng.random_bool(0.9).then(|| ms(rng.random_range(100..5_000))),
        open_timeout: rng.random_bool(0.9).then(|| ms(rng.random_range(100..9_000))),
        streaming: rng.random_bool(0.7),
    }
}

impl Watch {
    fn new(config: MonitorConfig, now: Instant) -> Self {
        let mut watch = Self {
            monitor: Monitor::new(config.clone(), now),
            config,
            now,
            line: Line::Closed,
            check: None,
            last_began: None,
            last_ended: now,
            known: false,
            measuring: false,
            streaming_version: false,
            more: false,
            used: Duration::ZERO,
            used_at: now,
            flooded_until: None,
            warns: false,
            retried_at: None,
            stopped: false,
        };
        watch.look(Step::First, false);
        assert!(watch.check.is_some(), "the first check is due at once");
        watch
    }

    fn step(&mut self, rng: &mut SmallRng) {
        let mut step = Step::Other;
        let mut timer = false;
        match rng.random_range(0..12) {
            0..=3 => self.answer(rng),
            4 => {
                let (error, cause) = failure(rng);
                step = cause;
                self.monitor.handle_failed(error, self.now);
            }
            5 => self.want(),
            6 => self.cancel(),
            7 if rng.random_bool(0.3) => {
                step = Step::Resumed;
                self.monitor.handle_resumed(self.now);
            }
            // A fact that does not belong to the state: a reply that was not asked for, a connection that was not opened.
            8 if self.line == Line::Closed || self.line == Line::Up => {
                self.monitor.handle_reply(hello(rng), rng.random_bool(0.5), self.now);
                self.monitor.handle_opened(hello(rng), ms(1), self.now);
            }
            9 | 10 => {
                let due = self.monitor.poll_timeout().map_or(self.now, |(at, _)| at);
                let early = due.checked_sub(ms(1)).filter(|at| *at >= self.now && rng.random_bool(0.3));
                self.now = early.unwrap_or(due).max(self.now);
                step = self.timeout_step();
                self.monitor.handle_timeout(self.now);
                timer = true;
            }
            _ => {
                self.now += ms(rng.random_range(0..1_500));
                step = self.timeout_step();
                self.monitor.handle_timeout(self.now);
                timer = true;
            }
        }
        self.look(step, timer);
    }

    /// A check that is ended by its timer has failed on the network.
    fn timeout_step(&self) -> Step {
        if self.check.is_some() { Step::NetworkFailure } else { Step::Other }
    }

    fn answer(&mut self, rng: &mut SmallRng) {
        self.now += ms(rng.random_range(0..100));
        match self.line {
            Line::Opening => self.monitor.handle_opened(hello(rng), ms(rng.random_range(0..50)), self.now),
            Line::Asked { awaited } => {
                self.more = awaited && rng.random_bool(0.6);
                self.monitor.handle_reply(hello(rng), self.more, self.now);
            }
            Line::Closed | Line::Up => {}
        }
    }

    /// A check is requested: it runs, or begins after `minHeartbeatFrequencyMS`.
    fn want(&mut self) {
        let running = self.check.is_some();
        self.monitor.handle_check_now(self.now);
        if self.stopped || running {
            return;
        }
        let by = self.now.max(self.last_ended + FLOOR);
        let (due, name) = self.monitor.poll_timeout().unwrap_or((self.now, "none"));
        assert!(name != "heartbeatFrequencyMS" || due <= by, "the request for a check is forgotten");
    }

    fn cancel(&mut self) {
        let running = self.check.is_some();
        self.monitor.handle_cancel_check(self.now);
        if running && !self.stopped {
            let due = self.monitor.poll_timeout().expect("a monitor that rests has a timer").0;
            assert_eq!(due, self.now + self.config.heartbeat_frequency, "a cancelled check is not begun anew at once");
        }
    }

    /// Takes the next output as the shell does: all events, then one action.
    fn next(&mut self) -> Option<News> {
        self.monitor.poll_event().map(News::Event).or_else(|| self.monitor.poll_action().map(News::Wish))
    }

    /// Takes events and actions, and checks them.
    fn look(&mut self, step: Step, timer: bool) {
        let (mut succeeded, mut failed, mut retry) = (0, 0, false);
        while let Some(news) = self.next() {
            let event = match news {
                News::Event(event) => event,
                News::Wish(action) => {
                    self.obey(action, &mut succeeded, &mut failed);
                    continue;
                }
            };
            assert!(!self.stopped || matches!(event, MonitorEvent::HeartbeatFailed { .. }), "a stopped monitor goes on");
            match event {
                MonitorEvent::HeartbeatStarted { awaited, .. } => {
                    assert_eq!((succeeded, failed), (0, 0), "what follows from a check is told before the next one begins");
                    self.began(awaited, step);
                }
                MonitorEvent::HeartbeatSucceeded { duration, awaited, .. } => {
                    self.ended(duration, awaited);
                    self.known = true;
                    succeeded += 1;
                }
                MonitorEvent::HeartbeatFailed { duration, awaited, error, .. } => {
                    self.ended(duration, awaited);
                    let rested = self.retried_at.is_none_or(|at| self.now - at >= FLOOR);
                    if error.kind() != ErrorKind::Interrupted {
                        failed += 1;
                        retry = self.known && error.is_network() && rested;
                    }
                    // A suspension ends a check without an event about the server.
                    let is_about_network = error.is_network() || error.kind() == ErrorKind::Interrupted;
                    let stays = step == Step::Resumed || (step == Step::NetworkFailure && rested);
                    self.known = self.known && is_about_network && stays;
                }
                _ => panic!("an event that is not known: {event:?}"),
            }
        }
        assert!(!retry || self.check.is_some(), "a server that was known is tried once more at once");
        assert_eq!((succeeded, failed, self.warns), (0, 0, false), "each check that ends is reported once, and so is a flood");
        assert_eq!(self.check.is_some(), matches!(self.line, Line::Opening | Line::Asked { .. }), "a check runs on a line");
        self.check_timer(timer);
    }

    fn began(&mut self, awaited: bool, step: Step) {
        assert!(self.check.is_none(), "two checks at once");
        if !awaited {
            let apart = self.last_began.is_none_or(|last| self.now - last >= FLOOR);
            let rested = self.now - self.last_ended >= FLOOR;
            match step {
                Step::First | Step::Resumed => {}
                // "once, without waiting": the check before this one failed, and the one before that succeeded.
                Step::NetworkFailure if self.known => (self.known, self.retried_at) = (false, Some(self.now)),
                Step::NetworkFailure | Step::Other => {
                    assert!(apart || rested, "polled checks are {:?} apart ({step:?})", self.now - self.last_ended)
                }
            }
        }
        self.check = Some(Check { began: self.now, awaited });
        self.last_began = Some(self.now);
    }

    fn ended(&mut self, duration: Duration, awaited: bool) {
        let check = self.check.take().expect("a check ends that did not begin");
        assert_eq!(check.awaited, awaited);
        assert_eq!(duration, self.now - check.began);
        self.last_ended = self.now;
    }

    fn obey(&mut self, action: MonitorAction, succeeded: &mut u32, failed: &mut u32) {
        match action {
            MonitorAction::Open => {
                assert_eq!(self.line, Line::Closed);
                self.line = Line::Opening;
            }
            MonitorAction::Send { awaited, .. } => {
                assert!(self.line == Line::Up, "a hello is sent on a line that is {:?}", self.line);
                if let Some((_, wait)) = awaited {
                    assert!(self.config.streaming && self.streaming_version, "a server is asked to wait that can't");
                    assert_eq!(wait, self.config.heartbeat_frequency);
                }
                self.line = Line::Asked { awaited: awaited.is_some() };
            }
            MonitorAction::Read => {
                assert_eq!(self.line, Line::Up, "a reply is read that does not come");
                self.line = Line::Asked { awaited: true };
            }
            MonitorAction::Close => {
                assert!(self.line != Line::Closed, "nothing is closed");
                self.line = Line::Closed;
                self.streaming_version = false;
            }
            MonitorAction::Answered { reply, round_trip } => {
                let awaited = matches!(self.line, Line::Asked { awaited: true });
                assert_eq!(round_trip.is_none(), awaited, "the time of an awaited reply is no round trip");
                *succeeded = succeeded.checked_sub(1).expect("an answer without a check");
                let is_flooded = self.flooded_until.is_some_and(|until| until > self.now);
                self.streaming_version = reply.topology_version.is_some() && self.config.streaming && !is_flooded;
                self.line = Line::Up;
                if awaited && (self.more || self.streaming_version) {
                    self.use_up();
                }
            }
            MonitorAction::WarnOfFlood => assert!(std::mem::take(&mut self.warns), "a stream that had pauses is taken for a flood"),
            MonitorAction::Failed(_) => *failed = failed.checked_sub(1).expect("a failure without a check"),
            MonitorAction::MeasureRoundTrips(on) => {
                assert_ne!(on, self.measuring, "measuring is begun or ended twice");
                self.measuring = on;
            }
        }
    }

    /// The stream brings one more reply.
    fn use_up(&mut self) {
        let every = EVERY.min(self.config.heartbeat_frequency / 2);
        self.used = self.used.saturating_sub(self.now - self.used_at) + every;
        self.used_at = self.now;
        if self.used > BURST * every {
            self.used -= every;
            (self.warns, self.flooded_until) = (true, Some(self.now + FLOOD_PAUSE));
        }
    }

    fn check_timer(&self, looked: bool) {
        let timer = self.monitor.poll_timeout().map(|(at, _)| at);
        assert!(!looked || timer.is_none_or(|at| at > self.now), "a timer is due after time was looked at");
        let Self { config, .. } = self;
        let expected = match (self.stopped, self.check, self.line) {
            (true, _, _) => None,
            (false, None, _) => {
                let due = timer.expect("a monitor that rests has a timer");
                assert!(due <= self.last_ended + config.heartbeat_frequency.max(FLOOR), "a monitor rests for too long");
                return;
            }
            (false, Some(check), Line::Opening) => config.open_timeout.map(|limit| check.began + limit),
            (false, Some(check), _) if check.awaited => {
                config.connect_timeout.map(|limit| check.began + limit + config.heartbeat_frequency)
            }
            (false, Some(check), _) => config.connect_timeout.map(|limit| check.began + limit),
        };
        assert_eq!(timer, expected, "the timer of {:?} on {:?}", self.check, self.line);
        assert!(!self.measuring || self.streaming_version, "round trips are measured apart while streaming only");
    }

    /// Stops the monitor: no actions and events follow.
    fn stop(&mut self, rng: &mut SmallRng) {
        self.monitor.handle_stop(self.now);
        self.stopped = true;
        self.look(Step::Other, false);
        assert!(self.check.is_none() && self.line == Line::Closed && !self.measuring);
        for _ in 0..10 {
            self.monitor.handle_opened(hello(rng), ms(1), self.now);
            self.monitor.handle_reply(hello(rng), rng.random_bool(0.5), self.now);
            self.step(rng);
            assert!(self.monitor.poll_timeout().is_none() && self.monitor.poll_event().is_none() && self.monitor.poll_action().is_none());
            assert!(self.line == Line::Closed && self.check.is_none());
        }
    }
}

fn hello(rng: &mut SmallRng) -> HelloReply {
    let mut reply = HelloReply::default();
    if rng.random_bool(0.6) {
        reply.topology_version = Some(TopologyVersion::new(ObjectId::from_bytes([1; 12]), rng.random_range(0..9)));
    }
    reply
}

fn failure(rng: &mut SmallRng) -> (Error, Step) {
    match rng.random_range(0..3) {
        0 => (Error::new(ErrorKind::Auth, "refused").at(Stage::Auth), Step::Other),
        1 => (Error::new(ErrorKind::DnsFailed, "no answer").at(Stage::Dns), Step::Other),
        _ => (closed_by_peer(), Step::NetworkFailure),
    }
}
