//! The program `mongolink`.
//!
//! One file per command; all use the library's public API. Exit codes: 0 success, 1 failed or not usable, 2 bad usage. No
//! output contains a password.

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
use output::{Output, print_stderr};
use uri::UriInput;

/// The time limit for ending a client's sessions at exit.
const SHUTDOWN_LIMIT: Duration = Duration::from_millis(500);

/// The exit code of bad usage.
const USAGE: u8 = 2;

/// The reason why a command failed.
enum Failure {
    /// The arguments are invalid.
    Usage(String),
    /// The command failed.
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
        Err(error) => return end(Failure::Failed(format!("the runtime can't start: {error}"))),
    };
    let outcome = runtime.block_on(async {
        match arguments.command {
            CliCommand::Doctor(arguments) => doctor::doctor(arguments).await,
            CliCommand::Run(arguments) => run::run(arguments).await,
            CliCommand::Watch(arguments) => watch::watch(arguments).await,
            CliCommand::Sandbox(arguments) => sandbox::sandbox(arguments).await,
        }
    });
    runtime.shutdown_timeout(SHUTDOWN_LIMIT);
    outcome.unwrap_or_else(end)
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<Error> for Failure {
    /// Separates usage errors from failures.
    fn from(error: Error) -> Self {
        if is_misuse(&error) { Self::Usage(error.to_string()) } else { Self::Failed(error.to_string()) }
    }
}

/// Returns whether an error is about the arguments, rather than the deployment.
fn is_misuse(error: &Error) -> bool {
    let kinds =
        [ErrorKind::InvalidUri, ErrorKind::InvalidHost, ErrorKind::InvalidOption, ErrorKind::InvalidArgument, ErrorKind::Unsupported];
    kinds.contains(&error.kind())
}

/// Ends the program after a failure.
fn end(failure: Failure) -> ExitCode {
    match failure {
        Failure::Usage(text) => {
            print_stderr(&format!("error: {text}"));
            ExitCode::from(USAGE)
        }
        Failure::Failed(text) => {
            print_stderr(&format!("error: {text}"));
            ExitCode::FAILURE
        }
        // The reader has closed the pipe, as `head` does.
        Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Failure::Output(error) => {
            print_stderr(&format!("error: standard output: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints the help, or the error of invalid arguments.
fn refuse(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        print_stderr(hidden(error.to_string(), std::env::args_os().skip(1)).trim_end());
        return ExitCode::from(USAGE);
    }
    let mut output = Output::new();
    output.text(&error.to_string()).and_then(|()| output.flush()).map_or_else(|error| end(error.into()), |()| ExitCode::SUCCESS)
}

/// Removes arguments that may contain a password, or a piece of one, from a text that quotes arguments.
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

/// Creates the client builder that all commands share.
fn builder(uri: &UriInput, overrides: &[Override]) -> Result<ClientBuilder, Error> {
    let builder = Client::builder(uri.text())?;
    Ok(overrides.iter().fold(builder, |builder, given| builder.resolve(given.host.clone(), given.address.clone())))
}

/// Creates a client, and prints the warnings about the connection string.
fn client(uri: &UriInput, overrides: &[Override], change: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Result<Client, Failure> {
    let built = builder(uri, overrides).and_then(|builder| change(builder).build());
    let client = built.map_err(|error| if is_misuse(&error) { Failure::Usage(uri.fault(&error)) } else { error.into() })?;
    for warning in client.warnings() {
        print_stderr(&format!("warning: {warning}"));
    }
    Ok(client)
}

/// Shuts a client down, with a short time limit for ending its sessions.
async fn shut_down(client: &Client) {
    if within(clock::now() + SHUTDOWN_LIMIT, client.shutdown()).await.is_none() {
        tracing::debug!("ending the sessions took too long");
    }
}

/// Waits for a future until an instant at the latest.
async fn within<T>(moment: Instant, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        value = future => Some(value),
        () = clock::sleep_until(Some(moment)) => None,
    }
}

/// Waits for Ctrl-C; for ever if it can't be observed.
async fn interrupted() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        tracing::warn!(%error, "Ctrl-C can't be observed");
        std::future::pending::<()>().await;
    }
}

/// Returns the time since an instant.
fn since(moment: Instant) -> Duration {
    clock::now().saturating_duration_since(moment)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
