#![allow(clippy::disallowed_methods, reason = "a server of the tests' own")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, SRV};
use hickory_resolver::proto::rr::{Name, Record};
use tokio::net::UdpSocket;

use super::*;
use crate::dns::system_config::{ConfigText, Platform, SystemFacts};

/// The answer of a server to a name and record type.
type Zone = fn(&str, RecordType) -> Result<Vec<RData>, ResponseCode>;

/// The code that stands for no answer at all.
const SILENCE: ResponseCode = ResponseCode::Unknown(0xfff);

/// A DNS server on loopback that records its queries.
struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(delay: Duration, zone: Zone) -> Self {
        Self::start_when(delay, |_| true, zone).await
    }

    /// Starts a server that answers once its queries so far allow it.
    async fn start_when(delay: Duration, may_answer: fn(&[String]) -> bool, zone: Zone) -> Self {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("socket"));
        let address = socket.local_addr().expect("address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok((size, peer)) = socket.recv_from(&mut buffer).await {
                let mut message = Message::from_vec(&buffer[..size]).expect("query").into_response();
                let query = message.queries[0].clone();
                let name = query.name().to_ascii();
                log.lock().expect("log").push(format!("{name} {}", query.query_type()));
                message.additionals.clear();
                match zone(&name, query.query_type()) {
                    Err(SILENCE) => continue,
                    Ok(found) => {
                        for data in found {
                            message.add_answer(Record::from_rdata(query.name().clone(), 60, data));
                        }
                    }
                    Err(code) => message.metadata.response_code = code,
                }
                let (socket, log) = (Arc::clone(&socket), Arc::clone(&log));
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    while !may_answer(&log.lock().expect("log")) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    socket.send_to(&message.to_vec().expect("reply"), peer).await.expect("send");
                });
            }
        });
        Self { address, asked, task }
    }

    fn asked(&self) -> Vec<String> {
        let mut asked = self.asked.lock().expect("log").clone();
        asked.sort();
        asked
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn resolver(servers: Vec<SocketAddr>) -> Resolver {
    Resolver::new(DnsConfig::Servers(servers), Duration::from_secs(15), None)
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

fn v4(last: u8) -> RData {
    RData::A(A::new(10, 0, 0, last))
}

fn both(_: &str, kind: RecordType) -> Result<Vec<RData>, ResponseCode> {
    if kind == RecordType::A {
        Ok(vec![v4(1)])
    } else if kind == RecordType::AAAA {
        Ok(vec![RData::AAAA(AAAA::new(0, 0, 0, 0, 0, 0, 0, 9))])
    } else {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn slow_server_gets_one_query_per_record_type() {
    let server = Server::start(Duration::from_millis(400), both).await;
    let resolver = resolver(vec![server.address]);
    let lookups = (0..50).map(|_| resolver.lookup("db.example", LookupMode::All));
    for outcome in futures_util::future::join_all(lookups).await {
        assert_eq!(outcome.expect("answer").addresses, [ip("::9"), ip("10.0.0.1")]);
    }
    resolver.lookup("db.example", LookupMode::First).await.expect("kept answer");
    assert_eq!(server.asked(), ["db.example. A", "db.example. AAAA"]);
}

#[tokio::test]
async fn cancelled_callers_do_not_end_the_query() {
    let server = Server::start(Duration::from_millis(300), both).await;
    let resolver = resolver(vec![server.address]);
    for _ in 0..5 {
        let patience = Duration::from_millis(20);
        assert!(tokio::time::timeout(patience, resolver.lookup("db.example", LookupMode::All)).await.is_err());
    }
    assert!(resolver.lookup("db.example", LookupMode::All).await.expect("answer").complete);
    assert_eq!(server.asked().len(), 2);
    assert!(resolver.shared.state().waiters.is_empty());
}

#[tokio::test]
async fn silent_first_server_costs_two_seconds() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.expect("socket");
    let server = Server::start(Duration::ZERO, both).await;
    let resolver = resolver(vec![silent.local_addr().expect("address"), server.address]);
    let started = clock::now();
    resolver.lookup("db.example", LookupMode::All).await.expect("answer");
    let elapsed = clock::now().saturating_duration_since(started);
    assert!(elapsed >= Duration::from_secs(2) && elapsed < Duration::from_secs(4), "{elapsed:?}");
}

#[tokio::test]
async fn failing_first_server_costs_nothing() {
    let failing = Server::start(Duration::ZERO, |_, _| Err(ResponseCode::ServFail)).await;
    let server = Server::start(Duration::ZERO, both).await;
    let resolver = resolver(vec![failing.address, server.address]);
    let started = clock::now();
    resolver.lookup("db.example", LookupMode::All).await.expect("answer");
    assert!(clock::now().saturating_duration_since(started) < Duration::from_secs(1));
}

#[tokio::test]
async fn name_without_addresses_is_named_in_the_error() {
    let server = Server::start(Duration::ZERO, |_, _| Ok(Vec::new())).await;
    let error = resolver(vec![server.address]).lookup("db.example", LookupMode::First).await.expect_err("no addresses");
    assert_eq!((error.kind(), error.stage()), (ErrorKind::NoAddresses, Some(Stage::Dns)));
    assert!(error.to_string().contains("\"db.example\""), "{error}");
}

#[tokio::test]
async fn broken_server_is_an_outage() {
    let server = Server::start(Duration::ZERO, |_, _| Err(ResponseCode::ServFail)).await;
    let error = resolver(vec![server.address]).lookup("db.example", LookupMode::First).await.expect_err("outage");
    assert_eq!(error.kind(), ErrorKind::DnsFailed);
    assert!(error.underlying().is_some());
}

#[tokio::test]
async fn silence_is_a_timeout_with_its_limit() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.expect("socket");
    let servers = DnsConfig::Servers(vec![silent.local_addr().expect("address")]);
    let resolver = Resolver::new(servers, Duration::from_millis(200), None);
    let error = resolver.lookup("db.example", LookupMode::First).await.expect_err("silence");
    assert!(error.is_timeout());
    assert_eq!(error.limit().map(|limit| limit.name), Some("dnsTimeoutMS"));
    let error = resolver.srv("mongodb", "driver.example.com").await.expect_err("silence");
    assert_eq!((error.is_timeout(), error.stage()), (true, Some(Stage::Srv)));
}

fn srv_without_txt(_: &str, kind: RecordType) -> Result<Vec<RData>, ResponseCode> {
    let target = Name::from_ascii("db.example.com.").expect("name");
    if kind == RecordType::SRV { Ok(vec![RData::SRV(SRV::new(0, 5, 27018, target))]) } else { Err(SILENCE) }
}

#[tokio::test]
async fn records_that_are_never_answered_are_named() {
    let server = Server::start(Duration::ZERO, srv_without_txt).await;
    let resolver = Resolver::new(DnsConfig::Servers(vec![server.address]), Duration::from_millis(300), None);
    let error = resolver.srv("mongodb", "driver.example.com").await.expect_err("no TXT");
    assert_eq!((error.kind(), error.stage()), (ErrorKind::Timeout, Some(Stage::Srv)));
    assert_eq!(error.limit().map(|limit| limit.name), Some("dnsTimeoutMS"));
    assert!(error.message().ends_with("DNS did not answer for the TXT records of \"driver.example.com\""), "{error}");
    let server = Server::start(Duration::ZERO, |_, _| Err(SILENCE)).await;
    let resolver = Resolver::new(DnsConfig::Servers(vec![server.address]), Duration::from_millis(300), None);
    let error = resolver.srv("mongodb", "driver.example.com").await.expect_err("no answer");
    let both = "the SRV records of \"_mongodb._tcp.driver.example.com\" and the TXT records of \"driver.example.com\"";
    assert!(error.message().ends_with(both), "{error}");
}

/// Returns the error of a ping to servers whose names DNS does not answer for.
async fn ping_without_dns(uri: &str, zone: Zone) -> Error {
    let server = Server::start(Duration::ZERO, zone).await;
    let client = crate::Client::builder(uri).expect("string").dns(DnsConfig::Servers(vec![server.address])).build().expect("client");
    let error = client.database("admin").run_command(bson::doc! { "ping": 1 }).await.expect_err("no answer");
    client.shutdown().await;
    error
}

#[tokio::test]
async fn deadline_during_a_look_up_names_the_look_up() {
    let silent: Zone = |_, _| Err(SILENCE);
    for (uri, zone, limit, what) in [
        (
            "mongodb://db.example/?serverSelectionTimeoutMS=300",
            silent,
            "serverSelectionTimeoutMS",
            "the addresses of \"db.example\" are still being looked up",
        ),
        ("mongodb://db.example/?timeoutMS=300", silent, "timeoutMS", "the addresses of \"db.example\" are still being looked up"),
        (
            "mongodb+srv://a.example.com/?timeoutMS=300",
            srv_without_txt,
            "timeoutMS",
            "DNS is still being asked for the SRV and TXT records of \"a.example.com\"",
        ),
        (
            "mongodb://db.example/?loadBalanced=true&timeoutMS=300",
            silent,
            "timeoutMS",
            "the addresses of \"db.example\" are still being looked up",
        ),
    ] {
        let error = ping_without_dns(uri, zone).await;
        assert!(error.to_string().contains(what), "{uri}: {error}");
        assert_eq!(error.limit().map(|limit| limit.name), Some(limit), "{uri}: {error}");
    }
}

#[tokio::test]
async fn localhost_is_never_queried() {
    let server = Server::start(Duration::ZERO, both).await;
    let resolver = resolver(vec![server.address]);
    for name in ["localhost", "db.localhost"] {
        let answer = resolver.lookup(name, LookupMode::First).await.expect("loopback");
        assert!(!answer.addresses.is_empty() && answer.addresses.iter().all(IpAddr::is_loopback) && answer.complete, "{answer:?}");
    }
    assert_eq!(server.asked(), [] as [&str; 0]);
}

#[tokio::test]
async fn dead_address_starts_another_query() {
    let server = Server::start(Duration::ZERO, both).await;
    let resolver = resolver(vec![server.address]);
    resolver.lookup("db.example", LookupMode::All).await.expect("answer");
    resolver.dead("db.example", ip("10.0.0.1"));
    assert_eq!(resolver.lookup("db.example", LookupMode::All).await.expect("answer").addresses, [ip("::9")]);
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if server.asked().len() == 4 {
            return;
        }
    }
    panic!("asked for {:?}", server.asked());
}

#[tokio::test]
async fn srv_and_txt_records_are_queried_at_once() {
    let both = |asked: &[String]| [" SRV", " TXT"].iter().all(|kind| asked.iter().any(|question| question.ends_with(kind)));
    let server = Server::start_when(Duration::ZERO, both, |name, kind| {
        let target = Name::from_ascii("db.example.com.").expect("name");
        let known = kind == RecordType::SRV && name == "_mongodb._tcp.driver.example.com.";
        Ok(if known { vec![RData::SRV(SRV::new(0, 5, 27018, target))] } else { Vec::new() })
    })
    .await;
    let resolver = resolver(vec![server.address]);
    let (services, texts) = resolver.srv("mongodb", "driver.example.com").await.expect("records");
    assert_eq!(services, [SrvRecord { target: "db.example.com.".into(), port: 27018, ttl: Duration::from_secs(60) }]);
    assert!(texts.is_empty());
    assert_eq!(server.asked(), ["_mongodb._tcp.driver.example.com. SRV", "driver.example.com. TXT"]);
}

#[tokio::test]
async fn missing_services_are_named_in_the_error() {
    let server = Server::start(Duration::ZERO, |_, _| Err(ResponseCode::NXDomain)).await;
    let error = resolver(vec![server.address]).srv("mongodb", "driver.example.com").await.expect_err("no records");
    assert_eq!((error.kind(), error.stage()), (ErrorKind::NoSuchName, Some(Stage::Srv)));
    assert!(error.to_string().contains("_mongodb._tcp.driver.example.com"), "{error}");
}

struct Own(AtomicUsize);

impl Resolve for Own {
    fn resolve(&self, name: &str) -> ResolveFuture<'_> {
        let known = name == "db.example";
        Box::pin(async move {
            self.0.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            let found = known.then(|| vec![IpAddr::from([10, 0, 0, 3])]);
            found.ok_or_else(|| Box::<dyn StdError + Send + Sync>::from("not in the book"))
        })
    }
}

#[tokio::test]
async fn own_resolver_replaces_dns() {
    let own = Arc::new(Own(AtomicUsize::new(0)));
    let resolver = Resolver::new(DnsConfig::Servers(Vec::new()), Duration::from_secs(15), Some(Arc::clone(&own) as Arc<dyn Resolve>));
    let (one, other) = tokio::join!(resolver.lookup("db.example", LookupMode::First), resolver.lookup("db.example", LookupMode::All));
    assert_eq!(one.expect("answer"), other.expect("answer"));
    resolver.lookup("db.example", LookupMode::All).await.expect("kept answer");
    assert_eq!(own.0.load(Ordering::SeqCst), 1);
    let error = resolver.lookup("other.example", LookupMode::All).await.expect_err("unknown");
    assert!(error.to_string().contains("not in the book"), "{error}");
}

#[tokio::test]
async fn stopping_refuses_waiting_callers() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.expect("socket");
    let resolver = resolver(vec![silent.local_addr().expect("address")]);
    let stop = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(resolver.task_count(), 1);
        resolver.stop().await;
    };
    let (outcome, ()) = tokio::join!(resolver.lookup("db.example", LookupMode::First), stop);
    assert_eq!(outcome.expect_err("stopped").kind(), ErrorKind::Shutdown);
    assert_eq!(resolver.task_count(), 0);
}

#[test]
fn next_runtime_starts_another_query() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let (first, second) = (runtime(), runtime());
    // It answers while its own runtime runs, which it does not at first.
    let server = second.block_on(Server::start(Duration::ZERO, both));
    let resolver = resolver(vec![server.address]);
    let lookup = async { tokio::time::timeout(Duration::from_millis(50), resolver.lookup("db.example", LookupMode::First)).await };
    assert!(first.block_on(lookup).is_err());
    drop(first);
    assert!(second.block_on(resolver.lookup("db.example", LookupMode::All)).is_ok());
}

/// A name service that counts its calls. Names that start with `hung` never get an answer, those that start with `no` do
/// not exist.
#[derive(Clone, Default)]
struct NameService {
    calls: Arc<Mutex<Vec<String>>>,
    released: Arc<(Mutex<bool>, std::sync::Condvar)>,
}

impl NameService {
    /// Returns a resolver on a system with this `hosts` line, whose DNS server does not exist.
    fn resolver(&self, hosts: &str, budget: Duration) -> Resolver {
        let nsswitch = ConfigText::Text(format!("hosts: {hosts}\n"));
        let read_facts = move || SystemFacts {
            platform: Platform::NameServiceSwitch,
            nsswitch: nsswitch.clone(),
            resolv_conf: ConfigText::Text("nameserver 127.0.0.1\noptions ndots:0\nsearch .\n".to_owned()),
            has_mdns_allow: false,
            environment: Vec::new(),
            host_name: None,
        };
        let service = self.clone();
        let os = OsLookup::with(Arc::new(move |name: &str| service.call(name)), Duration::from_millis(20));
        Resolver::with_system(DnsConfig::System, budget, None, os, Arc::new(read_facts))
    }

    fn call(&self, name: &str) -> std::io::Result<Vec<IpAddr>> {
        self.calls.lock().expect("calls").push(name.to_owned());
        if name.starts_with("hung") {
            let (released, changed) = &*self.released;
            drop(changed.wait_while(released.lock().expect("released"), |released| !*released).expect("released"));
        }
        if name.starts_with("no") {
            return Err(std::io::Error::other("failed to lookup address information: Name or service not known"));
        }
        Ok(vec![ip("10.0.0.4"), ip("::4")])
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("calls").clone()
    }
}

impl Drop for NameService {
    fn drop(&mut self) {
        *self.released.0.lock().expect("released") = true;
        self.released.1.notify_all();
    }
}

/// The sum of `OS_THREADS_MAX` and `OS_THREADS_HUNG_MAX`.
const THREADS_MAX: usize = 36;

/// A `hosts` line that can't be followed.
const BY_SYSTEM: &str = "files resolve [!UNAVAIL=return] dns";

#[tokio::test]
async fn system_answers_first_where_its_configuration_can_not_be_followed() {
    let service = NameService::default();
    let resolver = service.resolver(BY_SYSTEM, Duration::from_secs(15));
    let lookups = (0..50).map(|_| resolver.lookup("db.example", LookupMode::All));
    for outcome in futures_util::future::join_all(lookups).await {
        let answer = outcome.expect("answer");
        assert_eq!((answer.addresses, answer.complete), (vec![ip("10.0.0.4"), ip("::4")], true));
    }
    resolver.lookup("db.example", LookupMode::First).await.expect("kept answer");
    assert_eq!(service.calls(), ["db.example"], "one call for all callers");
    let error = resolver.lookup("nowhere.example", LookupMode::First).await.expect_err("no such name");
    assert_eq!((error.kind(), error.stage()), (ErrorKind::NoSuchName, Some(Stage::Dns)));
    assert!(error.to_string().contains("operating system") && error.underlying().is_some(), "{error}");
}

#[tokio::test]
async fn system_answers_for_local_names_only_where_multicast_dns_is_configured() {
    let service = NameService::default();
    let resolver = service.resolver("files mdns4_minimal [NOTFOUND=return] dns", Duration::from_secs(3));
    resolver.lookup("db.local", LookupMode::All).await.expect("answer");
    assert!(resolver.lookup("db.example", LookupMode::All).await.is_err(), "there is no DNS server");
    assert_eq!(service.calls(), ["db.local"]);
    let resolver = service.resolver("files dns", Duration::from_secs(3));
    assert!(resolver.lookup("db.local", LookupMode::All).await.is_err(), "there is no DNS server");
    assert_eq!(service.calls(), ["db.local"]);
}

#[tokio::test]
async fn hung_system_look_ups_hold_up_their_own_names_only() {
    let service = NameService::default();
    let resolver = service.resolver(BY_SYSTEM, Duration::from_secs(15));
    let hung = (0..8).map(|number| {
        let resolver = resolver.clone();
        #[allow(clippy::disallowed_methods, reason = "a task of the test's own")]
        tokio::spawn(async move { resolver.lookup(&format!("hung{number}.example"), LookupMode::First).await })
    });
    let hung: Vec<_> = hung.collect();
    for _ in 0..2000 {
        if service.calls().len() == 8 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(service.calls().len(), 8, "more threads than work at once");
    resolver.lookup("db.example", LookupMode::First).await.expect("an answer before the others");
    assert!(hung.iter().all(|lookup| !lookup.is_finished()));
    hung.iter().for_each(tokio::task::JoinHandle::abort);
    resolver.stop().await;
}

#[tokio::test]
async fn with_all_threads_hung_names_fail_in_time_and_kept_ones_are_served() {
    let service = NameService::default();
    let budget = Duration::from_millis(400);
    let resolver = service.resolver(BY_SYSTEM, budget);
    resolver.lookup("kept.example", LookupMode::All).await.expect("answer");
    for round in 0..100 {
        let names: Vec<String> = (0..60).map(|number| format!("hung{number}.{round}.example")).collect();
        for outcome in futures_util::future::join_all(names.iter().map(|name| resolver.lookup(name, LookupMode::First))).await {
            assert!(outcome.expect_err("it hangs").is_timeout());
        }
        // On a busy machine one round may end before all threads have started.
        if service.calls().len() == 1 + THREADS_MAX {
            break;
        }
    }
    let started = clock::now();
    let error = resolver.lookup("db.example", LookupMode::First).await.expect_err("no thread");
    assert!(clock::now().saturating_duration_since(started) < 20 * budget);
    assert_eq!((error.is_timeout(), error.limit().map(|limit| limit.name)), (true, Some("dnsTimeoutMS")));
    assert!(error.to_string().contains("OS_THREADS_MAX of 4") && error.to_string().contains("OS_THREADS_HUNG_MAX of 32"), "{error}");
    resolver.lookup("kept.example", LookupMode::All).await.expect("the kept answer");
    assert_eq!(service.calls().len(), 1 + THREADS_MAX, "no more threads than the limits");
    assert_eq!(ServerAddress::parse("10.0.0.1:27017").expect("host").name(), None, "numeric hosts are never looked up");
}
