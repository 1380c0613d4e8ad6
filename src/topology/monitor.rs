//! The monitor of one server: polling, streaming, retries and time limits.
//!
//! The rules of server-monitoring: facts and the time in, actions out. Does not decide what a reply means for the topology
//! (`update`), nor how a connection is opened (`io`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::pace::Pace;
use crate::error::{Error, ErrorKind, Stage};
use crate::handshake::{HelloReply, TopologyVersion};
use crate::machine::Machine;
use crate::options::MIN_HEARTBEAT_FREQUENCY;

/// The configuration of a monitor.
#[derive(Clone, Debug)]
pub struct MonitorConfig {
    /// `heartbeatFrequencyMS`.
    pub heartbeat_frequency: Duration,
    /// `connectTimeoutMS`: the time limit of a reply; `None` for no limit.
    pub connect_timeout: Option<Duration>,
    /// The time limit of opening a connection, should its own timers fail; `None` for no limit.
    pub open_timeout: Option<Duration>,
    /// Whether replies may be streamed, if the server supports it.
    pub streaming: bool,
}

/// The maximum number of streamed replies at once: an election causes a handful.
pub const STREAMED_BURST: u32 = 20;

/// The interval of further streamed replies; a stream's own replies come every `heartbeatFrequencyMS`.
pub const STREAMED_EVERY: Duration = Duration::from_millis(250);

/// The polling interval of a server whose stream has no pause: the maximum delay of its news.
pub const FLOOD_POLL: Duration = Duration::from_secs(1);

/// How long a server whose stream has no pause is polled before it may stream again.
pub const FLOOD_PAUSE: Duration = Duration::from_secs(60);

/// The monitor of one server.
///
/// ```text
///            due             opened                 can stream
/// Resting --------> Opening --------> (answered) ----------------> Streaming
///   ^  ^               | failed        |   ^                         |    | reply
///   |  |               v               |   +-------------------------+----+
///   |  +---------- (failed) <----------|------ failed ---------------+
///   |                                  | can't stream
///   +----------------------------------+
/// Resting (connection kept) -- due --> Polling -- reply --> (answered)
/// Streaming -- more replies than STREAMED_BURST and STREAMED_EVERY admit --> Resting (connection closed; polled for FLOOD_PAUSE)
/// ```
#[derive(Debug)]
pub struct Monitor {
    config: MonitorConfig,
    state: MonitorState,
    /// Whether a connection is open.
    connected: bool,
    hello_ok: bool,
    /// Whether the last check succeeded: only then is a failure followed by an immediate check.
    known: bool,
    version: Option<TopologyVersion>,
    check_began: Instant,
    /// When a failure was last followed by an immediate check.
    retried_at: Option<Instant>,
    /// Limits the replies of a stream.
    stream: Pace,
    /// The end of polling a server whose stream had no pause.
    flooded_until: Option<Instant>,
    actions: VecDeque<MonitorAction>,
    events: VecDeque<MonitorEvent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MonitorState {
    Resting { floor: Instant, due: Instant },
    Opening { deadline: Option<Instant> },
    Polling { sent_at: Instant, deadline: Option<Instant> },
    Streaming { since: Instant, deadline: Option<Instant> },
    Stopped,
}

/// An action of the monitor for the shell.
#[derive(Debug)]
pub enum MonitorAction {
    /// Open a connection and exchange hello on it; then `handle_opened` or `handle_failed`.
    Open,
    /// Send a hello, and read a reply.
    Send {
        /// Whether the server supports the new name of the command.
        hello_ok: bool,
        /// The state whose change the server waits for, and the maximum wait: then several replies may follow.
        awaited: Option<(TopologyVersion, Duration)>,
    },
    /// Read another reply without sending anything.
    Read,
    /// Close the connection, or stop opening one.
    Close,
    /// The server answered.
    Answered {
        /// Its reply.
        reply: Box<HelloReply>,
        /// The duration of the exchange, unless the server had been asked to wait.
        round_trip: Option<Duration>,
    },
    /// The check failed.
    Failed(Error),
    /// Start or stop measuring round-trip times on a separate connection.
    MeasureRoundTrips(bool),
    /// Warn that the server streams replies without pause, and is polled instead for [`FLOOD_PAUSE`].
    WarnOfFlood,
}

/// An event of monitoring a server (SDAM events, "heartbeat").
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum MonitorEvent {
    /// A check begins.
    #[non_exhaustive]
    HeartbeatStarted {
        /// Whether the server was asked to wait for a change.
        awaited: bool,
    },
    /// A check succeeded.
    #[non_exhaustive]
    HeartbeatSucceeded {
        /// The duration.
        duration: Duration,
        /// Whether the server was asked to wait for a change.
        awaited: bool,
        /// The reply.
        reply: Box<HelloReply>,
    },
    /// A check failed.
    #[non_exhaustive]
    HeartbeatFailed {
        /// The duration.
        duration: Duration,
        /// Whether the server was asked to wait for a change.
        awaited: bool,
        /// The error.
        error: Error,
    },
}

impl Monitor {
    /// Creates a monitor whose first check is due now.
    pub fn new(config: MonitorConfig, now: Instant) -> Self {
        let every = STREAMED_EVERY.min(config.heartbeat_frequency / 2);
        let mut monitor = Self {
            config,
            state: MonitorState::Resting { floor: now, due: now },
            connected: false,
            hello_ok: false,
            known: false,
            version: None,
            check_began: now,
            retried_at: None,
            stream: Pace::new(STREAMED_BURST, every),
            flooded_until: None,
            actions: VecDeque::new(),
            events: VecDeque::new(),
        };
        monitor.begin_check(now);
        monitor
    }

    /// Takes a connection whose hello the server has answered: that was the check.
    pub fn handle_opened(&mut self, reply: HelloReply, round_trip: Duration, now: Instant) {
        match self.state {
            MonitorState::Opening { .. } => {
                self.connected = true;
                self.hello_ok = false;
                self.answered(reply, Some(round_trip), false, false, now);
            }
            MonitorState::Resting { .. } | MonitorState::Polling { .. } | MonitorState::Streaming { .. } | MonitorState::Stopped => {}
        }
    }

    /// Takes that opening has to wait, because too many connections are being opened. Its limit does not count until it begins.
    pub fn handle_queued(&mut self) {
        if let MonitorState::Opening { .. } = self.state {
            self.state = MonitorState::Opening { deadline: None };
        }
    }

    /// Opening has waited, and starts now.
    pub fn handle_dialling(&mut self, now: Instant) {
        if let MonitorState::Opening { .. } = self.state {
            self.state = MonitorState::Opening { deadline: self.config.open_timeout.map(|limit| now + limit) };
        }
    }

    /// The server answered on an open connection; `more_to_come` if another reply follows without a request.
    pub fn handle_reply(&mut self, reply: HelloReply, more_to_come: bool, now: Instant) {
        match self.state {
            MonitorState::Polling { .. } if more_to_come => {
                let text = "moreToCome on the reply to a hello that did not ask for it";
                self.failed(Error::new(ErrorKind::Protocol, text).at(Stage::Hello), false, now);
            }
            MonitorState::Polling { sent_at, .. } => self.answered(reply, Some(now.saturating_duration_since(sent_at)), false, false, now),
            MonitorState::Streaming { .. } => self.answered(reply, None, true, more_to_come, now),
            MonitorState::Resting { .. } | MonitorState::Opening { .. } | MonitorState::Stopped => {}
        }
    }

    /// Takes that opening, sending or reading failed, or that the server replied with an error.
    pub fn handle_failed(&mut self, error: Error, now: Instant) {
        match self.state {
            MonitorState::Opening { .. } | MonitorState::Polling { .. } => self.failed(error, false, now),
            MonitorState::Streaming { .. } => self.failed(error, true, now),
            MonitorState::Resting { .. } | MonitorState::Stopped => {}
        }
    }

    /// An immediate check is requested; a running check serves as one.
    pub fn handle_check_now(&mut self, now: Instant) {
        match self.state {
            MonitorState::Resting { floor, .. } => self.state = MonitorState::Resting { floor, due: floor.max(now) },
            MonitorState::Opening { .. } | MonitorState::Polling { .. } | MonitorState::Streaming { .. } | MonitorState::Stopped => {}
        }
        self.begin_if_due(now);
    }

    /// An operation found the connection to the server broken: the running check is cancelled, and not repeated at once.
    pub fn handle_cancel_check(&mut self, now: Instant) {
        if self.cancel("check cancelled: an operation found the connection broken", now) {
            self.known = false;
            let floor = (self.check_began + MIN_HEARTBEAT_FREQUENCY).max(now);
            self.state = MonitorState::Resting { floor, due: now + self.config.heartbeat_frequency };
        }
    }

    /// The machine was suspended: the connection is not trusted, and the server is checked at once.
    pub fn handle_resumed(&mut self, now: Instant) {
        self.cancel("check cancelled: the machine was suspended", now);
        if self.state != MonitorState::Stopped {
            self.begin_check(now);
        }
    }

    /// Monitoring ends.
    pub fn handle_stop(&mut self, now: Instant) {
        self.cancel("check cancelled: the server is watched no more", now);
        self.state = MonitorState::Stopped;
    }

    /// Handles the timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let connect = self.config.connect_timeout.unwrap_or_default();
        match self.state {
            MonitorState::Opening { deadline: Some(deadline) } if deadline <= now => {
                let limit = self.config.open_timeout.unwrap_or_default();
                self.failed(
                    Error::timeout(
                        Stage::Hello,
                        "dnsTimeoutMS + 2 * connectTimeoutMS",
                        limit,
                        now.saturating_duration_since(self.check_began),
                    ),
                    false,
                    now,
                );
            }
            MonitorState::Polling { sent_at, deadline: Some(deadline) } if deadline <= now => {
                self.failed(Error::timeout(Stage::Hello, "connectTimeoutMS", connect, now.saturating_duration_since(sent_at)), false, now);
            }
            MonitorState::Streaming { since, deadline: Some(deadline) } if deadline <= now => {
                let limit = connect + self.config.heartbeat_frequency;
                self.failed(
                    Error::timeout(Stage::Hello, "connectTimeoutMS + heartbeatFrequencyMS", limit, now.saturating_duration_since(since)),
                    true,
                    now,
                );
            }
            MonitorState::Resting { .. }
            | MonitorState::Opening { .. }
            | MonitorState::Polling { .. }
            | MonitorState::Streaming { .. }
            | MonitorState::Stopped => {}
        }
        self.begin_if_due(now);
    }

    /// Returns the next action.
    pub fn poll_action(&mut self) -> Option<MonitorAction> {
        self.actions.pop_front()
    }

    /// Returns the next event; actions and events are drained in turn, until both are empty.
    ///
    /// The start of a check is held back until the outcome of the previous one has been taken as an action: its consequences
    /// are published first.
    pub fn poll_event(&mut self) -> Option<MonitorEvent> {
        let starts = matches!(self.events.front(), Some(MonitorEvent::HeartbeatStarted { .. }));
        let untold = || self.actions.iter().any(|action| matches!(action, MonitorAction::Answered { .. } | MonitorAction::Failed(_)));
        if starts && untold() { None } else { self.events.pop_front() }
    }

    /// Returns when `handle_timeout` is due, and for which timer.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match self.state {
            MonitorState::Resting { due, .. } => Some((due, "heartbeatFrequencyMS")),
            MonitorState::Opening { deadline } => Some((deadline?, "opening")),
            MonitorState::Polling { deadline, .. } => Some((deadline?, "connectTimeoutMS")),
            MonitorState::Streaming { deadline, .. } => Some((deadline?, "connectTimeoutMS + heartbeatFrequencyMS")),
            MonitorState::Stopped => None,
        }
    }

    fn begin_if_due(&mut self, now: Instant) {
        if let MonitorState::Resting { due, .. } = self.state
            && due <= now
        {
            self.begin_check(now);
        }
    }

    fn begin_check(&mut self, now: Instant) {
        self.check_began = now;
        self.events.push_back(MonitorEvent::HeartbeatStarted { awaited: false });
        if self.connected {
            self.actions.push_back(MonitorAction::Send { hello_ok: self.hello_ok, awaited: None });
            self.state = MonitorState::Polling { sent_at: now, deadline: self.config.connect_timeout.map(|limit| now + limit) };
        } else {
            self.actions.push_back(MonitorAction::Open);
            self.state = MonitorState::Opening { deadline: self.config.open_timeout.map(|limit| now + limit) };
        }
    }

    fn answered(&mut self, reply: HelloReply, round_trip: Option<Duration>, awaited: bool, more_to_come: bool, now: Instant) {
        let duration = now.saturating_duration_since(self.check_began);
        self.events.push_back(MonitorEvent::HeartbeatSucceeded { duration, awaited, reply: Box::new(reply.clone()) });
        self.hello_ok |= reply.hello_ok;
        self.known = true;
        let was_streaming = self.version.is_some();
        let is_flooded = self.flooded_until.is_some_and(|until| until > now);
        self.version = reply.topology_version.filter(|_| self.config.streaming && !is_flooded);
        if was_streaming != self.version.is_some() {
            self.actions.push_back(MonitorAction::MeasureRoundTrips(self.version.is_some()));
        }
        self.actions.push_back(MonitorAction::Answered { reply: Box::new(reply), round_trip });
        if !more_to_come && self.version.is_none() {
            let pause = if is_flooded { self.pause_of_polls() } else { self.config.heartbeat_frequency };
            self.state = MonitorState::Resting { floor: now + MIN_HEARTBEAT_FREQUENCY, due: now + pause };
            return;
        }
        if awaited && self.stream.admit(now).is_none() {
            // The unread replies are old: the next check has a connection of its own.
            self.flooded_until = Some(now + FLOOD_PAUSE);
            self.actions.push_back(MonitorAction::WarnOfFlood);
            self.disconnect();
            self.state = MonitorState::Resting { floor: now + MIN_HEARTBEAT_FREQUENCY, due: now + self.pause_of_polls() };
            return;
        }
        // The next check of a stream begins with the end of this one.
        self.check_began = now;
        self.events.push_back(MonitorEvent::HeartbeatStarted { awaited: true });
        self.actions.push_back(match self.version {
            _ if more_to_come => MonitorAction::Read,
            version => {
                MonitorAction::Send { hello_ok: self.hello_ok, awaited: version.map(|version| (version, self.config.heartbeat_frequency)) }
            }
        });
        let limit = self.config.connect_timeout.map(|limit| limit + self.config.heartbeat_frequency);
        self.state = MonitorState::Streaming { since: now, deadline: limit.map(|limit| now + limit) };
    }

    fn failed(&mut self, error: Error, awaited: bool, now: Instant) {
        self.heartbeat_failed(error.clone(), awaited, now);
        self.disconnect();
        let retry = self.known && error.is_network();
        self.known = false;
        self.actions.push_back(MonitorAction::Failed(error));
        let floor = now + MIN_HEARTBEAT_FREQUENCY;
        if retry && self.retried_at.is_none_or(|at| at + MIN_HEARTBEAT_FREQUENCY <= now) {
            // server-monitoring, "Network error or timeout when calling hello": once, without waiting.
            self.retried_at = Some(now);
            self.begin_check(now);
        } else if retry {
            // It alternates between answers and failures.
            self.state = MonitorState::Resting { floor, due: floor };
        } else {
            self.state = MonitorState::Resting { floor: now + MIN_HEARTBEAT_FREQUENCY, due: now + self.config.heartbeat_frequency };
        }
    }

    /// Returns the polling interval of a server whose stream had no pause.
    fn pause_of_polls(&self) -> Duration {
        self.config.heartbeat_frequency.min(FLOOD_POLL)
    }

    fn heartbeat_failed(&mut self, error: Error, awaited: bool, now: Instant) {
        let duration = now.saturating_duration_since(self.check_began);
        self.events.push_back(MonitorEvent::HeartbeatFailed { duration, awaited, error });
    }

    /// Ends the connection, and the check that runs on it; returns whether one did.
    fn cancel(&mut self, why: &str, now: Instant) -> bool {
        let awaited = match self.state {
            MonitorState::Stopped => return false,
            MonitorState::Resting { .. } => None,
            MonitorState::Opening { .. } | MonitorState::Polling { .. } => Some(false),
            MonitorState::Streaming { .. } => Some(true),
        };
        if let Some(awaited) = awaited {
            self.heartbeat_failed(Error::new(ErrorKind::Interrupted, why).at(Stage::Hello), awaited, now);
        }
        self.disconnect();
        awaited.is_some()
    }

    fn disconnect(&mut self) {
        let opening = matches!(self.state, MonitorState::Opening { .. });
        if self.connected || opening {
            self.actions.push_back(MonitorAction::Close);
        }
        self.connected = false;
        if self.version.take().is_some() {
            self.actions.push_back(MonitorAction::MeasureRoundTrips(false));
        }
    }
}

impl Machine for Monitor {
    type Action = MonitorAction;
    type Event = MonitorEvent;

    fn handle_timeout(&mut self, now: Instant) {
        Self::handle_timeout(self, now);
    }

    fn poll_action(&mut self) -> Option<MonitorAction> {
        Self::poll_action(self)
    }

    fn poll_event(&mut self) -> Option<MonitorEvent> {
        Self::poll_event(self)
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        Self::poll_timeout(self)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
