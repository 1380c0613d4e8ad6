use std::time::{Duration, Instant};

use super::*;
use crate::cli::report::failed_probe;
use crate::handshake::HelloReply;
use crate::topology::ServerDescription;
use crate::uri::ConnectionString;

struct Case {
    options: ClientOptions,
    probes: Vec<Probe>,
    topology: TopologyDescription,
}

impl Case {
    fn new(uri: &str) -> Self {
        let options = ConnectionString::parse(uri).expect(uri).options;
        Self { options, probes: Vec::new(), topology: TopologyDescription::new(TopologyType::Unknown, []) }
    }

    fn failing(mut self, host: &str, error: Error) -> Self {
        let host = key(host);
        self.probes.push(failed_probe(host.clone(), error.on(&host)));
        self
    }

    fn answering(mut self, host: &str, hello: HelloReply) -> Self {
        let host = key(host);
        self.probes.push(Probe { host, address: None, stages: Vec::new(), hello: Some(hello), ping: None, error: None });
        self
    }

    fn topology(mut self, kind: TopologyType) -> Self {
        let servers = self.probes.iter().map(|probe| match &probe.hello {
            Some(hello) => ServerDescription::of_hello(&probe.host, hello.clone(), Instant::now()),
            None => ServerDescription::unknown(&probe.host),
        });
        self.topology = TopologyDescription::new(kind, servers);
        self
    }

    fn advice(&self) -> Vec<String> {
        self.advice_after(None)
    }

    fn advice_after(&self, start: Option<&Error>) -> Vec<String> {
        advise(&Findings {
            options: &self.options,
            seeds: &self.options.hosts,
            start,
            topology: Some(&self.topology),
            probes: &self.probes,
            ping: None,
        })
    }
}

fn key(text: &str) -> ServerAddress {
    ServerAddress::parse(text).expect(text)
}

fn failure(kind: ErrorKind, stage: Stage) -> Error {
    Error::new(kind, "x").at(stage)
}

fn refused() -> Error {
    Error::io(Stage::Tcp, io::ErrorKind::ConnectionRefused.into())
}

fn member(set: &str, hosts: &[&str]) -> HelloReply {
    HelloReply {
        secondary: true,
        set_name: Some(set.to_owned()),
        hosts: hosts.iter().map(|host| key(host)).collect(),
        ..HelloReply::default()
    }
}

/// The only piece of advice for a failing host of a client with this connection string.
fn only(uri: &str, error: Error) -> String {
    let mut advice = Case::new(uri).failing("db.example", error).advice();
    assert_eq!(advice.len(), 1, "{advice:?}");
    advice.remove(0)
}

#[test]
fn refused_asks_for_server_port_and_firewall() {
    let advice = only("mongodb://db.example", refused());
    assert!(advice.starts_with("Nothing listens at db.example:27017"), "{advice}");
    assert!(advice.contains("firewall") && advice.contains("port") && advice.contains("running"), "{advice}");
}

#[test]
fn unresponsive_member_does_not_count_as_answering() {
    let hosts = ["a", "b", "c"];
    let silences = [
        Error::timeout(Stage::Read, "PING_LIMIT", Duration::from_secs(10), Duration::from_secs(10)),
        Error::timeout(Stage::Auth, "connectTimeoutMS", Duration::from_secs(1), Duration::from_secs(1)),
        Error::new(ErrorKind::Closed, "closed").at(Stage::Read),
        Error::new(ErrorKind::Silent, "silent"),
    ];
    for silence in silences {
        let mut case =
            Case::new("mongodb://a,b,c/?replicaSet=rs0").answering("a", member("rs0", &hosts)).answering("b", member("rs0", &hosts));
        case.probes[1].error = Some(silence.clone().on(&key("b")));
        let advice = case.topology(TopologyType::ReplicaSetNoPrimary).advice();
        assert!(advice.iter().any(|advice| advice.contains("1 of its 2 known members answer")), "{silence}: {advice:?}");
    }
    let mut case = Case::new("mongodb://a,b").answering("a", member("rs0", &hosts)).answering("b", member("rs0", &hosts));
    case.probes[1].error = Some(failure(ErrorKind::Auth, Stage::Auth));
    let advice = case.topology(TopologyType::ReplicaSetNoPrimary).advice();
    assert!(advice.iter().any(|advice| advice.contains("2 of its 2 known members answer")), "a refusal is an answer: {advice:?}");
}

#[test]
fn refused_login_in_a_database_asks_for_auth_source() {
    let refused = || failure(ErrorKind::Auth, Stage::Auth);
    let advice = only("mongodb://ann:right@db.example/shop", refused());
    assert!(advice.contains("?authSource=admin is probably required") && advice.contains("\"shop\""), "{advice}");
    for uri in [
        "mongodb://ann:right@db.example/",
        "mongodb://ann:right@db.example/admin",
        "mongodb://ann:right@db.example/shop?authSource=shop",
        "mongodb://ann:right@db.example/shop?authMechanism=PLAIN",
    ] {
        assert!(!only(uri, refused()).contains("probably required"), "{uri}");
    }
}

#[test]
fn causes_count_instead_of_their_sum() {
    let all = Error::new(ErrorKind::Timeout, "no address answered").at(Stage::Tcp).with_causes(vec![refused(), refused()]);
    assert!(only("mongodb://db.example", all).starts_with("Nothing listens"));
}

#[test]
fn hosts_with_one_symptom_share_the_advice() {
    let mut case = Case::new("mongodb://h1");
    for number in 1..=10 {
        case = case.failing(&format!("h{number:02}"), refused());
    }
    let advice = case.advice();
    assert!(advice[0].contains("h01:27017, h02:27017") && advice[0].contains("and 2 more"), "{advice:?}");
    assert!(advice[1].starts_with("None of the 10 servers"), "{advice:?}");
    assert_eq!(advice.len(), 2);
}

#[test]
fn missing_names_and_dns_faults_have_different_advice() {
    assert!(only("mongodb://db.example", failure(ErrorKind::NoSuchName, Stage::Dns)).contains("spelling"));
    assert!(only("mongodb://db.example", failure(ErrorKind::NoAddresses, Stage::Dns)).contains("A and AAAA"));
    let timeout = Error::timeout(Stage::Dns, "dnsTimeoutMS", Duration::from_secs(1), Duration::from_secs(1));
    assert!(only("mongodb://db.example", timeout).contains("No DNS server answered"));
    let missing = failure(ErrorKind::NoSuchName, Stage::Srv);
    let advice = Case::new("mongodb+srv://cluster.db.example").advice_after(Some(&missing));
    assert!(advice[0].contains("_mongodb._tcp.cluster.db.example"), "{advice:?}");
}

#[test]
fn tls_mismatch_is_seen_from_both_sides() {
    let plain = "mongodb://db.example";
    let secured = "mongodb://db.example/?tls=true";
    assert!(only(secured, failure(ErrorKind::Closed, Stage::Tls)).contains("tls=false"));
    assert!(only(secured, Error::new(ErrorKind::Tls, "the server does not use TLS on this port").at(Stage::Tls)).contains("tls=false"));
    assert!(only(secured, Error::io(Stage::Tls, io::ErrorKind::ConnectionReset.into())).contains("tls=false"));
    assert!(only(plain, failure(ErrorKind::Closed, Stage::Hello)).contains("tls=true"));
    assert!(only(plain, failure(ErrorKind::Protocol, Stage::Hello)).contains("tls=true"));
    assert!(only(secured, failure(ErrorKind::Closed, Stage::Hello)).contains("closed the connection"));
    assert!(only(secured, failure(ErrorKind::Tls, Stage::Tls)).contains("tlsCertificateKeyFile"));
}

#[test]
fn certificate_faults_have_different_advice() {
    let uri = "mongodb://db.example/?tls=true";
    assert!(only(uri, failure(ErrorKind::CertificateUnknownIssuer, Stage::Tls)).contains("tlsCAFile"));
    assert!(only(uri, failure(ErrorKind::CertificateName, Stage::Tls)).contains("another name"));
    assert!(
        only(uri, failure(ErrorKind::CertificateRequired, Stage::Tls)).contains("requires a client certificate: set tlsCertificateKeyFile")
    );
    assert!(only(uri, failure(ErrorKind::CertificateExpired, Stage::Tls)).contains("clock"));
}

#[test]
fn login_names_the_user_and_never_the_password() {
    let advice = only("mongodb://ann:s3cret@db.example", failure(ErrorKind::Auth, Stage::Auth));
    assert!(advice.contains("\"ann\"") && advice.contains("authSource"), "{advice}");
    assert!(!advice.contains("s3cret"));
}

#[test]
fn unresolvable_members_are_internal_names() {
    let advice = Case::new("mongodb://seed.example")
        .answering("seed.example", member("rs0", &["in1:27017", "in2:27017"]))
        .failing("in1", failure(ErrorKind::NoSuchName, Stage::Dns))
        .failing("in2", failure(ErrorKind::NoSuchName, Stage::Dns))
        .advice();
    assert_eq!(advice.len(), 1, "{advice:?}");
    assert!(advice[0].contains("in1:27017, in2:27017"), "{advice:?}");
    assert!(advice[0].contains("--resolve in1:27017:ADDRESS") && advice[0].contains("directConnection=true"), "{advice:?}");
}

#[test]
fn members_refused_by_every_learnt_name_are_internal() {
    let advice = Case::new("mongodb://seed.example")
        .answering("seed.example", member("rs0", &["127.0.0.1:27017"]))
        .failing("127.0.0.1", refused())
        .advice();
    assert!(advice.len() == 1 && advice[0].contains("directConnection=true"), "{advice:?}");
}

#[test]
fn one_member_down_among_reachable_ones_is_just_refused() {
    let hosts = ["h1:27017", "h2:27017"];
    let advice = Case::new("mongodb://h1").answering("h1", member("rs0", &hosts)).failing("h2", refused()).advice();
    assert!(advice.len() == 1 && advice[0].starts_with("Nothing listens at h2:27017"), "{advice:?}");
}

#[test]
fn wrong_set_says_both_names() {
    let advice = Case::new("mongodb://h1/?replicaSet=blue")
        .answering("h1", member("green", &["h1"]))
        .topology(TopologyType::ReplicaSetNoPrimary)
        .advice();
    assert!(advice.len() == 1 && advice[0].contains("\"blue\"") && advice[0].contains("replicaSet=green"), "{advice:?}");
    let standalone = HelloReply { is_writable_primary: true, ..HelloReply::default() };
    let advice = Case::new("mongodb://h1/?replicaSet=blue").answering("h1", standalone).advice();
    assert!(advice.len() == 1 && advice[0].contains("remove replicaSet"), "{advice:?}");
}

#[test]
fn missing_primary_counts_members() {
    let hosts = ["h1", "h2", "h3"];
    let advice = Case::new("mongodb://h1,h2")
        .answering("h1", member("rs0", &hosts))
        .failing("h2", refused())
        .failing("h3", refused())
        .topology(TopologyType::ReplicaSetNoPrimary)
        .advice();
    assert!(advice.iter().any(|text| text.contains("no primary; 1 of its 3 known members")), "{advice:?}");
}

#[test]
fn direct_connection_to_a_secondary_is_named() {
    let advice =
        Case::new("mongodb://h1/?directConnection=true").answering("h1", member("rs0", &["h1"])).topology(TopologyType::Single).advice();
    assert!(advice.len() == 1 && advice[0].contains("RSSecondary"), "{advice:?}");
}

#[test]
fn set_without_configuration_is_to_be_initiated() {
    let ghost = HelloReply { is_replica_set: true, ..HelloReply::default() };
    let advice = Case::new("mongodb://h1/?replicaSet=rs0").answering("h1", ghost).topology(TopologyType::ReplicaSetNoPrimary).advice();
    assert!(advice.len() == 1 && advice[0].contains("rs.initiate()"), "{advice:?}");
}

#[test]
fn nothing_wrong_needs_no_advice() {
    let primary = HelloReply { is_writable_primary: true, secondary: false, ..member("rs0", &["h1"]) };
    assert!(Case::new("mongodb://h1").answering("h1", primary).topology(TopologyType::ReplicaSetWithPrimary).advice().is_empty());
}
