//! The contradictions between options.
//!
//! Follows the uri-options, seed-list, load-balancer, socks5 and auth specifications. Does not decide which single values are
//! valid (`value`), but checks ranges again that code can exceed.

use std::time::Duration;

use super::credential::{not_served, resolve};
use super::value::{APP_NAME_SIZE_MAX, NUMBER_MAX, is_service_name, quote};
use super::{SEEDS_MAX, refused};
use crate::error::{Error, LimitValue, Stage};
use crate::options::Mechanism;
use crate::options::{ClientOptions, MIN_HEARTBEAT_FREQUENCY};

/// Checks that a client can be created from the options, whatever their source.
///
/// With an SRV name it is called again after the TXT record has been merged ([`apply_txt`](super::apply_txt)): the record may
/// contradict the given options.
///
/// # Errors
/// [`ErrorKind::InvalidOption`](crate::error::ErrorKind::InvalidOption), naming the options, and
/// [`ErrorKind::Unsupported`](crate::error::ErrorKind::Unsupported) for an unknown mechanism.
pub fn validate(options: &ClientOptions) -> Result<(), Error> {
    if let Some((_, refusal)) = &options.refusal {
        return Err(refusal.clone());
    }
    contradictions(options)?;
    ranges(options)?;
    let keys_given = options.username.is_some() || options.password.is_some() || options.aws_session_token.is_some();
    if options.auth_mechanism == Some(Mechanism::Aws) && keys_given {
        return Err(not_served(Mechanism::Aws));
    }
    options.credential().map(|_| ())
}

/// Finds the contradictions of a connection string that no addition from code or a TXT record can resolve.
pub(super) fn contradictions(options: &ClientOptions) -> Result<(), Error> {
    seeds(options)?;
    srv(options)?;
    load_balanced(options)?;
    tls_pairs(options)?;
    proxy(options)?;
    concerns(options)?;
    pool_sizes(options)?;
    resolve(options).map(|_| ())
}

fn seeds(options: &ClientOptions) -> Result<(), Error> {
    if options.srv.is_none() && options.hosts.is_empty() {
        return Err(refused("there is no host"));
    }
    if options.hosts.len() > SEEDS_MAX {
        return Err(refused(format!("there are {} hosts", options.hosts.len())).against("SEEDS_MAX", LimitValue::Count(SEEDS_MAX as u64)));
    }
    if options.direct_connection == Some(true) {
        if options.srv.is_some() {
            return Err(refused("directConnection=true with mongodb+srv://"));
        }
        if options.hosts.len() > 1 {
            return Err(refused(format!("directConnection=true with {} hosts", options.hosts.len())));
        }
    }
    Ok(())
}

fn srv(options: &ClientOptions) -> Result<(), Error> {
    if options.srv.is_none() {
        if options.srv_max_hosts.is_some() {
            return Err(refused("srvMaxHosts without mongodb+srv://"));
        }
        if options.srv_service_name.is_some() {
            return Err(refused("srvServiceName without mongodb+srv://"));
        }
    }
    if options.srv_max_hosts.is_some_and(|hosts| hosts > 0) {
        if options.replica_set.is_some() {
            return Err(refused("srvMaxHosts with replicaSet"));
        }
        if options.load_balanced == Some(true) {
            return Err(refused("srvMaxHosts with loadBalanced=true"));
        }
    }
    Ok(())
}

fn load_balanced(options: &ClientOptions) -> Result<(), Error> {
    if options.load_balanced != Some(true) {
        return Ok(());
    }
    if options.hosts.len() > 1 {
        return Err(refused(format!("loadBalanced=true with {} hosts", options.hosts.len())));
    }
    if options.replica_set.is_some() {
        return Err(refused("loadBalanced=true with replicaSet"));
    }
    if options.direct_connection == Some(true) {
        return Err(refused("loadBalanced=true with directConnection=true"));
    }
    Ok(())
}

/// Finds pairs of options with the same meaning: an error whatever their values are.
fn tls_pairs(options: &ClientOptions) -> Result<(), Error> {
    let insecure = ("tlsInsecure", options.tls_insecure.is_some());
    let certificates = ("tlsAllowInvalidCertificates", options.tls_allow_invalid_certificates.is_some());
    let hostnames = ("tlsAllowInvalidHostnames", options.tls_allow_invalid_hostnames.is_some());
    let ocsp = ("tlsDisableOCSPEndpointCheck", options.tls_disable_ocsp_endpoint_check.is_some());
    let revocation = ("tlsDisableCertificateRevocationCheck", options.tls_disable_certificate_revocation_check.is_some());
    let pairs = [
        (insecure, certificates),
        (insecure, hostnames),
        (insecure, revocation),
        (insecure, ocsp),
        (certificates, revocation),
        (certificates, ocsp),
        (revocation, ocsp),
    ];
    match pairs.iter().find(|(one, other)| one.1 && other.1) {
        Some((one, other)) => Err(refused(format!("{} with {}, whatever their values", one.0, other.0))),
        None => Ok(()),
    }
}

fn proxy(options: &ClientOptions) -> Result<(), Error> {
    let user = options.proxy_username.as_deref().is_some_and(|user| !user.is_empty());
    let password = options.proxy_password.as_ref().is_some_and(|password| !password.reveal().is_empty());
    let others = [("proxyPort", options.proxy_port.is_some()), ("proxyUsername", user), ("proxyPassword", password)];
    if options.proxy_host.is_none()
        && let Some((name, _)) = others.iter().find(|(_, given)| *given)
    {
        return Err(refused(format!("{name} without proxyHost")));
    }
    match (user, password) {
        (true, false) => Err(refused("proxyUsername without proxyPassword")),
        (false, true) => Err(refused("proxyPassword without proxyUsername")),
        (true, true) | (false, false) => Ok(()),
    }
}

fn concerns(options: &ClientOptions) -> Result<(), Error> {
    if let Some(preference) = &options.read_preference {
        preference.validate().map_err(|error| error.at(Stage::Uri))?;
    }
    if let Some(concern) = &options.write_concern {
        concern.validate().map_err(|error| error.at(Stage::Uri))?;
    }
    Ok(())
}

fn pool_sizes(options: &ClientOptions) -> Result<(), Error> {
    if let Some(max) = options.max_pool_size_or_default()
        && options.min_pool_size_or_default() > max
    {
        return Err(refused(format!("minPoolSize {} is above maxPoolSize {max}", options.min_pool_size_or_default())));
    }
    Ok(())
}

/// Finds values that are possible in code, but not in a connection string.
fn ranges(options: &ClientOptions) -> Result<(), Error> {
    let spans = [
        ("connectTimeoutMS", options.connect_timeout),
        ("socketTimeoutMS", options.socket_timeout),
        ("serverSelectionTimeoutMS", options.server_selection_timeout),
        ("timeoutMS", options.timeout),
        ("dnsTimeoutMS", options.dns_timeout),
        ("heartbeatFrequencyMS", options.heartbeat_frequency),
        ("localThresholdMS", options.local_threshold),
        ("maxIdleTimeMS", options.max_idle_time),
        ("waitQueueTimeoutMS", options.wait_queue_timeout),
        ("drain_limit", options.drain_limit),
    ];
    let max = Duration::from_millis(u64::from(NUMBER_MAX));
    if let Some((name, _)) = spans.iter().find(|(_, span)| span.is_some_and(|span| span > max)) {
        return Err(refused(format!("{name} is above {NUMBER_MAX}")));
    }
    if options.heartbeat_frequency_or_default() < MIN_HEARTBEAT_FREQUENCY {
        return Err(refused(format!("heartbeatFrequencyMS is below {}", MIN_HEARTBEAT_FREQUENCY.as_millis())));
    }
    if options.app_name.as_ref().is_some_and(|name| name.len() > APP_NAME_SIZE_MAX) {
        return Err(refused(format!("appName is longer than {APP_NAME_SIZE_MAX} bytes")));
    }
    if options.zlib_compression_level.is_some_and(|level| !(-1..=9).contains(&level)) {
        return Err(refused("zlibCompressionLevel is outside -1 to 9"));
    }
    if options.max_connecting == Some(0) {
        return Err(refused("maxConnecting is 0"));
    }
    if let Some(name) = options.srv_service_name.as_deref()
        && !is_service_name(name)
    {
        return Err(refused(format!("srvServiceName {} is not a service name (RFC 6335)", quote(name))));
    }
    Ok(())
}
