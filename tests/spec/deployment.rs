//! The deployments that clients of SRV names connect to.
//!
//! The deployments that initial-dns-seedlist-discovery runs its cases against, with TLS: a replica set that calls itself by
//! other names than the SRV records do, the routers of a sharded cluster, a load balancer. Their ports are those of the
//! specification, each with TLS and, for a string that turns it off, without; since a test can't have these, the client is told where each host and port really is, as
//! `ClientBuilder::resolve` lets every user do. TLS is verified against the names all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mongolink::bson::doc;
use mongolink::bson::oid::ObjectId;
use mongolink::{
    Address, Client, ConnectionString, DnsConfig, Event, Events, Sandbox, ServerAddress, TopologyDescription, TopologyEvent, TopologyType,
};
use tokio_rustls::rustls::ServerConfig;

use crate::peers::{Authority, Heard, Peer, Turn, scripted, scripted_over_tls, standalone_hello};

/// What the members of the replica set call themselves.
const SET_HOSTS: [&str; 3] = ["localhost:27017", "localhost:27018", "localhost:27019"];

const SET_NAME: &str = "repl0";

const ROUTER_PORTS: [u16; 2] = [27017, 27018];

const BALANCER_PORT: u16 = 8000;

/// A bound that only a hang breaks.
const LONG: Duration = Duration::from_secs(30);

/// Holds the deployments, which serve until it is dropped.
pub(crate) struct Deployments {
    authority: Authority,
    secured: Servers,
    plain: Servers,
}

/// The servers of all deployments, with TLS or without.
struct Servers {
    set: Sandbox,
    routers: Vec<Peer>,
    balancer: Peer,
}

/// The expected state of a client.
pub(crate) struct Outcome {
    /// The hosts that it starts with.
    pub(crate) seeds: Option<BTreeSet<ServerAddress>>,
    /// How many it starts with.
    pub(crate) seed_count: Option<u64>,
    /// The hosts that it finds.
    pub(crate) hosts: Option<BTreeSet<ServerAddress>>,
    /// How many it finds.
    pub(crate) host_count: Option<u64>,
    /// Whether it is to run a command.
    pub(crate) pings: bool,
}

/// One of the deployments, as a client meets it.
struct Place {
    kind: TopologyType,
    /// Where the server of each port is.
    ports: BTreeMap<u16, SocketAddr>,
}

impl Deployments {
    /// Starts all, with a certificate for the names.
    pub(crate) async fn start(names: &[String]) -> Result<Self, String> {
        let authority = Authority::new("the deployments'");
        let names: Vec<String> = names.iter().cloned().chain(["localhost".to_owned()]).collect();
        let tls = authority.server_of_names(&names, 4000);
        Ok(Self { authority, secured: Servers::start(Some(tls)).await?, plain: Servers::start(None).await? })
    }

    /// Plays a case: `answer` is every server that DNS names.
    pub(crate) async fn play(
        &self,
        folder: &str,
        uri: &str,
        dns: DnsConfig,
        answer: &BTreeSet<ServerAddress>,
        outcome: &Outcome,
    ) -> Result<(), String> {
        let is_secured = ConnectionString::parse(uri).map_err(|error| error.to_string())?.options.tls_or_default();
        let place = if is_secured { &self.secured } else { &self.plain }.place(folder)?;
        let mut builder = Client::builder(uri).map_err(|error| error.to_string())?.dns(dns).tls_ca_file(self.authority.file());
        let announced = SET_HOSTS.iter().map(|host| ServerAddress::parse(host).expect("a host"));
        for host in answer.iter().cloned().chain(announced) {
            if let Some(address) = place.ports.get(&host.port()) {
                builder = builder.resolve(host, Address::Ip(*address));
            } else if answer.contains(&host) {
                return Err(format!("the {folder} deployment has no server at the port of {host}"));
            }
        }
        let client = match builder.build() {
            Ok(client) => client,
            Err(error) => return Err(error.to_string()),
        };
        let checked = tokio::time::timeout(LONG, check(&client, &place, outcome)).await;
        client.shutdown().await;
        checked.unwrap_or_else(|_| Err(format!("hangs: {}", client.topology())))
    }
}

impl Servers {
    async fn start(tls: Option<Arc<ServerConfig>>) -> Result<Self, String> {
        let set = Sandbox::builder().members(SET_HOSTS.len()).set_name(SET_NAME).hosts(SET_HOSTS);
        let set = match &tls {
            Some(tls) => set.tls(Arc::clone(tls)),
            None => set,
        };
        let set = set.start().await.map_err(|error| error.to_string())?;
        let mut routers = Vec::new();
        for _ in ROUTER_PORTS {
            routers.push(router(tls.clone()).await);
        }
        Ok(Self { set, routers, balancer: router(tls).await })
    }

    fn place(&self, folder: &str) -> Result<Place, String> {
        let (kind, ports) = match folder {
            "replica-set" => {
                let ports = SET_HOSTS.iter().map(|host| ServerAddress::parse(host).expect("a host").port());
                (TopologyType::ReplicaSetWithPrimary, ports.zip(self.set.addresses().iter().copied()).collect())
            }
            "sharded" => (TopologyType::Sharded, ROUTER_PORTS.into_iter().zip(self.routers.iter().map(Peer::address)).collect()),
            "load-balanced" => (TopologyType::LoadBalanced, BTreeMap::from([(BALANCER_PORT, self.balancer.address())])),
            other => return Err(format!("unknown folder {other:?}")),
        };
        Ok(Place { kind, ports })
    }
}

/// Starts a router, which belongs to a service if it is asked for one.
async fn router(tls: Option<Arc<ServerConfig>>) -> Peer {
    let service = ObjectId::from_bytes([7; 12]);
    let script = move |heard: &Heard| {
        if !heard.is_hello() {
            return Turn::Reply(doc! { "ok": 1.0 });
        }
        let mut hello = standalone_hello();
        hello.insert("msg", "isdbgrid");
        if heard.body.get_bool("loadBalanced").is_ok_and(|wanted| wanted) {
            hello.insert("serviceId", service);
        }
        Turn::Reply(hello)
    };
    match tls {
        Some(tls) => scripted_over_tls(tls, script).await,
        None => scripted(script).await,
    }
}

async fn check(client: &Client, place: &Place, outcome: &Outcome) -> Result<(), String> {
    let mut events = client.events();
    let mut watch = match client.watch_topology().await {
        Ok(watch) => watch,
        Err(error) => return Err(error.to_string()),
    };
    let seeds = seeds(&mut events).await.ok_or("the client told of no seeds")?;
    expect("seeds", &seeds, outcome.seeds.as_ref(), outcome.seed_count)?;
    let found = loop {
        let topology = watch.next().await.ok_or("the client ended")?;
        if topology.kind() == place.kind && topology.servers().iter().all(|server| server.is_known()) {
            break hosts(&topology);
        }
    };
    expect("hosts", &found, outcome.hosts.as_ref(), outcome.host_count)?;
    if outcome.pings {
        client.database("admin").run_command(doc! { "ping": 1 }).await.map_err(|error| format!("ping: {error}"))?;
    }
    Ok(())
}

/// Returns the hosts that a client starts with.
async fn seeds(events: &mut Events) -> Option<BTreeSet<ServerAddress>> {
    loop {
        if let Event::Topology(TopologyEvent::TopologyDescriptionChanged { new, .. }) = events.next().await? {
            return Some(hosts(&new));
        }
    }
}

fn hosts(topology: &TopologyDescription) -> BTreeSet<ServerAddress> {
    topology.servers().iter().map(|server| server.host.clone()).collect()
}

fn expect(what: &str, found: &BTreeSet<ServerAddress>, all: Option<&BTreeSet<ServerAddress>>, count: Option<u64>) -> Result<(), String> {
    if all.is_some_and(|all| all != found) || count.is_some_and(|count| found.len() as u64 != count) {
        return Err(format!("the client's {what}: {all:?}, {count:?} of them expected, {found:?} found"));
    }
    Ok(())
}
