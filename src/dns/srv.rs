//! The seeds of an SRV answer: the query's name, the targets that are accepted, and how many of them are used.
//!
//! Follows initial-dns-seedlist-discovery. Does not read TXT records (`uri`), nor decide when SRV records are queried again
//! (`rescan`).

use std::time::Duration;

use rand::RngExt;
use rand::rngs::SmallRng;

use crate::error::{Error, ErrorKind, LimitValue, Stage};
use crate::host::{ServerAddress, normalize_name};

/// An SRV record without priority and weight, which are not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrvRecord {
    /// The name of the server.
    pub target: String,
    /// Its port.
    pub port: u16,
    /// Its time to live.
    pub ttl: Duration,
}

/// A TXT record: its character strings, which are joined without separators.
pub type TxtRecord = Vec<Vec<u8>>;

/// Returns the name whose SRV records are queried.
pub(crate) fn srv_query_name(service: &str, host: &str) -> String {
    format!("_{service}._tcp.{host}")
}

/// Checks an SRV answer and returns its servers, each once, in the order given.
///
/// Every target must be below the name's parent domain. If the name has less than three labels, it is the domain itself,
/// and a target needs at least one more label. One invalid target fails the whole answer.
///
/// # Errors
/// [`ErrorKind::NoAddresses`] for an empty answer, [`ErrorKind::DnsRule`] for one that breaks a rule; stage `srv`.
pub fn seeds(host: &str, records: &[SrvRecord]) -> Result<Vec<ServerAddress>, Error> {
    let domain = domain_of_answer(host, records)?;
    let mut seeds: Vec<ServerAddress> = Vec::new();
    for record in records {
        let seed = seed(&domain, record)?;
        if !seeds.contains(&seed) {
            seeds.push(seed);
        }
    }
    Ok(seeds)
}

/// Checks a later SRV answer. Returns its servers, each once, without the targets that [`seeds`] refuses, and their errors.
///
/// # Errors
/// As [`seeds`] for an answer that is empty or too long.
pub(crate) fn polled_hosts(host: &str, records: &[SrvRecord]) -> Result<(Vec<ServerAddress>, Vec<Error>), Error> {
    let domain = domain_of_answer(host, records)?;
    let (mut hosts, mut refused) = (Vec::new(), Vec::new());
    for record in records {
        match seed(&domain, record) {
            Ok(host) if hosts.contains(&host) => {}
            Ok(host) => hosts.push(host),
            Err(error) => refused.push(error),
        }
    }
    Ok((hosts, refused))
}

/// Returns the time to live of an answer: the shortest of its records'.
pub(crate) fn shortest_ttl(records: &[SrvRecord]) -> Option<Duration> {
    records.iter().map(|record| record.ttl).min()
}

/// Returns at most `max_hosts` of the seeds, chosen at random; 0 means all.
pub fn choose(mut seeds: Vec<ServerAddress>, max_hosts: u32, rng: &mut SmallRng) -> Vec<ServerAddress> {
    let wanted = usize::try_from(max_hosts).unwrap_or(usize::MAX);
    if wanted == 0 || wanted >= seeds.len() {
        return seeds;
    }
    for index in 0..wanted {
        let other = rng.random_range(index..seeds.len());
        seeds.swap(index, other);
    }
    seeds.truncate(wanted);
    seeds
}

fn seed(domain: &str, record: &SrvRecord) -> Result<ServerAddress, Error> {
    let target = record.target.as_str();
    let broken = |why: String| Error::new(ErrorKind::DnsRule, format!("SRV target {target:?} {why}")).at(Stage::Srv);
    let name = normalize_name(target).map_err(|error| broken("is not a name".into()).because(error))?;
    let below = name.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')).is_some_and(|rest| !rest.is_empty());
    if !below {
        return Err(broken(format!("is not below {domain:?}")));
    }
    ServerAddress::new(&name, record.port).map_err(|error| broken(format!("with port {} is not a host", record.port)).because(error))
}

/// Checks the size of an answer and returns the domain of its targets.
fn domain_of_answer(host: &str, records: &[SrvRecord]) -> Result<String, Error> {
    let domain = allowed_domain(host)?;
    if records.is_empty() {
        return Err(Error::new(ErrorKind::NoAddresses, format!("no SRV records for {host:?}")).at(Stage::Srv));
    }
    if records.len() > SRV_RECORDS_MAX {
        let error = Error::new(ErrorKind::DnsRule, format!("{} SRV records for {host:?}", records.len())).at(Stage::Srv);
        return Err(error.against("SRV_RECORDS_MAX", LimitValue::Count(SRV_RECORDS_MAX as u64)));
    }
    Ok(domain)
}

/// Returns the domain that targets must be below.
fn allowed_domain(host: &str) -> Result<String, Error> {
    let host = normalize_name(host).map_err(|error| error.restage(Stage::Srv))?;
    Ok(match host.split_once('.') {
        Some((_, parent)) if parent.contains('.') => parent.to_owned(),
        Some(_) | None => host,
    })
}

/// Maximum number of SRV records in an answer; more are refused.
const SRV_RECORDS_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn answer(targets: &[&str]) -> Vec<SrvRecord> {
        targets.iter().map(|target| SrvRecord { target: (*target).to_owned(), port: 27017, ttl: Duration::from_secs(60) }).collect()
    }

    fn refusal(host: &str, target: &str) -> Error {
        seeds(host, &answer(&[target])).expect_err(target)
    }

    fn many(count: u16) -> Vec<ServerAddress> {
        (1..=count).map(|port| ServerAddress::new("db.example.com", port).expect("host")).collect()
    }

    #[test]
    fn query_name_has_service_and_protocol() {
        assert_eq!(srv_query_name("mongodb", "cluster.example.com"), "_mongodb._tcp.cluster.example.com");
    }

    #[test]
    fn short_names_are_accepted() {
        assert!(seeds("localhost", &answer(&["db.localhost"])).is_ok());
        assert!(seeds("mongo.local", &answer(&["db.mongo.local", "a.b.mongo.local"])).is_ok());
    }

    #[test]
    fn target_must_end_in_the_domain() {
        for (host, target) in
            [("localhost", "localhost.mongodb"), ("mongo.local", "test_1.evil.local"), ("blogs.mongodb.com", "blogs.evil.com")]
        {
            let error = refusal(host, target);
            assert_eq!(error.kind(), ErrorKind::DnsRule);
            assert_eq!(error.stage(), Some(Stage::Srv));
            assert!(error.to_string().contains(target), "{error}");
        }
    }

    #[test]
    fn address_is_refused_as_target() {
        for (host, target) in
            [("cluster.example.com", "10.0.0.1"), ("a.0.0.1", "127.0.0.1"), ("a.0.1", "127.1."), ("cluster.example.com", "db.0x7f")]
        {
            assert!(seeds(host, &answer(&[target])).is_err(), "{host} {target}");
        }
        let error = refusal("cluster.example.com", "10.0.0.1");
        assert!(error.message().ends_with("is not a name"), "{error}");
    }

    #[test]
    fn target_that_is_the_short_name_itself_is_refused() {
        for host in ["localhost", "mongo.local"] {
            assert_eq!(refusal(host, host).kind(), ErrorKind::DnsRule);
        }
    }

    #[test]
    fn shared_suffix_without_the_dot_is_refused() {
        for (host, target) in [
            ("localhost", "test_1.cluster_1localhost"),
            ("mongo.local", "test_1.my_hostmongo.local"),
            ("blogs.mongodb.com", "cluster.testmongodb.com"),
        ] {
            assert_eq!(refusal(host, target).kind(), ErrorKind::DnsRule);
        }
    }

    #[test]
    fn parent_domain_itself_is_refused() {
        assert_eq!(refusal("cluster.example.com", "example.com").kind(), ErrorKind::DnsRule);
        assert_eq!(refusal("cluster.example.com", ".").kind(), ErrorKind::DnsRule);
    }

    #[test]
    fn one_invalid_target_fails_the_answer() {
        let error = seeds("cluster.example.com", &answer(&["a.example.com", "a.example.org"])).expect_err("bad target");
        assert!(error.to_string().contains("a.example.org"), "{error}");
    }

    #[test]
    fn targets_are_normalised() {
        let records = answer(&["A.Example.COM.", "a.example.com", "b.example.com"]);
        let found = seeds("Cluster.EXAMPLE.com.", &records).expect("seeds");
        assert_eq!(found.iter().map(ServerAddress::canonical).collect::<Vec<_>>(), ["a.example.com:27017", "b.example.com:27017"]);
    }

    #[test]
    fn empty_answers_and_huge_answers_are_refused() {
        assert_eq!(seeds("cluster.example.com", &[]).expect_err("empty").kind(), ErrorKind::NoAddresses);
        let error = seeds("cluster.example.com", &answer(&["a.example.com"; SRV_RECORDS_MAX + 1])).expect_err("huge");
        assert_eq!(error.limit().map(|limit| limit.name), Some("SRV_RECORDS_MAX"));
        assert!(seeds("cluster.example.com", &answer(&["a.example.com"; SRV_RECORDS_MAX])).is_ok(), "the limit itself is allowed");
    }

    #[test]
    fn port_zero_is_refused() {
        let record = SrvRecord { target: "a.example.com".into(), port: 0, ttl: Duration::ZERO };
        assert!(seeds("cluster.example.com", &[record]).expect_err("port 0").to_string().contains("port 0"));
    }

    #[test]
    fn choice_is_a_random_subset() {
        let all = many(10);
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let chosen = choose(all.clone(), 3, &mut SmallRng::seed_from_u64(seed));
            assert_eq!(chosen.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
            seen.extend(chosen.into_iter().filter(|host| all.contains(host)));
        }
        assert_eq!(seen.len(), 10);
    }

    #[test]
    fn zero_and_larger_limits_mean_all() {
        for max_hosts in [0, 10, 11] {
            assert_eq!(choose(many(10), max_hosts, &mut SmallRng::seed_from_u64(1)), many(10));
        }
    }
}
