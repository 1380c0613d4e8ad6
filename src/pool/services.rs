//! The services behind a load balancer: their generations, their connections, and which of these are pinned.
//!
//! load-balancers, "Connection Pooling": a generation counts for a service, and for a connection from its hello to its end. Does not
//! decide what follows from a generation: `machine` does.

use std::collections::{BTreeMap, BTreeSet};

use bson::oid::ObjectId;

/// The generation of each service that a connection reaches, and the connections that cursors have pinned.
#[derive(Debug, Default)]
pub(super) struct Services {
    /// By the connection's number.
    reached: BTreeMap<u64, ObjectId>,
    services: BTreeMap<ObjectId, Service>,
    /// The newest generation of all services: a generation is never used twice.
    latest: u64,
    pinned: BTreeSet<u64>,
}

#[derive(Debug)]
struct Service {
    generation: u64,
    connections: usize,
}

impl Services {
    /// Adds a connection whose hello reply names a service. Returns the service's generation.
    pub(super) fn join(&mut self, connection: u64, service: ObjectId) -> u64 {
        self.leave(connection);
        self.reached.insert(connection, service);
        let known = self.services.entry(service).or_insert(Service { generation: self.latest, connections: 0 });
        known.connections += 1;
        known.generation
    }

    /// Removes a connection, and its service with the last connection.
    pub(super) fn leave(&mut self, connection: u64) {
        self.pinned.remove(&connection);
        let Some(service) = self.reached.remove(&connection) else { return };
        let Some(known) = self.services.get_mut(&service) else { return };
        known.connections -= 1;
        if known.connections == 0 {
            self.services.remove(&service);
        }
    }

    /// Raises a service's generation. Returns `false`, and does nothing, for an error of an older generation.
    pub(super) fn clear(&mut self, service: ObjectId, generation: u64) -> bool {
        let known = self.services.get_mut(&service);
        if generation < known.as_ref().map_or(self.latest, |known| known.generation) {
            return false;
        }
        self.latest += 1;
        if let Some(known) = known {
            known.generation = self.latest;
        }
        true
    }

    /// Returns the generation of the service that a connection reaches; `None` before its hello.
    pub(super) fn generation(&self, connection: u64) -> Option<u64> {
        self.services.get(self.reached.get(&connection)?).map(|known| known.generation)
    }

    pub(super) fn reaches(&self, connection: u64, service: ObjectId) -> bool {
        self.reached.get(&connection) == Some(&service)
    }

    /// Marks a connection as pinned by a cursor.
    pub(super) fn pin(&mut self, connection: u64) {
        self.pinned.insert(connection);
    }

    pub(super) fn unpin(&mut self, connection: u64) {
        self.pinned.remove(&connection);
    }

    /// Returns the number of pinned connections.
    pub(super) fn pinned(&self) -> usize {
        self.pinned.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_is_forgotten_with_its_last_connection() {
        let (one, two) = (ObjectId::from_bytes([1; 12]), ObjectId::from_bytes([2; 12]));
        let mut services = Services::default();
        assert_eq!((services.join(1, one), services.join(2, one), services.join(3, two)), (0, 0, 0));
        services.leave(1);
        assert_eq!(services.services.len(), 2);
        services.leave(2);
        services.leave(2);
        assert_eq!(services.services.keys().collect::<Vec<_>>(), [&two]);
        services.leave(3);
        assert!(services.services.is_empty() && services.reached.is_empty());
    }

    #[test]
    fn connection_counts_once_however_often_it_joins_and_is_not_pinned_after_its_end() {
        let (one, two) = (ObjectId::from_bytes([1; 12]), ObjectId::from_bytes([2; 12]));
        let mut services = Services::default();
        services.join(1, one);
        services.join(1, one);
        services.join(1, two);
        assert_eq!(services.services.keys().collect::<Vec<_>>(), [&two]);
        services.pin(1);
        services.leave(1);
        assert!(services.services.is_empty() && services.pinned() == 0);
    }

    #[test]
    fn generations_are_counted_for_each_service() {
        let (one, two) = (ObjectId::from_bytes([1; 12]), ObjectId::from_bytes([2; 12]));
        let mut services = Services::default();
        services.join(1, one);
        services.join(2, two);
        assert!(services.clear(one, 0) && !services.clear(one, 0));
        assert_eq!((services.generation(1), services.generation(2), services.generation(3)), (Some(1), Some(0), None));
        assert_eq!((services.join(3, one), services.join(4, two)), (1, 0));
    }

    #[test]
    fn service_that_returns_never_has_a_generation_that_was_cleared() {
        let service = ObjectId::from_bytes([1; 12]);
        let mut services = Services::default();
        let old = services.join(1, service);
        assert!(services.clear(service, old));
        services.leave(1);
        assert!(services.join(2, service) > old);
        assert!(!services.clear(service, old));
    }
}
