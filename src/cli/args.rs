//! Which arguments does the program take?
//!
//! What they are good for is decided in the commands' files. None of these types prints itself: they hold passwords.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};

use super::report::JSON_HELP;
use super::uri;
use crate::host::{Address, ServerAddress};
use crate::selection::ReadPreferenceMode;

/// Finds, watches and examines MongoDB deployments, and runs commands on them.
#[derive(Parser)]
#[command(name = "mongolink", version, before_help = uri::HELP, after_help = "Exit codes: 0 done, 1 failed or not usable, 2 bad usage.")]
pub(super) struct Arguments {
    /// Traces to standard error: decisions with -v, every frame with -vv; RUST_LOG, if set, has the last word.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(super) verbose: u8,
    #[command(subcommand)]
    pub(super) command: CliCommand,
}

#[derive(Subcommand)]
pub(super) enum CliCommand {
    /// Examines a deployment stage by stage, and says what is wrong with it.
    ///
    /// Connects to every seed and every member found, and does not stop at the first that fails. Without URI and
    /// MONGOLINK_URI, a replica set of three is started within the program and examined. Exit code 0 if a primary, standalone
    /// or mongos answered a ping, 1 if none did, 2 for bad usage.
    #[command(before_help = uri::HELP, after_long_help = JSON_HELP)]
    Doctor(DoctorArguments),
    /// Runs one command, and prints its reply or its cursor's documents as Extended JSON.
    ///
    /// Documents of find, aggregate, listCollections and listIndexes are printed one a line; of all other commands, the
    /// reply is. Nothing is retried. Exit code 1 if the command failed, a write was refused, or something printed could not
    /// be read.
    #[command(before_help = uri::HELP, override_usage = "mongolink run [OPTIONS] [URI] <DATABASE> <COMMAND_JSON>")]
    Run(RunArguments),
    /// Prints what is known of the servers, at once and at every change, until Ctrl-C.
    #[command(before_help = uri::HELP)]
    Watch(WatchArguments),
    /// Serves a fake deployment on 127.0.0.1 until Ctrl-C; its first line is the URI.
    Sandbox(SandboxArguments),
}

#[derive(Args)]
pub(super) struct DoctorArguments {
    /// The connection string, @FILE or -; without, MONGOLINK_URI, and without that the embedded sandbox is examined.
    pub(super) uri: Option<String>,
    /// Prints one JSON object.
    #[arg(long)]
    pub(super) json: bool,
    /// Limits the whole examination; look-up, connecting and login of each host may take three tenths of it each.
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = seconds)]
    pub(super) timeout: Duration,
    #[command(flatten)]
    pub(super) overrides: Overrides,
}

#[derive(Args)]
pub(super) struct RunArguments {
    /// URI is the connection string, @FILE or -; two arguments are DATABASE and COMMAND_JSON, and MONGOLINK_URI is the
    /// connection string. COMMAND_JSON is Extended JSON, such as '{"find": "people", "filter": {}}'; its first key is the
    /// command's name.
    #[arg(required = true, num_args = 1..=3, value_name = "URI, DATABASE, COMMAND_JSON")]
    pub(super) positionals: Vec<String>,
    /// Where a read may go: primary, primaryPreferred, secondary, secondaryPreferred or nearest; the connection string's
    /// read preference is not used.
    #[arg(long, value_name = "MODE", default_value = "primary", value_parser = mode)]
    pub(super) read_preference: ReadPreferenceMode,
    /// Limits each exchange with the deployment: the command, and each further batch.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(super) timeout: Option<Duration>,
    /// Prints canonical Extended JSON, which keeps every type, instead of relaxed.
    #[arg(long)]
    pub(super) canonical: bool,
    #[command(flatten)]
    pub(super) overrides: Overrides,
}

#[derive(Args)]
pub(super) struct WatchArguments {
    /// The connection string, @FILE or -; without, MONGOLINK_URI.
    pub(super) uri: Option<String>,
    /// Prints a JSON object a line: {"elapsed_ms", "topology", "servers"}, as in `doctor --json`.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) overrides: Overrides,
}

#[derive(Args)]
pub(super) struct SandboxArguments {
    /// How many members the replica set has.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
    pub(super) members: u8,
    /// The first member's port, the others' follow; 0 takes free ones.
    #[arg(long, default_value_t = 27117)]
    pub(super) port: u16,
    /// The replica set's name.
    #[arg(long, value_name = "NAME", default_value = "rs0")]
    pub(super) set: String,
    /// Serves a single server that belongs to no set.
    #[arg(long, conflicts_with_all = ["members", "set"])]
    pub(super) standalone: bool,
}

#[derive(Args)]
pub(super) struct Overrides {
    /// Fixes the address of a host, which is then not looked up; TLS still verifies the name. ADDRESS is an IP address, or
    /// one with a port where that differs. May be given several times.
    #[arg(long, value_name = "HOST:PORT:ADDRESS", value_parser = resolve)]
    pub(super) resolve: Vec<Override>,
}

/// Fixes the address of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Override {
    pub(super) host: ServerAddress,
    pub(super) address: Address,
}

/// The longest time that can be given.
const SECONDS_MAX: f64 = 86_400.0;

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    let span = Some(seconds)
        .filter(|seconds| *seconds > 0.0 && *seconds <= SECONDS_MAX)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    span.ok_or_else(|| format!("not more than 0 and at most {SECONDS_MAX} seconds"))
}

fn mode(text: &str) -> Result<ReadPreferenceMode, String> {
    ReadPreferenceMode::from_name(text)
        .ok_or_else(|| "not one of primary, primaryPreferred, secondary, secondaryPreferred, nearest".to_owned())
}

/// Reads `host:port:address`, where host and address may be IPv6 in brackets, and the address may have a port of its own.
pub(super) fn resolve(text: &str) -> Result<Override, String> {
    let shape = || "not HOST:PORT:ADDRESS, such as db.example:27017:10.0.0.7 or [::1]:27017:[::2]:27018".to_owned();
    let name_end = if text.starts_with('[') { text.find("]:").map(|at| at + 1) } else { text.find(':') };
    let (name, rest) = name_end.and_then(|at| text.split_at_checked(at)).ok_or_else(shape)?;
    let (port, address) = rest.strip_prefix(':').and_then(|rest| rest.split_once(':')).ok_or_else(shape)?;
    let host = ServerAddress::parse(&format!("{name}:{port}")).map_err(|error| error.message().to_owned())?;
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let address = match (bare.parse::<IpAddr>(), address.parse::<SocketAddr>()) {
        (Ok(ip), _) => SocketAddr::new(ip, host.port()),
        (Err(_), Ok(address)) => address,
        (Err(_), Err(_)) => return Err(shape()),
    };
    Ok(Override { host, address: Address::Ip(address) })
}
