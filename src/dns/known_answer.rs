//! The last good answer for a name, and which of its addresses are served.
//!
//! Does not decide when the answer is used or replaced (`cache`).

use std::net::IpAddr;
use std::time::Instant;

use super::LookupAnswer;

/// The last good answer for a name.
#[derive(Debug)]
pub(super) struct KnownAnswer {
    addresses: Vec<KnownAddress>,
    /// The answer is fresh until then.
    pub(super) valid_until: Instant,
    /// The answer may be served stale until then.
    pub(super) kept_until: Instant,
}

#[derive(Debug)]
struct KnownAddress {
    address: IpAddr,
    /// Whether the address stopped answering after it arrived.
    is_dead: bool,
}

impl KnownAnswer {
    pub(super) fn new(addresses: Vec<IpAddr>, valid_until: Instant, kept_until: Instant) -> Self {
        let addresses = addresses.into_iter().take(ADDRESSES_MAX).map(|address| KnownAddress { address, is_dead: false }).collect();
        Self { addresses, valid_until, kept_until }
    }

    /// Returns the addresses without the dead ones; all of them, as a stale answer, if all are dead.
    pub(super) fn answer(&self, now: Instant) -> LookupAnswer {
        let alive: Vec<IpAddr> = self.addresses.iter().filter(|known| !known.is_dead).map(|known| known.address).collect();
        let (addresses, stale) = match alive.is_empty() {
            true => (self.addresses.iter().map(|known| known.address).collect(), true),
            false => (alive, self.valid_until <= now),
        };
        LookupAnswer { addresses, complete: true, stale }
    }

    /// Marks an address as dead. Returns `false` if the answer does not contain it, or it was dead already.
    pub(super) fn mark_dead(&mut self, address: IpAddr) -> bool {
        let Some(known) = self.addresses.iter_mut().find(|known| known.address == address && !known.is_dead) else { return false };
        known.is_dead = true;
        true
    }

    pub(super) fn is_dead(&self) -> bool {
        self.addresses.iter().all(|known| known.is_dead)
    }

    /// Moves the answer out of a state that is about to be replaced.
    pub(super) fn take(&mut self) -> Self {
        Self { addresses: std::mem::take(&mut self.addresses), valid_until: self.valid_until, kept_until: self.kept_until }
    }
}

/// Maximum number of addresses kept for a name.
pub(super) const ADDRESSES_MAX: usize = 64;
