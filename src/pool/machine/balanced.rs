//! The differences of a pool behind a load balancer.
//!
//! load-balancers, "Connection Pooling" and "Error Handling": generations belong to services, which are known once a connection has
//! its hello reply; clearing a service neither pauses the pool nor refuses waiters; cursors pin their connections.

use std::time::Instant;

use bson::oid::ObjectId;

use super::super::refusal::{interrupted, waited_too_long, waited_too_long_behind_load_balancer};
use super::{CloseReason, Deadline, Error, Lease, Pool, PoolAction, PoolEvent, PoolMode, Slot};

impl<C> Pool<C> {
    /// Makes the pool one behind a load balancer.
    #[must_use]
    pub fn behind_load_balancer(mut self) -> Self {
        self.services = Some(Box::default());
        self
    }

    /// Takes the service that a connection reaches, from its hello reply. The connection has that service's generation from now on.
    ///
    /// Returns the new lease, which replaces the old one.
    pub fn handle_greeted(&mut self, lease: Lease, service: ObjectId) -> Lease {
        match &mut self.services {
            Some(services) if self.slots.is_opening(lease) => {
                let generation = services.join(lease.id, service);
                self.slots.renew(lease, generation)
            }
            Some(_) | None => lease,
        }
    }

    /// Takes that a cursor has pinned a connection, until it is checked in.
    pub fn handle_pinned(&mut self, lease: Lease) {
        if let Some(services) = self.services.as_mut().filter(|_| self.slots.is_in_use(lease)) {
            services.pin(lease.id);
        }
    }

    /// Clears a service that failed on a connection of this generation. Only the connections of this service are stale.
    pub fn handle_clear_service(&mut self, service: ObjectId, generation: u64, cause: &Error, now: Instant) {
        let Some(services) = self.services.as_mut().filter(|_| !matches!(self.state, PoolMode::Closed { .. })) else { return };
        if !services.clear(service, generation) {
            let text = format!("error ignored: it is of an older generation of service {service}");
            return self.notes.push(tracing::Level::DEBUG, text);
        }
        let idle = self.slots.take_idle_of(|lease| services.reaches(lease.id, service));
        // The connections being opened would be stale, and must not count against `maxConnecting`.
        let opening = self.slots.interrupt(|slot| matches!(slot, Slot::Opening { id, .. } if services.reaches(*id, service)));
        let error = cause.clone();
        self.event(|| PoolEvent::PoolCleared { interrupt_in_use: false, cause: error, service_id: Some(service) });
        for lease in &opening {
            self.event(|| PoolEvent::ConnectionClosed { connection_id: lease.id, reason: CloseReason::Stale, error: None });
        }
        for (lease, connection) in idle {
            self.close(lease, connection, CloseReason::Stale);
        }
        let interrupted = interrupted(cause);
        self.actions.extend(opening.into_iter().map(|lease| PoolAction::Interrupt(lease, interrupted.clone())));
        self.fill(now);
    }

    /// Returns the generation below which a connection is stale.
    pub(super) fn current(&self, lease: Lease) -> u64 {
        match &self.services {
            None => self.generation,
            Some(services) => services.generation(lease.id).unwrap_or(lease.generation),
        }
    }

    pub(super) fn unpin(&mut self, lease: Lease) {
        if let Some(services) = &mut self.services {
            services.unpin(lease.id);
        }
    }

    pub(super) fn leave(&mut self, lease: Lease) {
        if let Some(services) = &mut self.services {
            services.leave(lease.id);
        }
    }

    pub(super) fn pinned(&self) -> usize {
        self.services.as_ref().map_or(0, |services| services.pinned())
    }

    pub(super) fn waited_too_long(&self, deadline: Deadline, now: Instant) -> Error {
        match &self.services {
            None => waited_too_long(deadline, self.stats(), now),
            Some(_) => waited_too_long_behind_load_balancer(deadline, self.stats(), self.config.max_size, now),
        }
    }
}
