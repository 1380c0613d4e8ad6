//! The rate limits of log lines and events that servers can cause.
//!
//! A server decides how often it answers and what it sends, so the lines that it can cause at a visible level are limited, and
//! so are the events about invalid names. The next line has the number of omitted ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::time::{Duration, Instant};

use tracing::Level;

use super::events::TopologyEvent;
use super::pace::Pace;
use crate::handshake::{NAMES_MAX, UnusableHost};
use crate::host::ServerAddress;
use crate::note::Notes;

/// The burst of reports about a server's invalid names; a configuration is corrected in few steps.
const REPORTS_BURST: u32 = 5;

/// The interval of further reports about a server's invalid names.
const REPORTS_EVERY: Duration = Duration::from_secs(60);

/// The burst of lines of all servers: an election changes the topology's type twice.
const LINES_BURST: u32 = 20;

/// The interval of further lines of all servers.
const LINES_EVERY: Duration = Duration::from_secs(6);

/// The log state of a topology's servers.
#[derive(Debug)]
pub(super) struct LogLimits {
    /// The log lines.
    pub(super) notes: Notes,
    lines: Pace,
    unusable: BTreeMap<ServerAddress, UnusableNames>,
}

/// The invalid names of one server's replies.
#[derive(Debug)]
struct UnusableNames {
    reported: BTreeSet<String>,
    reports: Pace,
}

impl LogLimits {
    pub(super) fn new() -> Self {
        Self { notes: Notes::default(), lines: Pace::new(LINES_BURST, LINES_EVERY), unusable: BTreeMap::new() }
    }

    /// Removes a server.
    pub(super) fn forget(&mut self, host: &ServerAddress) {
        self.unusable.remove(host);
    }

    /// Reports the unusable names of a reply that were not reported before: one line, and an event for each name.
    ///
    /// Beyond the limit nothing is reported; names that the server's next replies still contain are reported then.
    pub(super) fn unusable<'h>(
        &mut self,
        server: &ServerAddress,
        hosts: &'h [UnusableHost],
        now: Instant,
    ) -> impl Iterator<Item = TopologyEvent> + use<'h> {
        let new = if hosts.is_empty() { Vec::new() } else { self.new_names(server, hosts, now) };
        if let Some(first) = new.first() {
            let (names, name, error) = (new.len(), &first.name, &first.error);
            self.notes.push(Level::WARN, format!("{server}: {names} unusable host names in a hello reply; the first is {name:?}: {error}"));
        }
        let server = server.clone();
        new.into_iter().map(move |host| TopologyEvent::HostUnusable {
            server: server.clone(),
            name: host.name.clone(),
            error: host.error.clone(),
        })
    }

    fn new_names<'h>(&mut self, server: &ServerAddress, hosts: &'h [UnusableHost], now: Instant) -> Vec<&'h UnusableHost> {
        let empty = || UnusableNames { reported: BTreeSet::new(), reports: Pace::new(REPORTS_BURST, REPORTS_EVERY) };
        let known = self.unusable.entry(server.clone()).or_insert_with(empty);
        let is_new = |host: &&UnusableHost| !known.reported.contains(&host.name);
        if !hosts.iter().any(|host| is_new(&host)) || known.reports.admit(now).is_none() {
            return Vec::new();
        }
        if known.reported.len() > NAMES_MAX {
            known.reported.clear();
        }
        hosts.iter().filter(|host| known.reported.insert(host.name.clone())).collect()
    }

    /// Logs a new type of the topology.
    pub(super) fn kind(&mut self, previous: &'static str, new: &'static str, now: Instant) {
        match self.lines.admit(now) {
            Some(left_out) => {
                self.notes.push(Level::INFO, format!("topology type changed from {previous} to {new}{}", OmittedCount(left_out)));
            }
            None => self.notes.push(Level::DEBUG, format!("topology type changed from {previous} to {new}")),
        }
    }

    /// Logs that servers name more members than are monitored.
    pub(super) fn full(&mut self, limit: usize, now: Instant) {
        if let Some(left_out) = self.lines.admit(now) {
            let left_out = OmittedCount(left_out);
            self.notes.push(Level::WARN, format!("servers are left out: SERVERS_MAX ({limit}) are known already{left_out}"));
        }
    }

    /// Logs that a server is unresponsive.
    pub(super) fn silent(&mut self, host: &ServerAddress, error: &dyn Display, now: Instant) {
        let text = format!("{host}: server is silent, and what is in flight on it is interrupted: {error}");
        match self.lines.admit(now) {
            Some(left_out) => self.notes.push(Level::INFO, format!("{text}{}", OmittedCount(left_out))),
            None => self.notes.push(Level::DEBUG, text),
        }
    }
}

/// The number of omitted lines, printed if it is not 0.
struct OmittedCount(u64);

impl Display for OmittedCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { Ok(()) } else { write!(f, " ({} lines were left out before)", self.0) }
    }
}
