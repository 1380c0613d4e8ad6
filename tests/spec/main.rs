//! Runs the specifications' test data on the crate's pure parts.
//!
//! The data lies in the folder `MONGO_SPEC_DIR`, by default `../shared/spec` beside the project; `fixtures/spec` has further
//! cases in the same formats, for what the data leaves out. Whatever cases lie in a suite's folder are run. An argument that is no switch runs only the cases whose suite or name contains it.
#![allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]

mod cmap;
mod concerns;
mod deployment;
mod dns;
#[path = "../loopback/peers.rs"]
#[allow(dead_code, reason = "shared with the tests on loopback, which need more of it")]
mod peers;
mod report;
mod rtt;
mod sdam;
mod selection;
mod uri;
mod zone_server;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use report::Report;

/// Runs the cases of a folder.
type Runner = fn(&Path, &mut Report);

/// The suites: the folder as in COUNTS.md, and what runs it.
const SUITES: &[(&str, Runner)] = &[
    ("connection-string/tests", uri::run),
    ("uri-options/tests", uri::run),
    ("auth/tests/legacy", uri::run),
    ("read-write-concern/tests/connection-string", uri::run),
    ("server-discovery-and-monitoring/tests/single", sdam::run),
    ("server-discovery-and-monitoring/tests/rs", sdam::run),
    ("server-discovery-and-monitoring/tests/sharded", sdam::run),
    ("server-discovery-and-monitoring/tests/load-balanced", sdam::run),
    ("server-discovery-and-monitoring/tests/errors", sdam::run),
    ("server-discovery-and-monitoring/tests/monitoring", sdam::run),
    ("connection-monitoring-and-pooling/tests/cmap-format", cmap::run),
    ("server-selection/tests/server_selection", selection::run),
    ("server-selection/tests/in_window", selection::run),
    ("server-selection/tests/rtt", rtt::run),
    ("max-staleness/tests", selection::run),
    ("read-write-concern/tests/document", concerns::run),
    ("initial-dns-seedlist-discovery/tests", dns::run),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = std::env::var_os("MONGO_SPEC_DIR").map_or_else(|| project.join("../shared/spec"), PathBuf::from);
    if !root.is_dir() {
        return without_data(&root);
    }
    let mut report = Report::new(&root, arguments.into_iter().find(|argument| !argument.starts_with('-')));
    for (folder, run) in SUITES {
        let path = root.join(folder);
        if path.is_dir() {
            run(&path, &mut report);
        } else {
            println!("ABSENT {folder}: there is no such folder in {}", root.display());
            report.suite(folder);
        }
        let own = project.join("fixtures/spec").join(folder);
        if own.is_dir() {
            run(&own, &mut report);
        }
    }
    let paths = report_paths(project);
    let written = report.write(&paths);
    if let Err(error) = &written {
        println!("FAILED to write {}: {error}", paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "));
    }
    report.print();
    if written.is_ok() && report.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn without_data(root: &Path) -> ExitCode {
    let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    println!("===============================================================================");
    println!("NO SPECIFICATION DATA: there is no folder {}", root.display());
    println!("Nothing was checked. Set MONGO_SPEC_DIR to the folder of the specifications' test data.");
    println!("===============================================================================");
    println!("spec: 0 passed, 0 failed, 0 skipped");
    if is_ci { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Returns where the report goes: the target folder, and `target` in the project if that is another one.
fn report_paths(project: &Path) -> Vec<PathBuf> {
    let mut folders = vec![project.join("target")];
    if let Some(target) = option_env!("CARGO_TARGET_TMPDIR").and_then(|folder| Path::new(folder).parent()) {
        folders.push(target.to_owned());
    }
    folders.dedup();
    folders.iter().map(|folder| folder.join("spec-report.json")).collect()
}
