//! The facts about this process and machine.
//!
//! Read from the standard library and a few small files; none is required, and an unavailable one is left out. Does not decide
//! which of them are sent to servers (`handshake::metadata`).

use std::env;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use crate::handshake::Environment;

/// The maximum size read from a file, in bytes.
const FILE_SIZE_MAX: u64 = 16 * 1024;

/// Gathers the facts; reads files, so it belongs to a client's first use.
pub(crate) fn environment() -> Environment {
    let release = ["/etc/os-release", "/usr/lib/os-release"].into_iter().find_map(read).unwrap_or_default();
    let kernel = || read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    Environment {
        os_type: os_type().to_owned(),
        os_name: release_value(&release, "NAME").or_else(|| Some(env::consts::OS.to_owned()).filter(|name| !name.is_empty())),
        os_architecture: Some(env::consts::ARCH.to_owned()),
        os_version: release_value(&release, "VERSION_ID").or_else(kernel),
        platform: concat!("Rust ", env!("CARGO_PKG_RUST_VERSION"), "+ / tokio").to_owned(),
        docker: Path::new("/.dockerenv").exists(),
        variables: Arc::new(|name: &str| env::var(name).ok()),
    }
}

fn os_type() -> &'static str {
    match env::consts::OS {
        "linux" | "android" => "Linux",
        "macos" | "ios" => "Darwin",
        "windows" => "Windows",
        "freebsd" | "netbsd" | "openbsd" | "dragonfly" => "BSD",
        _ if cfg!(unix) => "Unix",
        _ => "unknown",
    }
}

fn read(path: &str) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_SIZE_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Returns a value of an `os-release` file, without its quotes.
fn release_value(text: &str, key: &str) -> Option<String> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .map(|value| value.trim().trim_matches(['"', '\'']).to_owned())
        .filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_values_lose_their_quotes() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID='12'\nEMPTY=\n";
        assert_eq!(release_value(text, "NAME").as_deref(), Some("Debian GNU/Linux"));
        assert_eq!(release_value(text, "VERSION_ID").as_deref(), Some("12"));
        assert_eq!(release_value(text, "EMPTY"), None);
        assert_eq!(release_value(text, "ABSENT"), None);
    }

    #[test]
    fn facts_are_gathered_without_panic() {
        let environment = environment();
        assert!(!environment.os_type.is_empty());
        assert!(environment.platform.starts_with("Rust "));
    }
}
