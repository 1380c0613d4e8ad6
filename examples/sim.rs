//! Simulates many seeds: `cargo run --release --features sandbox,internals --example sim -- --seeds 1000000`.
//!
//! The long form of `tests/sim`, with the same modules. `--first n` says where to begin, `--threads n` how many threads run,
//! `--seed n` prints one run line by line. Ends with 1 if a seed fails.

#[path = "../tests/sim/simulation.rs"]
mod simulation;

use std::process::ExitCode;
use std::time::Instant;

use simulation::{plan, run};

/// So many seeds may fail before the rest is left out.
const FAILURES_MAX: usize = 20;

/// How often progress is printed.
const TOLD: u64 = 50;

#[allow(clippy::disallowed_methods, reason = "it tells how long it took")]
fn main() -> ExitCode {
    let Some(Wish { first, seeds, threads, seed }) = Wish::read() else {
        eprintln!("usage: sim [--seeds n] [--first n] [--threads n] [--seed n]");
        return ExitCode::from(2);
    };
    if let Some(seed) = seed {
        return one(seed);
    }
    let began = Instant::now();
    let step = (seeds / TOLD).max(1);
    let sum = run::run_seeds(first, seeds, threads, FAILURES_MAX, &|done| {
        if done % step == 0 {
            let seconds = (Instant::now() - began).as_secs_f64();
            eprintln!("{done} of {seeds} seeds, {seconds:.0} s, {:.0} a second", done as f64 / seconds);
        }
    });
    for failure in &sum.failures {
        println!("{failure}\n");
    }
    println!("{sum}\nin {:.1} s", (Instant::now() - began).as_secs_f64());
    if sum.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(seed: u64) -> ExitCode {
    let (lines, outcome) = run::run_traced(seed);
    println!("{:#?}", plan::Plan::of(seed));
    for line in lines {
        println!("{line}");
    }
    match outcome {
        Ok(figures) => {
            println!("seed {seed}: {figures:?}");
            ExitCode::SUCCESS
        }
        Err((invariant, finding)) => {
            println!("seed {seed} breaks {invariant}: {finding}");
            ExitCode::FAILURE
        }
    }
}

/// The request of the command line.
struct Wish {
    first: u64,
    seeds: u64,
    threads: usize,
    seed: Option<u64>,
}

impl Wish {
    fn read() -> Option<Self> {
        let mut wish = Self { first: 1, seeds: 10_000, threads: 2, seed: None };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value: u64 = arguments.next()?.parse().ok()?;
            match name.as_str() {
                "--first" => wish.first = value,
                "--seeds" => wish.seeds = value,
                "--threads" => wish.threads = usize::try_from(value).ok()?,
                "--seed" => wish.seed = Some(value),
                _ => return None,
            }
        }
        Some(wish)
    }
}
