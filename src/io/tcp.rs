//! TCP and unix domain sockets: opening and socket options.
//!
//! One address each. Does not decide which address is tried when (`race`); TLS follows in `tls`.

use std::io;
use std::path::Path;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::local::socket_error;
use super::stream::Stream;
use crate::error::{Error, ErrorKind, Stage};
use crate::host::Address;

/// The idle time before the first keepalive probe: shorter than the 4 minutes after which common load balancers and firewalls
/// drop a connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(120);

/// The interval between keepalive probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// The number of unanswered keepalive probes that end a connection.
const KEEPALIVE_RETRIES: u32 = 9;

/// The maximum time that sent bytes stay unacknowledged. On Linux this limit overrides the number of keepalive probes, so it is
/// the duration of all of them; without it, a command to a vanished host is retransmitted for a quarter of an hour.
#[cfg(any(target_os = "linux", target_os = "android"))]
const USER_TIMEOUT: Duration = Duration::from_secs(120 + 9 * 10);

/// Opens a connection to one address.
///
/// # Errors
/// [`ErrorKind::Io`] with the address; [`ErrorKind::LocalResources`] if the process or system has no resources for a socket;
/// [`ErrorKind::Unsupported`] for a unix socket on a platform without them.
pub(crate) async fn open(address: &Address) -> Result<Stream, Error> {
    let opened = match address {
        Address::Ip(ip) => open_tcp(*ip).await.map_err(|error| socket_error(Stage::Tcp, error)),
        Address::Unix(path) => open_unix(path).await,
    };
    opened.map_err(|error| error.with_address(address))
}

async fn open_tcp(address: std::net::SocketAddr) -> io::Result<Stream> {
    let tcp = TcpStream::connect(address).await?;
    if tcp.local_addr()? == address {
        // A connection to an unused port of this host can get that port as its own, and so connect to itself.
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nothing listens: the socket connected to itself"));
    }
    tune(&tcp, address);
    Ok(Stream::Tcp(tcp))
}

/// Sets the available socket options: some sandboxes and kernels lack an option, and the connection works without it.
fn tune(tcp: &TcpStream, address: std::net::SocketAddr) {
    let tell = |option, outcome: io::Result<()>| {
        if let Err(error) = outcome {
            tracing::debug!(%address, option, %error, "socket option not set");
        }
    };
    let socket = SockRef::from(tcp);
    tell("TCP_NODELAY", tcp.set_nodelay(true));
    tell("SO_KEEPALIVE", socket.set_tcp_keepalive(&keepalive()));
    #[cfg(any(target_os = "linux", target_os = "android"))]
    tell("TCP_USER_TIMEOUT", socket.set_tcp_user_timeout(Some(USER_TIMEOUT)));
}

#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_os = "macos",
    target_os = "ios",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "windows"
))]
fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_RETRIES)
}

#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "macos",
    target_os = "ios",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "windows"
)))]
fn keepalive() -> TcpKeepalive {
    // The interval and number of probes are the platform's defaults here.
    tracing::trace!(interval = ?KEEPALIVE_INTERVAL, retries = KEEPALIVE_RETRIES, "not settable");
    TcpKeepalive::new().with_time(KEEPALIVE_IDLE)
}

#[cfg(unix)]
async fn open_unix(path: &Path) -> Result<Stream, Error> {
    let unix = tokio::net::UnixStream::connect(path).await.map_err(|error| socket_error(Stage::Tcp, error))?;
    Ok(Stream::Unix(unix))
}

#[cfg(not(unix))]
fn open_unix(_path: &Path) -> std::future::Ready<Result<Stream, Error>> {
    std::future::ready(Err(Error::new(ErrorKind::Unsupported, "unix sockets are not supported on this platform").at(Stage::Tcp)))
}

/// Converts an IPv6 zone id, a number or the name of a network interface, to a scope id (RFC 4007).
///
/// # Errors
/// [`ErrorKind::Io`] if no interface has the name; [`ErrorKind::Unsupported`] where names can't be looked up.
pub(crate) fn scope_id(zone: &str) -> Result<u32, Error> {
    match zone.parse() {
        Ok(number) => Ok(number),
        Err(_) => interface_index(zone).map_err(|error| error.at(Stage::Tcp)),
    }
}

#[cfg(target_os = "linux")]
fn interface_index(name: &str) -> Result<u32, Error> {
    let not_found = || Error::new(ErrorKind::Io(io::ErrorKind::NotFound), format!("zone id: there is no network interface {name:?}"));
    let text = std::fs::read_to_string(Path::new("/sys/class/net").join(name).join("ifindex"))
        .map_err(|error| if error.kind() == io::ErrorKind::NotFound { not_found() } else { socket_error(Stage::Tcp, error) })?;
    text.trim().parse().map_err(|_| not_found())
}

#[cfg(not(target_os = "linux"))]
fn interface_index(name: &str) -> Result<u32, Error> {
    let text = format!("zone id {name:?}: interface names can't be looked up on this platform, use the interface's number");
    Err(Error::new(ErrorKind::Unsupported, text))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn opened_socket_is_tuned() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = Address::Ip(listener.local_addr().expect("bound"));
        let Stream::Tcp(tcp) = open(&address).await.expect("connected") else { panic!("not TCP") };
        assert!(tcp.nodelay().expect("nodelay"));
        assert!(SockRef::from(&tcp).keepalive().expect("keepalive"));
        #[cfg(target_os = "linux")]
        assert_eq!(SockRef::from(&tcp).tcp_user_timeout().expect("user timeout"), Some(USER_TIMEOUT));
    }

    #[tokio::test]
    async fn refused_names_stage_and_address() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = Address::Ip(listener.local_addr().expect("bound"));
        drop(listener);
        let error = open(&address).await.expect_err("nobody listens");
        assert_eq!(error.kind(), ErrorKind::Io(io::ErrorKind::ConnectionRefused));
        assert_eq!((error.stage(), error.address()), (Some(Stage::Tcp), Some(&address)));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn missing_unix_socket_names_its_path() {
        let address = Address::Unix("/nonexistent/mongodb.sock".into());
        let error = open(&address).await.expect_err("no such file");
        assert_eq!(error.kind(), ErrorKind::Io(io::ErrorKind::NotFound));
        assert!(error.to_string().starts_with("tcp: /nonexistent/mongodb.sock: "), "{error}");
    }

    #[test]
    fn zone_number_is_its_own_scope() {
        assert_eq!(scope_id("7").expect("a number"), 7);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn interface_name_becomes_its_index() {
        if Path::new("/sys/class/net/lo/ifindex").exists() {
            assert_eq!(scope_id("lo").expect("loopback"), 1);
        }
        let error = scope_id("nosuch0").expect_err("no such interface");
        assert_eq!(error.to_string(), "tcp: zone id: there is no network interface \"nosuch0\"");
    }
}
