//! Measures one client with one operation.
//!
//! `client --kind raw|official|mongolink --op ping|find|insert1k|insert1m|find16m --callers N (--seconds S | --ops N)
//! --uri URI --port PORT [--tls AUTHORITY] [--events] [--workers N] [--warm-up S]` warms up, measures, and prints one line
//! of JSON. `--port` is the primary's, for `raw`; `--workers 0` runs everything on one thread.
//!
//! Drivers are asked in their cheapest way: a command that is encoded already (a copy of it for each call, for both take it
//! by value), and for mongolink the reply as bytes, which the official driver can't give: `run_raw_command` gives a
//! `Document`. The documents of the large reply are read through a cursor by both, as bytes.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use mongodb::event::EventHandler;
use mongolink_benches::args::Args;
use mongolink_benches::counting::{Counting, heap};
use mongolink_benches::driver::{Kind, official, official_options};
use mongolink_benches::histogram::Histogram;
use mongolink_benches::op::{BIG_DOCUMENT_BYTES, BIG_DOCUMENTS, Op, message};
use mongolink_benches::raw::Raw;
use mongolink_benches::{papers, usage};
use serde_json::json;
use tokio::sync::Barrier;
use tokio_rustls::TlsConnector;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A repeatable unit of work.
trait Work: Send + 'static {
    /// Does it once.
    fn once(&mut self) -> impl Future<Output = ()> + Send;
}

struct RawWork {
    raw: Raw,
    message: Vec<u8>,
}

struct OfficialWork {
    database: mongodb::Database,
    command: mongodb::bson::RawDocumentBuf,
    has_cursor: bool,
}

struct MongolinkWork {
    database: mongolink::Database,
    command: mongolink::bson::RawDocumentBuf,
    has_cursor: bool,
}

/// Says how long callers go on.
#[derive(Clone, Copy)]
enum Until {
    /// Each until it has done so many.
    Ops(u64),
    /// All until this time has passed.
    Time(Duration),
}

/// The schedule of all callers.
struct Course {
    warm_up: Duration,
    until: Until,
    start: Barrier,
    stop: AtomicBool,
}

/// The result of a measurement.
struct Outcome {
    histogram: Histogram,
    seconds: f64,
    cpu_seconds: f64,
    allocations: u64,
    bytes: u64,
}

fn main() {
    let args = Args::read();
    let workers = args.value("workers").unwrap_or(2_usize);
    let mut builder = match workers {
        0 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if workers > 0 {
        builder.worker_threads(workers);
    }
    let runtime = builder.enable_all().build().expect("a runtime");
    let line = runtime.block_on(run(&args));
    println!("{line}");
    // What a client still does in the background is no longer of interest.
    std::process::exit(0);
}

async fn run(args: &Args) -> serde_json::Value {
    let kind = Kind::named(args.needed("kind")).expect("a kind of client");
    let op = Op::named(args.needed("op")).expect("an operation");
    let callers = args.value("callers").unwrap_or(1_usize);
    let until = match args.value::<u64>("ops") {
        Some(ops) => Until::Ops((ops / callers as u64).max(1)),
        None => Until::Time(Duration::from_secs_f64(args.value("seconds").unwrap_or(1.0))),
    };
    let warm_up = Duration::from_secs_f64(args.value("warm-up").unwrap_or(0.2));
    let course = Arc::new(Course { warm_up, until, start: Barrier::new(callers + 1), stop: AtomicBool::new(false) });
    let outcome = match kind {
        Kind::Raw => {
            let tls = args.text("tls").map(|authority| papers::connector(Path::new(authority)).expect("an authority"));
            let port = args.value("port").expect("--port is missing");
            let mut works = Vec::with_capacity(callers);
            for _ in 0..callers {
                works.push(RawWork::new(op, port, tls.as_ref()).await);
            }
            measure(course, works).await
        }
        Kind::Official => {
            let work = OfficialWork::new(op, args.needed("uri"), args.has("events")).await;
            measure(course, (0..callers).map(|_| work.again()).collect()).await
        }
        Kind::Mongolink => {
            let work = MongolinkWork::new(op, args.needed("uri"), args.has("events"));
            measure(course, (0..callers).map(|_| work.again()).collect()).await
        }
    };
    outcome.to_json(kind, callers)
}

async fn measure<W: Work>(course: Arc<Course>, works: Vec<W>) -> Outcome {
    let callers: Vec<_> = works.into_iter().map(|work| tokio::spawn(call(work, Arc::clone(&course)))).collect();
    // Everybody is warm.
    course.start.wait().await;
    let (cpu, heap_before, began) = (usage::cpu(), heap(), Instant::now());
    course.start.wait().await;
    if let Until::Time(time) = course.until {
        tokio::time::sleep(time).await;
        course.stop.store(true, Relaxed);
    }
    let mut histograms = Vec::with_capacity(callers.len());
    for caller in callers {
        histograms.push(caller.await.expect("a caller never panics"));
    }
    let seconds = began.elapsed().as_secs_f64();
    let heap = heap().since(heap_before);
    let cpu_seconds = (usage::cpu() - cpu).as_secs_f64();
    let mut histogram = Histogram::new();
    for other in &histograms {
        histogram.merge(other);
    }
    Outcome { histogram, seconds, cpu_seconds, allocations: heap.allocations, bytes: heap.bytes }
}

async fn call<W: Work>(mut work: W, course: Arc<Course>) -> Histogram {
    let mut histogram = Histogram::new();
    let warm = Instant::now() + course.warm_up;
    loop {
        work.once().await;
        if Instant::now() >= warm {
            break;
        }
    }
    course.start.wait().await;
    course.start.wait().await;
    let mut began = Instant::now();
    loop {
        work.once().await;
        let ended = Instant::now();
        histogram.record(ended - began);
        began = ended;
        let enough = match course.until {
            Until::Ops(ops) => histogram.count() >= ops,
            Until::Time(_) => course.stop.load(Relaxed),
        };
        if enough {
            return histogram;
        }
    }
}

impl Outcome {
    fn to_json(&self, kind: Kind, callers: usize) -> serde_json::Value {
        let ops = self.histogram.count();
        let each = |total: f64| total / ops as f64;
        json!({
            "kind": kind.name(),
            "callers": callers,
            "ops": ops,
            "seconds": self.seconds,
            "throughput": ops as f64 / self.seconds,
            "p50_us": self.histogram.quantile_micros(0.5),
            "p99_us": self.histogram.quantile_micros(0.99),
            "p999_us": self.histogram.quantile_micros(0.999),
            "max_us": self.histogram.largest_micros(),
            "cpu_us": each(self.cpu_seconds * 1e6),
            "allocations": each(self.allocations as f64),
            "bytes": each(self.bytes as f64),
            "peak_kib": usage::peak_memory_kib(),
        })
    }
}

impl RawWork {
    async fn new(op: Op, port: u16, tls: Option<&TlsConnector>) -> Self {
        let raw = Raw::open(port, tls).await.expect("a connection");
        Self { raw, message: message(op.command(), op.database()) }
    }
}

impl Work for RawWork {
    async fn once(&mut self) {
        black_box(self.raw.exchange(&self.message).await.expect("a reply"));
    }
}

impl OfficialWork {
    async fn new(op: Op, uri: &str, events: bool) -> Self {
        let mut options = official_options(uri).await;
        if events {
            options.command_event_handler = Some(EventHandler::callback(|event| drop(black_box(event))));
            options.cmap_event_handler = Some(EventHandler::callback(|event| drop(black_box(event))));
            options.sdam_event_handler = Some(EventHandler::callback(|event| drop(black_box(event))));
        }
        let command = mongodb::bson::RawDocumentBuf::from_bytes(op.command().into_bytes()).expect("a document");
        Self { database: official(options).database(op.database()), command, has_cursor: op.has_cursor() }
    }

    fn again(&self) -> Self {
        Self { database: self.database.clone(), command: self.command.clone(), has_cursor: self.has_cursor }
    }
}

impl Work for OfficialWork {
    async fn once(&mut self) {
        let command = self.command.clone();
        if !self.has_cursor {
            black_box(self.database.run_raw_command(command).await.expect("a reply"));
            return;
        }
        let mut cursor = self.database.run_raw_cursor_command(command).await.expect("a cursor");
        let mut bytes = 0;
        while cursor.advance().await.expect("a document") {
            bytes += cursor.current().as_bytes().len();
        }
        assert_eq!(bytes, BIG_DOCUMENTS * BIG_DOCUMENT_BYTES);
    }
}

impl MongolinkWork {
    fn new(op: Op, uri: &str, events: bool) -> Self {
        let client = mongolink::Client::new(uri).expect("a client");
        if events {
            let mut events = client.events();
            tokio::spawn(async move {
                while let Some(event) = events.next().await {
                    drop(black_box(event));
                }
            });
        }
        Self { database: client.database(op.database()), command: op.command(), has_cursor: op.has_cursor() }
    }

    fn again(&self) -> Self {
        Self { database: self.database.clone(), command: self.command.clone(), has_cursor: self.has_cursor }
    }
}

impl Work for MongolinkWork {
    async fn once(&mut self) {
        let command = self.command.clone();
        if !self.has_cursor {
            black_box(self.database.run_command(command).raw().await.expect("a reply"));
            return;
        }
        let mut cursor = self.database.run_cursor_command(command).typed::<mongolink::Reply>().await.expect("a cursor");
        let mut bytes = 0;
        while let Some(document) = cursor.next().await {
            bytes += document.expect("a document").bytes().len();
        }
        assert_eq!(bytes, BIG_DOCUMENTS * BIG_DOCUMENT_BYTES);
    }
}
