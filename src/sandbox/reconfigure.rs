//! Reconfiguration of the set.
//!
//! Members are renamed, removed, and added again; every change increments the configuration's version. A removed member has no
//! name in the configuration. Does not decide the effect on the leadership (`election`).

use std::time::Instant;

use super::cluster::{FakeDeployment, refusal};
use crate::error::Error;

impl FakeDeployment {
    /// Renames a member in the set's configuration, and increments the configuration's version.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) if the set has no such member.
    pub fn rename(&mut self, member: usize, host: impl Into<String>, now: Instant) -> Result<(), Error> {
        let belongs = self.members.get(member).is_some_and(|place| place.belongs);
        let name = self.hosts.get_mut(member).filter(|_| belongs).ok_or_else(|| refusal(format!("there is no member {member}")))?;
        *name = host.into();
        self.set_version += 1;
        self.update_members(now);
        self.settle(now);
        Ok(())
    }

    /// Removes a member that is not primary from the set's configuration. Its process continues.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) if the set has no such member, if it is primary, or if
    /// it is the last one.
    pub fn remove(&mut self, member: usize, now: Instant) -> Result<(), Error> {
        let left = self.members.iter().filter(|place| place.belongs).count();
        let is_primary = self.primary() == Some(member);
        let place = self.members.get_mut(member).filter(|place| place.belongs && left > 1 && !is_primary);
        let (place, name) = place.zip(self.hosts.get_mut(member)).ok_or_else(|| refusal(format!("member {member} can't be removed")))?;
        place.belongs = false;
        name.clear();
        self.set_version += 1;
        self.update_leadership(now);
        self.settle(now);
        Ok(())
    }

    /// Adds a removed member to the set's configuration again, under a name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) if there is no such member, or it has not been
    /// removed.
    #[cfg(any(test, feature = "internals"))]
    pub fn restore(&mut self, member: usize, host: impl Into<String>, now: Instant) -> Result<(), Error> {
        let place = self.members.get_mut(member).filter(|place| !place.belongs);
        let (place, name) = place.zip(self.hosts.get_mut(member)).ok_or_else(|| refusal(format!("member {member} has not left")))?;
        place.belongs = true;
        *name = host.into();
        self.set_version += 1;
        self.update_leadership(now);
        self.settle(now);
        Ok(())
    }
}
