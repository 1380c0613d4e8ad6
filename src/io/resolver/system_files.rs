//! The operating system's configuration of name resolution, as read from files and the environment.
//!
//! Does not decide what follows from it (`dns::system_config`).

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::dns::system_config::{ConfigText, ENVIRONMENT, Platform, SystemFacts};

/// The files whose change means that the configuration changed.
pub(super) const CONFIG_FILES: [&str; 2] = [RESOLV_CONF, NSSWITCH_CONF];

/// Reads the configuration.
pub(super) fn read_facts() -> SystemFacts {
    let is_set = |variable: &&str| match std::env::var_os(variable) {
        Some(value) => *variable == "LOCALDOMAIN" || !value.is_empty(),
        None => false,
    };
    SystemFacts {
        platform: platform(),
        nsswitch: config_text(NSSWITCH_CONF),
        resolv_conf: config_text(RESOLV_CONF),
        has_mdns_allow: Path::new("/etc/mdns.allow").exists(),
        environment: ENVIRONMENT.into_iter().filter(is_set).collect(),
        host_name: host_name(),
    }
}

/// Returns the kind of this operating system.
pub(super) fn platform() -> Platform {
    if cfg!(any(target_os = "linux", target_os = "freebsd", target_os = "netbsd", target_os = "dragonfly")) {
        Platform::NameServiceSwitch
    } else if cfg!(target_os = "openbsd") {
        Platform::OpenBsd
    } else {
        Platform::Other
    }
}

/// Reads a system's file up to its maximum size. Such files are small and local, and read on the caller's thread.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(SYSTEM_FILE_SIZE_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns the path of the hosts file.
#[cfg(unix)]
pub(super) fn hosts_file() -> Option<PathBuf> {
    Some(PathBuf::from("/etc/hosts"))
}

/// Returns the path of the hosts file.
#[cfg(windows)]
pub(super) fn hosts_file() -> Option<PathBuf> {
    std::env::var_os("SystemRoot").map(|root| Path::new(&root).join("System32").join("drivers").join("etc").join("hosts"))
}

/// Returns the path of the hosts file.
#[cfg(not(any(unix, windows)))]
pub(super) fn hosts_file() -> Option<PathBuf> {
    None
}

/// Returns the machine's own name.
#[cfg(unix)]
pub(super) fn host_name() -> Option<String> {
    rustix::system::uname().nodename().to_str().ok().map(str::to_owned).filter(|name| !name.is_empty())
}

/// Returns the machine's own name.
#[cfg(not(unix))]
pub(super) fn host_name() -> Option<String> {
    None
}

fn config_text(path: &str) -> ConfigText {
    match read_text(Path::new(path)) {
        Ok(text) => ConfigText::Text(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => ConfigText::Missing,
        Err(_) => ConfigText::Unreadable,
    }
}

const RESOLV_CONF: &str = "/etc/resolv.conf";

const NSSWITCH_CONF: &str = "/etc/nsswitch.conf";

/// Maximum number of bytes read of a configuration or hosts file; the rest is ignored.
const SYSTEM_FILE_SIZE_MAX: u64 = 4 << 20;
