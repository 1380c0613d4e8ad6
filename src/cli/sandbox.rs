//! The command `sandbox`: a fake deployment on loopback.

use std::io;
use std::process::ExitCode;

use super::args::SandboxArguments;
use super::output::Output;
use super::watch::{Shape, follow};
use super::{Failure, UriInput, client, interrupted, shut_down};
use crate::client::Client;
use crate::io::clock;
use crate::io::sandbox::Sandbox;

/// Serves until Ctrl-C: prints the URI, then a line per change.
pub(super) async fn sandbox(arguments: SandboxArguments) -> Result<ExitCode, Failure> {
    let sandbox = start(&arguments).await?;
    let client = client(&UriInput::own(sandbox.uri()), &[], |builder| builder.app_name("mongolink sandbox"))?;
    let outcome = tokio::select! {
        outcome = serve(&sandbox, &client) => outcome,
        () = interrupted() => Ok(()),
    };
    shut_down(&client).await;
    sandbox.shutdown().await;
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn start(arguments: &SandboxArguments) -> Result<Sandbox, Failure> {
    let builder = Sandbox::builder();
    let builder = if arguments.standalone {
        builder.standalone()
    } else {
        builder.members(usize::from(arguments.members)).set_name(arguments.set.as_str())
    };
    builder.ports(arguments.port).start().await.map_err(|error| {
        let text = format!("the sandbox can't start on port {}: {error}", arguments.port);
        if error.kind() == io::ErrorKind::InvalidInput { Failure::Usage(text) } else { Failure::Failed(text) }
    })
}

async fn serve(sandbox: &Sandbox, client: &Client) -> Result<(), Failure> {
    let mut output = Output::new();
    output.line(&sandbox.uri())?;
    output.flush()?;
    follow(client, Shape::Text, clock::now()).await
}
