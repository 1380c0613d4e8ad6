//! The fake deployment: facts in, actions out, control by code.
//!
//! Does not decide elections (`election`) or commands (`dispatch`).
//!
//! ```text
//! member:      Current <-> Frozen -> Behind -> Current       any -> Stopped -> Current
//! connection:  Idle -> Awaiting | Held -> Idle               any -> closed
//! ```

use std::collections::VecDeque;
use std::time::Instant;

use bson::Document;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::config::Config;
use super::election::Leadership;
use super::failpoint::FailPoint;
use super::member::{ClientConnection, LoginState, Member, ProcessState, Role, View};
use super::retried::Retried;
use super::scram_server::Users;
use super::sessions::Sessions;
use super::store::{Store, random_id};
use super::time::DeploymentTime;
use super::{CONNECTIONS_MAX, READ_AHEAD_MAX};
use crate::error::{Error, ErrorKind};
use crate::wire::MESSAGE_SIZE_MAX;

/// A fake standalone or replica set: pure rules on a given time.
///
/// Members are numbered from 0; the caller numbers the connections and never reuses a number for a member. After every
/// `handle_*` and every control call, drain [`poll_action`](Self::poll_action) and [`poll_event`](Self::poll_event), then check
/// [`poll_timeout`](Self::poll_timeout).
pub struct FakeDeployment {
    pub(super) config: Config,
    pub(super) members: Vec<Member>,
    pub(super) set_version: i64,
    pub(super) hosts: Vec<String>,
    pub(super) term: i64,
    pub(super) leadership: Leadership,
    /// The last primary; the next election prefers other members.
    pub(super) last_primary: usize,
    pub(super) users: Users,
    pub(super) store: Store,
    pub(super) retried: Retried,
    pub(super) sessions: Sessions,
    pub(super) time: DeploymentTime,
    pub(super) random: SmallRng,
    /// The member that serves the next connection through a load balancer.
    pub(super) next_service: usize,
    next_message: i32,
    next_connection: i32,
    /// Connections whose next request can be handled.
    pub(super) ready: VecDeque<At>,
    pub(super) actions: VecDeque<SandboxAction>,
    pub(super) events: VecDeque<SandboxEvent>,
}

/// An action of the deployment for the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SandboxAction {
    /// Send these bytes now.
    Reply {
        /// The member that sends.
        member: usize,
        /// The connection it sends on.
        conn: u64,
        /// One whole message.
        bytes: Vec<u8>,
    },
    /// Close a connection; the deployment has removed it already.
    Close {
        /// The member that closes.
        member: usize,
        /// The connection.
        conn: u64,
        /// Whether the process died: nothing more is sent, and the connection is reset.
        reset: bool,
    },
}

/// An event in the deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SandboxEvent {
    /// A member became primary.
    Elected {
        /// The member.
        member: usize,
        /// The election's term.
        term: i64,
    },
    /// A member is no longer primary.
    SteppedDown {
        /// The member.
        member: usize,
    },
}

/// A connection of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At {
    pub(super) member: usize,
    pub(super) conn: u64,
}

impl FakeDeployment {
    /// Creates a deployment, running and with its first primary.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`] if the configuration contradicts itself or exceeds a limit.
    pub fn new(config: Config, seed: u64, now: Instant) -> Result<Self, Error> {
        config.check()?;
        let mut random = SmallRng::seed_from_u64(seed);
        let users = Users::new(&config.users, &mut random);
        let hosts: Vec<String> = config.members.iter().map(|member| member.host.clone()).collect();
        let view = View { set_version: 1, hosts: hosts.clone(), term: 0, primary: None };
        let mut members = Vec::with_capacity(config.members.len());
        for member in &config.members {
            members.push(Member::new(member, view.clone(), config.wire_versions, random_id(&mut random)));
        }
        let time = DeploymentTime::new(config.epoch_millis, now);
        let mut cluster = Self {
            members,
            set_version: 1,
            hosts,
            term: 0,
            leadership: Leadership::Vacant,
            last_primary: 0,
            users,
            store: Store::default(),
            retried: Retried::default(),
            sessions: Sessions::default(),
            time,
            random,
            next_service: 0,
            next_message: 0,
            next_connection: 0,
            ready: VecDeque::new(),
            actions: VecDeque::new(),
            events: VecDeque::new(),
            config,
        };
        cluster.hold_first_election(now);
        Ok(cluster)
    }

    /// Records a connection that a member's listener has accepted.
    pub fn handle_connected(&mut self, member: usize, conn: u64, _now: Instant) {
        let number = self.next_connection.checked_add(1).unwrap_or(1);
        let Some(place) = self.members.get_mut(member) else { return };
        if place.process == ProcessState::Stopped || place.connections.len() >= CONNECTIONS_MAX {
            let reset = place.process == ProcessState::Stopped;
            self.actions.push_back(SandboxAction::Close { member, conn, reset });
            return;
        }
        place.connections.insert(conn, ClientConnection::new(number));
        self.next_connection = number;
    }

    /// Handles bytes received on a connection; they may be split anywhere.
    pub fn handle_bytes(&mut self, member: usize, conn: u64, bytes: &[u8], now: Instant) {
        let at = At { member, conn };
        let Some(connection) = self.connection(at) else { return };
        let buffer = connection.decoder.buffer();
        let limit = usize::try_from(MESSAGE_SIZE_MAX).unwrap_or(usize::MAX).saturating_add(READ_AHEAD_MAX);
        if buffer.len().saturating_add(bytes.len()) > limit {
            self.close(at);
            return;
        }
        buffer.extend_from_slice(bytes);
        self.ready.push_back(at);
        self.settle(now);
    }

    /// Records that the peer has closed a connection.
    pub fn handle_closed(&mut self, member: usize, conn: u64, _now: Instant) {
        if let Some(member) = self.members.get_mut(member) {
            member.forget(conn);
        }
    }

    /// Handles the timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.run_elections(now);
        for member in 0..self.members.len() {
            self.run_deadlines(member, now);
        }
        self.settle(now);
    }

    /// Returns the next action.
    pub fn poll_action(&mut self) -> Option<SandboxAction> {
        self.actions.pop_front()
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<SandboxEvent> {
        self.events.pop_front()
    }

    /// Returns when `handle_timeout` is due, and for which timer.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let election = self.leadership.due();
        let members = self.members.iter().filter(|member| member.runs()).flat_map(|member| {
            let notice = match member.process {
                ProcessState::Behind { notices_at } => Some((notices_at, "notice")),
                ProcessState::Current | ProcessState::Frozen | ProcessState::Stopped => None,
            };
            let connection = member.next_deadline().map(|(due, _)| (due, "connection"));
            [notice, connection, member.cursors.due().map(|due| (due, "cursors"))]
        });
        members.flatten().chain(election).min_by_key(|(due, _)| *due)
    }

    /// Ends a member's process: its connections are reset, new ones refused.
    pub fn stop(&mut self, member: usize, now: Instant) {
        let Some(place) = self.members.get_mut(member) else { return };
        if place.process == ProcessState::Stopped {
            return;
        }
        place.process = ProcessState::Stopped;
        place.cursors.clear();
        place.fail_point = None;
        let was_primary = place.role == Role::Primary;
        place.role = Role::non_primary(place.kind);
        place.view.primary = None;
        let open: Vec<u64> = place.connections.keys().copied().collect();
        for conn in open {
            place.forget(conn);
            self.actions.push_back(SandboxAction::Close { member, conn, reset: true });
        }
        if was_primary {
            self.events.push_back(SandboxEvent::SteppedDown { member });
        }
        self.update_leadership(now);
        self.settle(now);
    }

    /// Starts a stopped member, as a new process.
    pub fn start(&mut self, member: usize, now: Instant) {
        let Some(place) = self.members.get_mut(member) else { return };
        if place.process != ProcessState::Stopped {
            return;
        }
        place.process = ProcessState::Current;
        place.process_id = random_id(&mut self.random);
        place.changes = 0;
        place.barred_until = None;
        self.update_leadership(now);
        self.settle(now);
    }

    /// Freezes a member: it accepts connections and answers nothing.
    pub fn freeze(&mut self, member: usize, now: Instant) {
        let Some(place) = self.members.get_mut(member) else { return };
        if !place.runs() {
            return;
        }
        place.process = ProcessState::Frozen;
        self.update_leadership(now);
        self.settle(now);
    }

    /// Thaws a frozen member: it answers the requests received meanwhile, and after a delay catches up with the set.
    pub fn thaw(&mut self, member: usize, now: Instant) {
        let behind = self.is_behind(member);
        let notices_at = now + self.config.notice_delay;
        let Some(place) = self.members.get_mut(member) else { return };
        if place.process != ProcessState::Frozen {
            return;
        }
        place.process = if behind { ProcessState::Behind { notices_at } } else { ProcessState::Current };
        let open = place.connections.keys().map(|conn| At { member, conn: *conn });
        self.ready.extend(open);
        self.update_leadership(now);
        self.settle(now);
    }

    /// Makes the primary step down; another member is elected after `step_down_delay`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if no primary is running, or no other member can be elected.
    pub fn step_down(&mut self, now: Instant) -> Result<(), Error> {
        let outcome = self.step_down_primary(self.config.election_timeout, false, now);
        self.settle(now);
        outcome.map_err(|failure| refusal(failure.message))
    }

    /// Makes a member primary at once.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if it can't be elected, or no majority is running.
    pub fn elect(&mut self, member: usize, now: Instant) -> Result<(), Error> {
        let electable = self.members.get(member).is_some_and(Member::is_electable);
        if !electable || !self.has_majority() || self.leadership == Leadership::Alone {
            return Err(refusal(format!("member {member} can't be elected now")));
        }
        if self.primary() != Some(member) {
            self.make_primary(member, now);
            self.settle(now);
        }
        Ok(())
    }

    /// Sets or clears a member's fail point; the command is that of `configureFailPoint`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if there is no such member, or the command is not supported.
    pub fn set_fail_point(&mut self, member: usize, command: &Document) -> Result<(), Error> {
        let place = self.members.get_mut(member).ok_or_else(|| refusal(format!("there is no member {member}")))?;
        place.fail_point = FailPoint::parse(command).map_err(|failure| refusal(failure.message))?;
        Ok(())
    }

    /// Sets the wire versions that a member announces.
    pub fn set_wire_versions(&mut self, member: usize, oldest: i32, newest: i32, now: Instant) {
        if let Some(place) = self.members.get_mut(member) {
            place.wire_versions = (oldest, newest);
            self.changed(member, now);
            self.settle(now);
        }
    }

    /// Returns the primary of the majority, if there is one.
    pub fn primary(&self) -> Option<usize> {
        self.leadership.primary()
    }

    /// Returns the term of the last election.
    #[cfg(any(test, feature = "internals"))]
    pub fn term(&self) -> i64 {
        self.term
    }

    /// Returns the members' names in the newest configuration.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Returns whether a member is frozen.
    pub fn is_frozen(&self, member: usize) -> bool {
        self.members.get(member).is_some_and(|member| member.process == ProcessState::Frozen)
    }

    /// Returns whether a member is stopped.
    pub fn is_stopped(&self, member: usize) -> bool {
        self.members.get(member).is_none_or(|member| member.process == ProcessState::Stopped)
    }

    /// Returns the number of a member's open connections.
    pub fn connections(&self, member: usize) -> usize {
        self.members.get(member).map_or(0, |member| member.connections.len())
    }

    /// Returns the number of a member's open cursors.
    pub fn cursors(&self, member: usize) -> usize {
        self.members.get(member).map_or(0, |member| member.cursors.len())
    }

    /// Returns the number of open sessions: all that commands have named, and that were not ended.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Returns how many commands of an exact name a member has received.
    pub fn commands_seen(&self, member: usize, name: &str) -> u64 {
        self.members.get(member).map_or(0, |member| member.seen(name))
    }

    pub(super) fn connection(&mut self, at: At) -> Option<&mut ClientConnection> {
        self.members.get_mut(at.member)?.connections.get_mut(&at.conn)
    }

    /// Returns the authenticated user of a connection.
    pub(super) fn user(&mut self, at: At) -> Option<String> {
        match &self.connection(at)?.login {
            LoginState::User(name) => Some(name.clone()),
            LoginState::Anonymous | LoginState::Conversing(_) => None,
        }
    }

    pub(super) fn close(&mut self, at: At) {
        if self.members.get_mut(at.member).is_some_and(|member| member.forget(at.conn)) {
            self.actions.push_back(SandboxAction::Close { member: at.member, conn: at.conn, reset: false });
        }
    }

    /// Returns the number of the next message to send.
    pub(super) fn number(&mut self) -> i32 {
        self.next_message = self.next_message.checked_add(1).unwrap_or(1);
        self.next_message
    }

    /// Returns whether this is a replica set.
    pub(super) fn is_set(&self) -> bool {
        self.config.set_name.is_some()
    }
}

pub(super) fn refusal(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("sandbox: {message}"))
}
