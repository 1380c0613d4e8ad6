//! The program `mongolink`: examines a deployment, runs commands, watches, and serves a fake replica set.

fn main() -> std::process::ExitCode {
    mongolink::cli::main()
}
