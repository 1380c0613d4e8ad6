//! What does the program `mongolink` do with its arguments?
//!
//! Each command is a file; they go through the library's public API. Exit codes: 0 done, 1 failed or not usable, 2 bad
//! usage. No text of the program shows a password.

mod advice;
mod args;
mod doctor;
pub mod extjson;
mod output;
mod report;
mod run;
mod sandbox;
mod uri;
mod watch;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

use crate::client::{Client, ClientBuilder};
use crate::error::{Error, ErrorKind};
use crate::io::clock;
use args::{Arguments, CliCommand, Override};
use output::{Output, complain};
use uri::UriInput;

/// How long a client may take to say goodbye.
const GOODBYE_LIMIT: Duration = Duration::from_millis(500);

/// The exit code of bad usage.
const USAGE: u8 = 2;

/// Says why a command came to nothing.
enum Failure {
    /// The arguments can't be used.
    Usage(String),
    /// What was asked for failed.
    Failed(String),
    /// Standard output can't be written.
    Output(io::Error),
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    output::trace(arguments.verbose);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(Failure::Failed(format!("no runtime: {error}"))),
    };
    let outcome = runtime.block_on(async {
        match arguments.command {
            CliCommand::Doctor(arguments) => doctor::doctor(arguments).await,
            CliCommand::Run(arguments) => run::run(arguments).await,
            CliCommand::Watch(arguments) => watch::watch(arguments).await,
            CliCommand::Sandbox(arguments) => sandbox::sandbox(arguments).await,
        }
    });
    runtime.shutdown_timeout(GOODBYE_LIMIT);
    outcome.unwrap_or_else(end)
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<Error> for Failure {
    /// Tells what the user has to correct from what went wrong.
    fn from(error: Error) -> Self {
        if is_misuse(&error) { Self::Usage(error.to_string()) } else { Self::Failed(error.to_string()) }
    }
}

/// Whether an error is about what was given, rather than about the deployment.
fn is_misuse(error: &Error) -> bool {
    let kinds =
        [ErrorKind::InvalidUri, ErrorKind::InvalidHost, ErrorKind::InvalidOption, ErrorKind::InvalidArgument, ErrorKind::Unsupported];
    kinds.contains(&error.kind())
}

/// Ends the program after a failure.
fn end(failure: Failure) -> ExitCode {
    match failure {
        Failure::Usage(text) => {
            complain(&format!("error: {text}"));
            ExitCode::from(USAGE)
        }
        Failure::Failed(text) => {
            complain(&format!("error: {text}"));
            ExitCode::FAILURE
        }
        // Whoever reads has seen enough, as `head` does.
        Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Failure::Output(error) => {
            complain(&format!("error: standard output: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Answers arguments that can't be read, and requests for help.
fn refuse(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        complain(hidden(error.to_string(), std::env::args_os().skip(1)).trim_end());
        return ExitCode::from(USAGE);
    }
    let mut output = Output::new();
    output.text(&error.to_string()).and_then(|()| output.flush()).map_or_else(|error| end(error.into()), |()| ExitCode::SUCCESS)
}

/// Takes arguments that may hold a password, or a piece of one, out of a text that quotes arguments.
fn hidden(mut text: String, arguments: impl Iterator<Item = OsString>) -> String {
    let is_suspect = |argument: &str| argument.contains(|character: char| !character.is_ascii_alphanumeric() && !"-_.".contains(character));
    for argument in arguments {
        let argument = argument.to_string_lossy();
        let value = if argument.starts_with('-') { argument.split_once('=').map(|(_, value)| value) } else { None };
        for secret in [Some(&*argument), value].into_iter().flatten() {
            if is_suspect(secret) {
                text = text.replace(secret, "***");
            }
        }
    }
    text
}

/// Starts a client from what all commands have in common.
fn builder(uri: &UriInput, overrides: &[Override]) -> Result<ClientBuilder, Error> {
    let builder = Client::builder(uri.text())?;
    Ok(overrides.iter().fold(builder, |builder, given| builder.resolve(given.host.clone(), given.address.clone())))
}

/// Makes a client, and tells what was odd in the connection string.
fn client(uri: &UriInput, overrides: &[Override], change: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Result<Client, Failure> {
    let built = builder(uri, overrides).and_then(|builder| change(builder).build());
    let client = built.map_err(|error| if is_misuse(&error) { Failure::Usage(uri.fault(&error)) } else { error.into() })?;
    for warning in client.warnings() {
        complain(&format!("warning: {warning}"));
    }
    Ok(client)
}

/// Ends a client, waiting a little for its goodbyes.
async fn goodbye(client: &Client) {
    if within(clock::now() + GOODBYE_LIMIT, client.shutdown()).await.is_none() {
        tracing::debug!("servers took too long to end the sessions");
    }
}

/// Waits for a future until a moment at the latest.
async fn within<T>(moment: Instant, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        value = future => Some(value),
        () = clock::sleep_until(Some(moment)) => None,
    }
}

/// Waits for Ctrl-C; for ever where it can't be noticed.
async fn interrupted() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        tracing::warn!(%error, "Ctrl-C is not noticed");
        std::future::pending::<()>().await;
    }
}

/// The time that has passed since a moment.
fn since(moment: Instant) -> Duration {
    clock::now().saturating_duration_since(moment)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
