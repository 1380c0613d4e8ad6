//! What pools, monitors and liveness probes report to.
//!
//! The topology's shell implements it. Those who report hold a weak reference to the trait, so that they don't depend on the
//! topology's shell, which starts them. Does not decide what a report leads to.

use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;

use crate::error::Error;
use crate::handshake::HelloReply;
use crate::host::ServerAddress;
use crate::topology::ProbeId;

/// The receiver of reports about servers.
pub(crate) trait Reports: Send + Sync {
    /// Takes the hello reply of a check, and the average round-trip time if one was measured.
    fn hello(self: Arc<Self>, host: &ServerAddress, reply: HelloReply, average: Option<Duration>);

    /// Takes the error of a check.
    fn check_failed(self: Arc<Self>, host: &ServerAddress, error: Error);

    /// Takes the average and the shortest of the latest round-trip times.
    fn round_trip(self: Arc<Self>, host: &ServerAddress, average: Duration, minimum: Duration);

    /// Returns whether the server's type is known.
    fn is_known(&self, host: &ServerAddress) -> bool;

    /// Compares the clocks to notice a suspension of the machine.
    fn check_clocks(&self);

    /// Takes the error of a connection that could not be opened. `service` is the one behind a load balancer, if it is known.
    fn opening_failed(self: Arc<Self>, host: &ServerAddress, generation: u64, service: Option<ObjectId>, error: &Error);

    /// Takes that a command on a server has been unanswered for long.
    fn unanswered(self: Arc<Self>, host: &ServerAddress);

    /// Takes that a probe has the server's address.
    fn probe_resolved(self: Arc<Self>, host: &ServerAddress, id: ProbeId);

    /// Takes that a probe's connection was accepted after `took`.
    fn probe_reached(self: Arc<Self>, host: &ServerAddress, id: ProbeId, took: Duration);

    /// Takes the outcome of a probe's attempt.
    fn probed(self: Arc<Self>, host: &ServerAddress, id: ProbeId, outcome: Result<(), Error>);
}
