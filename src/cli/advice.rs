//! Advice for the findings of an examination.
//!
//! Pure: findings in, advice out. Errors are grouped by symptom, so that twenty members with one fault get one piece of advice.
//! Does not list what failed where (`report`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::auth::Mechanism;
use crate::client::Probe;
use crate::error::{Error, ErrorKind, Stage};
use crate::host::ServerAddress;
use crate::options::ClientOptions;
use crate::topology::{ServerType, TopologyDescription, TopologyType};

/// The findings of an examination that matter for advice.
pub(super) struct Findings<'a> {
    pub(super) options: &'a ClientOptions,
    /// The servers that were known at the start.
    pub(super) seeds: &'a [ServerAddress],
    /// The error that kept the examination from starting.
    pub(super) start: Option<&'a Error>,
    pub(super) topology: Option<&'a TopologyDescription>,
    pub(super) probes: &'a [Probe],
    /// The error of the last ping, if it failed.
    pub(super) ping: Option<&'a Error>,
}

/// The maximum number of hosts in a piece of advice.
const HOSTS_MAX: usize = 8;

/// The visible symptom of a fault, in the order in which advice is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Symptom {
    SrvMissing,
    DnsRule,
    NoSuchName,
    NoAddresses,
    DnsFailed,
    DnsTimeout,
    Refused,
    ConnectTimeout,
    Unroutable,
    NoSocket,
    Forbidden,
    TlsToPlain,
    PlainToTls,
    TlsRefused,
    CertificateIssuer,
    CertificateName,
    CertificateExpired,
    Certificate,
    CertificateRequired,
    Dropped,
    Foreign,
    Silent,
    Login,
    Incompatible,
}

/// Returns the advice, the most basic first.
pub(super) fn advise(findings: &Findings<'_>) -> Vec<String> {
    let internal = internal_members(findings);
    let mut groups: BTreeMap<Symptom, BTreeSet<String>> = BTreeMap::new();
    let mut note = |error: &Error, host: String| {
        for symptom in leaves(error).into_iter().filter_map(|leaf| symptom(leaf, findings.options.tls_or_default())) {
            groups.entry(symptom).or_default().insert(host.clone());
        }
    };
    if let Some(error) = findings.start {
        note(error, findings.options.srv.clone().unwrap_or_default());
    }
    for probe in findings.probes.iter().filter(|probe| !internal.contains(&&probe.host)) {
        if let Some(error) = &probe.error {
            note(error, probe.host.to_string());
        }
    }
    if let Some((error, host)) = findings.ping.and_then(|error| Some((error, error.host()?))) {
        note(error, host.to_string());
    }
    let mut advice: Vec<String> = groups.iter().map(|(symptom, hosts)| symptom.text(&list(hosts.iter()), findings.options)).collect();
    if !internal.is_empty() {
        advice.push(internal_text(findings, &internal));
    }
    let set = wrong_set(findings);
    let is_right_set = set.is_empty();
    advice.extend(set);
    advice.extend(without_primary(findings).filter(|_| is_right_set));
    advice.extend(none_answers(findings));
    advice
}

/// Finds the members whose names resolve for the members themselves, but not from here.
///
/// A name that does not resolve is enough. Other failures count only if no member is reachable by the name that the servers
/// announce: one reachable member shows that the names are right and the failing member is down.
fn internal_members<'a>(findings: &Findings<'a>) -> Vec<&'a ServerAddress> {
    let hellos = || findings.probes.iter().filter_map(|probe| probe.hello.as_ref());
    let is_member = |host: &ServerAddress| {
        hellos().any(|hello| [&hello.hosts, &hello.passives, &hello.arbiters].iter().any(|list| list.contains(host)))
    };
    let names_work = findings.probes.iter().any(|probe| probe.hello.is_some() && is_member(&probe.host));
    let is_internal = |probe: &&Probe| {
        let stage = probe.error.as_ref().and_then(Error::stage);
        probe.hello.is_none()
            && !findings.seeds.contains(&probe.host)
            && is_member(&probe.host)
            && (stage == Some(Stage::Dns) || !names_work && matches!(stage, Some(Stage::Tcp | Stage::Tls) | None))
    };
    findings.probes.iter().filter(is_internal).map(|probe| &probe.host).collect()
}

fn internal_text(findings: &Findings<'_>, internal: &[&ServerAddress]) -> String {
    let answering: Vec<String> = findings.probes.iter().filter(|probe| answers(probe)).map(|probe| probe.host.to_string()).collect();
    let example = internal.first().map(|host| host.canonical()).unwrap_or_default();
    let seed = answering.first().cloned().unwrap_or_default();
    format!(
        "{} answers, but the replica set announces members under names that can't be reached from here: {}. Run where these names \
         work, or set their addresses with --resolve {example}:ADDRESS (one for each; in code, ClientBuilder::resolve), or connect to \
         {seed} alone with directConnection=true.",
        list(answering.iter()),
        list(internal.iter().map(|host| host.to_string()).collect::<Vec<_>>().iter()),
    )
}

/// Compares the configured replica set with the servers' sets.
fn wrong_set(findings: &Findings<'_>) -> Vec<String> {
    let from_records = findings.topology.and_then(TopologyDescription::set_name).filter(|_| findings.options.srv.is_some());
    let Some(wanted) = findings.options.replica_set.as_deref().or(from_records) else { return Vec::new() };
    let mut others: BTreeMap<Option<&str>, BTreeSet<String>> = BTreeMap::new();
    for probe in findings.probes {
        let Some(hello) = probe.hello.as_ref().filter(|hello| !hello.is_replica_set) else { continue };
        if hello.set_name.as_deref() != Some(wanted) {
            others.entry(hello.set_name.as_deref()).or_default().insert(probe.host.to_string());
        }
    }
    let text = |(name, hosts): (&Option<&str>, &BTreeSet<String>)| match name {
        Some(name) => format!(
            "The connection string names the replica set {wanted:?}, but {} belongs to {name:?}: use replicaSet={name}, or the \
             right servers.",
            list(hosts.iter())
        ),
        None => format!(
            "The connection string names the replica set {wanted:?}, but {} belongs to none (a standalone or a mongos): remove \
             replicaSet, or use the right servers.",
            list(hosts.iter())
        ),
    };
    others.iter().map(text).collect()
}

/// Returns whether a server answered every request; a refusal is an answer, silence after the hello reply is none.
pub(super) fn answers(probe: &Probe) -> bool {
    let is_silent = |error: &Error| error.is_network() || error.is_timeout();
    probe.hello.is_some() && !probe.error.as_ref().is_some_and(is_silent)
}

/// Returns why no server accepts writes, although servers answer.
fn without_primary(findings: &Findings<'_>) -> Option<String> {
    let topology = findings.topology?;
    let answering: Vec<&Probe> = findings.probes.iter().filter(|probe| answers(probe)).collect();
    let first = answering.first()?;
    let hello = first.hello.as_ref()?;
    if answering.iter().any(|probe| probe.hello.as_ref().is_some_and(|hello| hello.is_replica_set)) {
        return Some(format!("{} was started as a member of a replica set that has no configuration yet: run rs.initiate().", first.host));
    }
    match topology.kind() {
        TopologyType::Single if findings.options.direct_connection == Some(true) && !hello.is_writable_primary => Some(format!(
            "directConnection=true connects to {} alone, which is {}: remove it to discover the primary.",
            first.host,
            ServerType::of_hello(hello).name()
        )),
        TopologyType::ReplicaSetNoPrimary => Some(format!(
            "The replica set has no primary; {} of its {} known members answer. If a majority is up, an election may be in progress: try \
             again. If not, start members until a majority is up. Reads with readPreference=secondaryPreferred may work meanwhile.",
            answering.len(),
            topology.servers().len().max(answering.len())
        )),
        TopologyType::Unknown
        | TopologyType::Single
        | TopologyType::ReplicaSetWithPrimary
        | TopologyType::Sharded
        | TopologyType::LoadBalanced => None,
    }
}

fn none_answers(findings: &Findings<'_>) -> Option<String> {
    let tried = findings.probes.len();
    let is_silent = tried > 1 && !findings.probes.iter().any(answers);
    is_silent.then(|| {
        format!(
            "None of the {tried} servers could be reached: first check what they have in common, such as VPN, firewall or the spelling \
             of their names."
        )
    })
}

/// Returns the innermost errors: one per address of a host.
fn leaves(error: &Error) -> Vec<&Error> {
    if error.causes().is_empty() { vec![error] } else { error.causes().iter().flat_map(leaves).collect() }
}

/// Returns the symptom of an error; `tls` is whether the connection was to use TLS.
fn symptom(error: &Error, tls: bool) -> Option<Symptom> {
    let stage = error.stage();
    match error.kind() {
        ErrorKind::NoSuchName | ErrorKind::NoAddresses if stage == Some(Stage::Srv) => Some(Symptom::SrvMissing),
        ErrorKind::NoSuchName => Some(Symptom::NoSuchName),
        ErrorKind::NoAddresses => Some(Symptom::NoAddresses),
        ErrorKind::DnsFailed => Some(Symptom::DnsFailed),
        ErrorKind::DnsRule => Some(Symptom::DnsRule),
        ErrorKind::Timeout if matches!(stage, Some(Stage::Dns | Stage::Srv)) => Some(Symptom::DnsTimeout),
        ErrorKind::Timeout if stage == Some(Stage::Tcp) => Some(Symptom::ConnectTimeout),
        // A request cut short by the end of the examination says nothing about the server.
        ErrorKind::Timeout => stage.map(|_| Symptom::Silent),
        ErrorKind::Io(kind) => socket_symptom(kind, stage, tls),
        ErrorKind::Closed => closed_symptom(stage, tls),
        ErrorKind::Tls if error.message().contains("does not use TLS") => Some(Symptom::TlsToPlain),
        ErrorKind::Tls => Some(Symptom::TlsRefused),
        ErrorKind::Protocol if stage == Some(Stage::Hello) && !tls => Some(Symptom::PlainToTls),
        ErrorKind::Protocol => Some(Symptom::Foreign),
        ErrorKind::CertificateUnknownIssuer => Some(Symptom::CertificateIssuer),
        ErrorKind::CertificateName => Some(Symptom::CertificateName),
        ErrorKind::CertificateExpired => Some(Symptom::CertificateExpired),
        ErrorKind::Certificate => Some(Symptom::Certificate),
        ErrorKind::CertificateRequired => Some(Symptom::CertificateRequired),
        ErrorKind::Incompatible => Some(Symptom::Incompatible),
        ErrorKind::Auth => Some(Symptom::Login),
        ErrorKind::Command if stage == Some(Stage::Auth) => Some(Symptom::Login),
        ErrorKind::InvalidUri
        | ErrorKind::InvalidHost
        | ErrorKind::InvalidOption
        | ErrorKind::InvalidArgument
        | ErrorKind::Unsupported
        | ErrorKind::PoolCleared
        | ErrorKind::PoolClosed
        | ErrorKind::TooManyWaiters
        | ErrorKind::LocalResources
        | ErrorKind::ServerSelection
        | ErrorKind::Interrupted
        | ErrorKind::Silent
        | ErrorKind::Command
        | ErrorKind::Bson
        | ErrorKind::Shutdown
        | ErrorKind::Internal => None,
    }
}

fn socket_symptom(kind: io::ErrorKind, stage: Option<Stage>, tls: bool) -> Option<Symptom> {
    use io::ErrorKind as Kind;
    let is_one_of = |kinds: &[Kind]| kinds.contains(&kind);
    if kind == Kind::ConnectionRefused {
        Some(Symptom::Refused)
    } else if kind == Kind::TimedOut {
        Some(Symptom::ConnectTimeout)
    } else if is_one_of(&[Kind::HostUnreachable, Kind::NetworkUnreachable, Kind::NetworkDown, Kind::AddrNotAvailable]) {
        Some(Symptom::Unroutable)
    } else if is_one_of(&[Kind::ConnectionReset, Kind::ConnectionAborted, Kind::BrokenPipe, Kind::UnexpectedEof]) {
        closed_symptom(stage, tls)
    } else if kind == Kind::NotFound {
        Some(Symptom::NoSocket)
    } else if kind == Kind::PermissionDenied {
        Some(Symptom::Forbidden)
    } else {
        None
    }
}

/// Returns the symptom of a closed connection: a server closes it that receives TLS without expecting it, or the reverse.
fn closed_symptom(stage: Option<Stage>, tls: bool) -> Option<Symptom> {
    match stage? {
        Stage::Tls => Some(Symptom::TlsToPlain),
        Stage::Hello if !tls => Some(Symptom::PlainToTls),
        Stage::Uri
        | Stage::Srv
        | Stage::Dns
        | Stage::Tcp
        | Stage::Hello
        | Stage::Auth
        | Stage::Selection
        | Stage::Checkout
        | Stage::Write
        | Stage::Read
        | Stage::Server => Some(Symptom::Dropped),
    }
}

impl Symptom {
    fn text(self, hosts: &str, options: &ClientOptions) -> String {
        let service = options.srv_service_name_or_default();
        match self {
            Self::SrvMissing => format!(
                "There is no SRV record _{service}._tcp.{hosts}: mongodb+srv:// requires the name of a cluster with SRV records, without \
                 port. For the name of a server use mongodb://."
            ),
            Self::DnsRule => {
                format!("The DNS records of {hosts} violate the rules of mongodb+srv://: they have to be corrected in DNS.")
            }
            Self::NoSuchName => {
                format!("The name does not exist: {hosts}. Check its spelling, the search domain and the VPN.")
            }
            Self::NoAddresses => format!("The name has no address: {hosts}. Check its A and AAAA records."),
            Self::DnsFailed => format!("The look-up of {hosts} failed: check this machine's DNS servers and the route to them."),
            Self::DnsTimeout => format!(
                "No DNS server answered for {hosts}: check this machine's DNS servers and the route to them. --resolve avoids the \
                 look-up."
            ),
            Self::Refused => format!(
                "Nothing listens at {hosts}, or a firewall rejects the connection: is the server running, is the port right, and does it \
                 listen on this address (net.bindIp) and not only on localhost?"
            ),
            Self::ConnectTimeout => format!(
                "No answer at all from {hosts}: usually a firewall, an access list or a missing route. For a hosted service, allow \
                 this machine's address."
            ),
            Self::Unroutable => format!("There is no route from this machine to {hosts}: check network, VPN and routes."),
            Self::NoSocket => format!("The socket or network interface does not exist: {hosts}. Is the server running on this machine?"),
            Self::Forbidden => format!("This user may not connect to {hosts}: check the permissions of the socket, or local rules."),
            Self::TlsToPlain => {
                format!("{hosts} seems not to use TLS on this port, but the connection requires it: use tls=false, or the TLS port.")
            }
            Self::PlainToTls => {
                format!("{hosts} rejects connections without TLS, or is not a MongoDB server: if it requires TLS, use tls=true.")
            }
            Self::TlsRefused => format!(
                "{hosts} and this program could not negotiate TLS: the server may require a client certificate (tlsCertificateKeyFile), \
                 or support only versions before TLS 1.2."
            ),
            Self::CertificateIssuer => format!(
                "The certificate of {hosts} is signed by an authority that is not trusted here: set tlsCAFile to the authority's \
                 certificate."
            ),
            Self::CertificateName => format!(
                "The certificate of {hosts} is for another name: use a name in the certificate, renew it with this name, or use the \
                 certificate's name with --resolve for its address. tlsAllowInvalidHostnames=true disables the check."
            ),
            Self::CertificateExpired => {
                format!("The certificate of {hosts} is expired or not yet valid: renew it, and check this machine's clock.")
            }
            Self::Certificate => format!("The certificate of {hosts} is unusable: replace it."),
            Self::CertificateRequired => format!(
                "{hosts} requires a client certificate: set tlsCertificateKeyFile to a PEM file with an accepted certificate and its \
                 private key (or run the server with --tlsAllowConnectionsWithoutCertificates)."
            ),
            Self::Dropped => {
                format!("{hosts} closed the connection: see the server's log; a proxy or an overloaded server can do so, too.")
            }
            Self::Foreign => format!("{hosts} does not use the MongoDB wire protocol: is the port right?"),
            Self::Silent => format!(
                "{hosts} accepts connections but does not answer in time: it may hang, be overloaded, not be a MongoDB server, or expect \
                 TLS."
            ),
            Self::Login => login_text(hosts, options),
            Self::Incompatible => {
                format!("{hosts} has a version that mongolink does not support, or is not a load balancer although loadBalanced=true.")
            }
        }
    }
}

fn login_text(hosts: &str, options: &ClientOptions) -> String {
    let user = options.username.as_deref().filter(|user| !user.is_empty());
    let user = user.map_or_else(|| "the authentication".to_owned(), |user| format!("the authentication of {user:?}"));
    let is_scram = matches!(options.auth_mechanism, None | Some(Mechanism::ScramSha1 | Mechanism::ScramSha256));
    // A TXT record of an SRV name may have set authSource.
    if let Some(database) = options.database.as_deref().filter(|database| *database != "admin")
        && options.auth_source.is_none()
        && options.srv.is_none()
        && is_scram
    {
        return format!(
            "{hosts} refused {user} in the database {database:?} of the connection string: ?authSource=admin is probably \
             required. If not, check user name and password (in a connection string, percent-encode \
             : / ? # [ ] @ %)."
        );
    }
    format!(
        "{hosts} refused {user}: check user name and password (in a connection string, percent-encode : / ? # [ ] @ %), and authSource, \
         the database in which the user was created (default admin)."
    )
}

/// Joins the names of a limited number of hosts.
fn list<'a>(hosts: impl ExactSizeIterator<Item = &'a String>) -> String {
    let more = hosts.len().saturating_sub(HOSTS_MAX);
    let named = hosts.take(HOSTS_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
