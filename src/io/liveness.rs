//! How is a server asked for an answer to a liveness probe?
//!
//! One task for each attempt: it looks up the address, opens a connection as a monitor does, tells when that is accepted and
//! how it went, and closes it. When a server is asked, and what its silence means, is decided in `topology::liveness`.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::conn::Interrupt;
use super::dial::Timeline;
use super::open::{Opener, Purpose};
use super::tasks::Tasks;
use super::topology::TopologyDriver;
use crate::error::Error;
use crate::host::ServerAddress;
use crate::topology::ProbeId;

/// Knows the probes that are under way; their attempts end with them.
#[derive(Debug, Default)]
pub(super) struct RunningProbes(BTreeMap<ServerAddress, watch::Sender<()>>);

impl TopologyDriver {
    /// Tells the topology that a command on a server has been unanswered for long.
    pub(crate) fn unanswered(self: &Arc<Self>, host: &ServerAddress) {
        self.act(|topology, now| topology.handle_unanswered(host, now));
    }

    fn probe_named(self: &Arc<Self>, host: &ServerAddress, id: ProbeId) {
        self.act(|topology, now| topology.handle_probe_named(host, id, now));
    }

    fn probe_reached(self: &Arc<Self>, host: &ServerAddress, id: ProbeId, took: Duration) {
        self.act(|topology, now| topology.handle_probe_reached(host, id, took, now));
    }

    fn probed(self: &Arc<Self>, host: &ServerAddress, id: ProbeId, outcome: Result<(), Error>) {
        self.act(|topology, now| topology.handle_probed(host, id, outcome, now));
    }
}

impl RunningProbes {
    /// Starts an attempt of a server's probe.
    pub(super) fn attempt(&mut self, host: ServerAddress, id: ProbeId, opener: &Arc<Opener>, driver: &Arc<TopologyDriver>, tasks: &Tasks) {
        let lives = self.0.entry(host.clone()).or_insert_with(|| watch::Sender::new(())).subscribe();
        tasks.spawn("liveness probe", attempt(host, id, Arc::clone(opener), Arc::downgrade(driver), lives));
    }

    /// Ends all attempts of a server's probe.
    pub(super) fn end(&mut self, host: &ServerAddress) {
        self.0.remove(host);
    }
}

async fn attempt(host: ServerAddress, id: ProbeId, opener: Arc<Opener>, driver: Weak<TopologyDriver>, mut lives: watch::Receiver<()>) {
    tokio::select! {
        biased;
        // Nothing is ever sent: the only news is the end.
        _ = lives.changed() => {}
        outcome = ask(&host, id, &opener, &driver) => {
            if let Some(driver) = driver.upgrade() {
                driver.probed(&host, id, outcome);
            }
        }
    }
}

async fn ask(host: &ServerAddress, id: ProbeId, opener: &Opener, driver: &Weak<TopologyDriver>) -> Result<(), Error> {
    opener.name(host).await?;
    if let Some(driver) = driver.upgrade() {
        driver.probe_named(host, id);
    }
    let (told, of) = (Weak::clone(driver), host.clone());
    let reached = move |took| {
        if let Some(driver) = told.upgrade() {
            driver.probe_reached(&of, id, took);
        }
    };
    let (interrupt, mut timeline) = (Arc::<Interrupt>::default(), Timeline::telling(reached));
    opener.open(host, Purpose::Monitor, interrupt, &mut timeline).await.map(drop)
}
