//! Names that can't be resolved.

use std::error::Error as StdError;
use std::net::IpAddr;
use std::time::Duration;

use mongolink::{DnsConfig, ErrorKind, LimitValue, Resolve, ResolveFuture, ServerAddress, Stage};

use super::{CALM, Guest, IMPATIENT, assert_limit, assert_told, builder};
use crate::peers;

const DNS_LIMIT: Duration = Duration::from_millis(300);

/// A resolver of the user's own that does not find anything.
#[derive(Clone, Copy)]
enum PhoneBook {
    Empty,
    Closed,
    Lost,
}

impl Resolve for PhoneBook {
    fn resolve(&self, _name: &str) -> ResolveFuture<'_> {
        Box::pin(self.look())
    }
}

impl PhoneBook {
    async fn look(self) -> Result<Vec<IpAddr>, Box<dyn StdError + Send + Sync>> {
        match self {
            Self::Empty => Ok(Vec::new()),
            Self::Closed => Err("the phone book is closed".into()),
            Self::Lost => std::future::pending().await,
        }
    }
}

fn host(text: &str) -> ServerAddress {
    ServerAddress::parse(text).expect("a host")
}

#[tokio::test]
async fn name_that_does_not_exist_is_named() {
    let dns = peers::dns_without_names().await;
    let host = host("no-such-host.invalid");
    let guest = Guest::of(builder(&host, CALM, "").dns(DnsConfig::Servers(vec![dns.address()])));
    for fault in guest.faults(&host).await {
        assert_told(&fault, ErrorKind::NoSuchName, Stage::Dns, &host, "\"no-such-host.invalid\" does not exist");
        assert_eq!(fault.address(), None);
        assert!(fault.causes().is_empty(), "explicit servers decide alone: {fault}");
    }
    guest.end().await;
}

#[tokio::test]
async fn name_without_addresses_differs_from_one_that_does_not_exist() {
    let host = host("db.example");
    let guest = Guest::of(builder(&host, CALM, "").resolver(PhoneBook::Empty));
    for fault in guest.faults(&host).await {
        assert_told(&fault, ErrorKind::NoAddresses, Stage::Dns, &host, "\"db.example\" has no addresses");
    }
    guest.end().await;
}

#[tokio::test]
async fn own_resolver_that_fails_is_the_cause() {
    let host = host("db.example");
    let guest = Guest::of(builder(&host, CALM, "").resolver(PhoneBook::Closed));
    for fault in guest.faults(&host).await {
        assert_told(&fault, ErrorKind::DnsFailed, Stage::Dns, &host, "the phone book is closed");
        assert_eq!(fault.underlying().expect("a cause").to_string(), "the phone book is closed");
    }
    guest.end().await;
}

#[tokio::test]
async fn own_resolver_that_never_answers_meets_the_limit_of_look_ups() {
    let host = host("db.example");
    let guest = Guest::of(builder(&host, IMPATIENT, "").dns_timeout(DNS_LIMIT).resolver(PhoneBook::Lost));
    for fault in guest.faults(&host).await {
        assert_told(&fault, ErrorKind::Timeout, Stage::Dns, &host, "timed out after ");
        assert_limit(&fault, "dnsTimeoutMS", LimitValue::Time(DNS_LIMIT));
        assert!(fault.is_timeout() && fault.elapsed().is_some_and(|elapsed| elapsed >= DNS_LIMIT), "{fault}");
    }
    guest.end().await;
}

#[tokio::test]
async fn dns_that_never_answers_meets_the_limit_of_look_ups() {
    let dns = peers::silent_dns().await;
    let host = host("db.example");
    let servers = DnsConfig::Servers(vec![dns.address()]);
    let guest = Guest::of(builder(&host, IMPATIENT, "").dns_timeout(DNS_LIMIT).dns(servers));
    for fault in guest.faults(&host).await {
        assert_told(&fault, ErrorKind::Timeout, Stage::Dns, &host, "timed out after ");
        assert_limit(&fault, "dnsTimeoutMS", LimitValue::Time(DNS_LIMIT));
    }
    guest.end().await;
}
