//! How does `run` print what a command gives?

use std::process::ExitCode;
use std::time::Duration;

use bson::Document;
use futures_util::FutureExt;

use super::args::RunArguments;
use super::extjson::{self, Form};
use super::output::Output;
use super::{Failure, client, goodbye};
use crate::client::Client;
use crate::selection::ReadPreference;

/// The commands whose reply is a cursor.
const CURSOR_COMMANDS: [&str; 4] = ["find", "aggregate", "listCollections", "listIndexes"];

/// Says what to run.
struct Order {
    database: String,
    command: Document,
    preference: ReadPreference,
    timeout: Option<Duration>,
    form: Form,
}

/// Runs one command, and prints its reply or its documents.
pub(super) async fn run(arguments: RunArguments) -> Result<ExitCode, Failure> {
    let command = extjson::parse(&arguments.command).map_err(|why| Failure::Usage(format!("COMMAND_JSON: {why}")))?;
    if command.is_empty() {
        return Err(Failure::Usage("COMMAND_JSON: an empty object is no command".to_owned()));
    }
    let client = client(&arguments.uri, &arguments.overrides.resolve, |builder| builder)?;
    let order = Order {
        database: arguments.database,
        command,
        preference: ReadPreference::new(arguments.read_preference),
        timeout: arguments.timeout,
        form: if arguments.canonical { Form::Canonical } else { Form::Relaxed },
    };
    let mut output = Output::new();
    let outcome =
        if makes_cursor(&order.command) { documents(&client, order, &mut output).await } else { reply(&client, order, &mut output).await };
    // Documents that came before an error are shown before it is told.
    let shown = output.flush();
    goodbye(&client).await;
    outcome?;
    shown?;
    Ok(ExitCode::SUCCESS)
}

/// Tells whether a command's reply is a cursor; an explained aggregation has none.
pub(super) fn makes_cursor(command: &Document) -> bool {
    let name = command.keys().next().map_or("", String::as_str);
    CURSOR_COMMANDS.contains(&name) && !(name == "aggregate" && command.get_bool("explain").unwrap_or(false))
}

async fn reply(client: &Client, order: Order, output: &mut Output) -> Result<(), Failure> {
    let mut run = client.database(order.database).run_command(order.command).read_preference(order.preference);
    if let Some(limit) = order.timeout {
        run = run.timeout(limit);
    }
    let reply = run.await?;
    Ok(output.line(&extjson::write(&reply, order.form))?)
}

async fn documents(client: &Client, order: Order, output: &mut Output) -> Result<(), Failure> {
    let mut run = client.database(order.database).run_cursor_command(order.command).read_preference(order.preference);
    if let Some(limit) = order.timeout {
        run = run.timeout(limit);
    }
    let mut cursor = run.await?;
    loop {
        let next = match cursor.next().now_or_never() {
            Some(next) => next,
            None => {
                // Whoever reads need not wait for the next batch to see this one.
                output.flush()?;
                cursor.next().await
            }
        };
        match next {
            Some(document) => output.line(&extjson::write(&document?, order.form))?,
            None => return Ok(()),
        }
    }
}
