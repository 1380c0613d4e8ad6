//! Which DNS servers are there, and how is a question put to them?
//!
//! hickory encodes, sends and decodes; its cache, its retries and its choice of servers are off. Servers are asked in the
//! order configured, because a VPN's server comes first and only it knows the inner names: the next one is asked as well
//! if there is no answer after [`NEXT_SERVER_DELAY`], or at once after a failure, and whoever answers first is believed.
//! So a slow server gets one query for a record type, and a dead one costs two seconds. What is done with answers is
//! decided in `dns`.

use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::udp::UdpClientStream;
use hickory_resolver::net::xfer::DnsExchange;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{ConnectionProvider, PoolContext};

use crate::dns::names::{self, SearchList};
use crate::io::clock;

/// Says which DNS servers a client asks.
///
/// Of a system's settings, servers, search domains, `ndots` and `edns0` are used; time-outs and retries are mongolink's
/// own. The hosts file and `localhost` come before any server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DnsConfig {
    /// The operating system's settings, read again when they change.
    #[default]
    System,
    /// A file like `/etc/resolv.conf`, read again when it changes. On Windows, Apple systems and Android such files are
    /// not read: the operating system is asked instead.
    ResolvConf(PathBuf),
    /// These servers, by UDP and TCP, without search domains.
    Servers(Vec<SocketAddr>),
}

impl DnsConfig {
    /// Returns the file whose change means that the settings changed.
    pub(super) fn file(&self) -> Option<&Path> {
        match self {
            Self::System if cfg!(all(unix, not(any(target_os = "android", target_vendor = "apple")))) => {
                Some(Path::new("/etc/resolv.conf"))
            }
            Self::ResolvConf(path) => Some(path),
            Self::System | Self::Servers(_) => None,
        }
    }
}

/// Is what is known of DNS servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Servers {
    addresses: Vec<SocketAddr>,
    pub(super) search: SearchList,
    edns: bool,
}

impl Servers {
    /// Reads the settings; the error says why they can't be used.
    pub(super) fn read(config: &DnsConfig) -> Result<Self, String> {
        let servers = match config {
            DnsConfig::System => {
                let (config, options) = hickory_resolver::system_conf::read_system_conf().map_err(|error| error.to_string())?;
                Self::of(&config, &options)
            }
            DnsConfig::ResolvConf(path) => read_resolv_conf(path)?,
            DnsConfig::Servers(addresses) => Self { addresses: addresses.clone(), search: SearchList::default(), edns: true },
        };
        if servers.addresses.is_empty() { Err("no DNS servers are configured".into()) } else { Ok(servers) }
    }

    fn of(config: &ResolverConfig, options: &ResolverOpts) -> Self {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for server in config.name_servers() {
            let port = server.connections.first().map_or(DNS_PORT, |connection| connection.port);
            let address = SocketAddr::new(server.ip, port);
            if !addresses.contains(&address) && addresses.len() < SERVERS_MAX {
                addresses.push(address);
            }
        }
        let mut domains: Vec<String> = config.search().iter().map(Name::to_ascii).collect();
        if domains.is_empty() {
            domains.extend(config.domain().map(Name::to_ascii));
        }
        Self { addresses, search: SearchList { domains, ndots: options.ndots }, edns: options.edns0 }
    }

    /// Asks for the records of a full name.
    pub(super) async fn ask(&self, name: &str, kind: RecordType, budget: Duration) -> Result<Lookup, NetError> {
        let name = Name::from_ascii(format!("{name}."))?;
        let mut queue = self.addresses.iter();
        let mut under_way = FuturesUnordered::new();
        let mut failure = NetError::NoConnections;
        loop {
            match queue.next() {
                Some(server) => {
                    tracing::debug!(%name, %kind, %server, "asks a DNS server");
                    under_way.push(ask_server(*server, name.clone(), kind, self.edns, budget));
                }
                None if under_way.is_empty() => return Err(failure),
                None => {}
            }
            let next_at = (queue.len() > 0).then(|| clock::now() + NEXT_SERVER_DELAY);
            tokio::select! {
                Some(outcome) = under_way.next() => match outcome {
                    Ok(lookup) => return Ok(lookup),
                    Err(error) if error.is_no_records_found() => return Err(error),
                    Err(error) => {
                        tracing::debug!(%name, %kind, %error, "a DNS server failed");
                        failure = error;
                    }
                },
                () = clock::sleep_until(next_at) => {}
            }
        }
    }

    /// Asks for the addresses of a full name, and returns them with the shortest of their records' lifetimes.
    pub(super) async fn addresses(&self, name: &str, kind: RecordType, budget: Duration) -> Result<(Vec<IpAddr>, Duration), NetError> {
        let lookup = self.ask(name, kind, budget).await?;
        let records = lookup.answers();
        let addresses = records.iter().filter(|record| record.record_type() == kind).filter_map(|record| record.data.ip_addr()).collect();
        let ttl = records.iter().map(|record| record.ttl).min().unwrap_or_default();
        Ok((addresses, Duration::from_secs(ttl.into())))
    }
}

/// Returns the addresses that the machine knows by itself: the hosts file's, or those of `localhost`.
pub(super) fn own_addresses(name: &str) -> Vec<IpAddr> {
    let text = hosts_file().and_then(|path| read_text(&path).ok());
    let found = text.map(|text| names::hosts_addresses(&text, name)).unwrap_or_default();
    if found.is_empty() && names::is_localhost(name) { names::LOCALHOST.to_vec() } else { found }
}

/// Asks one server. What hickory starts for it ends with the future.
async fn ask_server(server: SocketAddr, name: Name, kind: RecordType, edns: bool, budget: Duration) -> Result<Lookup, NetError> {
    let connections = [ProtocolConfig::Udp, ProtocolConfig::Tcp].map(|protocol| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = server.port();
        connection
    });
    let config = ResolverConfig::from_name_servers(vec![NameServerConfig::new(server.ip(), true, connections.to_vec())]);
    let mut builder = hickory_resolver::Resolver::builder_with_config(config, Transport::default());
    let options = builder.options_mut();
    options.timeout = budget;
    options.attempts = 0;
    options.cache_size = 0;
    options.edns0 = edns;
    options.num_concurrent_reqs = 1;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    options.use_hosts_file = ResolveHosts::Never;
    builder.build()?.lookup(name, kind).await
}

/// Opens hickory's connections. UDP queries are sent again late and seldom: a server that thinks gets one query.
#[derive(Clone, Default)]
struct Transport(TokioRuntimeProvider);

impl ConnectionProvider for Transport {
    type Conn = DnsExchange<TokioRuntimeProvider>;
    type FutureConn = Pin<Box<dyn Future<Output = Result<Self::Conn, NetError>> + Send + 'static>>;
    type RuntimeProvider = TokioRuntimeProvider;

    fn new_connection(&self, ip: IpAddr, config: &ConnectionConfig, cx: &PoolContext) -> Result<Self::FutureConn, NetError> {
        if config.protocol != ProtocolConfig::Udp {
            return self.0.new_connection(ip, config, cx);
        }
        let stream = UdpClientStream::builder(SocketAddr::new(ip, config.port), self.0.clone())
            .with_timeout(Some(cx.options.timeout))
            .with_max_retries(UDP_SENDS_MAX)
            .with_retry_interval_floor(UDP_SEND_AGAIN_MS);
        Ok(Box::pin(async move { Ok(stream.exchange()) }))
    }

    fn runtime_provider(&self) -> &Self::RuntimeProvider {
        &self.0
    }
}

#[cfg(all(unix, not(any(target_os = "android", target_vendor = "apple"))))]
fn read_resolv_conf(path: &Path) -> Result<Servers, String> {
    let text = read_text(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (config, options) =
        hickory_resolver::system_conf::parse_resolv_conf(text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Servers::of(&config, &options))
}

#[cfg(not(all(unix, not(any(target_os = "android", target_vendor = "apple")))))]
fn read_resolv_conf(path: &Path) -> Result<Servers, String> {
    Err(format!("{}: files like resolv.conf are not read on this system", path.display()))
}

#[cfg(unix)]
fn hosts_file() -> Option<PathBuf> {
    Some(PathBuf::from("/etc/hosts"))
}

#[cfg(windows)]
fn hosts_file() -> Option<PathBuf> {
    std::env::var_os("SystemRoot").map(|root| Path::new(&root).join("System32").join("drivers").join("etc").join("hosts"))
}

#[cfg(not(any(unix, windows)))]
fn hosts_file() -> Option<PathBuf> {
    None
}

/// Reads a system's file, as far as its size is limited. It is small and local, and read on the caller's thread.
fn read_text(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(SYSTEM_FILE_SIZE_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The port of DNS servers.
const DNS_PORT: u16 = 53;

/// How many servers are asked (resolv.conf(5) has 3).
const SERVERS_MAX: usize = 8;

/// How long a server is waited for before the next one is asked as well.
const NEXT_SERVER_DELAY: Duration = Duration::from_secs(2);

/// How often a UDP query is sent at the most.
const UDP_SENDS_MAX: u8 = 3;

/// After how long a UDP query without answer is sent again, in milliseconds: above the 5 s that slow servers are known for.
const UDP_SEND_AGAIN_MS: u64 = 5500;

/// How much of a hosts file or resolv.conf is read, in bytes.
const SYSTEM_FILE_SIZE_MAX: u64 = 4 << 20;
