//! Measures failovers: `cargo run --example failover -- /path/to/mongod [--json] [--rounds N]`.
//!
//! Starts a replica set of three of its own on free ports (the path may stand in `MONGOLINK_MONGOD` instead), inserts a
//! hundred documents a second with `w: 1`, each tried again until it is acknowledged, and takes the primary away: by SIGKILL, then
//! by SIGSTOP. When the set has a new primary is asked of the members themselves, on connections beside the client's. The
//! set and its data are gone when the program ends.
#![allow(clippy::disallowed_methods, reason = "a program of its own: it spawns and looks at the clock")]

use std::error::Error as StdError;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mongolink::bson::{Bson, doc};
use mongolink::{Client, ServerAddress, ServerType};
use serde_json::json;
use tokio::task::JoinSet;

type Outcome<T> = Result<T, Box<dyn StdError + Send + Sync>>;

const MEMBERS: usize = 3;
/// The set elects a new primary when it has not heard of the old one for this long.
const ELECTION_TIMEOUT_MILLIS: i32 = 2000;
/// The time between two inserts.
const PACE: Duration = Duration::from_millis(10);
/// The time between two hello commands to each member.
const LOOK: Duration = Duration::from_millis(2);
/// How long the load runs before the blow, and after the new primary is there.
const BEFORE: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(8);
/// By when anything has happened, or never will.
const HOPE: Duration = Duration::from_secs(90);
/// The pause after an insert that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// How the primary is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    Kill,
    Freeze,
}

/// The cost of one blow.
struct Report {
    blow: Blow,
    /// From the blow until the set had a new primary.
    new_primary: Duration,
    /// From then until the first insert that the new primary acknowledged.
    first_success: Duration,
    /// The longest that one command took, waiting for a server included.
    longest: Duration,
    /// The longest that one command took from the new primary on.
    longest_past: Duration,
    inserts: usize,
    failures: usize,
    /// The errors of the failed commands: how many, and an example of each kind.
    told: Vec<(String, usize, String)>,
}

/// One attempt to insert.
struct Attempt {
    began: Instant,
    ended: Instant,
    /// The server that acknowledged it, or the error.
    outcome: Result<ServerAddress, mongolink::Error>,
}

/// A member's process.
struct Member {
    port: u16,
    child: Child,
}

/// A replica set that ends when it is dropped.
struct Set {
    program: PathBuf,
    folder: PathBuf,
    members: Vec<Member>,
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut program = std::env::var_os("MONGOLINK_MONGOD").map(PathBuf::from);
    let (mut as_json, mut rounds) = (false, 1);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => as_json = true,
            "--rounds" => rounds = arguments.next().ok_or("--rounds wants a number")?.parse()?,
            path => program = Some(PathBuf::from(path)),
        }
    }
    let program = program.ok_or("where is mongod? Name it, or set MONGOLINK_MONGOD")?;
    let mut set = Set::start(&program).await?;
    let mut reports = Vec::new();
    for _ in 0..rounds {
        for blow in [Blow::Kill, Blow::Freeze] {
            let report = strike(&mut set, blow).await?;
            if !as_json {
                report.print();
            }
            reports.push(report);
        }
    }
    if as_json {
        let reports: Vec<_> = reports.iter().map(Report::to_json).collect();
        println!("{}", serde_json::to_string_pretty(&reports)?);
    }
    Ok(())
}

/// Takes the primary away under load, and puts it back.
async fn strike(set: &mut Set, blow: Blow) -> Outcome<Report> {
    let client = Client::new(set.uri())?;
    let old = set.settled(&client).await?;
    let load = Load::start(&client);
    tokio::time::sleep(BEFORE).await;
    let watch = watch_for_primary(set, &old)?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let struck = Instant::now();
    match blow {
        Blow::Kill => set.member(&old)?.kill()?,
        Blow::Freeze => set.member(&old)?.signal("STOP")?,
    }
    let (new, elected) = tokio::time::timeout(HOPE, watch).await.map_err(|_| "no new primary")??;
    tokio::time::sleep(AFTER).await;
    let attempts = load.end().await?;
    client.shutdown().await;
    match blow {
        Blow::Kill => set.restart(&old)?,
        Blow::Freeze => set.member(&old)?.signal("CONT")?,
    }
    Report::of(blow, struck, elected, &new, &attempts)
}

/// Asks the other members on connections of their own, many times a second, until one says that it is primary.
fn watch_for_primary(set: &Set, old: &ServerAddress) -> Outcome<impl Future<Output = Outcome<(ServerAddress, Instant)>> + use<>> {
    let mut watchers = JoinSet::new();
    for host in set.hosts()?.into_iter().filter(|host| host != old) {
        let client = Client::new(format!("mongodb://{host}/?directConnection=true"))?;
        watchers.spawn(async move {
            loop {
                let reply = client.database("admin").run_command(doc! { "hello": 1 }).await;
                if reply.is_ok_and(|reply| reply.get_bool("isWritablePrimary").unwrap_or(false)) {
                    return (host, Instant::now());
                }
                tokio::time::sleep(LOOK).await;
            }
        });
    }
    Ok(async move { Ok(watchers.join_next().await.ok_or("nobody to ask")??) })
}

/// Inserts at a steady pace, each insert in a task of its own.
struct Load {
    stop: Arc<AtomicBool>,
    attempts: Arc<Mutex<Vec<Attempt>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    fn start(client: &Client) -> Self {
        let (stop, attempts) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Attempt>>>::default());
        let task = tokio::spawn(run_load(client.clone(), Arc::clone(&stop), Arc::clone(&attempts)));
        Self { stop, attempts, task }
    }

    /// Ends the load, and returns what became of every attempt.
    async fn end(self) -> Outcome<Vec<Attempt>> {
        self.stop.store(true, Ordering::Relaxed);
        tokio::time::timeout(HOPE, self.task).await.map_err(|_| "an insert hangs")??;
        Ok(std::mem::take(&mut *self.attempts.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

async fn run_load(client: Client, stop: Arc<AtomicBool>, attempts: Arc<Mutex<Vec<Attempt>>>) {
    let mut inserts = JoinSet::new();
    let mut ticks = tokio::time::interval(PACE);
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        inserts.spawn(insert(client.clone(), Arc::clone(&attempts)));
        while inserts.try_join_next().is_some() {}
    }
    while inserts.join_next().await.is_some() {}
}

/// Inserts a document, again and again until it is there.
async fn insert(client: Client, attempts: Arc<Mutex<Vec<Attempt>>>) {
    let command = doc! { "insert": "load", "documents": [{ "x": 1 }], "writeConcern": { "w": 1 } };
    loop {
        let began = Instant::now();
        let outcome = client.database("failover").run_command(command.clone()).raw().await.map(|reply| reply.host().clone());
        let done = outcome.is_ok();
        let attempt = Attempt { began, ended: Instant::now(), outcome };
        attempts.lock().unwrap_or_else(PoisonError::into_inner).push(attempt);
        if done {
            return;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

impl Report {
    fn of(blow: Blow, struck: Instant, elected: Instant, new: &ServerAddress, attempts: &[Attempt]) -> Outcome<Self> {
        let served = attempts.iter().filter(|attempt| attempt.outcome.as_ref().is_ok_and(|host| host == new));
        let first = served.map(|attempt| attempt.ended).filter(|ended| *ended >= struck).min().ok_or("the new primary served nobody")?;
        let past = |attempt: &Attempt| attempt.ended.saturating_duration_since(attempt.began.max(elected));
        let mut told: Vec<(String, usize, String)> = Vec::new();
        for error in attempts.iter().filter_map(|attempt| attempt.outcome.as_ref().err()) {
            let kind = format!("{:?}", error.kind());
            match told.iter_mut().find(|(known, ..)| *known == kind) {
                Some((_, count, _)) => *count += 1,
                None => told.push((kind, 1, error.to_string())),
            }
        }
        Ok(Self {
            blow,
            new_primary: elected.saturating_duration_since(struck),
            first_success: first.saturating_duration_since(elected),
            longest: attempts.iter().map(|attempt| attempt.ended - attempt.began).max().unwrap_or_default(),
            longest_past: attempts.iter().map(past).max().unwrap_or_default(),
            inserts: attempts.iter().filter(|attempt| attempt.outcome.is_ok()).count(),
            failures: told.iter().map(|(_, count, _)| count).sum(),
            told,
        })
    }

    fn print(&self) {
        println!("{:?} of the primary, {} inserts acknowledged", self.blow, self.inserts);
        println!("  new primary           {:>6} ms after it", self.new_primary.as_millis());
        println!("  first success         {:>6} ms after that", self.first_success.as_millis());
        println!("  longest command       {:>6} ms in all", self.longest.as_millis());
        println!("  longest command       {:>6} ms past the new primary", self.longest_past.as_millis());
        println!("  failures              {:>6}", self.failures);
        for (kind, count, example) in &self.told {
            println!("    {count:>5} {kind}: {example}");
        }
    }

    fn to_json(&self) -> serde_json::Value {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let told: Vec<_> =
            self.told.iter().map(|(kind, count, example)| json!({ "kind": kind, "count": count, "example": example })).collect();
        json!({
            "blow": format!("{:?}", self.blow).to_lowercase(),
            "new_primary_ms": millis(self.new_primary),
            "first_success_ms": millis(self.first_success),
            "longest_ms": millis(self.longest),
            "longest_past_new_primary_ms": millis(self.longest_past),
            "inserts": self.inserts,
            "failures": self.failures,
            "told": told,
        })
    }
}

impl Set {
    async fn start(program: &Path) -> Outcome<Self> {
        let folder = std::env::temp_dir().join(format!("mongolink-failover-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let mut set = Self { program: program.to_owned(), folder, members: Vec::new() };
        for _ in 0..MEMBERS {
            let port = free_port()?;
            fs::create_dir(set.folder.join(port.to_string()))?;
            let child = set.spawn(port)?;
            set.members.push(Member { port, child });
        }
        for member in &set.members {
            tokio::time::timeout(HOPE, member.listens()).await.map_err(|_| "mongod does not start")?;
        }
        let hosts = set.hosts()?;
        let members: Vec<Bson> = (0_i32..).zip(&hosts).map(|(id, host)| doc! { "_id": id, "host": host.to_string() }.into()).collect();
        let settings = doc! { "electionTimeoutMillis": ELECTION_TIMEOUT_MILLIS };
        let config = doc! { "_id": "failover", "members": members, "settings": settings };
        let first = hosts.first().ok_or("no members")?;
        let client = Client::new(format!("mongodb://{first}/?directConnection=true&serverSelectionTimeoutMS=60000"))?;
        client.database("admin").run_command(doc! { "replSetInitiate": config }).timeout(HOPE).await?;
        client.shutdown().await;
        Ok(set)
    }

    fn spawn(&self, port: u16) -> Outcome<Child> {
        let log = File::options().create(true).append(true).open(self.folder.join(format!("{port}.log")))?;
        let mut command = Command::new(&self.program);
        command.args(["--bind_ip", "127.0.0.1", "--nounixsocket", "--replSet", "failover", "--wiredTigerCacheSizeGB", "0.25"]);
        command.args(["--setParameter", "diagnosticDataCollectionEnabled=false", "--port", &port.to_string(), "--dbpath"]);
        command.arg(self.folder.join(port.to_string()));
        Ok(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?)
    }

    fn hosts(&self) -> Outcome<Vec<ServerAddress>> {
        let hosts = self.members.iter().map(|member| ServerAddress::parse(&format!("127.0.0.1:{}", member.port)));
        Ok(hosts.collect::<Result<_, _>>()?)
    }

    fn uri(&self) -> String {
        let hosts: Vec<String> = self.members.iter().map(|member| format!("127.0.0.1:{}", member.port)).collect();
        format!("mongodb://{}/?replicaSet=failover", hosts.join(","))
    }

    fn member(&mut self, host: &ServerAddress) -> Outcome<&mut Member> {
        Ok(self.members.iter_mut().find(|member| member.port == host.port()).ok_or("no such member")?)
    }

    fn restart(&mut self, host: &ServerAddress) -> Outcome<()> {
        let child = self.spawn(host.port())?;
        self.member(host)?.child = child;
        Ok(())
    }

    /// Waits until a client knows a primary and two secondaries; returns the primary.
    async fn settled(&self, client: &Client) -> Outcome<ServerAddress> {
        let mut states = client.watch_topology().await?;
        let search = async {
            while let Some(state) = states.next().await {
                let secondaries = state.servers().iter().filter(|server| server.kind == ServerType::RsSecondary).count();
                if let Some(primary) = state.primary().filter(|_| secondaries == MEMBERS - 1) {
                    return Ok(primary.host.clone());
                }
            }
            Err("the client has ended")
        };
        let primary = tokio::time::timeout(HOPE, search).await.map_err(|_| format!("the set does not settle: {}", client.topology()))??;
        // So that a member that has just come back has caught up, and can be elected.
        tokio::time::sleep(Duration::from_secs(5)).await;
        Ok(client.topology().primary().map_or(primary, |primary| primary.host.clone()))
    }
}

impl Member {
    async fn listens(&self) {
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn kill(&mut self) -> Outcome<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn signal(&self, name: &str) -> Outcome<()> {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status()?;
        if status.success() { Ok(()) } else { Err("the member is gone".into()) }
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        for member in &mut self.members {
            // Fails if it has ended already.
            drop(member.kill());
        }
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// Finds a port that is free now, and below those that the system gives to clients.
fn free_port() -> Outcome<u16> {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let process = u16::try_from(std::process::id() % 100)?;
    for _ in 0..1000 {
        let port = 18_000 + (process * 20 + NEXT.fetch_add(1, Ordering::Relaxed)) % 2_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err("no free port".into())
}
