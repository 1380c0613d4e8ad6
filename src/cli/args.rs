//! The arguments of the program.
//!
//! Types that may hold a password do not implement `Debug`. Does not execute commands (one file per command).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};

use super::report::JSON_HELP;
use super::uri;
use crate::host::{Address, ServerAddress};
use crate::selection::ReadPreferenceMode;

/// Discovers, monitors and diagnoses MongoDB deployments, and runs commands on them.
#[derive(Parser)]
#[command(name = "mongolink", version, before_help = uri::HELP, after_help = "Exit codes: 0 done, 1 failed or not usable, 2 bad usage.")]
pub(super) struct Arguments {
    /// Write traces to standard error: decisions with -v, every frame with -vv; RUST_LOG takes precedence.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(super) verbose: u8,
    #[command(subcommand)]
    pub(super) command: CliCommand,
}

#[derive(Subcommand)]
pub(super) enum CliCommand {
    /// Diagnose a deployment stage by stage.
    ///
    /// Connects to every seed and every discovered member, and continues after failures. Without URI and MONGOLINK_URI, starts
    /// and examines a built-in replica set of three members. Exit code 0 if a primary, standalone or mongos answered a ping, 1
    /// if none did, 2 for bad usage.
    #[command(before_help = uri::HELP, after_long_help = JSON_HELP)]
    Doctor(DoctorArguments),
    /// Run one command, and print its reply or its cursor's documents as Extended JSON.
    ///
    /// For find, aggregate, listCollections and listIndexes, prints one document per line; for all other commands, prints the
    /// reply. Nothing is retried. Exit code 1 if the command failed, a write was refused, or a part of the output was
    /// unreadable.
    #[command(before_help = uri::HELP, override_usage = "mongolink run [OPTIONS] [URI] <DATABASE> <COMMAND_JSON>")]
    Run(RunArguments),
    /// Print the state of the servers, at once and at every change, until Ctrl-C.
    #[command(before_help = uri::HELP)]
    Watch(WatchArguments),
    /// Serve a fake deployment on 127.0.0.1 until Ctrl-C; the first line of output is its URI.
    Sandbox(SandboxArguments),
}

#[derive(Args)]
pub(super) struct DoctorArguments {
    /// Connection string, @FILE or -; default MONGOLINK_URI, else the built-in sandbox.
    pub(super) uri: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub(super) json: bool,
    /// Time limit of the whole examination; look-up, connecting and authentication of a host may each take three tenths of it.
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = seconds)]
    pub(super) timeout: Duration,
    #[command(flatten)]
    pub(super) overrides: Overrides,
}

#[derive(Args)]
pub(super) struct RunArguments {
    /// URI is the connection string, @FILE or -. With two arguments, these are DATABASE and COMMAND_JSON, and MONGOLINK_URI is
    /// the connection string. COMMAND_JSON is Extended JSON, such as '{"find": "people", "filter": {}}'; its first key is the
    /// command's name.
    #[arg(required = true, num_args = 1..=3, value_name = "URI, DATABASE, COMMAND_JSON")]
    pub(super) positionals: Vec<String>,
    /// Read preference mode: primary, primaryPreferred, secondary, secondaryPreferred or nearest; the connection string's read
    /// preference is ignored.
    #[arg(long, value_name = "MODE", default_value = "primary", value_parser = mode)]
    pub(super) read_preference: ReadPreferenceMode,
    /// Time limit of each exchange with the deployment: the command, and each further batch.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(super) timeout: Option<Duration>,
    /// Print canonical Extended JSON, which keeps every type, instead of relaxed.
    #[arg(long)]
    pub(super) canonical: bool,
    #[command(flatten)]
    pub(super) overrides: Overrides,
}

#[derive(Args)]
pub(super) struct WatchArguments {
    /// Connection string, @FILE or -; default MONGOLINK_URI.
    pub(super) uri: Option<String>,
    /// Print one JSON object per line: {"elapsed_ms", "topology", "servers"}, as in `doctor --json`.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) overrides: Overrides,
}

#[derive(Args)]
pub(super) struct SandboxArguments {
    /// Number of members of the replica set.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
    pub(super) members: u8,
    /// Port of the first member, the others follow; 0 for free ports.
    #[arg(long, default_value_t = 27117)]
    pub(super) port: u16,
    /// Name of the replica set.
    #[arg(long, value_name = "NAME", default_value = "rs0")]
    pub(super) set: String,
    /// Serve a single server that belongs to no set.
    #[arg(long, conflicts_with_all = ["members", "set"])]
    pub(super) standalone: bool,
}

#[derive(Args)]
pub(super) struct Overrides {
    /// Use a fixed address for a host instead of a look-up; TLS still verifies the name. ADDRESS is an IP address, with a port
    /// if that differs. Can be repeated.
    #[arg(long, value_name = "HOST:PORT:ADDRESS", value_parser = resolve)]
    pub(super) resolve: Vec<Override>,
}

/// A fixed address of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Override {
    pub(super) host: ServerAddress,
    pub(super) address: Address,
}

/// The maximum time limit, in seconds.
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

/// Parses `host:port:address`; host and address may be IPv6 in brackets, and the address may have a port of its own.
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
