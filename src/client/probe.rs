//! How does opening one connection go, stage by stage?

use std::sync::Arc;
use std::time::Duration;

use bson::rawdoc;

use crate::error::{Error, Stage};
use crate::handshake::HelloReply;
use crate::host::{Address, ServerAddress};
use crate::io::clock;
use crate::io::dial::{StageReport, Timeline};
use crate::io::interrupt::Interrupt;
use crate::io::open::{Opened, Purpose};
use crate::io::topology::TopologyDriver;
use crate::operation::{CommandFields, command_error};
use crate::wire::{Flags, Request};

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

/// Opens a connection as a pool would, pings, and closes it.
pub(super) async fn probe(driver: &Arc<TopologyDriver>, host: &ServerAddress) -> Probe {
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
    let fields = CommandFields { database: "admin", ..CommandFields::default() };
    conn.queue(Flags::default(), &Request::from(rawdoc! { "ping": 1 }), &fields);
    let limit = clock::until(began + PING_LIMIT, conn.exchange()).await;
    let elapsed = clock::now().saturating_duration_since(began);
    let answer = match limit {
        Some(Ok(message)) => command_error(message.body()).map_or(Ok(()), Err),
        Some(Err(error)) => Err(error),
        None => Err(Error::timeout(Stage::Read, "PING_LIMIT", PING_LIMIT, elapsed)),
    };
    match answer {
        Ok(()) => probe.ping = Some(elapsed),
        Err(error) => probe.error = Some(error.on(host).with_address(conn.address())),
    }
    probe
}

/// How long a probe waits for the answer to its ping.
const PING_LIMIT: Duration = Duration::from_secs(10);
