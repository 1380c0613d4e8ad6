//! The options that weaken the security of connections.
//!
//! Each causes a warning and takes effect. Only the given options are checked: servers that a hello reply or an SRV record
//! names later are unknown here. Does not decide which options have no effect (`unsupported`).

use std::net::{IpAddr, Ipv6Addr};

use crate::host::{Address, Host, ServerAddress};
use crate::options::Mechanism;
use crate::options::{ClientOptions, Warning};

/// The maximum number of hosts named in a warning.
const HOSTS_MAX: usize = 3;

/// Returns a warning for every option that weakens security.
pub(super) fn weaknesses(options: &ClientOptions) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |option: &str, message: String| warnings.push(Warning { option: option.to_owned(), message });
    if options.tls_or_default() {
        let unchecked = "with it, anyone on the network path can pose as a server and read and change all data";
        let switches = [
            ("tlsInsecure", options.tls_insecure, "the server's certificate and name are not verified"),
            ("tlsAllowInvalidCertificates", options.tls_allow_invalid_certificates, "the server's certificate is not verified"),
            ("tlsAllowInvalidHostnames", options.tls_allow_invalid_hostnames, "the name in the server's certificate is not verified"),
        ];
        for (name, _, effect) in switches.iter().filter(|(_, given, _)| *given == Some(true)) {
            warn(name, format!("{effect}: {unchecked}"));
        }
        return warnings;
    }
    let Some(servers) = remote(options).filter(|_| options.username.is_some()) else { return warnings };
    match options.auth_mechanism {
        Some(Mechanism::Plain) => warn("authMechanism", format!("PLAIN without TLS sends the password in plain text to {servers}")),
        None | Some(Mechanism::ScramSha1 | Mechanism::ScramSha256) => warn(
            "tls",
            format!(
                "a login without TLS at {servers}: passwords can be guessed from what goes over the network, and all data can be read and \
                 changed there"
            ),
        ),
        // Not supported without TLS, or not at all.
        Some(Mechanism::X509 | Mechanism::Gssapi | Mechanism::Aws | Mechanism::Oidc) => {}
    }
    warnings
}

/// Returns the names of the servers that are not on this machine; `None` if all are.
fn remote(options: &ClientOptions) -> Option<String> {
    if options.hosts.is_empty()
        && let Some(name) = &options.srv
    {
        return Some(format!("the servers of {name}"));
    }
    let mut hosts: Vec<String> = options.hosts.iter().filter(|host| !is_local(options, host)).map(ToString::to_string).collect();
    let more = hosts.len().saturating_sub(HOSTS_MAX);
    hosts.truncate(HOSTS_MAX);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!hosts.is_empty()).then(|| format!("{}{rest}", hosts.join(", ")))
}

/// Returns whether a server is reached without a network: a unix socket, or a loopback address.
fn is_local(options: &ClientOptions, host: &ServerAddress) -> bool {
    match (options.resolve_override(host), host.host()) {
        (Some(Address::Ip(address)), _) => is_loopback(address.ip()),
        (Some(Address::Unix(_)), _) | (None, Host::Unix(_)) => true,
        (None, Host::V4(address)) => is_loopback(IpAddr::V4(*address)),
        (None, Host::V6(address, _)) => is_loopback(IpAddr::V6(*address)),
        // Resolved without DNS (RFC 6761 section 6.3).
        (None, Host::Name(name)) => name == "localhost" || name.ends_with(".localhost"),
    }
}

fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => address == Ipv6Addr::LOCALHOST || address.to_ipv4_mapped().is_some_and(|address| address.is_loopback()),
    }
}
