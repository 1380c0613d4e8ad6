//! Which of a name's last good addresses are still worth serving?
//!
//! When the answer is used, and when it is replaced, is decided in `cache`.

use std::net::IpAddr;
use std::time::Instant;

use super::LookupAnswer;

/// Is the last good answer for a name.
#[derive(Debug)]
pub(super) struct Good {
    addresses: Vec<StoredAnswer>,
    /// It is fresh until then.
    pub(super) valid_until: Instant,
    /// It is worth something until then.
    pub(super) kept_until: Instant,
}

#[derive(Debug)]
struct StoredAnswer {
    address: IpAddr,
    /// Whether it stopped answering since.
    dead: bool,
}

impl Good {
    pub(super) fn new(addresses: Vec<IpAddr>, valid_until: Instant, kept_until: Instant) -> Self {
        let addresses = addresses.into_iter().take(ADDRESSES_MAX).map(|address| StoredAnswer { address, dead: false }).collect();
        Self { addresses, valid_until, kept_until }
    }

    /// Leaves the dead out, unless there is nobody else.
    pub(super) fn answer(&self, now: Instant) -> LookupAnswer {
        let alive: Vec<IpAddr> = self.addresses.iter().filter(|held| !held.dead).map(|held| held.address).collect();
        let (addresses, stale) = match alive.is_empty() {
            true => (self.addresses.iter().map(|held| held.address).collect(), true),
            false => (alive, self.valid_until <= now),
        };
        LookupAnswer { addresses, complete: true, stale }
    }

    /// Marks an address; `false` if it is not in the answer, or was marked before.
    pub(super) fn bury(&mut self, address: IpAddr) -> bool {
        let Some(held) = self.addresses.iter_mut().find(|held| held.address == address && !held.dead) else { return false };
        held.dead = true;
        true
    }

    pub(super) fn is_dead(&self) -> bool {
        self.addresses.iter().all(|held| held.dead)
    }

    /// Moves it out of a state that is about to be left.
    pub(super) fn take(&mut self) -> Self {
        Self { addresses: std::mem::take(&mut self.addresses), valid_until: self.valid_until, kept_until: self.kept_until }
    }
}

/// How many addresses of a name are kept.
pub(super) const ADDRESSES_MAX: usize = 64;
