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

/// The report of a probe: a connection that was opened, tested and closed.
#[derive(Debug)]
#[non_exhaustive]
pub struct Probe {
    /// The server.
    pub host: ServerAddress,
    /// The address of the connection, if it was opened.
    pub address: Option<Address>,
    /// Every completed stage, in order.
    pub stages: Vec<StageReport>,
    /// The server's hello reply, if there was one.
    pub hello: Option<HelloReply>,
    /// The duration of a ping, if it was answered.
    pub ping: Option<Duration>,
    /// The error, if it failed.
    pub error: Option<Error>,
}

impl Client {
    /// Opens one connection to a server beside the pools, through all stages, and reports each stage.
    ///
    /// # Errors
    /// Those of starting. An unreachable server is part of the report.
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

/// The time limit of the ping.
const PING_LIMIT: Duration = Duration::from_secs(10);
