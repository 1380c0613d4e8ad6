//! How is a server asked for a sign of life?
//!
//! One task for each attempt: it looks up the address, opens a connection as a monitor does, tells when that is accepted and
//! how it went, and closes it. When a server is asked, and what its silence means, is decided in `topology::sign_of_life`.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::conn::Interrupt;
use super::dial::Timeline;
use super::open::{Opener, Purpose};
use super::tasks::Tasks;
use super::topology::Cluster;
use crate::error::Error;
use crate::host::HostKey;
use crate::topology::ProbeId;

/// Knows the probes that are under way; their attempts end with them.
#[derive(Debug, Default)]
pub(super) struct Probes(BTreeMap<HostKey, watch::Sender<()>>);

impl Cluster {
    /// Tells the topology that a command on a server has been unanswered for long.
    pub(crate) fn unanswered(self: &Arc<Self>, host: &HostKey) {
        self.act(|topology, now| topology.handle_unanswered(host, now));
    }

    fn probe_named(self: &Arc<Self>, host: &HostKey, id: ProbeId) {
        self.act(|topology, now| topology.handle_probe_named(host, id, now));
    }

    fn probe_reached(self: &Arc<Self>, host: &HostKey, id: ProbeId, took: Duration) {
        self.act(|topology, now| topology.handle_probe_reached(host, id, took, now));
    }

    fn probed(self: &Arc<Self>, host: &HostKey, id: ProbeId, outcome: Result<(), Error>) {
        self.act(|topology, now| topology.handle_probed(host, id, outcome, now));
    }
}

impl Probes {
    /// Starts an attempt of a server's probe.
    pub(super) fn attempt(&mut self, host: HostKey, id: ProbeId, opener: &Arc<Opener>, cluster: &Arc<Cluster>, tasks: &Tasks) {
        let lives = self.0.entry(host.clone()).or_insert_with(|| watch::Sender::new(())).subscribe();
        tasks.spawn("sign of life", attempt(host, id, Arc::clone(opener), Arc::downgrade(cluster), lives));
    }

    /// Ends all attempts of a server's probe.
    pub(super) fn end(&mut self, host: &HostKey) {
        self.0.remove(host);
    }
}

async fn attempt(host: HostKey, id: ProbeId, opener: Arc<Opener>, cluster: Weak<Cluster>, mut lives: watch::Receiver<()>) {
    tokio::select! {
        biased;
        // Nothing is ever sent: the only news is the end.
        _ = lives.changed() => {}
        outcome = ask(&host, id, &opener, &cluster) => {
            if let Some(cluster) = cluster.upgrade() {
                cluster.probed(&host, id, outcome);
            }
        }
    }
}

async fn ask(host: &HostKey, id: ProbeId, opener: &Opener, cluster: &Weak<Cluster>) -> Result<(), Error> {
    opener.name(host).await?;
    if let Some(cluster) = cluster.upgrade() {
        cluster.probe_named(host, id);
    }
    let (told, of) = (Weak::clone(cluster), host.clone());
    let reached = move |took| {
        if let Some(cluster) = told.upgrade() {
            cluster.probe_reached(&of, id, took);
        }
    };
    let (interrupt, mut timeline) = (Arc::<Interrupt>::default(), Timeline::telling(reached));
    opener.open(host, Purpose::Monitor, interrupt, &mut timeline).await.map(drop)
}
