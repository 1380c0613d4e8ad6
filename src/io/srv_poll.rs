//! Who looks at the SRV records again?
//!
//! One task of the client's, beside all others, so that look-ups hold up nobody. When it asks and what an answer stands
//! for is decided in `dns::rescan`, which of the hosts are taken in `topology`.

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

/// Is a look-up under way.
type Question = BoxFuture<'static, Result<Vec<SrvRecord>, Error>>;

/// Puts the question for a driver's SRV records.
pub(crate) struct SrvPoll {
    pub(crate) resolver: Resolver,
    /// `srvServiceName`.
    pub(crate) service: String,
    /// The name of the connection string.
    pub(crate) host: String,
    pub(crate) rescan: Rescan,
}

impl SrvPoll {
    /// Starts the task; it ends with the driver's others, or when the topology is one that does not follow SRV records.
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
        let mut question: Option<Question> = None;
        let mut slept_before = *slept.borrow_and_update();
        self.see(&mut descriptions);
        loop {
            while let Some(action) = self.rescan.poll_action() {
                match action {
                    RescanAction::Query => question = Some(self.ask()),
                    RescanAction::Abandon => question = None,
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
                    Ok(()) => self.see(&mut descriptions),
                    // The driver is gone.
                    Err(_) => return,
                },
                Ok(()) = slept.changed() => {
                    let slept = *slept.borrow_and_update();
                    self.rescan.handle_slept(slept.saturating_sub(slept_before), clock::now());
                    slept_before = slept;
                }
                answer = answer_to(&mut question) => {
                    question = None;
                    match answer {
                        Ok(records) => self.rescan.handle_answered(&records, clock::now()),
                        Err(error) => self.rescan.handle_failed(&error, clock::now()),
                    }
                }
                () = clock::sleep_until(due) => self.rescan.handle_timeout(clock::now()),
            }
        }
    }

    fn see(&mut self, descriptions: &mut watch::Receiver<Arc<TopologyDescription>>) {
        let kind = descriptions.borrow_and_update().kind();
        self.rescan.handle_topology(kind);
    }

    fn ask(&self) -> Question {
        let (resolver, service, host) = (self.resolver.clone(), self.service.clone(), self.host.clone());
        Box::pin(async move { resolver.services(&service, &host).await })
    }
}

/// Waits for the answer; for ever if nothing was asked.
async fn answer_to(question: &mut Option<Question>) -> Result<Vec<SrvRecord>, Error> {
    match question {
        Some(question) => question.await,
        None => pending().await,
    }
}
