//! The command `run`: one command, and its reply or documents.
//!
//! Everything printable is printed: text that is not UTF-8 with replacement characters. Unreadable parts and refused writes are
//! reported afterwards, and make the exit code 1.

use std::process::ExitCode;
use std::time::Duration;

use bson::{Document, RawDocument};
use futures_util::FutureExt;

use super::args::RunArguments;
use super::extjson;
use super::output::{Output, print_stderr};
use super::uri::VARIABLE;
use super::{Failure, UriInput, client, shut_down};
use crate::client::{Client, Reply};
use crate::operation::{document, json::Json};
use crate::selection::ReadPreference;

/// The commands whose reply is a cursor.
const CURSOR_COMMANDS: [&str; 4] = ["find", "aggregate", "listCollections", "listIndexes"];

/// The command to run.
struct RunRequest {
    database: String,
    command: Document,
    preference: ReadPreference,
    timeout: Option<Duration>,
    canonical: bool,
}

/// The positional arguments.
#[derive(Debug)]
pub(super) struct Positionals {
    pub(super) uri: Option<String>,
    pub(super) database: String,
    pub(super) command: String,
}

impl Positionals {
    /// Assigns the arguments by their number.
    pub(super) fn of(given: Vec<String>) -> Result<Self, Failure> {
        let mut given = given.into_iter().rev();
        let (Some(command), Some(database)) = (given.next(), given.next()) else {
            return Err(Failure::Usage("DATABASE and COMMAND_JSON are required".to_owned()));
        };
        if database.contains("://") || database.starts_with('@') || database == "-" {
            return Err(Failure::Usage("DATABASE is a connection string: DATABASE or COMMAND_JSON is missing".to_owned()));
        }
        Ok(Self { uri: given.next(), database, command })
    }
}

/// Runs one command, and prints its reply or its documents.
pub(super) async fn run(arguments: RunArguments) -> Result<ExitCode, Failure> {
    let Positionals { uri, database, command } = Positionals::of(arguments.positionals)?;
    let command = extjson::parse(&command).map_err(|why| Failure::Usage(format!("COMMAND_JSON: {why}")))?;
    if command.is_empty() {
        return Err(Failure::Usage("COMMAND_JSON: an empty object is not a command".to_owned()));
    }
    let uri = UriInput::read(uri)?.ok_or_else(|| {
        Failure::Usage(format!("two arguments are DATABASE and COMMAND_JSON, but {VARIABLE} is not set: set it, or add URI before them"))
    })?;
    let client = client(&uri, &arguments.overrides.resolve, |builder| builder)?;
    let order = RunRequest {
        database,
        command,
        preference: ReadPreference::new(arguments.read_preference),
        timeout: arguments.timeout,
        canonical: arguments.canonical,
    };
    let (mut output, mut faults) = (Output::new(), OutputFaults::default());
    let outcome = match makes_cursor(&order.command) {
        true => documents(&client, order, &mut output, &mut faults).await,
        false => reply(&client, order, &mut output, &mut faults).await,
    };
    // Documents before an error are printed before the error.
    let shown = output.flush();
    shut_down(&client).await;
    faults.print();
    outcome?;
    shown?;
    Ok(if faults.count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The faults of the printed documents.
#[derive(Default)]
struct OutputFaults {
    /// The first faults.
    lines: Vec<String>,
    count: usize,
}

/// The maximum number of faults that are printed.
const FAULTS_MAX: usize = 20;

impl OutputFaults {
    fn add(&mut self, fault: impl std::fmt::Display) {
        if self.lines.len() < FAULTS_MAX {
            self.lines.push(fault.to_string());
        }
        self.count += 1;
    }

    /// Adds the unreadable parts of a document.
    fn check(&mut self, what: impl std::fmt::Display, raw: &RawDocument) {
        if let Err(error) = document::read(raw) {
            self.add(format!("{what}: {error}"));
        }
    }

    fn print(&self) {
        for line in &self.lines {
            print_stderr(&format!("error: {line}"));
        }
        if self.count > self.lines.len() {
            print_stderr(&format!("error: and {} more", self.count - self.lines.len()));
        }
    }
}

/// Returns whether the reply of a command is a cursor; an explained aggregation has none.
pub(super) fn makes_cursor(command: &Document) -> bool {
    let name = command.keys().next().map_or("", String::as_str);
    CURSOR_COMMANDS.contains(&name) && !(name == "aggregate" && command.get_bool("explain").unwrap_or(false))
}

async fn reply(client: &Client, order: RunRequest, output: &mut Output, faults: &mut OutputFaults) -> Result<(), Failure> {
    let mut run = client.database(order.database).run_command(order.command).read_preference(order.preference);
    if let Some(limit) = order.timeout {
        run = run.timeout(limit);
    }
    let reply = run.raw().await?;
    faults.check("the reply", reply.document());
    reply.write_errors().iter().for_each(|error| faults.add(error));
    reply.write_concern_error().iter().for_each(|error| faults.add(error));
    Ok(output.line(&text(reply.document(), order.canonical))?)
}

async fn documents(client: &Client, order: RunRequest, output: &mut Output, faults: &mut OutputFaults) -> Result<(), Failure> {
    let mut run = client.database(order.database).run_cursor_command(order.command).read_preference(order.preference);
    if let Some(limit) = order.timeout {
        run = run.timeout(limit);
    }
    let mut cursor = run.typed::<Reply>().await?;
    for number in 1_u64.. {
        let next = match cursor.next().now_or_never() {
            Some(next) => next,
            None => {
                // The reader need not wait for the next batch to see this one.
                output.flush()?;
                cursor.next().await
            }
        };
        let Some(document) = next else { break };
        let document = document?;
        faults.check(format_args!("document {number}"), document.document());
        output.line(&text(document.document(), order.canonical))?;
    }
    Ok(())
}

fn text(document: &RawDocument, canonical: bool) -> String {
    let json = Json::of(document);
    if canonical { json.canonical().to_string() } else { json.to_string() }
}
