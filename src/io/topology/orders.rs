//! How is each order of the topology carried out?
//!
//! Under the topology's lock; what is foreign or may take its time is left for later.

use std::sync::Arc;
use std::sync::{PoisonError, atomic::Ordering};

use super::super::clock;
use super::super::monitor::{self, MonitorOrders};
use super::super::snapshot::Snapshot;
use super::later::Later;
use super::{DriverState, TopologyDriver, known_servers};
use crate::pool::closed;
use crate::topology::{TopologyAction, TopologyDescription};

impl TopologyDriver {
    pub(super) fn carry_out(self: &Arc<Self>, state: &mut DriverState, action: TopologyAction, later: &mut Later) {
        let wanted = later.pools_wanted;
        match action {
            TopologyAction::CreatePool { host, generation } => {
                let pool = self.make_pool(&host, generation);
                later.pools.push(pool.announce(wanted));
                state.pools.insert(host, pool);
            }
            TopologyAction::ReadyPool(host) => {
                if let Some(pool) = state.pools.get(&host) {
                    later.pools.push(pool.ready(wanted));
                }
            }
            TopologyAction::ClearPool { host, cause, interrupt } => {
                if let Some(pool) = state.pools.get(&host) {
                    later.pools.push(pool.clear(&cause, interrupt, wanted));
                }
            }
            TopologyAction::ClearService { host, service_id, generation, cause } => {
                if let Some(pool) = state.pools.get(&host) {
                    later.pools.push(pool.clear_service(service_id, generation, &cause, wanted));
                }
            }
            TopologyAction::ClosePool(host) => {
                if let Some(pool) = state.pools.remove(&host) {
                    let (in_use, pending) = pool.close(&closed(), false, wanted);
                    later.pools.push(pending);
                    state.retired_pools.keep(&pool);
                    state.topology.handle_pool_closed(&host, in_use, clock::now());
                }
            }
            TopologyAction::InterruptRetired { host, why } => later.pools.extend(state.retired_pools.interrupt(&host, &why, wanted)),
            TopologyAction::StartMonitor(host) => {
                let orders = MonitorOrders::default();
                monitor::watch(self.make_watch(&host), orders.clone());
                state.monitors.insert(host, orders);
            }
            TopologyAction::StopMonitor(host) => {
                if let Some(orders) = state.monitors.remove(&host) {
                    orders.stop();
                }
            }
            TopologyAction::CheckNow(host) => {
                if let Some(orders) = state.monitors.get(&host) {
                    orders.check_now();
                }
            }
            TopologyAction::CancelCheck(host) => {
                if let Some(orders) = state.monitors.get(&host) {
                    orders.cancel_check();
                }
            }
            TopologyAction::Probe { host, id, again } => {
                if !again {
                    state.pools_of(&host).for_each(|pool| pool.listen());
                }
                state.probes.attempt(host, id, &self.parts.opener, self, &self.parts.tasks);
            }
            TopologyAction::CheckTraffic { host, id } => {
                let anything = state.pools_of(&host).any(|pool| pool.has_heard());
                state.topology.handle_traffic_checked(&host, id, anything, clock::now());
            }
            TopologyAction::EndProbe(host) => state.probes.end(&host),
            TopologyAction::Publish(description) => self.publish(state, description, later),
            TopologyAction::Selected(id) => {
                state.waits.end();
                later.answers.extend(state.selects.remove(&id).map(|sender| (sender, Ok(()))));
            }
            TopologyAction::NotSelected(id, error) => later.answers.extend(state.selects.remove(&id).map(|sender| (sender, Err(error)))),
        }
    }

    /// Makes a description the one that callers see; those who watch are woken later.
    fn publish(&self, state: &mut DriverState, description: Arc<TopologyDescription>, later: &mut Later) {
        state.waits.look(known_servers(&description));
        for server in description.servers() {
            if let Some(pool) = state.pools.get(&server.host) {
                later.pools.extend(pool.round_trip(server.round_trip_time, later.pools_wanted));
            }
        }
        let snapshot = Arc::new(Snapshot::new(Arc::clone(&description), &state.pools));
        later.old_snapshots.push(std::mem::replace(&mut *self.snapshot.write().unwrap_or_else(PoisonError::into_inner), snapshot));
        self.descriptions.send_if_modified(|published| {
            later.old_descriptions.push(std::mem::replace(published, description));
            false
        });
        self.parts.epoch.fetch_add(1, Ordering::Release);
    }
}
