//! The probe: opens one connection beside the pools, stage by stage, and pings.

use std::sync::Arc;
use std::time::Duration;

use super::executor::run_alone;
use super::handle::Client;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::handshake::HelloReply;
use crate::host::{Address, ServerAddress};
use crate::io::clock;
use crate::io::dial::{StageReport, Timeline};
use crate::io::interrupt::Interrupt;
use crate::io::open::{Opened, Purpose};
use crate::io::topology::TopologyDriver;
use crate::operation::Ping;

/// Is the report of a connection that was opened to see how it goes, and closed again.
#[derive(Debug)]
#[non_exhaustive]
pub struct Probe {
    /// The server.
    pub host: ServerAddress,
    /// Where the connection went, if it was opened.
    pub address: Option<Address>,
    /// Every stage that ended, in order.
    pub stages: Vec<StageReport>,
    /// What the server said of itself, if it came to that.
    pub hello: Option<HelloReply>,
    /// How long a ping took, if it came to that.
    pub ping: Option<Duration>,
    /// What went wrong, if something did.
    pub error: Option<Error>,
}

impl Client {
    /// Opens one connection to a server beside the pools, through all stages, and says how each went.
    ///
    /// # Errors
    /// Those of starting. That the server can't be reached is part of the answer.
    pub fn probe(&self, host: &ServerAddress) -> impl Future<Output = Result<Probe>> + Send + use<> {
        let (client, host) = (self.clone(), host.clone());
        async move {
            let driver = client.core().driver().await?;
            Ok(probe(&driver, &host).await)
        }
    }
}

/// Opens a connection as a pool would, pings, and closes it.
async fn probe(driver: &Arc<TopologyDriver>, host: &ServerAddress) -> Probe {
    let mut timeline = Timeline::default();
    let outcome = driver.opener().open(host, Purpose::Application, Arc::<Interrupt>::default(), &mut timeline).await;
    let mut probe = Probe { host: host.clone(), address: None, stages: timeline.stages, hello: None, ping: None, error: None };
    let Opened { mut conn, hello, .. } = match outcome {
        Ok(opened) => opened,
        Err(error) => {
            probe.error = Some(error);
            return probe;
        }
    };
    probe.address = Some(conn.address().clone());
    probe.hello = Some(*hello);
    let began = clock::now();
    let answer = run_alone(&mut conn, "admin", Ping::new(), Deadline::new("PING_LIMIT", PING_LIMIT, began)).await;
    match answer {
        Ok(()) => probe.ping = Some(clock::now().saturating_duration_since(began)),
        Err(error) => probe.error = Some(error.on(host).with_address(conn.address())),
    }
    probe
}

/// How long a probe waits for the answer to its ping.
const PING_LIMIT: Duration = Duration::from_secs(10);
