//! The command `watch`: the state of the servers, at once and at every change.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::args::WatchArguments;
use super::output::{Output, printable};
use super::report::{millis, servers_json, topology_json};
use super::{Failure, UriInput, client, interrupted, shut_down, since};
use crate::client::Client;
use crate::io::clock;
use crate::topology::TopologyDescription;

/// The output format of a change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// A line of text.
    Text,
    /// A JSON object on one line.
    Json,
}

/// Prints the servers at once and at every change, until Ctrl-C.
pub(super) async fn watch(arguments: WatchArguments) -> Result<ExitCode, Failure> {
    let client = client(&UriInput::require(arguments.uri)?, &arguments.overrides.resolve, |builder| builder)?;
    let shape = if arguments.json { Shape::Json } else { Shape::Text };
    let outcome = tokio::select! {
        outcome = follow(&client, shape, clock::now()) => outcome,
        () = interrupted() => Ok(()),
    };
    shut_down(&client).await;
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Prints every change until the client ends.
pub(super) async fn follow(client: &Client, shape: Shape, began: Instant) -> Result<(), Failure> {
    let mut output = Output::new();
    let mut watch = client.watch_topology().await?;
    let mut shown: Option<Arc<TopologyDescription>> = None;
    while let Some(topology) = watch.next().await {
        if !shown.as_ref().is_some_and(|shown| is_same(shown, &topology)) {
            output.line(&shape.show(&topology, since(began)))?;
            output.flush()?;
            shown = Some(topology);
        }
    }
    Ok(())
}

impl Shape {
    pub(super) fn show(self, topology: &TopologyDescription, elapsed: Duration) -> String {
        match self {
            Self::Text => {
                let mut text = topology.to_string();
                for (index, reason) in topology.left_out().iter().enumerate() {
                    text.push_str(if index == 0 { "; left out: " } else { ", " });
                    text.push_str(&reason.to_string());
                }
                format!("{:>9.3} s  {}", elapsed.as_secs_f64(), printable(&text).replace('\n', " "))
            }
            Self::Json => {
                let object: Value =
                    json!({ "elapsed_ms": millis(elapsed), "topology": topology_json(topology), "servers": servers_json(topology) });
                object.to_string()
            }
        }
    }
}

/// Returns whether two descriptions differ only in measured times.
fn is_same(one: &TopologyDescription, other: &TopologyDescription) -> bool {
    one.kind() == other.kind()
        && one.set_name() == other.set_name()
        && one.servers().len() == other.servers().len()
        && one.servers().iter().zip(other.servers()).all(|(one, other)| one.is_same_as(other))
        && one.left_out().iter().map(|reason| &reason.host).eq(other.left_out().iter().map(|reason| &reason.host))
}
