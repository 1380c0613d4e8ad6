//! The task that polls SRV records.
//!
//! A separate task, so that slow look-ups delay nothing else. Does not decide when it queries and what an answer means
//! (`dns::rescan`), nor which hosts are used (`topology`).

use std::future::pending;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::clock;
use super::resolver::Resolver;
use super::topology::TopologyDriver;
use crate::dns::{Rescan, RescanAction, SrvRecord};
use crate::error::Error;
use crate::topology::TopologyDescription;

/// A running look-up.
type RunningLookup = BoxFuture<'static, Result<Vec<SrvRecord>, Error>>;

/// The poll of a topology's SRV records.
pub(crate) struct SrvPoll {
    pub(crate) resolver: Resolver,
    /// `srvServiceName`.
    pub(crate) service: String,
    /// The name of the connection string.
    pub(crate) host: String,
    pub(crate) rescan: Rescan,
}

impl SrvPoll {
    /// Starts the task. It ends with the driver's other tasks, or when the topology does not follow SRV records.
    pub(crate) fn start(self, driver: &Arc<TopologyDriver>) {
        let task = self.run(Arc::downgrade(driver), driver.subscribe(), driver.slept());
        driver.tasks().spawn("SRV records", task);
    }

    async fn run(
        mut self,
        driver: Weak<TopologyDriver>,
        mut descriptions: watch::Receiver<Arc<TopologyDescription>>,
        mut slept: watch::Receiver<Duration>,
    ) {
        let mut lookup: Option<RunningLookup> = None;
        let mut slept_before = *slept.borrow_and_update();
        self.check_topology(&mut descriptions);
        loop {
            while let Some(action) = self.rescan.poll_action() {
                match action {
                    RescanAction::Query => lookup = Some(self.start_lookup()),
                    RescanAction::Abandon => lookup = None,
                    RescanAction::Hosts(hosts) => {
                        let Some(driver) = driver.upgrade() else { return };
                        driver.srv_hosts(hosts);
                    }
                }
            }
            if self.rescan.is_stopped() {
                return;
            }
            let due = self.rescan.poll_timeout().map(|(at, _)| at);
            tokio::select! {
                biased;
                changed = descriptions.changed() => match changed {
                    Ok(()) => self.check_topology(&mut descriptions),
                    // The driver is gone.
                    Err(_) => return,
                },
                Ok(()) = slept.changed() => {
                    let slept = *slept.borrow_and_update();
                    self.rescan.handle_slept(slept.saturating_sub(slept_before), clock::now());
                    slept_before = slept;
                }
                answer = result_of(&mut lookup) => {
                    lookup = None;
                    match answer {
                        Ok(records) => self.rescan.handle_answered(&records, clock::now()),
                        Err(error) => self.rescan.handle_failed(&error, clock::now()),
                    }
                }
                () = clock::sleep_until(due) => self.rescan.handle_timeout(clock::now()),
            }
        }
    }

    fn check_topology(&mut self, descriptions: &mut watch::Receiver<Arc<TopologyDescription>>) {
        let kind = descriptions.borrow_and_update().kind();
        self.rescan.handle_topology(kind.name(), kind.follows_srv());
    }

    fn start_lookup(&self) -> RunningLookup {
        let (resolver, service, host) = (self.resolver.clone(), self.service.clone(), self.host.clone());
        Box::pin(async move { resolver.services(&service, &host).await })
    }
}

/// Waits for the result of a look-up; forever without one.
async fn result_of(lookup: &mut Option<RunningLookup>) -> Result<Vec<SrvRecord>, Error> {
    match lookup {
        Some(lookup) => lookup.await,
        None => pending().await,
    }
}
