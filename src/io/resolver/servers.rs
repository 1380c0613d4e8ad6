//! The DNS servers in use, and one query to them.
//!
//! hickory encodes, sends and decodes; its cache, retries and choice of servers are off. Servers are queried in the order
//! configured, because a VPN's server comes first and only it knows the inner names. The next server is queried as well
//! after [`NEXT_SERVER_DELAY`] without an answer, or at once after a failure; the first answer counts. A slow server so
//! gets one query for a record type, and a dead one costs two seconds. Does not decide what answers mean (`dns`).

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
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

use super::system_files;
use crate::dns::names::{self, SearchList};
use crate::dns::system_config::ResolvConf;
use crate::io::clock;

/// How a client resolves names.
///
/// SRV and TXT records always come from DNS servers, and time-outs and retries of queries are mongolink's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DnsConfig {
    /// As every other program on this machine does; the configuration is read again when it changes.
    ///
    /// On Linux and the BSDs the hosts file and DNS are used directly if `nsswitch.conf`, `resolv.conf` and the environment
    /// contain nothing but what mongolink can follow: `files` and `dns` in either order, multicast DNS and `myhostname` for
    /// other names than theirs, and the options of `resolv.conf` that do not change answers. In all other cases, and on
    /// macOS, Windows and Android always, the operating system's own look-up (`getaddrinfo`) is used; its answers are used
    /// for 30 s. Each client runs at most 4 such look-ups at once, and up to 32 that hang.
    #[default]
    System,
    /// A file like `/etc/resolv.conf`, read again when it changes. The hosts file and `localhost` come first; the operating
    /// system's look-up is never used.
    ResolvConf(PathBuf),
    /// These servers, by UDP and TCP, without search domains. The hosts file and `localhost` come first; the operating
    /// system's look-up is never used.
    Servers(Vec<SocketAddr>),
}

/// The DNS servers in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Servers {
    addresses: Vec<SocketAddr>,
    pub(super) search: SearchList,
    edns: bool,
    tcp_only: bool,
}

impl Servers {
    /// Returns explicit servers. The error says that there are none.
    pub(super) fn of_addresses(addresses: Vec<SocketAddr>) -> Result<Self, String> {
        Self { addresses, search: SearchList::default(), edns: true, tcp_only: false }.unless_empty()
    }

    /// Returns the servers of a resolv.conf file.
    pub(super) fn of_resolv_conf(config: ResolvConf) -> Result<Self, String> {
        let addresses = config.servers.into_iter().map(|ip| SocketAddr::new(ip, DNS_PORT)).collect();
        Self { addresses, search: config.search, edns: config.edns, tcp_only: config.tcp_only }.unless_empty()
    }

    /// Returns the servers of a system that is not configured by files.
    pub(super) fn of_system() -> Result<Self, String> {
        let (config, options) = hickory_resolver::system_conf::read_system_conf().map_err(|error| error.to_string())?;
        Self::of(&config, &options).unless_empty()
    }

    fn unless_empty(self) -> Result<Self, String> {
        if self.addresses.is_empty() { Err("no DNS servers are configured".into()) } else { Ok(self) }
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
        Self { addresses, search: SearchList { domains, ndots: options.ndots }, edns: options.edns0, tcp_only: false }
    }

    /// Queries the records of a full name.
    pub(super) async fn ask(&self, name: &str, kind: RecordType, budget: Duration) -> Result<Lookup, NetError> {
        let name = Name::from_ascii(format!("{name}."))?;
        let mut queue = self.addresses.iter();
        let mut running = FuturesUnordered::new();
        let mut failure = NetError::NoConnections;
        loop {
            match queue.next() {
                Some(server) => {
                    tracing::debug!(%name, %kind, %server, "DNS query");
                    running.push(self.ask_server(*server, name.clone(), kind, budget));
                }
                None if running.is_empty() => return Err(failure),
                None => {}
            }
            let next_at = (queue.len() > 0).then(|| clock::now() + NEXT_SERVER_DELAY);
            tokio::select! {
                Some(outcome) = running.next() => match outcome {
                    Ok(lookup) => return Ok(lookup),
                    Err(error) if error.is_no_records_found() => return Err(error),
                    Err(error) => {
                        tracing::debug!(%name, %kind, %error, "DNS query failed");
                        failure = error;
                    }
                },
                () = clock::sleep_until(next_at) => {}
            }
        }
    }

    /// Queries one server. Everything that hickory starts for it ends with the future.
    async fn ask_server(&self, server: SocketAddr, name: Name, kind: RecordType, budget: Duration) -> Result<Lookup, NetError> {
        let protocols = [ProtocolConfig::Udp, ProtocolConfig::Tcp].into_iter().skip(usize::from(self.tcp_only));
        let connections = protocols.map(|protocol| {
            let mut connection = ConnectionConfig::new(protocol);
            connection.port = server.port();
            connection
        });
        let config = ResolverConfig::from_name_servers(vec![NameServerConfig::new(server.ip(), true, connections.collect())]);
        let mut builder = hickory_resolver::Resolver::builder_with_config(config, Transport::default());
        let options = builder.options_mut();
        options.timeout = budget;
        options.attempts = 0;
        options.cache_size = 0;
        options.edns0 = self.edns;
        options.num_concurrent_reqs = 1;
        options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        options.use_hosts_file = ResolveHosts::Never;
        builder.build()?.lookup(name, kind).await
    }

    /// Queries the addresses of a full name. Returns them with the shortest of their records' times to live.
    pub(super) async fn addresses(&self, name: &str, kind: RecordType, budget: Duration) -> Result<(Vec<IpAddr>, Duration), NetError> {
        let lookup = self.ask(name, kind, budget).await?;
        let records = lookup.answers();
        let addresses = records.iter().filter(|record| record.record_type() == kind).filter_map(|record| record.data.ip_addr()).collect();
        let ttl = records.iter().map(|record| record.ttl).min().unwrap_or_default();
        Ok((addresses, Duration::from_secs(ttl.into())))
    }
}

/// Returns a name's addresses in the hosts file; `None` if there is no such file.
pub(super) fn hosts_file_addresses(name: &str) -> Option<Vec<IpAddr>> {
    let text = system_files::read_text(&system_files::hosts_file()?).ok()?;
    Some(names::hosts_addresses(&text, name))
}

/// Opens hickory's connections. UDP queries are repeated late and seldom, so that a slow server gets one query.
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

/// The port of DNS servers.
const DNS_PORT: u16 = 53;

/// Maximum number of servers used of a system without resolv.conf.
const SERVERS_MAX: usize = 8;

/// How long one server may take before the next one is queried as well.
const NEXT_SERVER_DELAY: Duration = Duration::from_secs(2);

/// Maximum number of times a UDP query is sent.
const UDP_SENDS_MAX: u8 = 3;

/// When an unanswered UDP query is repeated, in milliseconds: after the 5 s that slow servers are known to take.
const UDP_SEND_AGAIN_MS: u64 = 5500;
