//! A DNS server on loopback for the zone file of the seed-list specification.
//!
//! The file's zone is served as it stands; the three domains around it are empty, so that every other name in them does
//! not exist.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::proto::rr::rdata::SOA;
use hickory_server::proto::rr::{LowerName, Name, RData, Record, RecordType};
use hickory_server::proto::serialize::txt::Parser;
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use tokio::net::{TcpListener, UdpSocket};

type Zone = InMemoryZoneHandler<TokioRuntimeProvider>;

/// Answers by UDP and TCP on one port until it is dropped.
pub(crate) struct ZoneServer {
    address: SocketAddr,
    hosts: Vec<String>,
    _server: Server<Catalog>,
}

impl ZoneServer {
    pub(crate) async fn start(file: &Path) -> Result<Self, String> {
        let mut catalog = Catalog::new();
        let (origin, zone, hosts) = read(file)?;
        catalog.upsert(LowerName::new(&origin), vec![Arc::new(zone)]);
        for domain in ["10gen.cc.", "not-10gen.cc.", "10gen.not-cc."] {
            let (origin, zone) = empty(domain)?;
            catalog.upsert(LowerName::new(&origin), vec![Arc::new(zone)]);
        }
        let (udp, tcp) = sockets().await.map_err(|error| format!("no port for the DNS server: {error}"))?;
        let address = udp.local_addr().map_err(|error| error.to_string())?;
        let mut server = Server::new(catalog);
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(10), 32);
        Ok(Self { address, hosts, _server: server })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the names that have addresses in the zone.
    pub(crate) fn hosts(&self) -> &[String] {
        &self.hosts
    }
}

/// Reads a zone file: its origin, its records, and the names that have addresses.
fn read(file: &Path) -> Result<(Name, Zone, Vec<String>), String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let (origin, records) =
        Parser::new(text, Some(file.to_owned()), None).parse().map_err(|error| format!("{}: {error}", file.display()))?;
    let addressed = records.keys().filter(|key| matches!(key.record_type, RecordType::A | RecordType::AAAA));
    let hosts = addressed.map(|key| key.name.to_string().trim_end_matches('.').to_owned()).collect();
    let zone = Zone::new(origin.clone(), records, ZoneType::Primary, AxfrPolicy::Deny)?;
    Ok((origin, zone, hosts))
}

fn empty(domain: &str) -> Result<(Name, Zone), String> {
    let origin = Name::from_ascii(domain).map_err(|error| error.to_string())?;
    let mut zone = Zone::empty(origin.clone(), ZoneType::Primary, AxfrPolicy::Deny);
    let soa = SOA::new(origin.clone(), origin.clone(), 1, 3600, 600, 86_400, 60);
    if !zone.upsert_mut(Record::from_rdata(origin.clone(), 86_400, RData::SOA(soa)), 1) {
        return Err(format!("the zone {domain} has no place for its SOA record"));
    }
    Ok((origin, zone))
}

/// Finds a port that is free for UDP and TCP.
async fn sockets() -> std::io::Result<(UdpSocket, TcpListener)> {
    let mut last = None;
    for _ in 0..20 {
        let udp = UdpSocket::bind("127.0.0.1:0").await?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::Error::other("no port is free")))
}
