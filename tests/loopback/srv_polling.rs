//! SRV polling: the routers of a sharded cluster follow its records.
//!
//! The prose tests of polling-srv-records-for-mongos-discovery by their numbers, and what else it demands: scripted
//! routers, a zone that changes, and a client whose pace of looking is brought down from a minute.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use hickory_server::proto::rr::RecordType;
use mongolink::bson::doc;
use mongolink::{Address, BootClock, Client, ClientBuilder, Event, Events, Sandbox, ServerAddress, TopologyEvent, TopologyType};

use crate::peers::{Peer, Turn, scripted, standalone_hello};
use crate::support::{in_time, ping, until};
use crate::zone::{ServerMode, Zone};

/// The specification's `rescanSRVIntervalMS`, lowered.
const INTERVAL: Duration = Duration::from_millis(50);

/// The name whose records are polled.
const NAME: &str = "cluster.mesh.example";

/// The host of all routers, which differ in their ports.
const ROUTER: &str = "router.mesh.example";

/// The ports that the specification's tests name.
const PORTS: [u16; 4] = [27017, 27018, 27019, 27020];

/// A sharded cluster whose routers stand in DNS.
struct Mesh {
    zone: Zone,
    /// One behind each of the ports.
    routers: Vec<Peer>,
}

impl Mesh {
    /// Starts routers behind all ports, and names some of them.
    async fn start(service: &'static str, named: &[u16]) -> Self {
        let mut routers = Vec::new();
        for _ in PORTS {
            routers.push(router().await);
        }
        let mesh = Self { zone: Zone::start().await, routers };
        mesh.name(service, named).await;
        mesh
    }

    /// Replaces the SRV records.
    async fn name(&self, service: &'static str, ports: &[u16]) {
        let targets: Vec<(&str, u16)> = ports.iter().map(|port| (ROUTER, *port)).collect();
        self.zone.serve(&record_name(service), 0, &targets).await;
    }

    /// Describes a client of the SRV name.
    fn builder(&self, options: &str) -> ClientBuilder {
        let uri = format!("mongodb+srv://{NAME}/?tls=false&heartbeatFrequencyMS=500&{options}");
        let builder = Client::builder(uri).expect("a connection string").dns(self.zone.dns()).srv_rescan_floor(INTERVAL);
        PORTS.iter().zip(&self.routers).fold(builder, |builder, (port, router)| builder.resolve(host(*port), Address::Ip(router.address())))
    }

    /// Makes a client, and waits until it knows these routers, and that they are.
    async fn client(&self, options: &str, expected: &[u16]) -> Guest {
        let client = self.builder(options).build().expect("a client");
        let events = client.events();
        in_time(ping(&client)).await.expect("a router answers");
        until("all routers known", || all_known(&client) && hosts(&client) == keys(expected)).await;
        let mut guest = Guest { client, events };
        guest.comings_and_goings();
        guest
    }

    /// Waits until so many further looks at the SRV records have come to an end.
    async fn looked_at(&self, times: usize) {
        // The first may be under way already; the one after the last shows that it ended.
        let enough = self.zone.asked(RecordType::SRV) + times + 2;
        until("SRV records looked at", || self.zone.asked(RecordType::SRV) >= enough).await;
    }
}

/// A client, and what it tells.
struct Guest {
    client: Client,
    events: Events,
}

impl Guest {
    /// Waits until the client's hosts are these.
    async fn follows(&self, expected: &[u16]) {
        until("hosts followed", || hosts(&self.client) == keys(expected)).await;
    }

    /// Returns which servers came and went since it was last asked.
    fn comings_and_goings(&mut self) -> BTreeSet<String> {
        let mut told = BTreeSet::new();
        while let Some(event) = self.events.next().now_or_never() {
            let event = event.expect("the client lives");
            if let Event::Topology(TopologyEvent::ServerOpening { host, .. }) = &event {
                told.insert(format!("+{}", host.port()));
            }
            if let Event::Topology(TopologyEvent::ServerClosed { host, .. }) = &event {
                told.insert(format!("-{}", host.port()));
            }
        }
        told
    }

    /// Sees that everything is as it was, and works.
    async fn is_unmoved(&mut self, expected: &[u16]) {
        assert_eq!(hosts(&self.client), keys(expected));
        assert_eq!(self.comings_and_goings(), BTreeSet::new());
        assert_eq!(self.client.topology().kind(), TopologyType::Sharded);
        in_time(ping(&self.client)).await.expect("no error is raised");
    }
}

/// Starts a router that knows hello and ping.
async fn router() -> Peer {
    scripted(|heard| {
        let mut reply = if heard.is_hello() {
            standalone_hello()
        } else {
            doc! { "ok": 1.0 }
        };
        if heard.is_hello() {
            reply.insert("msg", "isdbgrid");
        }
        Turn::Reply(reply)
    })
    .await
}

fn record_name(service: &str) -> String {
    format!("_{service}._tcp.{NAME}")
}

fn host(port: u16) -> ServerAddress {
    ServerAddress::new(ROUTER, port).expect("a host")
}

fn keys(ports: &[u16]) -> BTreeSet<ServerAddress> {
    ports.iter().map(|port| host(*port)).collect()
}

fn hosts(client: &Client) -> BTreeSet<ServerAddress> {
    client.topology().servers().iter().map(|server| server.host.clone()).collect()
}

fn all_known(client: &Client) -> bool {
    let topology = client.topology();
    !topology.servers().is_empty() && topology.servers().iter().all(|server| server.is_known())
}

fn told(expected: &[&str]) -> BTreeSet<String> {
    expected.iter().map(|text| (*text).to_owned()).collect()
}

/// Changes the records from those of 27017 and 27018 to others, and sees that the hosts follow.
async fn assert_followed(after: &[u16], changes: &[&str]) {
    let mesh = Mesh::start("mongodb", &[27017, 27018]).await;
    let mut guest = mesh.client("", &[27017, 27018]).await;
    mesh.name("mongodb", after).await;
    guest.follows(after).await;
    mesh.looked_at(2).await;
    assert_eq!(hosts(&guest.client), keys(after));
    assert_eq!(guest.comings_and_goings(), told(changes), "hosts that stay are left alone");
    in_time(ping(&guest.client)).await.expect("a router answers");
}

#[tokio::test]
async fn prose_1_added_record_is_followed() {
    assert_followed(&[27017, 27018, 27019], &["+27019"]).await;
}

#[tokio::test]
async fn prose_2_removed_record_is_followed() {
    assert_followed(&[27017], &["-27018"]).await;
}

#[tokio::test]
async fn prose_3_replaced_record_is_followed() {
    assert_followed(&[27017, 27019], &["+27019", "-27018"]).await;
}

#[tokio::test]
async fn prose_4_all_records_replaced_by_one_are_followed() {
    assert_followed(&[27019], &["+27019", "-27017", "-27018"]).await;
}

#[tokio::test]
async fn prose_5_all_records_replaced_by_two_are_followed() {
    assert_followed(&[27019, 27020], &["+27019", "+27020", "-27017", "-27018"]).await;
}

/// Lets DNS be of no use for a while, and sees that nothing moves until it is again.
async fn assert_borne(mode: ServerMode) {
    let mesh = Mesh::start("mongodb", &[27017, 27018]).await;
    let mut guest = mesh.client("dnsTimeoutMS=200", &[27017, 27018]).await;
    mesh.zone.set_mode(mode);
    mesh.looked_at(1).await;
    mesh.name("mongodb", &[27019]).await;
    mesh.looked_at(2).await;
    guest.is_unmoved(&[27017, 27018]).await;
    mesh.zone.set_mode(ServerMode::Answering);
    guest.follows(&[27019]).await;
    assert_eq!(guest.comings_and_goings(), told(&["+27019", "-27017", "-27018"]));
}

#[tokio::test]
async fn prose_6_look_up_that_times_out_changes_nothing() {
    assert_borne(ServerMode::Silent).await;
}

#[tokio::test]
async fn prose_7_look_up_that_fails_changes_nothing() {
    assert_borne(ServerMode::Refusing).await;
}

#[tokio::test]
async fn prose_8_answer_without_records_changes_nothing() {
    let mesh = Mesh::start("mongodb", &[27017, 27018]).await;
    let mut guest = mesh.client("", &[27017, 27018]).await;
    mesh.name("mongodb", &[]).await;
    mesh.looked_at(2).await;
    guest.is_unmoved(&[27017, 27018]).await;
    mesh.name("mongodb", &[27019]).await;
    guest.follows(&[27019]).await;
}

#[tokio::test]
async fn prose_9_load_balancer_is_never_looked_up_again() {
    let mesh = Mesh::start("mongodb", &[27017]).await;
    let client = mesh.builder("loadBalanced=true").build().expect("a client");
    let _watch = in_time(client.watch_topology()).await.expect("started");
    assert_eq!(client.topology().kind(), TopologyType::LoadBalanced);
    mesh.name("mongodb", &[27017, 27018]).await;
    tokio::time::sleep(2 * INTERVAL).await;
    assert_eq!((hosts(&client), mesh.zone.asked(RecordType::SRV)), (keys(&[27017]), 1));
}

#[tokio::test]
async fn prose_10_no_limit_of_hosts_takes_all() {
    let mesh = Mesh::start("mongodb", &[27017, 27018]).await;
    let mut guest = mesh.client("srvMaxHosts=0", &[27017, 27018]).await;
    mesh.name("mongodb", &[27017, 27019, 27020]).await;
    guest.follows(&[27017, 27019, 27020]).await;
    assert_eq!(guest.comings_and_goings(), told(&["+27019", "+27020", "-27018"]));
}

#[tokio::test]
async fn prose_11_as_many_new_hosts_as_the_limit_are_all_taken() {
    let mesh = Mesh::start("mongodb", &[27017, 27018]).await;
    let guest = mesh.client("srvMaxHosts=2", &[27017, 27018]).await;
    mesh.name("mongodb", &[27019, 27020]).await;
    guest.follows(&[27019, 27020]).await;
}

#[tokio::test]
async fn prose_12_limit_of_hosts_keeps_the_old_one_and_draws_a_new_one() {
    let mesh = Mesh::start("mongodb", &[27017, 27018]).await;
    let mut guest = mesh.client("srvMaxHosts=2", &[27017, 27018]).await;
    mesh.name("mongodb", &[27017, 27019, 27020]).await;
    let (one, other) = (keys(&[27017, 27019]), keys(&[27017, 27020]));
    until("one of the new hosts", || hosts(&guest.client) == one || hosts(&guest.client) == other).await;
    let chosen = hosts(&guest.client);
    mesh.looked_at(3).await;
    assert_eq!(hosts(&guest.client), chosen, "the choice is not made again");
    assert_eq!(guest.comings_and_goings().len(), 2, "one came, one went");
}

#[tokio::test]
async fn prose_13_service_name_is_followed() {
    let mesh = Mesh::start("customname", &[27017, 27018]).await;
    let guest = mesh.client("srvServiceName=customname", &[27017, 27018]).await;
    mesh.name("customname", &[27019, 27020]).await;
    guest.follows(&[27019, 27020]).await;
    let asked = mesh.zone.questions().into_iter().filter(|(_, kind)| *kind == RecordType::SRV).collect::<Vec<_>>();
    assert_eq!(asked, [(format!("{}.", record_name("customname")), RecordType::SRV)]);
}

#[tokio::test]
async fn invalid_hosts_are_skipped_without_error() {
    let mesh = Mesh::start("mongodb", &[27017, 27018]).await;
    let mut guest = mesh.client("", &[27017, 27018]).await;
    let targets = [(ROUTER, 27017), ("router.evil.example", 27018), ("router.mesh.example.org", 27019), (ROUTER, 27020)];
    mesh.zone.serve(&record_name("mongodb"), 0, &targets).await;
    guest.follows(&[27017, 27020]).await;
    assert_eq!(guest.comings_and_goings(), told(&["+27020", "-27018"]));
    mesh.zone.serve(&record_name("mongodb"), 0, &[("router.evil.example", 27019)]).await;
    mesh.looked_at(2).await;
    guest.is_unmoved(&[27017, 27020]).await;
}

#[tokio::test]
async fn cluster_whose_routers_are_all_gone_follows_too() {
    let mut mesh = Mesh::start("mongodb", &[27017, 27018]).await;
    mesh.routers.drain(..2);
    let ports = &PORTS[2..];
    let uri = format!("mongodb+srv://{NAME}/?tls=false&heartbeatFrequencyMS=500");
    let builder = Client::builder(uri).expect("a connection string").dns(mesh.zone.dns()).srv_rescan_floor(INTERVAL);
    let nobody = crate::peers::refusing();
    let builder = [27017, 27018].iter().fold(builder, |builder, port| builder.resolve(host(*port), Address::Ip(nobody.address())));
    let places = ports.iter().zip(&mesh.routers);
    let builder = places.fold(builder, |builder, (port, router)| builder.resolve(host(*port), Address::Ip(router.address())));
    let client = builder.build().expect("a client");
    let waiting = in_time(ping(&client));
    let change = async {
        until("started", || hosts(&client) == keys(&[27017, 27018])).await;
        mesh.name("mongodb", &[27019, 27020]).await;
    };
    tokio::join!(waiting, change).0.expect("a router that came later answers");
}

#[tokio::test]
async fn lookups_do_not_delay_commands() {
    let mesh = Mesh::start("mongodb", &[27017, 27018]).await;
    let guest = mesh.client("dnsTimeoutMS=60000", &[27017, 27018]).await;
    mesh.zone.set_mode(ServerMode::Silent);
    let asked = mesh.zone.asked(RecordType::SRV);
    until("a question without answer", || mesh.zone.asked(RecordType::SRV) > asked).await;
    let began = Instant::now();
    for _ in 0..50 {
        in_time(ping(&guest.client)).await.expect("a router answers");
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    in_time(guest.client.shutdown()).await;
    assert_eq!(guest.client.task_count(), 0, "the question ends with the client");
}

#[tokio::test]
async fn texts_and_aliases_are_not_asked_for_again() {
    let mesh = Mesh::start("mongodb", &[27017, 27018]).await;
    let _guest = mesh.client("", &[27017, 27018]).await;
    mesh.looked_at(3).await;
    assert_eq!(mesh.zone.asked(RecordType::TXT), 1);
    let kinds: BTreeSet<RecordType> = mesh.zone.questions().into_iter().map(|(_, kind)| kind).collect();
    assert_eq!(kinds, BTreeSet::from([RecordType::SRV, RecordType::TXT]));
}

#[tokio::test]
async fn lifetime_of_the_records_is_waited_for() {
    let mesh = Mesh::start("mongodb", &[]).await;
    mesh.zone.serve(&record_name("mongodb"), 3600, &[(ROUTER, 27017), (ROUTER, 27018)]).await;
    let mut guest = mesh.client("", &[27017, 27018]).await;
    mesh.name("mongodb", &[27019]).await;
    tokio::time::sleep(4 * INTERVAL).await;
    assert_eq!(mesh.zone.asked(RecordType::SRV), 1);
    guest.is_unmoved(&[27017, 27018]).await;
}

/// A boot clock that goes when the test says so.
#[derive(Clone, Default)]
struct Hand(Arc<AtomicU64>);

impl BootClock for Hand {
    fn now(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

#[tokio::test]
async fn machine_that_wakes_looks_at_records_that_grew_old() {
    let mesh = Mesh::start("mongodb", &[]).await;
    mesh.zone.serve(&record_name("mongodb"), 3600, &[(ROUTER, 27017)]).await;
    let hand = Hand::default();
    let client = mesh.builder("").boot_clock(hand.clone()).build().expect("a client");
    in_time(ping(&client)).await.expect("a router answers");
    mesh.name("mongodb", &[27017, 27018]).await;
    assert_eq!(mesh.zone.asked(RecordType::SRV), 1);
    hand.0.store(3601, Ordering::SeqCst);
    in_time(ping(&client)).await.expect("a router answers");
    until("hosts followed", || hosts(&client) == keys(&[27017, 27018])).await;
}

#[tokio::test]
async fn replica_set_ends_srv_polling() {
    let set = Sandbox::builder().members(1).start().await.expect("sandbox");
    let zone = Zone::start().await;
    zone.serve(&record_name("mongodb"), 0, &[(ROUTER, 27017)]).await;
    let uri = format!("mongodb+srv://{NAME}/?tls=false");
    let builder = Client::builder(uri).expect("a connection string").dns(zone.dns()).srv_rescan_floor(INTERVAL);
    let client = builder.resolve(host(27017), Address::Ip(set.addresses()[0])).build().expect("a client");
    in_time(ping(&client)).await.expect("the primary answers");
    assert!(client.topology().kind().is_replica_set());
    let before = hosts(&client);
    zone.serve(&record_name("mongodb"), 0, &[(ROUTER, 27018)]).await;
    let asked = zone.asked(RecordType::SRV);
    tokio::time::sleep(4 * INTERVAL).await;
    assert_eq!((hosts(&client), zone.asked(RecordType::SRV)), (before, asked));
}
