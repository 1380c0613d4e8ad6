//! Changes of the client's own machine: suspension, and another network.
//!
//! It wakes up, or its network has become another.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hickory_server::Server as DnsServer;
use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::proto::rr::rdata::{A, SOA};
use hickory_server::proto::rr::{LowerName, Name, RData, Record};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use mongolink::{BootClock, Client, CloseReason, DnsConfig, Event, Events, MonitorEvent, PoolEvent, ReadPreference};
use tokio::net::{TcpListener, UdpSocket};

use crate::load::{BESIDE, CALLERS, Load, insert_things};
use crate::proxy::{Flow, Links, Proxy, Rules};
use crate::site::{Census, Guests, POOL, Site, alone, descriptors, totals};
use crate::support::{CALL, CHANGE, Folder, Server, eventually, ping, within};
use crate::{LASTS, MOMENT};

/// A boot clock that the test sets.
#[derive(Clone, Default)]
struct Hand(Arc<AtomicU64>);

impl BootClock for Hand {
    fn now(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

/// How long the machine sleeps.
const NIGHT: Duration = Duration::from_secs(8 * 3600);

/// Longer than any test: no heartbeat happens meanwhile.
const SELDOM: Duration = Duration::from_secs(600);

/// Starts a client whose boot clock is in the test's hand, with many idle connections.
async fn well_rested(program: &Path, hand: &Hand) -> Site {
    let clock = hand.clone();
    let site = Site::start(program, &[], |builder| builder.boot_clock(clock.clone()).heartbeat_frequency(SELDOM)).await;
    site.proxy.set(Rules::up(Flow::Delayed(MOMENT)));
    let load = Load::start(&site.client, CALLERS, ReadPreference::primary());
    eventually("all connections are open", CHANGE, async || totals(&site.client).total() == POOL as usize).await;
    site.proxy.set(Rules::default());
    load.end().await;
    eventually("all connections are idle", CHANGE, async || totals(&site.client).idle == POOL as usize).await;
    site
}

/// Makes a client whose way and clock are well.
fn straight(server: &Server) -> Client {
    Client::new(format!("mongodb://{}/", server.address())).expect("a client")
}

/// Reads events until one is found.
async fn find_event(events: &mut Events, mut wanted: impl FnMut(&Event) -> bool) {
    within(CALL, async {
        loop {
            let event = events.next().await.expect("the client runs");
            assert!(!matches!(event, Event::Missed(_)), "too slow a reader");
            if wanted(&event) {
                return;
            }
        }
    })
    .await;
}

/// While the machine slept, all its connections were forgotten by everybody between it and the server.
#[test]
fn suspension_that_idle_connections_did_not_survive() {
    alone(async |program| {
        let hand = Hand::default();
        let site = well_rested(program, &hand).await;
        let newest = totals(&site.client).created;
        let mut events = site.client.events();
        site.proxy.strand();
        hand.0.store(NIGHT.as_secs(), Ordering::SeqCst);
        let woke = Instant::now();

        ping(&site.client).await.expect("a pong by a new connection");
        let (mut idle_closed, mut lent, mut checked) = (0, None, false);
        find_event(&mut events, |event| {
            if let Event::Pool { event: PoolEvent::ConnectionClosed { reason: CloseReason::Idle, .. }, .. } = event {
                idle_closed += 1;
            }
            if let Event::Pool { event: PoolEvent::CheckedOut { connection_id, .. }, .. } = event {
                lent = Some(*connection_id);
            }
            checked |= matches!(event, Event::Heartbeat { event: MonitorEvent::HeartbeatSucceeded { awaited: false, .. }, .. });
            lent.is_some() && checked
        })
        .await;
        assert!(woke.elapsed() < CALL, "checked long before the next heartbeat");
        assert_eq!(idle_closed, POOL, "all connections from before are closed");
        assert!(lent.is_some_and(|id| id > newest), "{lent:?} is not newer than {newest}");
        let known: Vec<bool> = site.client.topology().servers().iter().map(|server| server.is_known()).collect();
        assert_eq!(known, [true], "the server is still known");

        let load = Load::start(&site.client, CALLERS, ReadPreference::primary());
        load.goes_well().await;
        assert_eq!(load.end().await, 0, "no call met a connection from before");
        site.end().await;
    });
}

/// Calls in flight when the machine is suspended end at their deadlines, and no caller
/// else anything.
#[test]
fn suspension_in_the_middle_of_calls() {
    alone(async |program| {
        let hand = Hand::default();
        let site = well_rested(program, &hand).await;
        let load = Load::start(&site.client, CALLERS, ReadPreference::primary());
        // Its clock does not jump.
        let straight = straight(&site.server);
        let beside = Load::start(&straight, BESIDE, ReadPreference::primary());
        let before = load.rate(&beside).await;
        site.proxy.set(Rules::both(Flow::Frozen));
        eventually("all connections are in use", CHANGE, async || totals(&site.client).in_use == POOL as usize).await;
        site.proxy.strand();
        site.proxy.set(Rules::default());
        hand.0.store(NIGHT.as_secs(), Ordering::SeqCst);
        load.is_back(before, Instant::now(), &beside).await;
        beside.end().await;
        straight.shutdown().await;
        assert!(load.end().await > 0, "calls were under way");
        site.end().await;
    });
}

/// The name that both networks' DNS servers know.
const HOST: &str = "db.example";

/// Far longer than the test: a client that relies on it does not see the change.
const TTL: u32 = 3600;

/// A DNS server that knows one name.
struct NameServer {
    _server: DnsServer<Catalog>,
}

impl NameServer {
    async fn start(at: Ipv4Addr, answer: Ipv4Addr) -> std::io::Result<Self> {
        let udp = UdpSocket::bind((at, 53)).await?;
        let tcp = TcpListener::bind((at, 53)).await?;
        let origin = Name::from_ascii("example.").expect("a name");
        let mut zone = InMemoryZoneHandler::<TokioRuntimeProvider>::empty(origin.clone(), ZoneType::Primary, AxfrPolicy::Deny);
        let soa = RData::SOA(SOA::new(origin.clone(), origin.clone(), 1, 3600, 600, 86_400, 60));
        let host = Name::from_ascii(format!("{HOST}.")).expect("a name");
        for record in [Record::from_rdata(origin.clone(), TTL, soa), Record::from_rdata(host, TTL, RData::A(A(answer)))] {
            assert!(zone.upsert_mut(record, 1), "a record of the zone");
        }
        let mut catalog = Catalog::new();
        catalog.upsert(LowerName::new(&origin), vec![Arc::new(zone)]);
        let mut server = DnsServer::new(catalog);
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(10), 32);
        Ok(Self { _server: server })
    }
}

/// Puts other settings in the place of those there are, at once, as systems do.
fn configure(folder: &Folder, server: Ipv4Addr) -> std::path::PathBuf {
    let new = folder.file("new", &format!("nameserver {server}\n"));
    let path = folder.path().join("resolv.conf");
    std::fs::rename(new, &path).expect("renamed");
    path
}

/// Says what the old network's DNS server does from the new network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OldNames {
    /// Its machine refuses connections.
    Refused,
    /// Nothing comes back.
    Silent,
}

/// Runs the scenario: the server's old way is closed, and a while later the settings name a DNS server that knows another.
async fn network_changes(program: &Path, old_names: OldNames, lasts: Duration) {
    let [old_dns, new_dns] = [Ipv4Addr::new(127, 0, 53, 1), Ipv4Addr::new(127, 0, 53, 2)];
    let [old_way, new_way] = [Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2)];
    // resolv.conf(5) has no ports, so that these servers listen where only some may.
    let (old, _new) = match (NameServer::start(old_dns, old_way).await, NameServer::start(new_dns, new_way).await) {
        (Ok(old), Ok(new)) => (old, new),
        (Err(error), _) | (_, Err(error)) => {
            println!("SKIPPED: a DNS server on port 53 of this machine is not possible: {error}");
            return;
        }
    };
    let server = Server::mongod(program, &[]).await;
    let old_proxy = Proxy::at(SocketAddr::new(IpAddr::V4(old_way), 0), server.address()).await.expect("a port");
    let port = old_proxy.address().port();
    let new_proxy = Proxy::at(SocketAddr::new(IpAddr::V4(new_way), port), server.address()).await.expect("the same port");
    let proxies = [&old_proxy, &new_proxy];
    let folder = Folder::new();
    let settings = configure(&folder, old_dns);
    // What the old DNS server has open is not the client's.
    let silence = silenced(old, old_dns, OldNames::Refused).await;
    assert!(silence.is_none());
    let fewer = descriptors(&proxies);
    let old = NameServer::start(old_dns, old_way).await.expect("as before");
    let builder = Client::builder(format!("mongodb://{HOST}:{port}/")).expect("a connection string");
    let client = builder.dns(DnsConfig::ResolvConf(settings)).max_pool_size(POOL).build().expect("a client");
    insert_things(&client, 1).await;
    let census = Census::take(&client, fewer, &proxies, Guests::Client).await;
    let load = Load::start(&client, CALLERS, ReadPreference::primary());
    let straight = straight(&server);
    let beside = Load::start(&straight, BESIDE, ReadPreference::primary());
    let before = load.rate(&beside).await;
    assert_eq!(new_proxy.accepted(), 0);

    old_proxy.set(Rules::links(Links::Reset));
    let silence = silenced(old, old_dns, old_names).await;
    tokio::time::sleep(lasts).await;
    configure(&folder, new_dns);
    load.is_back(before, Instant::now(), &beside).await;
    beside.end().await;
    straight.shutdown().await;
    assert_eq!((old_proxy.open(), new_proxy.open() > 0), (0, true), "all goes the new way");
    assert!(load.end().await > 0, "the old way was closed");
    drop(silence);
    census.compare(&client, &proxies).await;
}

/// Ends a DNS server; what takes its place, if anything does, keeps silent.
async fn silenced(server: NameServer, at: Ipv4Addr, what: OldNames) -> Option<UdpSocket> {
    drop(server);
    let mut silence = None;
    eventually("its port is free", CALL, async || {
        let tcp = TcpListener::bind((at, 53)).await;
        silence = UdpSocket::bind((at, 53)).await.ok();
        tcp.is_ok() && silence.is_some()
    })
    .await;
    silence.filter(|_| what == OldNames::Silent)
}

#[test]
fn network_that_becomes_another() {
    alone(async |program| network_changes(program, OldNames::Refused, LASTS).await);
}

/// The change is noticed while the old network's DNS server is still being waited for.
#[test]
fn network_that_becomes_another_in_the_middle_of_a_question() {
    alone(async |program| network_changes(program, OldNames::Silent, Duration::from_secs(3)).await);
}
