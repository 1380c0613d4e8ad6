//! The attempts of liveness probes.
//!
//! One task for each attempt: it looks up the address, opens a connection as a monitor does, reports when that is accepted and
//! how it went, and closes it. Does not decide when a server is probed, nor what its silence means: `topology::liveness` does.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use tokio::sync::watch;

use super::dial::Timeline;
use super::interrupt::Interrupt;
use super::open::{Opener, Purpose};
use super::reports::Reports;
use super::tasks::Tasks;
use crate::error::Error;
use crate::host::ServerAddress;
use crate::topology::ProbeId;

/// The running probes. Their attempts end with them.
#[derive(Debug, Default)]
pub(super) struct RunningProbes(BTreeMap<ServerAddress, watch::Sender<()>>);

impl RunningProbes {
    /// Starts an attempt of a server's probe.
    pub(super) fn attempt(&mut self, host: ServerAddress, id: ProbeId, opener: &Arc<Opener>, reports: Weak<dyn Reports>, tasks: &Tasks) {
        let lives = self.0.entry(host.clone()).or_insert_with(|| watch::Sender::new(())).subscribe();
        tasks.spawn("liveness probe", attempt(host, id, Arc::clone(opener), reports, lives));
    }

    /// Ends all attempts of a server's probe.
    pub(super) fn end(&mut self, host: &ServerAddress) {
        self.0.remove(host);
    }
}

async fn attempt(host: ServerAddress, id: ProbeId, opener: Arc<Opener>, reports: Weak<dyn Reports>, mut lives: watch::Receiver<()>) {
    tokio::select! {
        biased;
        // Nothing is ever sent: the only news is the end.
        _ = lives.changed() => {}
        outcome = ask(&host, id, &opener, &reports) => {
            if let Some(reports) = reports.upgrade() {
                reports.probed(&host, id, outcome);
            }
        }
    }
}

async fn ask(host: &ServerAddress, id: ProbeId, opener: &Opener, reports: &Weak<dyn Reports>) -> Result<(), Error> {
    opener.name(host).await?;
    if let Some(reports) = reports.upgrade() {
        reports.probe_resolved(host, id);
    }
    let (reports, of) = (Weak::clone(reports), host.clone());
    let reached = move |took| {
        if let Some(reports) = reports.upgrade() {
            reports.probe_reached(&of, id, took);
        }
    };
    let (interrupt, mut timeline) = (Arc::<Interrupt>::default(), Timeline::telling(reached));
    opener.open(host, Purpose::Monitor, interrupt, &mut timeline).await.map(drop)
}
