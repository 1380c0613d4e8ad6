//! The scenarios: measurements other than a rate of operations.
//!
//! `scenario NAME [--kind KIND] [--quick] [--papers FOLDER] [--port PORT]` plays one of [`NAMES`] with servers of its own,
//! and prints one line of JSON for each row that comes of it: its name, the kind of client, and figures with their units
//! in their names.

mod check;
mod faults;
mod pool;
mod rest;
mod start;

use std::path::PathBuf;

use mongolink_benches::args::Args;
use mongolink_benches::counting::Counting;
use mongolink_benches::driver::Kind;
use serde_json::Value;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// All scenarios.
const NAMES: &[&str] = &[
    "check",
    "prepare",
    "first50",
    "slow-dns",
    "stall",
    "silent",
    "cancelled",
    "memory",
    "idle",
    "create-drop",
    "queue",
    "checkout",
    "selection",
];

/// The setting of a scenario.
struct Setting {
    kind: Kind,
    quick: bool,
    /// Where an authority, a certificate and a key are, for TLS.
    papers: Option<PathBuf>,
    /// The port of a server that runs already.
    port: Option<u16>,
}

impl Setting {
    /// Picks the first for a quick run, the second for a full one.
    fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

fn main() {
    let args = Args::read();
    let [name] = args.words() else { panic!("name one of {}", NAMES.join(", ")) };
    let kind = Kind::named(args.text("kind").unwrap_or("mongolink")).expect("a kind of client");
    let setting = Setting { kind, quick: args.has("quick"), papers: args.text("papers").map(PathBuf::from), port: args.value("port") };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(play(name, &setting));
    // What a client still does in the background is no longer of interest.
    std::process::exit(0);
}

async fn play(name: &str, setting: &Setting) {
    let figures = match name {
        "check" => check::check(setting).await,
        "prepare" => check::prepare(setting).await,
        "first50" => start::first_command(setting).await,
        "slow-dns" => start::slow_dns().await,
        "create-drop" => start::create_and_drop(setting).await,
        "stall" => faults::stall(setting).await,
        "silent" => faults::silent_dials(setting).await,
        "cancelled" => faults::cancelled(setting).await,
        "memory" => rest::memory(setting).await,
        "idle" => rest::idle(setting).await,
        "queue" => return pool::queue(setting).await,
        "checkout" => pool::checkout().await,
        "selection" => pool::selection(),
        _ => panic!("{name} is none of {}", NAMES.join(", ")),
    };
    print(name, setting.kind, &figures);
}

/// Prints a row.
fn print(name: &str, kind: Kind, figures: &Value) {
    println!("{}", serde_json::json!({ "row": name, "kind": kind.name(), "figures": figures }));
}

/// Returns the value in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
