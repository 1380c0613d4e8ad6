//! The program `mongolink`: examines a deployment, runs commands, watches, and serves a fake replica set.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    mongolink::run_program()
}
