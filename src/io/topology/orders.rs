//! The effects of the topology's actions.
//!
//! Carried out under the topology's lock, in order; foreign code and slow work is left to [`TopologyEffects`]. Does not decide
//! which actions occur (`topology`).

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Instant;

use super::super::monitor::{self, MonitorOrders, Watch};
use super::super::pool::ServerPool;
use super::super::reports::Reports;
use super::super::shell::{OutputOf, Owner, Shell};
use super::super::snapshot::Snapshot;
use super::effects::{TopologyEffects, TopologyWanted};
use super::{DriverState, TopologyDriver, known_servers};
use crate::host::ServerAddress;
use crate::machine::{Driven, Output};
use crate::pool::{Pool, PoolConfig, closed};
use crate::topology::{MonitorConfig, Topology, TopologyAction, TopologyDescription};

impl Owner for TopologyDriver {
    type Machine = Topology;
    type State = DriverState;
    type Wanted = TopologyWanted;
    type Effects = TopologyEffects;

    fn shell(&self) -> &Shell<DriverState> {
        &self.shell
    }

    fn driven(state: &mut DriverState) -> &mut Driven<Topology> {
        &mut state.topology
    }

    fn wanted(&self) -> TopologyWanted {
        TopologyWanted { topology: self.parts.events.topology_wanted(), pools: self.parts.events.pools_wanted() }
    }

    fn effects(wanted: TopologyWanted) -> TopologyEffects {
        TopologyEffects::new(wanted)
    }

    fn collect(self: &Arc<Self>, state: &mut DriverState, output: OutputOf<Self>, now: Instant, effects: &mut TopologyEffects) {
        match output {
            Output::Event(event) => self.parts.events.topology(event, effects.wanted.topology, &mut effects.wakeups),
            Output::Action(action) => self.carry_out(state, action, now, effects),
            Output::Note(note) => self.parts.events.note(note, &mut effects.wakeups),
        }
    }

    fn apply(self: &Arc<Self>, effects: TopologyEffects) {
        effects.apply(&self.parts.events, &self.descriptions);
    }
}

impl TopologyDriver {
    fn carry_out(self: &Arc<Self>, state: &mut DriverState, action: TopologyAction, now: Instant, effects: &mut TopologyEffects) {
        let wanted = effects.wanted.pools;
        match action {
            TopologyAction::CreatePool { host, generation } => {
                let pool = self.make_pool(&host, generation);
                effects.pools.push(pool.announce(wanted));
                state.pools.insert(host, pool);
            }
            TopologyAction::ReadyPool(host) => {
                if let Some(pool) = state.pools.get(&host) {
                    effects.pools.push(pool.ready(wanted));
                }
            }
            TopologyAction::ClearPool { host, cause, interrupt } => {
                if let Some(pool) = state.pools.get(&host) {
                    effects.pools.push(pool.clear(&cause, interrupt, wanted));
                }
            }
            TopologyAction::ClearService { host, service_id, generation, cause } => {
                if let Some(pool) = state.pools.get(&host) {
                    effects.pools.push(pool.clear_service(service_id, generation, &cause, wanted));
                }
            }
            TopologyAction::ClosePool(host) => {
                if let Some(pool) = state.pools.remove(&host) {
                    let (in_use, deferred) = pool.close(&closed(), false, wanted);
                    effects.pools.push(deferred);
                    state.retired_pools.keep(&pool);
                    state.topology.handle_pool_closed(&host, in_use, now);
                }
            }
            TopologyAction::InterruptRetired { host, why } => effects.pools.extend(state.retired_pools.interrupt(&host, &why, wanted)),
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
                    state.pools_of(&host).for_each(|pool| pool.start_traffic_check());
                }
                state.probes.attempt(host, id, &self.parts.opener, self.reports(), &self.parts.tasks);
            }
            TopologyAction::CheckTraffic { host, id } => {
                let anything = state.pools_of(&host).any(|pool| pool.has_traffic());
                state.topology.handle_traffic_checked(&host, id, anything, now);
            }
            TopologyAction::EndProbe(host) => state.probes.end(&host),
            TopologyAction::Publish(description) => self.publish(state, description, effects),
            TopologyAction::Selected(id) => {
                state.selection_waits.end();
                effects.answers.extend(state.selects.remove(&id).map(|sender| (sender, Ok(()))));
            }
            TopologyAction::NotSelected(id, error) => effects.answers.extend(state.selects.remove(&id).map(|sender| (sender, Err(error)))),
        }
    }

    /// Publishes a description to callers; watchers are woken by the effects.
    fn publish(&self, state: &mut DriverState, description: Arc<TopologyDescription>, effects: &mut TopologyEffects) {
        state.selection_waits.update(known_servers(&description));
        for server in description.servers() {
            if let Some(pool) = state.pools.get(&server.host) {
                effects.pools.extend(pool.round_trip(server.round_trip_time, effects.wanted.pools));
            }
        }
        let snapshot = Arc::new(Snapshot::new(Arc::clone(&description), &state.pools));
        effects.old_snapshots.push(std::mem::replace(&mut *self.snapshot.write().unwrap_or_else(PoisonError::into_inner), snapshot));
        self.descriptions.send_if_modified(|published| {
            effects.old_descriptions.push(std::mem::replace(published, description));
            false
        });
        self.parts.epoch.fetch_add(1, Ordering::Release);
    }

    fn make_pool(self: &Arc<Self>, host: &ServerAddress, generation: u64) -> Arc<ServerPool> {
        let parts = &self.parts;
        let machine = Pool::new(PoolConfig::from_options(&parts.options), generation);
        ServerPool::new(
            host.clone(),
            if parts.options.load_balanced == Some(true) { machine.behind_load_balancer() } else { machine },
            Arc::clone(&parts.opener),
            &parts.tasks,
            self.reports(),
            parts.events.clone(),
        )
    }

    fn make_watch(self: &Arc<Self>, host: &ServerAddress) -> Watch {
        let options = &self.parts.options;
        let config = MonitorConfig {
            heartbeat_frequency: options.heartbeat_frequency_or_default(),
            connect_timeout: options.connect_timeout_or_default(),
            open_timeout: options.open_timeout(),
            streaming: self.parts.streaming,
        };
        Watch {
            host: host.clone(),
            config,
            opener: Arc::clone(&self.parts.opener),
            dials: Arc::clone(&self.monitor_dials),
            reports: self.reports(),
            tasks: Arc::downgrade(&self.parts.monitors),
            events: self.parts.events.clone(),
            round_trips: Arc::default(),
        }
    }

    fn reports(self: &Arc<Self>) -> Weak<dyn Reports> {
        let driver: Weak<Self> = Arc::downgrade(self);
        driver
    }
}
