//! What comes of a seed, or of many?
//!
//! A run that breaks an invariant, panics, or logs an error is done again with the timeline on; it is the same run.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Level, Metadata, Subscriber, span};

use super::invariants::Violation;
use super::plan::Plan;
use super::trace::Trace;
use super::world::{Figures, World};

/// The failure of a seed.
pub(crate) struct Failure {
    pub(crate) seed: u64,
    pub(crate) invariant: String,
    pub(crate) finding: String,
    pub(crate) plan: String,
    pub(crate) timeline: Vec<String>,
}

/// How many lines of a timeline are shown, unless the whole is asked for.
pub(crate) const LINES_SHOWN: usize = 60;

/// The sum of the results of many seeds.
#[derive(Default)]
pub(crate) struct Sum {
    pub(crate) seeds: u64,
    /// What all of them counted.
    counts: Figures,
    pub(crate) longest_recovery: (Duration, u64),
    /// The longest in relation to its bound.
    pub(crate) tightest_recovery: (Duration, Duration, u64),
    pub(crate) failures: Vec<Failure>,
}

/// Runs one seed.
pub(crate) fn run_seed(seed: u64) -> Result<Figures, Failure> {
    attempt(seed, Trace::default()).map_err(|_| {
        let trace = Trace::on();
        let (invariant, finding) = match attempt(seed, trace.clone()) {
            Ok(_) => ("same_seed_same_run".to_owned(), "the second run of the seed went well".to_owned()),
            Err(cause) => cause,
        };
        Failure { seed, invariant, finding, plan: format!("{:#?}", Plan::of(seed)), timeline: trace.lines() }
    })
}

/// Runs one seed, and hands back its timeline, whatever comes of it.
pub(crate) fn run_traced(seed: u64) -> (Vec<String>, Result<Figures, (String, String)>) {
    let trace = Trace::on();
    let outcome = attempt(seed, trace.clone());
    (trace.lines(), outcome)
}

fn attempt(seed: u64, trace: Trace) -> Result<Figures, (String, String)> {
    quiet_panics();
    IN_A_RUN.set(true);
    ERROR_LOGGED.take();
    let run = || {
        let mut world = World::new(Plan::of(seed), seed, trace);
        world.run();
        world.figures
    };
    let outcome = tracing::subscriber::with_default(Errors, || catch_unwind(AssertUnwindSafe(run)));
    IN_A_RUN.set(false);
    match outcome {
        Ok(figures) => match ERROR_LOGGED.take() {
            None => Ok(figures),
            Some(text) => Err(("nothing_logs_an_error".to_owned(), text)),
        },
        Err(cause) => Err(match cause.downcast::<Violation>() {
            Ok(violation) => (violation.invariant.to_owned(), violation.finding),
            Err(cause) => {
                let text = cause.downcast_ref::<String>().cloned();
                let text = text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                let place = PANIC_PLACE.take().unwrap_or_default();
                ("nothing_panics".to_owned(), format!("{} at {place}", text.unwrap_or_default()))
            }
        }),
    }
}

/// Runs seeds on some threads, until all are done or `failures_max` have failed.
pub(crate) fn run_seeds(first: u64, count: u64, threads: usize, failures_max: usize, progress: &(dyn Fn(u64) + Sync)) -> Sum {
    let (next, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        let mut sum = Sum::default();
        while failed.load(Ordering::Relaxed) < failures_max as u64 {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                break;
            }
            let seed = first + number;
            match run_seed(seed) {
                Ok(figures) => sum.add(seed, &figures),
                Err(failure) => {
                    failed.fetch_add(1, Ordering::Relaxed);
                    sum.failures.push(failure);
                }
            }
            sum.seeds += 1;
            progress(number + 1);
        }
        sum
    };
    let mut all = Sum::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            all.join(thread.join().expect("runs catch their panics"));
        }
    });
    all.failures.sort_by_key(|failure| failure.seed);
    all
}

impl Sum {
    fn add(&mut self, seed: u64, figures: &Figures) {
        self.counts.count(figures);
        self.longest_recovery = self.longest_recovery.max((figures.recovery, seed));
        self.tighten((figures.recovery, figures.recovery_bound, seed));
    }

    fn tighten(&mut self, other: (Duration, Duration, u64)) {
        let share = |(took, bound, _): (Duration, Duration, u64)| took.as_secs_f64() / bound.as_secs_f64().max(1e-9);
        if share(other) > share(self.tightest_recovery) {
            self.tightest_recovery = other;
        }
    }

    fn join(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.counts.count(&other.counts);
        self.longest_recovery = self.longest_recovery.max(other.longest_recovery);
        self.tighten(other.tightest_recovery);
        self.failures.extend(other.failures);
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        let hours = counts.simulated.as_secs_f64() / 3600.0;
        writeln!(f, "{} seeds, {} failed; {hours:.1} h simulated in {} steps", self.seeds, self.failures.len(), counts.steps)?;
        writeln!(f, "{} calls: {} succeeded, {} failed, {} given up", counts.calls, counts.succeeded, counts.failed, counts.given_up)?;
        writeln!(f, "{} times a server was found silent", counts.silent)?;
        writeln!(f, "SRV records were looked at {} times, and followed {} times", counts.polls, counts.followed)?;
        writeln!(f, "{} times a service was cleared, {} times a cursor went on at its own", counts.services_cleared, counts.batches)?;
        writeln!(f, "{} logins, {} failed; {} times a race was told newer addresses", counts.logins.0, counts.logins.1, counts.overtaken)?;
        let (longest, seed) = self.longest_recovery;
        writeln!(f, "longest recovery {longest:.2?} (seed {seed})")?;
        let (took, bound, seed) = self.tightest_recovery;
        write!(f, "nearest to its bound: {took:.2?} of {bound:.2?} (seed {seed})")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = std::env::var_os("MONGOLINK_SEED").is_some();
        let shown = if whole { self.timeline.len() } else { LINES_SHOWN.min(self.timeline.len()) };
        if whole {
            writeln!(f, "{}", self.plan)?;
        }
        writeln!(f, "seed {}: the last {shown} of {} lines:", self.seed, self.timeline.len())?;
        for line in self.timeline.iter().skip(self.timeline.len() - shown) {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "seed {} breaks {}: {}", self.seed, self.invariant, self.finding)?;
        write!(f, "the whole of it: MONGOLINK_SEED={} cargo test --features sandbox --test sim", self.seed)
    }
}

thread_local! {
    static IN_A_RUN: Cell<bool> = const { Cell::new(false) };
    static ERROR_LOGGED: RefCell<Option<String>> = const { RefCell::new(None) };
    static PANIC_PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics of a run are its outcome, and not printed; others are.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if IN_A_RUN.get() {
                PANIC_PLACE.set(info.location().map(ToString::to_string));
            } else {
                usual(info);
            }
        }));
    });
}

/// Notes what is logged as an error, which is always a bug of ours, and is deaf to the rest.
struct Errors;

impl Subscriber for Errors {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::ERROR)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        ERROR_LOGGED.with_borrow_mut(|first| {
            first.get_or_insert(text.0);
        });
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!("{field}={value:?} "));
    }
}
