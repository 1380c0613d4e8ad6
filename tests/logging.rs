//! Log messages: their texts, levels and fields, in a process of its own.
#![allow(clippy::disallowed_methods, reason = "tests look at the clock")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use mongolink::bson::{Document, doc};
use mongolink::{Client, ClientBuilder, Sandbox, ServerDescription, TopologyDescription};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

const TOPOLOGY: &str = "mongolink::topology";
const CONNECTION: &str = "mongolink::connection";
const SELECTION: &str = "mongolink::serverSelection";

/// A bound that only a hang breaks.
const LONG: Duration = Duration::from_secs(30);

/// One log message.
#[derive(Clone, Debug)]
struct Message {
    target: &'static str,
    level: Level,
    fields: BTreeMap<&'static str, String>,
}

/// All that the process has logged.
static LOG: Mutex<Vec<Message>> = Mutex::new(Vec::new());

struct Reader;

impl Subscriber for Reader {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        [TOPOLOGY, CONNECTION, SELECTION].contains(&metadata.target()) && *metadata.level() <= Level::DEBUG
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        LOG.lock().unwrap_or_else(PoisonError::into_inner).push(Message {
            target: metadata.target(),
            level: *metadata.level(),
            fields: fields.0,
        });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl Message {
    fn text(&self) -> &str {
        self.field("message")
    }

    fn field(&self, name: &str) -> &str {
        self.fields.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    /// Reads a number of milliseconds.
    fn millis(&self, name: &str) -> f64 {
        self.field(name).parse().expect("a number")
    }
}

/// Reads the log from now on.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(Reader).expect("the only one"));
}

/// Returns the messages of a component about what has a field of this value.
fn told(target: &str, field: &str, value: &str) -> Vec<Message> {
    let log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    log.iter()
        .filter(|message| message.target == target && message.fields.get(field).is_some_and(|found| found == value))
        .cloned()
        .collect()
}

/// Returns the messages about the topology that has a server on this port.
fn of_topology(port: u16) -> Vec<Message> {
    let about = told(TOPOLOGY, "serverPort", &port.to_string());
    told(TOPOLOGY, "topologyId", about.first().expect("a message of the server").field("topologyId"))
}

fn of_pool(port: u16) -> Vec<Message> {
    told(CONNECTION, "serverPort", &port.to_string())
}

fn texts(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(Message::text).collect()
}

fn find<'a>(messages: &'a [Message], text: &str) -> &'a Message {
    messages.iter().find(|message| message.text() == text).unwrap_or_else(|| panic!("no {text:?} in {messages:#?}"))
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.expect("hangs")
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LONG, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn ping(client: &Client) -> mongolink::Result<Document> {
    in_time(client.database("admin").run_command(doc! { "ping": 1 }).into_future()).await
}

async fn standalone() -> (Sandbox, u16) {
    let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
    let port = sandbox.addresses()[0].port();
    (sandbox, port)
}

/// Takes a port that refuses connections.
fn refusing() -> (tokio::net::TcpSocket, u16) {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port");
    let port = socket.local_addr().expect("bound").port();
    (socket, port)
}

#[tokio::test]
async fn messages_of_the_topology_come_in_order() {
    listen();
    let (sandbox, port) = standalone().await;
    let client = Client::new(sandbox.uri()).expect("client");
    ping(&client).await.expect("ping");
    client.shutdown().await;
    let messages = of_topology(port);
    assert!(messages.iter().all(|message| message.level == Level::DEBUG), "{messages:#?}");
    let beats = |message: &&Message| message.text().starts_with("Server heartbeat");
    let others: Vec<&str> = messages.iter().filter(|message| !beats(message)).map(Message::text).collect();
    let expected = [
        "Starting topology monitoring",
        "Topology description changed",
        "Starting server monitoring",
        "Topology description changed",
        "Stopped server monitoring",
        "Topology description changed",
        "Stopped topology monitoring",
    ];
    assert_eq!(others, expected);
    let changes: Vec<&Message> = messages.iter().filter(|message| message.text() == "Topology description changed").collect();
    assert!(changes[0].field("previousDescription").starts_with("Unknown"), "{changes:#?}");
    for pair in changes.windows(2) {
        // Changes of round-trip times cause no message.
        let types = |text: &str| text.split(' ').take(3).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(types(pair[0].field("newDescription")), types(pair[1].field("previousDescription")));
    }
    assert!(changes[1].field("newDescription").contains(&format!("127.0.0.1:{port}")), "{changes:#?}");
    for message in messages.iter().filter(|message| message.has("serverPort")) {
        assert_eq!((message.field("serverHost"), message.field("serverPort")), ("127.0.0.1", port.to_string().as_str()));
    }
}

#[tokio::test]
async fn messages_of_heartbeats_name_connection_and_server_apart() {
    listen();
    let (sandbox, port) = standalone().await;
    let client = Client::new(format!("{}/?heartbeatFrequencyMS=500&serverMonitoringMode=poll", sandbox.uri().trim_end_matches('/')));
    let client = client.expect("client");
    ping(&client).await.expect("ping");
    let of_this = || told(TOPOLOGY, "serverPort", &port.to_string());
    let succeeded = |messages: &[Message]| messages.iter().filter(|message| message.text() == "Server heartbeat succeeded").count();
    until("two heartbeats", || succeeded(&of_this()) >= 2).await;
    let messages = of_this();
    let beats: Vec<&Message> = messages.iter().filter(|message| message.text().starts_with("Server heartbeat")).collect();
    assert_eq!(beats[0].text(), "Server heartbeat started");
    assert!(!beats[0].has("serverConnectionId"), "the connection is still to be made: {:?}", beats[0]);
    assert!(beats.iter().all(|message| message.field("driverConnectionId") == "1"), "{beats:#?}");
    assert!(beats.iter().all(|message| message.field("awaited") == "false"), "{beats:#?}");
    let server_id = beats[1].field("serverConnectionId");
    assert!(server_id.parse::<i64>().is_ok());
    assert!(beats[1..4].iter().all(|message| message.field("serverConnectionId") == server_id), "{beats:#?}");
    for success in [beats[1], beats[3]] {
        assert!(success.millis("durationMS") < 30_000.0);
        let reply = success.field("reply");
        assert!(reply.starts_with('{') && reply.contains("\"maxWireVersion\":"), "{reply}");
        match reply.strip_suffix("...") {
            Some(cut) => assert_eq!(cut.chars().count(), 1000),
            None => assert!(serde_json::from_str::<serde_json::Value>(reply).is_ok_and(|reply| reply["ok"] == 1.0), "{reply}"),
        }
    }
}

/// Returns a reply to a check, as logged by a client whose builder was changed so.
async fn logged_reply(change: impl FnOnce(ClientBuilder) -> ClientBuilder) -> String {
    listen();
    let (sandbox, port) = standalone().await;
    let client = change(Client::builder(sandbox.uri()).expect("uri")).build().expect("client");
    ping(&client).await.expect("ping");
    client.shutdown().await;
    find(&told(TOPOLOGY, "serverPort", &port.to_string()), "Server heartbeat succeeded").field("reply").to_owned()
}

#[tokio::test]
async fn replies_are_cut_where_the_client_says() {
    for length in [0, 1, 20] {
        let reply = logged_reply(|builder| builder.log_document_chars_max(length)).await;
        assert_eq!(reply.strip_suffix("...").map(str::len), Some(length), "{reply}");
    }
    let whole = logged_reply(|builder| builder.log_document_chars_max(usize::MAX)).await;
    assert!(serde_json::from_str::<serde_json::Value>(&whole).is_ok_and(|reply| reply["ok"] == 1.0), "{whole}");
}

/// Says what the process that the test starts is to find.
const EXPECTED: &str = "MONGOLINK_EXPECTED_LOG_LENGTH";

#[tokio::test]
async fn replies_are_cut_where_the_environment_says_unless_the_client_does() {
    if let Ok(expected) = std::env::var(EXPECTED) {
        let reply = logged_reply(|builder| builder).await;
        assert_eq!(reply.strip_suffix("...").map(|cut| cut.len().to_string()).unwrap_or_default(), expected, "{reply}");
        let reply = logged_reply(|builder| builder.log_document_chars_max(3)).await;
        return assert_eq!(reply.strip_suffix("...").map(str::len), Some(3), "{reply}");
    }
    // Variables are set for another process only: in this one, tests run side by side.
    for (value, expected) in [("7", "7"), ("0", "0"), ("Unlimited", "")] {
        let mut again = tokio::process::Command::new(std::env::current_exe().expect("this program"));
        again.args(["--exact", "replies_are_cut_where_the_environment_says_unless_the_client_does"]);
        let outcome = in_time(again.env(EXPECTED, expected).env("MONGODB_LOG_MAX_DOCUMENT_LENGTH", value).output()).await.expect("runs");
        assert!(outcome.status.success(), "{value}: {}", String::from_utf8_lossy(&outcome.stdout));
    }
}

#[tokio::test]
async fn messages_of_failed_heartbeats_say_why_and_number_the_connections() {
    listen();
    let (_socket, port) = refusing();
    let client = Client::new(format!("mongodb://127.0.0.1:{port}/?serverSelectionTimeoutMS=700")).expect("client");
    ping(&client).await.expect_err("nobody listens");
    let messages = told(TOPOLOGY, "serverPort", &port.to_string());
    let failures: Vec<&Message> = messages.iter().filter(|message| message.text() == "Server heartbeat failed").collect();
    let numbers: Vec<&str> = failures.iter().map(|message| message.field("driverConnectionId")).collect();
    assert_eq!(numbers[..2], ["1", "2"]);
    for failure in failures {
        assert!(failure.field("failure").contains("refused"), "{failure:?}");
        assert!(failure.has("durationMS") && failure.has("awaited") && !failure.has("serverConnectionId"), "{failure:?}");
    }
}

#[tokio::test]
async fn messages_of_a_unix_socket_have_no_port() {
    listen();
    let path = std::env::temp_dir().join(format!("mongolink-log-{}.sock", std::process::id()));
    let path = path.to_str().expect("text");
    let encoded = path.replace('/', "%2F");
    let client = Client::new(format!("mongodb://{encoded}/?serverSelectionTimeoutMS=300")).expect("client");
    ping(&client).await.expect_err("nobody listens");
    let messages = told(TOPOLOGY, "serverHost", path);
    assert!(texts(&messages).contains(&"Server heartbeat failed"), "{messages:#?}");
    assert!(messages.iter().chain(&told(CONNECTION, "serverHost", path)).all(|message| !message.has("serverPort")), "{messages:#?}");
}

#[tokio::test]
async fn messages_of_a_pool_come_in_order() {
    listen();
    let (sandbox, port) = standalone().await;
    let options = "maxPoolSize=5&maxConnecting=3&maxIdleTimeMS=10000&waitQueueTimeoutMS=2500";
    let client = Client::new(format!("{}/?{options}", sandbox.uri().trim_end_matches('/'))).expect("client");
    ping(&client).await.expect("ping");
    client.shutdown().await;
    let messages = of_pool(port);
    assert!(messages.iter().all(|message| message.level == Level::DEBUG && message.field("serverHost") == "127.0.0.1"), "{messages:#?}");
    let expected = [
        "Connection pool created",
        "Connection pool ready",
        "Connection checkout started",
        "Connection created",
        "Connection ready",
        "Connection checked out",
        "Connection checked in",
    ];
    assert_eq!(texts(&messages)[..expected.len()], expected);
    let created = &messages[0];
    let limits = ["minPoolSize", "maxPoolSize", "maxConnecting", "maxIdleTimeMS", "waitQueueTimeoutMS"];
    assert_eq!(limits.map(|name| created.millis(name)), [0.0, 5.0, 3.0, 10_000.0, 2500.0]);
    assert!(messages[3..7].iter().all(|message| message.field("driverConnectionId") == "1"), "{messages:#?}");
    for text in ["Connection ready", "Connection checked out"] {
        assert!((0.0..30_000.0).contains(&find(&messages, text).millis("durationMS")));
    }
    let closed = find(&messages, "Connection closed");
    assert_eq!((closed.field("driverConnectionId"), closed.field("reason")), ("1", "Connection pool was closed"));
    assert!(!closed.has("error"), "{closed:?}");
    assert_eq!(texts(&messages).last(), Some(&"Connection pool closed"));
}

#[tokio::test]
async fn messages_of_broken_connections_say_why() {
    listen();
    let (sandbox, port) = standalone().await;
    let client = Client::new(sandbox.uri()).expect("client");
    ping(&client).await.expect("ping");
    let data = doc! { "failCommands": ["ping"], "closeConnection": true };
    sandbox.fail_point(0, &doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": data }).expect("armed");
    ping(&client).await.expect_err("closed");
    until("the connection is closed", || texts(&of_pool(port)).contains(&"Connection closed")).await;
    let messages = of_pool(port);
    assert!(!find(&messages, "Connection pool cleared").has("serviceId"));
    let closed = find(&messages, "Connection closed");
    assert_eq!((closed.field("driverConnectionId"), closed.field("reason")), ("1", "Connection became stale because the pool was cleared"));
    assert!(!closed.has("error"), "{closed:?}");
}

#[tokio::test]
async fn messages_of_failed_checkouts_say_why() {
    listen();
    let sandbox = Sandbox::builder().load_balancer(1).start().await.expect("sandbox");
    let port = sandbox.addresses()[0].port();
    let client = Client::new(sandbox.uri()).expect("client");
    let data = doc! { "failCommands": ["hello", "isMaster"], "closeConnection": true };
    sandbox.fail_point(0, &doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": data }).expect("armed");
    ping(&client).await.expect_err("no hello");
    let messages = of_pool(port);
    let closed = find(&messages, "Connection closed");
    assert_eq!((closed.field("driverConnectionId"), closed.field("reason")), ("1", "An error occurred while using the connection"));
    assert!(closed.field("error").contains("closed by the server"), "{closed:?}");
    let failed = find(&messages, "Connection checkout failed");
    assert_eq!(failed.field("reason"), "An error occurred while trying to establish a new connection");
    assert!(failed.field("error").contains("closed by the server") && failed.millis("durationMS") < 30_000.0, "{failed:?}");
    // Behind a load balancer an error of a command clears its service, which the message names.
    let data = doc! { "failCommands": ["ping"], "closeConnection": true };
    sandbox.fail_point(0, &doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": data }).expect("armed");
    ping(&client).await.expect_err("closed");
    until("the service is cleared", || texts(&of_pool(port)).contains(&"Connection pool cleared")).await;
    let messages = of_pool(port);
    let service = find(&messages, "Connection pool cleared").field("serviceId");
    assert!(service.len() == 24 && service.chars().all(|digit| digit.is_ascii_hexdigit()), "{service}");
    until("the connection is closed", || texts(&of_pool(port)).iter().filter(|text| **text == "Connection closed").count() == 2).await;
    assert!(of_pool(port).last().is_some_and(|closed| closed.field("error").contains("closed by the server")));
}

#[tokio::test]
async fn messages_of_waiters_say_that_their_time_is_up() {
    listen();
    let (sandbox, port) = standalone().await;
    let options = "maxPoolSize=1&waitQueueTimeoutMS=50";
    let client = Client::new(format!("{}/?{options}", sandbox.uri().trim_end_matches('/'))).expect("client");
    ping(&client).await.expect("ping");
    let data = doc! { "failCommands": ["count"], "blockConnection": true, "blockTimeMS": 500 };
    sandbox.fail_point(0, &doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": data }).expect("armed");
    let busy = client.clone();
    let busy = tokio::spawn(async move { busy.database("test").run_command(doc! { "count": "things" }).await });
    until("it is in use", || client.pool_stats()[0].1.in_use == 1).await;
    ping(&client).await.expect_err("none is free");
    busy.await.expect("task").expect("count");
    let messages = of_pool(port);
    let failed = find(&messages, "Connection checkout failed");
    assert_eq!(failed.field("reason"), "Wait queue timeout elapsed without a connection becoming available");
    assert!(!failed.has("error") && failed.millis("durationMS") >= 50.0, "{failed:?}");
}

#[tokio::test]
async fn messages_of_a_selection_name_operation_criteria_and_server() {
    listen();
    let (sandbox, port) = standalone().await;
    let client = Client::new(sandbox.uri()).expect("client");
    ping(&client).await.expect("ping");
    in_time(client.database("test").run_command(doc! { "logThisOne": 1 }).into_future()).await.expect_err("no such command");
    let messages = told(SELECTION, "operation", "logThisOne");
    assert_eq!(texts(&messages), ["Server selection started", "Server selection succeeded"]);
    for message in &messages {
        assert_eq!((message.level, message.field("selector")), (Level::DEBUG, "an operation on the primary"));
        assert!(message.field("topologyDescription").contains(&port.to_string()), "{message:?}");
    }
    assert_eq!((messages[1].field("serverHost"), messages[1].field("serverPort")), ("127.0.0.1", port.to_string().as_str()));
}

#[tokio::test]
async fn waiting_for_a_server_is_logged_once_for_an_operation_at_info() {
    listen();
    let (_one, first) = refusing();
    let (_other, second) = refusing();
    let uri = format!("mongodb://127.0.0.1:{first},127.0.0.1:{second}/?serverSelectionTimeoutMS=1200&heartbeatFrequencyMS=500");
    let client = Client::new(uri).expect("client");
    in_time(client.database("test").run_command(doc! { "logTheWait": 1 }).into_future()).await.expect_err("nobody listens");
    let messages = told(SELECTION, "operation", "logTheWait");
    let expected = ["Server selection started", "Waiting for suitable server to become available", "Server selection failed"];
    assert_eq!(texts(&messages), expected);
    assert_eq!(messages.iter().map(|message| message.level).collect::<Vec<_>>(), [Level::DEBUG, Level::INFO, Level::DEBUG]);
    assert!((1000.0..=1200.0).contains(&messages[1].millis("remainingTimeMS")), "{:?}", messages[1]);
    assert!(messages[1].field("topologyDescription").contains(&first.to_string()), "{:?}", messages[1]);
    assert!(messages[2].field("failure").contains("serverSelectionTimeoutMS"), "{:?}", messages[2]);
}

#[tokio::test]
async fn waiting_again_for_a_server_is_not_logged_again() {
    listen();
    let sandbox = Sandbox::builder().members(1).start().await.expect("sandbox");
    let looks = Arc::new(AtomicUsize::new(usize::MAX));
    let counted = Arc::clone(&looks);
    // From 0 on it keeps no server three times; each time it is asked twice, the second time for the reasons. A caller that
    // waits asks it again with each new description.
    let fickle = move |_: &TopologyDescription, servers: &mut Vec<&Arc<ServerDescription>>| {
        let Ok(look) = counted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |look| look.checked_add(1)) else { return };
        if look < 6 {
            servers.clear();
        }
    };
    let builder = Client::builder(sandbox.uri()).expect("uri").heartbeat_frequency(Duration::from_millis(500));
    let client = builder.server_selector(fickle).build().expect("client");
    ping(&client).await.expect("ping");
    looks.store(0, Ordering::SeqCst);
    in_time(client.database("test").run_command(doc! { "logTheWaitAgain": 1 }).into_future()).await.expect_err("no such command");
    assert!(looks.load(Ordering::SeqCst) >= 7, "it was not woken in vain");
    let messages = told(SELECTION, "operation", "logTheWaitAgain");
    let expected = ["Server selection started", "Waiting for suitable server to become available", "Server selection succeeded"];
    assert_eq!(texts(&messages), expected);
}

#[tokio::test]
async fn callers_that_wait_for_the_same_servers_make_one_line_at_info() {
    listen();
    let (_held, port) = refusing();
    let client = Client::new(format!("mongodb://127.0.0.1:{port}/?serverSelectionTimeoutMS=300")).expect("client");
    let database = client.database("test");
    let calls: Vec<_> = (0..20).map(|_| tokio::spawn(database.run_command(doc! { "logTheCrowd": 1 }).into_future())).collect();
    for call in calls {
        in_time(call).await.expect("no panic").expect_err("nobody listens");
    }
    let waits: Vec<Level> = told(SELECTION, "operation", "logTheCrowd")
        .iter()
        .filter(|message| message.text() == "Waiting for suitable server to become available")
        .map(|message| message.level)
        .collect();
    let at = |level: Level| waits.iter().filter(|own| **own == level).count();
    assert_eq!((at(Level::INFO), at(Level::DEBUG)), (1, 19));
}

#[tokio::test]
async fn shutdown_logs_no_failed_heartbeat() {
    listen();
    let sandbox = Sandbox::builder().members(1).start().await.expect("sandbox");
    let client = Client::new(sandbox.uri()).expect("client");
    ping(&client).await.expect("ping");
    let port = sandbox.addresses()[0].port();
    let began = Instant::now();
    while !texts(&of_topology(port)).contains(&"Server heartbeat succeeded") {
        assert!(began.elapsed() < LONG);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.shutdown().await;
    let messages = of_topology(port);
    assert!(
        texts(&messages).contains(&"Stopped topology monitoring") && !texts(&messages).contains(&"Server heartbeat failed"),
        "{messages:#?}"
    );
}
