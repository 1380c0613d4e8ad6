//! The cache as a state machine of the shell: its event says that addresses have arrived.

use std::time::Instant;

use super::Cache;
use crate::dns::CacheAction;
use crate::machine::Machine;

/// Addresses have arrived, for one or several names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressesArrived;

impl Machine for Cache {
    type Action = CacheAction;
    type Event = AddressesArrived;

    fn handle_timeout(&mut self, now: Instant) {
        Self::handle_timeout(self, now);
    }

    fn poll_action(&mut self) -> Option<CacheAction> {
        Self::poll_action(self)
    }

    fn poll_event(&mut self) -> Option<AddressesArrived> {
        let taken = std::mem::replace(&mut self.arrivals_taken, self.arrivals);
        (taken != self.arrivals).then_some(AddressesArrived)
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        Self::poll_timeout(self)
    }
}
