//! What is a timeline made of?
//!
//! Lines with the moment since the start; they are made only while somebody wants them, which is when a failed seed runs
//! again.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use mongolink::{MonitorEvent, PoolEvent, ServerAddress, TopologyEvent};

/// Collects the lines, if wanted; clones share them, so that they outlive a run that is broken off.
#[derive(Clone, Default)]
pub(crate) struct Trace {
    lines: Option<Rc<RefCell<Vec<String>>>>,
    start: Option<Instant>,
}

impl Trace {
    pub(crate) fn on() -> Self {
        Self { lines: Some(Rc::default()), start: None }
    }

    pub(crate) fn begin(&mut self, start: Instant) {
        self.start = Some(start);
    }

    pub(crate) fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    pub(crate) fn note(&self, now: Instant, line: impl FnOnce() -> String) {
        if let (Some(lines), Some(start)) = (&self.lines, self.start) {
            let at = now.saturating_duration_since(start);
            lines.borrow_mut().push(format!("{:>9.4} s  {}", at.as_secs_f64(), line()));
        }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.as_ref().map(|lines| lines.borrow().clone()).unwrap_or_default()
    }
}

pub(crate) fn topology_event(event: &TopologyEvent) -> String {
    match event {
        TopologyEvent::TopologyOpening => "topology opens".to_owned(),
        TopologyEvent::ServerOpening { host, .. } => format!("{host} is watched"),
        TopologyEvent::ServerDescriptionChanged { previous, new, .. } => {
            let version = new.topology_version.map_or(-1, |version| version.counter);
            format!("{} was {}, is {new} (version {version})", new.host, previous.kind.name())
        }
        TopologyEvent::ServerClosed { host, .. } => format!("{host} is watched no more"),
        TopologyEvent::TopologyDescriptionChanged { previous, new, .. } => format!("{} -> {new}", previous.kind().name()),
        TopologyEvent::HostUnusable { name, .. } => format!("{name} can't be used"),
        TopologyEvent::TopologyClosed => "topology closes".to_owned(),
        other => format!("{other:?}"),
    }
}

pub(crate) fn monitor_event(host: &ServerAddress, event: &MonitorEvent) -> String {
    match event {
        MonitorEvent::HeartbeatStarted { awaited, .. } => format!("check of {host} begins{}", if *awaited { ", awaited" } else { "" }),
        MonitorEvent::HeartbeatSucceeded { reply, .. } => {
            let kind = mongolink::ServerType::of_hello(reply).name();
            format!("check of {host}: {kind}, election {:?}, version {:?}", reply.election_id, reply.set_version)
        }
        MonitorEvent::HeartbeatFailed { error, .. } => format!("check of {host} failed: {error}"),
        other => format!("{other:?}"),
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "the others are told as they are")]
pub(crate) fn pool_event(event: &PoolEvent) -> String {
    match event {
        PoolEvent::PoolCleared { interrupt_in_use, cause, .. } => format!("pool cleared, interrupt {interrupt_in_use}: {cause}"),
        PoolEvent::CheckOutFailed { reason, error, .. } => format!("check-out failed ({reason:?}): {error}"),
        other => format!("{other:?}"),
    }
}
