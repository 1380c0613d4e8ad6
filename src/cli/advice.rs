//! What is to be done about what an examination found?
//!
//! Pure: findings in, advice out. Errors are grouped by their symptom, so that twenty members with one fault get one piece
//! of advice. What went wrong where is told by the report; here stands only what helps.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::auth::Mechanism;
use crate::client::Probe;
use crate::error::{Error, ErrorKind, Stage};
use crate::host::ServerAddress;
use crate::options::ClientOptions;
use crate::topology::{ServerType, TopologyDescription, TopologyType};

/// Is what an examination found, as far as it matters for advice.
pub(super) struct Findings<'a> {
    pub(super) options: &'a ClientOptions,
    /// The servers that were known before any was asked.
    pub(super) seeds: &'a [ServerAddress],
    /// What kept the examination from starting.
    pub(super) start: Option<&'a Error>,
    pub(super) topology: Option<&'a TopologyDescription>,
    pub(super) probes: &'a [Probe],
    /// What became of the last ping, if it failed.
    pub(super) ping: Option<&'a Error>,
}

/// How many hosts a piece of advice names.
const HOSTS_MAX: usize = 8;

/// Names what a fault looks like from outside, in the order in which advice is given.
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

/// Gives advice, the most basic first.
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

/// Finds the members that are known by names which work for them and not from here.
///
/// A name that does not resolve is enough; other failures count only where no member can be reached by the name that the
/// servers gave it, because one that can shows that the names are good and the failing member is down.
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
        "{} answers, but the replica set knows members by names that can't be reached from here: {}. Run where these names work, \
         or say where they are with --resolve {example}:ADDRESS (for each; in code, ClientBuilder::resolve), or talk to {seed} alone with \
         directConnection=true.",
        list(answering.iter()),
        list(internal.iter().map(|host| host.to_string()).collect::<Vec<_>>().iter()),
    )
}

/// Compares the replica set that is wanted with those that the servers belong to.
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
            "The connection string asks for the replica set {wanted:?}, and {} belongs to {name:?}: say replicaSet={name}, or name the \
             right servers.",
            list(hosts.iter())
        ),
        None => format!(
            "The connection string asks for the replica set {wanted:?}, and {} belongs to none (a standalone or a mongos): leave \
             replicaSet out, or name the right servers.",
            list(hosts.iter())
        ),
    };
    others.iter().map(text).collect()
}

/// Returns whether a server answered all that it was asked; a refusal is an answer, silence after the hello reply is none.
pub(super) fn answers(probe: &Probe) -> bool {
    let is_silent = |error: &Error| error.is_network() || error.is_timeout();
    probe.hello.is_some() && !probe.error.as_ref().is_some_and(is_silent)
}

/// Says why nothing takes writes, although servers answer.
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
            "directConnection=true talks to {} alone, which is {}: leave it out to find the primary.",
            first.host,
            ServerType::of_hello(hello).name()
        )),
        TopologyType::ReplicaSetNoPrimary => Some(format!(
            "The replica set has no primary; {} of its {} known members answer. If a majority is up, an election may be under way: try \
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
            "None of the {tried} servers could be reached: look first at what they have in common, such as VPN, firewall or the spelling \
             of their names."
        )
    })
}

/// Lists the errors at the bottom: one for each address of a host.
fn leaves(error: &Error) -> Vec<&Error> {
    if error.causes().is_empty() { vec![error] } else { error.causes().iter().flat_map(leaves).collect() }
}

/// Names the symptom of an error; `tls` says whether the connection was to be secured.
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
        // What the end of the examination cut short says nothing of the server.
        ErrorKind::Timeout => stage.map(|_| Symptom::Silent),
        ErrorKind::Io(kind) => socket_symptom(kind, stage, tls),
        ErrorKind::Closed => closed_symptom(stage, tls),
        ErrorKind::Tls if error.message().contains("does not speak TLS") => Some(Symptom::TlsToPlain),
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

/// What a server does that hears TLS where it expects none, or the reverse.
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
                "There is no SRV record _{service}._tcp.{hosts}: mongodb+srv:// takes the name of a cluster that has one, without port. \
                 For a server's own name say mongodb://."
            ),
            Self::DnsRule => {
                format!("The DNS records of {hosts} break the rules of mongodb+srv://: whoever keeps them has to correct them.")
            }
            Self::NoSuchName => {
                format!("DNS and this system know no such name: {hosts}. Check its spelling, the search domain and the VPN.")
            }
            Self::NoAddresses => format!("The name exists, and has no address: {hosts}. Check its A and AAAA records."),
            Self::DnsFailed => format!("The look-up of {hosts} failed: check this machine's DNS servers and the way to them."),
            Self::DnsTimeout => format!(
                "No DNS server answered for {hosts}: check this machine's DNS servers and the way to them. With --resolve no look-up is \
                 needed."
            ),
            Self::Refused => format!(
                "Nothing listens at {hosts}, or a firewall refuses: is the server running, is the port right, and does it listen on this \
                 address (net.bindIp) and not only on localhost?"
            ),
            Self::ConnectTimeout => format!(
                "No answer at all from {hosts}: most often a firewall, an access list or a missing route. With a hosted service, allow \
                 this machine's address."
            ),
            Self::Unroutable => format!("There is no way from this machine to {hosts}: check network, VPN and routes."),
            Self::NoSocket => format!("There is no such socket or interface: {hosts}. Is the server running on this machine?"),
            Self::Forbidden => format!("This user may not connect to {hosts}: check the permissions of the socket, or local rules."),
            Self::TlsToPlain => {
                format!("{hosts} seems not to speak TLS on this port, and the connection asks for it: say tls=false, or name the TLS port.")
            }
            Self::PlainToTls => {
                format!("{hosts} does not take connections without TLS, or is no MongoDB server: if it requires TLS, say tls=true.")
            }
            Self::TlsRefused => format!(
                "{hosts} and this program could not agree on TLS: the server may want a client certificate (tlsCertificateKeyFile), or \
                 speak only versions before TLS 1.2."
            ),
            Self::CertificateIssuer => format!(
                "The certificate of {hosts} comes from an authority that is not trusted here: give the authority's certificate with \
                 tlsCAFile."
            ),
            Self::CertificateName => format!(
                "The certificate of {hosts} is for another name: use a name that it is for, have it renewed with this one, or keep \
                 the name and say where it is with --resolve. tlsAllowInvalidHostnames=true gives up the check."
            ),
            Self::CertificateExpired => {
                format!("The certificate of {hosts} is not valid now: have it renewed, and check this machine's clock.")
            }
            Self::Certificate => format!("The certificate of {hosts} can't be used: have it made anew."),
            Self::CertificateRequired => format!(
                "{hosts} demands a client certificate: set tlsCertificateKeyFile to a PEM file with a certificate that it accepts and its \
                 private key (or have the server run with --tlsAllowConnectionsWithoutCertificates)."
            ),
            Self::Dropped => format!("{hosts} closed the connection: its log may say why; a proxy or an overloaded server does so too."),
            Self::Foreign => format!("{hosts} does not speak the MongoDB wire protocol: is the port right?"),
            Self::Silent => format!(
                "{hosts} takes connections and does not answer in time: it may hang, be overloaded or be something else than a MongoDB \
                 server; a server that waits for TLS is silent too."
            ),
            Self::Login => login_text(hosts, options),
            Self::Incompatible => format!("{hosts} is of a version that mongolink does not speak to, or no load balancer as asked for."),
        }
    }
}

fn login_text(hosts: &str, options: &ClientOptions) -> String {
    let user = options.username.as_deref().filter(|user| !user.is_empty());
    let user = user.map_or_else(|| "the login".to_owned(), |user| format!("the login of {user:?}"));
    let is_scram = matches!(options.auth_mechanism, None | Some(Mechanism::ScramSha1 | Mechanism::ScramSha256));
    // A TXT record of an SRV name may have set authSource.
    if let Some(database) = options.database.as_deref().filter(|database| *database != "admin")
        && options.auth_source.is_none()
        && options.srv.is_none()
        && is_scram
    {
        return format!(
            "{hosts} refused {user}, which was looked for in the database {database:?} of the connection string: probably \
             ?authSource=admin is meant. If not, check user name and password (in a connection string, percent-encode \
             : / ? # [ ] @ %)."
        );
    }
    format!(
        "{hosts} refused {user}: check user name and password (in a connection string, percent-encode : / ? # [ ] @ %), and authSource, \
         the database that the user was made on (admin unless said otherwise)."
    )
}

/// Names hosts, but not too many.
fn list<'a>(hosts: impl ExactSizeIterator<Item = &'a String>) -> String {
    let more = hosts.len().saturating_sub(HOSTS_MAX);
    let named = hosts.take(HOSTS_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
