//! Elections: the set's leadership and each member's view of it.
//!
//! A member's role and view are set only here: they are updated on all members that run and are not behind, and each change
//! answers their waiting hellos.

use std::time::{Duration, Instant};

use super::cluster::{At, FakeDeployment, SandboxEvent};
use super::failure::{CommandRefusal, code};
use super::member::{Member, ProcessState, Role, View};

/// The state of a set's leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leadership {
    /// A standalone.
    Alone,
    /// A primary leads a majority.
    Led { primary: usize },
    /// A primary without a majority, which steps down soon.
    LosingMajority { primary: usize, due: Instant },
    /// An election is due.
    Electing { due: Instant },
    /// No member can be elected.
    Vacant,
}

impl Leadership {
    pub(super) fn primary(self) -> Option<usize> {
        match self {
            Self::Alone => Some(0),
            Self::Led { primary } | Self::LosingMajority { primary, .. } => Some(primary),
            Self::Electing { .. } | Self::Vacant => None,
        }
    }

    pub(super) fn due(self) -> Option<(Instant, &'static str)> {
        match self {
            Self::LosingMajority { due, .. } => Some((due, "lostMajority")),
            Self::Electing { due } => Some((due, "election")),
            Self::Alone | Self::Led { .. } | Self::Vacant => None,
        }
    }
}

impl FakeDeployment {
    /// Holds the first election.
    pub(super) fn hold_first_election(&mut self, now: Instant) {
        if self.is_set() {
            let first = self.members.iter().position(Member::is_electable).unwrap_or(0);
            self.make_primary(first, now);
        } else {
            self.leadership = Leadership::Alone;
            self.update_members(now);
        }
    }

    /// Updates the leadership after a member's state has changed.
    pub(super) fn update_leadership(&mut self, now: Instant) {
        if self.leadership != Leadership::Alone {
            let timeout = self.config.election_timeout;
            let holder = self.members.iter().position(|member| self.is_newest_primary(member));
            self.leadership = match (holder, self.has_majority()) {
                (Some(primary), true) => Leadership::Led { primary },
                (Some(primary), false) => match self.leadership {
                    Leadership::LosingMajority { due, .. } => Leadership::LosingMajority { primary, due },
                    Leadership::Alone | Leadership::Led { .. } | Leadership::Electing { .. } | Leadership::Vacant => {
                        Leadership::LosingMajority { primary, due: now + timeout }
                    }
                },
                (None, false) => Leadership::Vacant,
                (None, true) => match self.leadership {
                    Leadership::Electing { due } => Leadership::Electing { due },
                    Leadership::Alone | Leadership::Led { .. } | Leadership::LosingMajority { .. } | Leadership::Vacant => {
                        if self.members.iter().any(Member::is_electable) {
                            Leadership::Electing { due: now + timeout }
                        } else {
                            Leadership::Vacant
                        }
                    }
                },
            };
        }
        self.update_members(now);
    }

    /// Handles the elections and step-downs that are due, and lets members catch up.
    pub(super) fn run_elections(&mut self, now: Instant) {
        for member in 0..self.members.len() {
            let Some(place) = self.members.get_mut(member) else { continue };
            if matches!(place.process, ProcessState::Behind { notices_at } if notices_at <= now) {
                place.process = ProcessState::Current;
                self.update_leadership(now);
            }
        }
        while self.leadership.due().is_some_and(|(due, _)| due <= now) {
            match self.leadership {
                Leadership::LosingMajority { .. } => {
                    self.leadership = Leadership::Vacant;
                    self.update_members(now);
                }
                Leadership::Electing { .. } => self.elect_somebody(now),
                Leadership::Alone | Leadership::Led { .. } | Leadership::Vacant => return,
            }
        }
    }

    /// Makes a member primary, in a new term.
    pub(super) fn make_primary(&mut self, member: usize, now: Instant) {
        self.term += 1;
        self.last_primary = member;
        self.leadership = Leadership::Led { primary: member };
        self.time.advance(now);
        self.update_members(now);
    }

    /// Makes the primary step down and excludes it from elections for a while.
    pub(super) fn step_down_primary(&mut self, barred: Duration, force: bool, now: Instant) -> Result<(), CommandRefusal> {
        if self.leadership == Leadership::Alone {
            return Err(CommandRefusal::new(code::NO_REPLICATION_ENABLED, "not running with --replSet"));
        }
        let primary = self.primary().ok_or_else(|| CommandRefusal::new(code::NOT_WRITABLE_PRIMARY, "not primary so can't step down"))?;
        let successor = self.members.iter().enumerate().any(|(index, member)| index != primary && member.is_electable());
        if !successor && !force {
            return Err(CommandRefusal::new(code::EXCEEDED_TIME_LIMIT, "No electable secondaries caught up"));
        }
        if let Some(place) = self.members.get_mut(primary) {
            place.barred_until = Some(now + barred);
        }
        self.leadership =
            if self.has_majority() { Leadership::Electing { due: now + self.config.step_down_delay } } else { Leadership::Vacant };
        self.update_members(now);
        Ok(())
    }

    pub(super) fn has_majority(&self) -> bool {
        let running = self.members.iter().filter(|member| member.belongs && member.runs()).count();
        running * 2 > self.members.iter().filter(|member| member.belongs).count()
    }

    /// Returns whether a thawed member would find a changed set.
    pub(super) fn is_behind(&self, member: usize) -> bool {
        let Some(place) = self.members.get(member) else { return false };
        let newer = self.term != place.view.term || self.set_version != place.view.set_version;
        let other = self.primary().is_some_and(|primary| place.view.primary != Some(primary));
        self.is_set() && (newer || other)
    }

    /// Updates every member that runs and is not behind.
    pub(super) fn update_members(&mut self, now: Instant) {
        let primary = self.primary();
        let view = View { set_version: self.set_version, hosts: self.hosts.clone(), term: self.term, primary };
        let mut changed = Vec::new();
        for (index, member) in self.members.iter_mut().enumerate() {
            let role = if primary == Some(index) { Role::Primary } else { Role::non_primary(member.kind) };
            if member.process != ProcessState::Current || (member.role == role && member.view == view) {
                continue;
            }
            if member.role == Role::Primary && role != Role::Primary {
                self.events.push_back(SandboxEvent::SteppedDown { member: index });
            }
            if member.role != Role::Primary && role == Role::Primary {
                self.events.push_back(SandboxEvent::Elected { member: index, term: self.term });
            }
            member.role = role;
            member.view = view.clone();
            changed.push(index);
        }
        for member in changed {
            self.changed(member, now);
        }
    }

    /// Counts a change of a member's state, and answers the hellos that wait for one.
    pub(super) fn changed(&mut self, member: usize, now: Instant) {
        let Some(place) = self.members.get_mut(member) else { return };
        place.changes += 1;
        if place.runs() {
            for conn in place.awaiting() {
                self.answer_awaiting(At { member, conn }, now);
            }
        }
    }

    /// Returns whether a member runs and is the primary of the newest term.
    fn is_newest_primary(&self, member: &Member) -> bool {
        member.belongs && member.runs() && member.role == Role::Primary && member.view.term == self.term
    }

    fn elect_somebody(&mut self, now: Instant) {
        let free = |member: &Member| member.is_electable() && member.barred_until.is_none_or(|until| until <= now);
        let candidates: Vec<usize> = (0..self.members.len()).filter(|index| self.members.get(*index).is_some_and(free)).collect();
        let other = candidates.iter().copied().find(|index| *index != self.last_primary);
        if let Some(member) = other.or_else(|| candidates.first().copied()) {
            self.make_primary(member, now);
            return;
        }
        let barred = self.members.iter().filter(|member| member.is_electable()).filter_map(|member| member.barred_until);
        self.leadership = barred.min().map_or(Leadership::Vacant, |due| Leadership::Electing { due });
    }
}
