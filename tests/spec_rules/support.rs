//! Functions that these tests share.

use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use bson::{RawDocumentBuf, rawdoc};
use mongolink::topology::{Fault, Topology, TopologyAction, TopologyConfig, TopologyEvent};
use mongolink::{Error, ErrorKind, HelloReply, ServerAddress, ServerDescription, ServerType, Stage, TopologyVersion};

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn key(text: &str) -> ServerAddress {
    ServerAddress::parse(text).expect(text)
}

pub(crate) fn version(process: u8, counter: i64) -> TopologyVersion {
    TopologyVersion::new(ObjectId::from_bytes([process; 12]), counter)
}

/// A hello reply of some fields.
pub(crate) fn parsed(reply: &RawDocumentBuf) -> HelloReply {
    HelloReply::parse(reply).expect("a hello reply")
}

/// A hello reply of a member of the set `rs` of `a` and `b`.
pub(crate) fn member(is_primary: bool) -> HelloReply {
    parsed(&rawdoc! {
        "ok": 1, "setName": "rs", "hosts": ["a", "b"], "maxWireVersion": 21, "isWritablePrimary": is_primary, "secondary": !is_primary,
    })
}

pub(crate) fn closed_by_peer(stage: Stage) -> Error {
    Error::new(ErrorKind::Closed, "closed by the server").at(stage)
}

pub(crate) fn timed_out(stage: Stage) -> Error {
    Error::timeout(stage, "limit", ms(1000), ms(1000))
}

/// A topology and its clock.
pub(crate) struct Scene {
    pub(crate) topology: Topology,
    pub(crate) now: Instant,
}

impl Scene {
    pub(crate) fn new(config: TopologyConfig) -> Self {
        let now = Instant::now();
        Self { topology: Topology::new(config, 1, now), now }
    }

    pub(crate) fn of_seeds(seeds: &[&str]) -> Self {
        Self::new(TopologyConfig::new(seeds.iter().map(|seed| key(seed)).collect()))
    }

    /// A set of a primary `a` and a secondary `b`, all orders and events taken.
    pub(crate) fn settled() -> Self {
        let mut scene = Self::of_seeds(&["a", "b"]);
        scene.hello("a", member(true));
        scene.hello("b", member(false));
        scene.orders();
        scene.events();
        scene
    }

    pub(crate) fn hello(&mut self, host: &str, reply: HelloReply) {
        self.topology.handle_hello(&key(host), reply, Some(ms(5)), self.now);
    }

    pub(crate) fn failed(&mut self, host: &str, error: Error) {
        self.topology.handle_check_failed(&key(host), error, self.now);
    }

    pub(crate) fn fault(&mut self, host: &str, fault: Fault) {
        self.topology.handle_fault(&key(host), fault, self.now);
    }

    /// The orders since the last time but for the published descriptions.
    #[allow(clippy::wildcard_enum_match_arm, reason = "what is not named does not matter here")]
    pub(crate) fn orders(&mut self) -> Vec<String> {
        let orders = std::iter::from_fn(|| self.topology.poll_action());
        let name = |host: &ServerAddress| host.to_string().replace(":27017", "");
        orders
            .filter_map(|order| match order {
                TopologyAction::ClearPool { host, interrupt, .. } => {
                    Some(format!("clear {}{}", name(&host), if interrupt { " and interrupt" } else { "" }))
                }
                TopologyAction::ReadyPool(host) => Some(format!("ready {}", name(&host))),
                TopologyAction::CheckNow(host) => Some(format!("check {}", name(&host))),
                TopologyAction::CancelCheck(host) => Some(format!("cancel {}", name(&host))),
                TopologyAction::ClosePool(host) => Some(format!("close {}", name(&host))),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn events(&mut self) -> Vec<TopologyEvent> {
        std::iter::from_fn(|| self.topology.poll_event()).collect()
    }

    pub(crate) fn server(&self, host: &str) -> ServerDescription {
        ServerDescription::clone(self.topology.description().server(&key(host)).expect(host))
    }

    pub(crate) fn kind(&self) -> &'static str {
        self.topology.description().kind().name()
    }

    pub(crate) fn type_of(&self, host: &str) -> Option<ServerType> {
        self.topology.description().server(&key(host)).map(|server| server.kind)
    }
}
