//! The state of one member: process, role, view of the set, connections and deadlines.
//!
//! Does not decide when these change (`election`, `dispatch`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bson::oid::ObjectId;

use super::COMMAND_NAMES_MAX;
use super::call::{ReceivedCommand, ReplyShape};
use super::config::{MemberConfig, MemberKind};
use super::failpoint::{FailPoint, FailPointEffect};
use super::scram_server;
use super::store::Cursors;
use crate::wire::{Decoder, MESSAGE_SIZE_MAX};

/// A fake mongod.
pub(super) struct Member {
    pub(super) process: ProcessState,
    pub(super) role: Role,
    pub(super) view: View,
    pub(super) kind: MemberKind,
    /// Whether it is part of the set's configuration.
    pub(super) belongs: bool,
    pub(super) tags: Vec<(String, String)>,
    pub(super) wire_versions: (i32, i32),
    /// The id of this run of the process.
    pub(super) process_id: ObjectId,
    /// The number of state changes in this run.
    pub(super) changes: i64,
    /// The end of its exclusion from elections after a step-down.
    pub(super) barred_until: Option<Instant>,
    pub(super) connections: BTreeMap<u64, ClientConnection>,
    /// The deadlines of its connections.
    deadlines: BTreeSet<(Instant, u64)>,
    pub(super) cursors: Cursors,
    pub(super) fail_point: Option<FailPoint>,
    seen: BTreeMap<String, u64>,
}

/// The state of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProcessState {
    /// Running and up to date.
    Current,
    /// Running; it catches up later.
    Behind { notices_at: Instant },
    /// Accepts connections and does nothing else.
    Frozen,
    /// Not running.
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Primary,
    Secondary,
    Arbiter,
}

/// A member's view of its set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) set_version: i64,
    pub(super) hosts: Vec<String>,
    pub(super) term: i64,
    pub(super) primary: Option<usize>,
}

/// A connection, from the server's side.
pub(super) struct ClientConnection {
    pub(super) number: i32,
    pub(super) decoder: Decoder,
    pub(super) login: LoginState,
    pub(super) app_name: Option<String>,
    /// Whether its hello has asked for the service id.
    pub(super) knows_service: bool,
    pub(super) activity: Activity,
}

pub(super) enum LoginState {
    Anonymous,
    Conversing(scram_server::ScramConversation),
    User(String),
}

/// The activity of a connection; the next request is handled when it is idle.
pub(super) enum Activity {
    Idle,
    /// A hello waits for a change of state.
    Awaiting(Awaiting),
    /// A fail point holds a command.
    Held {
        due: Instant,
        call: Box<ReceivedCommand>,
        verdict: FailPointEffect,
    },
}

/// A hello that is answered when the state changes, or at its deadline.
#[derive(Clone, Copy)]
pub(super) struct Awaiting {
    pub(super) deadline: Instant,
    pub(super) patience: Duration,
    pub(super) answer: ReplyShape,
    /// Whether the command was the older `isMaster`.
    pub(super) legacy: bool,
}

impl Member {
    pub(super) fn new(config: &MemberConfig, view: View, wire_versions: (i32, i32), process_id: ObjectId) -> Self {
        Self {
            process: ProcessState::Current,
            role: Role::non_primary(config.kind),
            view,
            kind: config.kind,
            belongs: true,
            tags: config.tags.clone(),
            wire_versions,
            process_id,
            changes: 0,
            barred_until: None,
            connections: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            cursors: Cursors::default(),
            fail_point: None,
            seen: BTreeMap::new(),
        }
    }

    /// Returns whether it answers requests.
    pub(super) fn runs(&self) -> bool {
        match self.process {
            ProcessState::Current | ProcessState::Behind { .. } => true,
            ProcessState::Frozen | ProcessState::Stopped => false,
        }
    }

    /// Returns whether it may be elected, temporary exclusion aside.
    pub(super) fn is_electable(&self) -> bool {
        self.process == ProcessState::Current && self.kind == MemberKind::Voter && self.belongs
    }

    /// Sets the activity of a connection, and its deadline.
    pub(super) fn set_activity(&mut self, conn: u64, activity: Activity) {
        drop(self.take_activity(conn));
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if let Some(due) = activity.due() {
            self.deadlines.insert((due, conn));
        }
        connection.activity = activity;
    }

    /// Makes a connection idle, and returns its previous activity.
    pub(super) fn take_activity(&mut self, conn: u64) -> Option<Activity> {
        let connection = self.connections.get_mut(&conn)?;
        let activity = std::mem::replace(&mut connection.activity, Activity::Idle);
        if let Some(due) = activity.due() {
            self.deadlines.remove(&(due, conn));
        }
        Some(activity)
    }

    /// Removes a connection; returns whether it existed.
    pub(super) fn forget(&mut self, conn: u64) -> bool {
        let Some(connection) = self.connections.remove(&conn) else { return false };
        if let Some(due) = connection.activity.due() {
            self.deadlines.remove(&(due, conn));
        }
        true
    }

    /// Returns the next deadline of its connections; none while it does not run.
    pub(super) fn next_deadline(&self) -> Option<(Instant, u64)> {
        self.deadlines.first().copied().filter(|_| self.runs())
    }

    /// Returns the connections whose hello waits for a change.
    pub(super) fn awaiting(&self) -> Vec<u64> {
        let waits = |conn: &u64| self.connections.get(conn).is_some_and(|connection| matches!(connection.activity, Activity::Awaiting(_)));
        self.deadlines.iter().map(|(_, conn)| *conn).filter(|conn| waits(conn)).collect()
    }

    /// Counts a command by its name.
    pub(super) fn count(&mut self, name: &str) {
        if let Some(count) = self.seen.get_mut(name) {
            *count += 1;
        } else if self.seen.len() < COMMAND_NAMES_MAX {
            self.seen.insert(name.to_owned(), 1);
        }
    }

    pub(super) fn seen(&self, name: &str) -> u64 {
        self.seen.get(name).copied().unwrap_or(0)
    }
}

impl Role {
    /// Returns the role of a member that is not primary.
    pub(super) fn non_primary(kind: MemberKind) -> Self {
        match kind {
            MemberKind::Voter | MemberKind::Passive | MemberKind::Hidden => Self::Secondary,
            MemberKind::Arbiter => Self::Arbiter,
        }
    }
}

impl ClientConnection {
    pub(super) fn new(number: i32) -> Self {
        Self {
            number,
            decoder: Decoder::new(MESSAGE_SIZE_MAX),
            login: LoginState::Anonymous,
            app_name: None,
            knows_service: false,
            activity: Activity::Idle,
        }
    }
}

impl Activity {
    fn due(&self) -> Option<Instant> {
        match self {
            Self::Idle => None,
            Self::Awaiting(awaiting) => Some(awaiting.deadline),
            Self::Held { due, .. } => Some(*due),
        }
    }
}
