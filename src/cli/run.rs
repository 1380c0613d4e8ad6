//! How does `run` print what a command gives?
//!
//! All that can be shown is shown: text that is not UTF-8 with replacement characters. What could not be read, and writes
//! that were refused, are told afterwards, and make the exit code 1.

use std::process::ExitCode;
use std::time::Duration;

use bson::{Document, RawDocument};
use futures_util::FutureExt;

use super::args::RunArguments;
use super::extjson;
use super::output::{Output, complain};
use super::uri::VARIABLE;
use super::{Failure, UriInput, client, goodbye};
use crate::client::{Client, Reply};
use crate::operation::{document, json::Json};
use crate::selection::ReadPreference;

/// The commands whose reply is a cursor.
const CURSOR_COMMANDS: [&str; 4] = ["find", "aggregate", "listCollections", "listIndexes"];

/// Says what to run.
struct Order {
    database: String,
    command: Document,
    preference: ReadPreference,
    timeout: Option<Duration>,
    canonical: bool,
}

/// The arguments that have no name.
#[derive(Debug)]
pub(super) struct Positionals {
    pub(super) uri: Option<String>,
    pub(super) database: String,
    pub(super) command: String,
}

impl Positionals {
    /// Tells by their number which arguments they are.
    pub(super) fn of(given: Vec<String>) -> Result<Self, Failure> {
        let mut given = given.into_iter().rev();
        let (Some(command), Some(database)) = (given.next(), given.next()) else {
            return Err(Failure::Usage("DATABASE and COMMAND_JSON are needed".to_owned()));
        };
        if database.contains("://") || database.starts_with('@') || database == "-" {
            return Err(Failure::Usage(
                "where DATABASE is expected stands a connection string: DATABASE or COMMAND_JSON is missing".to_owned(),
            ));
        }
        Ok(Self { uri: given.next(), database, command })
    }
}

/// Runs one command, and prints its reply or its documents.
pub(super) async fn run(arguments: RunArguments) -> Result<ExitCode, Failure> {
    let Positionals { uri, database, command } = Positionals::of(arguments.positionals)?;
    let command = extjson::parse(&command).map_err(|why| Failure::Usage(format!("COMMAND_JSON: {why}")))?;
    if command.is_empty() {
        return Err(Failure::Usage("COMMAND_JSON: an empty object is no command".to_owned()));
    }
    let uri = UriInput::read(uri)?.ok_or_else(|| {
        Failure::Usage(format!("two arguments are DATABASE and COMMAND_JSON, and {VARIABLE} is not set: set it, or give URI before them"))
    })?;
    let client = client(&uri, &arguments.overrides.resolve, |builder| builder)?;
    let order = Order {
        database,
        command,
        preference: ReadPreference::new(arguments.read_preference),
        timeout: arguments.timeout,
        canonical: arguments.canonical,
    };
    let (mut output, mut flaws) = (Output::new(), Flaws::default());
    let outcome = match makes_cursor(&order.command) {
        true => documents(&client, order, &mut output, &mut flaws).await,
        false => reply(&client, order, &mut output, &mut flaws).await,
    };
    // Documents that came before an error are shown before it is told.
    let shown = output.flush();
    goodbye(&client).await;
    flaws.tell();
    outcome?;
    shown?;
    Ok(if flaws.count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is wrong with what was printed.
#[derive(Default)]
struct Flaws {
    /// The first ones.
    lines: Vec<String>,
    count: usize,
}

/// How many flaws are told one by one.
const FLAWS_MAX: usize = 20;

impl Flaws {
    fn add(&mut self, flaw: impl std::fmt::Display) {
        if self.lines.len() < FLAWS_MAX {
            self.lines.push(flaw.to_string());
        }
        self.count += 1;
    }

    /// Adds what can't be read of a document.
    fn look_at(&mut self, what: impl std::fmt::Display, raw: &RawDocument) {
        if let Err(error) = document::read(raw) {
            self.add(format!("{what}: {error}"));
        }
    }

    fn tell(&self) {
        for line in &self.lines {
            complain(&format!("error: {line}"));
        }
        if self.count > self.lines.len() {
            complain(&format!("error: and {} more", self.count - self.lines.len()));
        }
    }
}

/// Returns whether a command's reply is a cursor; an explained aggregation has none.
pub(super) fn makes_cursor(command: &Document) -> bool {
    let name = command.keys().next().map_or("", String::as_str);
    CURSOR_COMMANDS.contains(&name) && !(name == "aggregate" && command.get_bool("explain").unwrap_or(false))
}

async fn reply(client: &Client, order: Order, output: &mut Output, flaws: &mut Flaws) -> Result<(), Failure> {
    let mut run = client.database(order.database).run_command(order.command).read_preference(order.preference);
    if let Some(limit) = order.timeout {
        run = run.timeout(limit);
    }
    let reply = run.raw().await?;
    flaws.look_at("the reply", reply.document());
    reply.write_errors().iter().for_each(|error| flaws.add(error));
    reply.write_concern_error().iter().for_each(|error| flaws.add(error));
    Ok(output.line(&text(reply.document(), order.canonical))?)
}

async fn documents(client: &Client, order: Order, output: &mut Output, flaws: &mut Flaws) -> Result<(), Failure> {
    let mut run = client.database(order.database).run_cursor_command(order.command).read_preference(order.preference);
    if let Some(limit) = order.timeout {
        run = run.timeout(limit);
    }
    let mut cursor = run.typed::<Reply>().await?;
    for number in 1_u64.. {
        let next = match cursor.next().now_or_never() {
            Some(next) => next,
            None => {
                // Whoever reads need not wait for the next batch to see this one.
                output.flush()?;
                cursor.next().await
            }
        };
        let Some(document) = next else { break };
        let document = document?;
        flaws.look_at(format_args!("document {number}"), document.document());
        output.line(&text(document.document(), order.canonical))?;
    }
    Ok(())
}

fn text(document: &RawDocument, canonical: bool) -> String {
    let json = Json::of(document);
    if canonical { json.canonical().to_string() } else { json.to_string() }
}
