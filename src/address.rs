//! The addresses of servers: identity, comparison and display.
//!
//! Does not decide how a text is parsed and normalised (`host`).

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A server's identity: a normalised host and a port, or a unix socket.
///
/// Two addresses are equal if they name the same host, in any spelling: `Bücher.example:27017`, `xn--bcher-kva.example` and
/// `BÜCHER.EXAMPLE.` are equal. [`Display`](fmt::Display) prints the given spelling, [`canonical`](Self::canonical) the normal
/// form.
///
/// ```
/// use mongolink::ServerAddress;
/// let given = ServerAddress::parse("Bücher.example")?;
/// let learnt = ServerAddress::parse("xn--bcher-kva.example.:27017")?;
/// assert_eq!(given, learnt);
/// assert_eq!(given.to_string(), "Bücher.example:27017");
/// assert_eq!(given.canonical(), "xn--bcher-kva.example:27017");
/// # Ok::<(), mongolink::Error>(())
/// ```
#[derive(Clone)]
pub struct ServerAddress(Arc<HostAndPort>);

#[derive(Clone)]
struct HostAndPort {
    host: Host,
    port: u16,
    canonical: String,
    spelled: String,
}

/// The host part of a [`ServerAddress`], in normal form.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Host {
    /// A domain name: A-labels, lower case, no trailing dot.
    Name(String),
    /// A numeric IPv4 address.
    V4(Ipv4Addr),
    /// A numeric IPv6 address, with its zone id (RFC 4007) if one was given.
    V6(Ipv6Addr, Option<String>),
    /// The path of a unix domain socket.
    Unix(PathBuf),
}

/// An address to connect to: the result of a look-up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Address {
    /// An IP address and port.
    Ip(SocketAddr),
    /// The path of a unix domain socket.
    Unix(PathBuf),
}

impl ServerAddress {
    /// Creates an address from a host in normal form, with the given spelling.
    pub(crate) fn assemble(host: Host, port: u16, spelled: &str) -> Self {
        let with_port = |text: &str| if matches!(host, Host::Unix(_)) { text.to_owned() } else { format!("{text}:{port}") };
        let canonical = with_port(&host.to_string());
        let spelled = if matches!(host, Host::V6(..)) { canonical.clone() } else { with_port(spelled) };
        Self(Arc::new(HostAndPort { host, port, canonical, spelled }))
    }

    /// Returns an equal address with a reference count of its own, so that cores do not contend for one count.
    pub(crate) fn unshared(&self) -> Self {
        Self(Arc::new(HostAndPort::clone(&self.0)))
    }

    /// Returns the host in normal form.
    pub fn host(&self) -> &Host {
        &self.0.host
    }

    /// Returns the port; 0 for a unix socket.
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// Returns the normal form, `host:port`, or a socket's path.
    pub fn canonical(&self) -> &str {
        &self.0.canonical
    }

    /// Returns whether it is the path of a unix socket.
    pub(crate) fn is_socket(&self) -> bool {
        matches!(self.0.host, Host::Unix(_))
    }

    /// Returns the name to resolve, or `None` for numeric hosts and unix sockets, which are never resolved.
    pub fn name(&self) -> Option<&str> {
        match &self.0.host {
            Host::Name(name) => Some(name),
            Host::V4(_) | Host::V6(..) | Host::Unix(_) => None,
        }
    }
}

impl PartialEq for ServerAddress {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.canonical == other.0.canonical
    }
}

impl Eq for ServerAddress {}

impl PartialOrd for ServerAddress {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ServerAddress {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.canonical.cmp(&other.0.canonical)
    }
}

impl Hash for ServerAddress {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.canonical.hash(state);
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.spelled)
    }
}

impl fmt::Debug for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0.spelled, f)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::V4(address) => address.fmt(f),
            Self::V6(address, None) => write!(f, "[{address}]"),
            Self::V6(address, Some(zone)) => write!(f, "[{address}%{zone}]"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl Address {
    /// Returns the path, if it is a unix socket.
    pub fn unix_path(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Ip(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}
