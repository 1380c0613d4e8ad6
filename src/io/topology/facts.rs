//! The facts that reach the topology: reports of pools, monitors and probes, errors of callers, SRV records.

use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;

use super::super::reports::Reports;
use super::super::shell::Owner;
use super::TopologyDriver;
use crate::error::Error;
use crate::handshake::HelloReply;
use crate::host::ServerAddress;
use crate::topology::{Fault, ProbeId};

impl TopologyDriver {
    /// Reports an error of an application's connection.
    pub(crate) fn fault(self: &Arc<Self>, host: &ServerAddress, fault: Fault) {
        self.act(|state, now| state.topology.handle_fault(host, fault, now));
    }

    /// Reports the hosts that the SRV records name now.
    pub(crate) fn srv_hosts(self: &Arc<Self>, hosts: Vec<ServerAddress>) {
        self.act(|state, now| state.topology.handle_srv_hosts(hosts, now));
    }
}

impl Reports for TopologyDriver {
    fn hello(self: Arc<Self>, host: &ServerAddress, reply: HelloReply, average: Option<Duration>) {
        self.act(|state, now| state.topology.handle_hello(host, reply, average, now));
    }

    fn check_failed(self: Arc<Self>, host: &ServerAddress, error: Error) {
        self.act(|state, now| state.topology.handle_check_failed(host, error, now));
    }

    fn round_trip(self: Arc<Self>, host: &ServerAddress, average: Duration, minimum: Duration) {
        self.act(|state, now| state.topology.handle_rtt(host, average, minimum, now));
    }

    fn is_known(&self, host: &ServerAddress) -> bool {
        self.snapshot().description.server(host).is_some_and(|server| server.is_known())
    }

    fn check_clocks(&self) {
        Self::check_clocks(self);
    }

    fn opening_failed(self: Arc<Self>, host: &ServerAddress, generation: u64, service: Option<ObjectId>, error: &Error) {
        self.fault(host, Fault::new(error.clone(), generation).during_handshake().of_service(service));
    }

    fn unanswered(self: Arc<Self>, host: &ServerAddress) {
        self.act(|state, now| state.topology.handle_unanswered(host, now));
    }

    fn probe_resolved(self: Arc<Self>, host: &ServerAddress, id: ProbeId) {
        self.act(|state, now| state.topology.handle_probe_resolved(host, id, now));
    }

    fn probe_reached(self: Arc<Self>, host: &ServerAddress, id: ProbeId, took: Duration) {
        self.act(|state, now| state.topology.handle_probe_reached(host, id, took, now));
    }

    fn probed(self: Arc<Self>, host: &ServerAddress, id: ProbeId, outcome: Result<(), Error>) {
        self.act(|state, now| state.topology.handle_probed(host, id, outcome, now));
    }
}
