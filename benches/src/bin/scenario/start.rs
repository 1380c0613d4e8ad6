//! Measures the start of clients, and clients that were not used.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mongodb::event::EventHandler;
use mongodb::event::sdam::SdamEvent;
use mongolink::bson::doc;
use mongolink::{Client, Resolve, ResolveFuture};
use mongolink_benches::counting::heap;
use mongolink_benches::driver::{Driver, Kind, official, official_options};
use mongolink_benches::mock::Mock;
use mongolink_benches::usage;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{Setting, median};

const MEMBERS: usize = 50;

/// How long the slow DNS of [`slow_dns`] takes.
const DNS_TAKES: Duration = Duration::from_secs(3);

/// How many clients are made at once.
const CLIENTS: usize = 100;

/// A new client, one seed, fifty members: until the first reply is there, and until all members are known.
pub async fn first_command(setting: &Setting) -> Value {
    let mock = Mock::start(MEMBERS, None);
    let (mut replies, mut known) = (Vec::new(), Vec::new());
    for _ in 0..setting.pick(9, 21) {
        let (reply, all) = match setting.kind {
            Kind::Official => first_of_official(&mock).await,
            Kind::Mongolink | Kind::Raw => first_of_mongolink(&mock).await,
        };
        replies.push(reply.as_secs_f64() * 1e3);
        known.push(all.as_secs_f64() * 1e3);
        // The last client's connections end.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    json!({ "first_reply_ms": median(replies), "all_known_ms": median(known) })
}

async fn first_of_mongolink(mock: &Mock) -> (Duration, Duration) {
    let began = Instant::now();
    let client = Client::new(mock.uri("")).expect("a client");
    let reply = async {
        client.database("admin").run_command(doc! { "ping": 1 }).raw().await.expect("a reply");
        began.elapsed()
    };
    let known = async {
        let mut watch = client.watch_topology().await.expect("started");
        loop {
            let now = watch.next().await.expect("the client runs");
            if now.servers().len() == MEMBERS && now.servers().iter().all(|server| server.is_known()) {
                return began.elapsed();
            }
        }
    };
    let outcome = tokio::join!(reply, known);
    client.shutdown().await;
    outcome
}

/// The official driver tells of each member whose description has changed.
async fn first_of_official(mock: &Mock) -> (Duration, Duration) {
    let mut options = official_options(&mock.uri("")).await;
    let (answered, all) = (Arc::<Mutex<BTreeSet<String>>>::default(), Arc::<Notify>::default());
    let (noted, tell) = (Arc::clone(&answered), Arc::clone(&all));
    options.sdam_event_handler = Some(EventHandler::callback(move |event| {
        if let SdamEvent::ServerDescriptionChanged(event) = event
            && event.new_description.server_type() != mongodb::ServerType::Unknown
        {
            let mut noted = noted.lock().expect("nobody panics with it");
            noted.insert(event.address.to_string());
            if noted.len() == MEMBERS {
                tell.notify_one();
            }
        }
    }));
    let began = Instant::now();
    let driver = Driver::Official(official(options));
    let reply = async {
        driver.ping().await.expect("a reply");
        began.elapsed()
    };
    let known = async {
        all.notified().await;
        began.elapsed()
    };
    let outcome = tokio::join!(reply, known);
    driver.shutdown().await;
    outcome
}

/// Takes its time for every name.
struct SlowNames;

impl Resolve for SlowNames {
    fn resolve(&self, _name: &str) -> ResolveFuture<'_> {
        Box::pin(async {
            tokio::time::sleep(DNS_TAKES).await;
            Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)])
        })
    }
}

/// The first command where a look-up takes three seconds. The official driver can't be given a slow resolver from
/// outside, so there is no row of it.
pub async fn slow_dns() -> Value {
    let mock = Mock::start(1, None);
    let first = async |limit: u64| {
        let uri = format!("mongodb://db.test:{}/?directConnection=true&connectTimeoutMS={limit}", mock.ports()[0]);
        let client = Client::builder(uri).expect("a connection string").resolver(SlowNames).build().expect("a client");
        let began = Instant::now();
        client.database("admin").run_command(doc! { "ping": 1 }).raw().await.expect("a reply");
        began.elapsed().as_secs_f64()
    };
    let (short, long) = tokio::join!(first(1000), first(10_000));
    json!({ "connect_timeout_1000_s": short, "connect_timeout_10000_s": long })
}

/// Clients that are made from a connection string, not used, and dropped: what each has while it lives, and what is left.
pub async fn create_and_drop(setting: &Setting) -> Value {
    let mock = Mock::start(3, None);
    let uri = mock.uri("");
    let make = async || Driver::new(setting.kind, &uri).await.expect("a driver");
    // What is made once for a process is not counted.
    drop(make().await);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = Belongings::count();
    let (heap_before, began) = (heap(), Instant::now());
    let mut clients = Vec::with_capacity(CLIENTS);
    for _ in 0..CLIENTS {
        clients.push(make().await);
    }
    let (made, asked) = (began.elapsed(), heap().since(heap_before));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let alive = Belongings::count();
    drop(clients);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = Belongings::count();
    let each = |total: usize, less: usize| (total as f64 - less as f64) / CLIENTS as f64;
    json!({
        "make_us": made.as_secs_f64() * 1e6 / CLIENTS as f64,
        "allocations": asked.allocations as f64 / CLIENTS as f64,
        "tasks": each(alive.tasks, before.tasks),
        "threads": each(alive.threads, before.threads),
        "sockets": each(alive.sockets, before.sockets),
        "tasks_left": each(after.tasks, before.tasks),
        "sockets_left": each(after.sockets, before.sockets),
    })
}

/// The resources of a process other than memory.
struct Belongings {
    tasks: usize,
    threads: usize,
    sockets: usize,
}

impl Belongings {
    fn count() -> Self {
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        Self { tasks, threads: usage::threads(), sockets: usage::sockets() }
    }
}
