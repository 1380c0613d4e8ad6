//! The settings of name resolution in use, and whether they have changed.
//!
//! Does not decide which source resolves a name (`dns::system_config`), nor what a change means for answers (`dns`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::servers::{DnsConfig, Servers};
use super::system_files::{self, CONFIG_FILES};
use crate::dns::system_config::{self, ConfigText, DirectPath, NamePath, Platform, ResolvConf, SystemFacts};

/// A function that reads the system's configuration. Tests bring their own.
pub(super) type ReadFacts = dyn Fn() -> SystemFacts + Send + Sync;

/// The settings, and when they were read.
pub(super) struct Settings {
    config: DnsConfig,
    read_facts: Arc<ReadFacts>,
    seen: Option<Seen>,
}

struct Seen {
    at: Instant,
    modified: Vec<Option<SystemTime>>,
    resolution: Arc<Resolution>,
}

/// The way in which names are resolved.
#[derive(Debug, PartialEq)]
pub(super) struct Resolution {
    /// The source of addresses.
    pub(super) path: NamePath,
    /// The DNS servers; the error says why there are none. SRV and TXT records come from them on every path.
    pub(super) servers: Result<Servers, String>,
}

impl Settings {
    pub(super) fn new(config: DnsConfig, read_facts: Arc<ReadFacts>) -> Self {
        Self { config, read_facts, seen: None }
    }

    /// Returns the settings as they were last read; `None` before the first time.
    pub(super) fn resolution(&self) -> Option<Arc<Resolution>> {
        self.seen.as_ref().map(|seen| Arc::clone(&seen.resolution))
    }

    /// Reads the settings if they may have changed, and returns the difference.
    pub(super) fn refresh(&mut self, now: Instant) -> SettingsChange {
        let modified = self.files().iter().map(|path| std::fs::metadata(path).ok()?.modified().ok()).collect();
        if let Some(seen) = &self.seen
            && now < seen.at + REREAD_INTERVAL
            && modified == seen.modified
        {
            return SettingsChange::default();
        }
        let resolution = Resolution::read(&self.config, &*self.read_facts);
        let is_same = self.seen.as_ref().is_some_and(|seen| *seen.resolution == resolution);
        let changed = self.seen.is_some() && !is_same;
        let resolution = Arc::new(resolution);
        self.seen = Some(Seen { at: now, modified, resolution: Arc::clone(&resolution) });
        SettingsChange { changed, new: (!is_same).then_some(resolution) }
    }

    /// Returns the files whose modification is noticed at once.
    fn files(&self) -> Vec<PathBuf> {
        match &self.config {
            DnsConfig::System if system_files::platform() != Platform::Other => CONFIG_FILES.map(PathBuf::from).to_vec(),
            DnsConfig::ResolvConf(path) => vec![path.clone()],
            DnsConfig::System | DnsConfig::Servers(_) => Vec::new(),
        }
    }
}

impl Resolution {
    fn read(config: &DnsConfig, read_facts: &ReadFacts) -> Self {
        match config {
            DnsConfig::System => {
                let facts = read_facts();
                Self { path: system_config::decide(&facts), servers: system_servers(&facts) }
            }
            DnsConfig::ResolvConf(path) => {
                let text = system_files::read_text(path).map_err(|error| format!("{}: {error}", path.display()));
                let servers = text.and_then(|text| Servers::of_resolv_conf(ResolvConf::parse(&text, system_files::host_name().as_deref())));
                Self { path: NamePath::Direct(DirectPath::explicit()), servers }
            }
            DnsConfig::Servers(addresses) => {
                Self { path: NamePath::Direct(DirectPath::explicit()), servers: Servers::of_addresses(addresses.clone()) }
            }
        }
    }
}

/// Returns the servers of a system's configuration.
fn system_servers(facts: &SystemFacts) -> Result<Servers, String> {
    if facts.platform == Platform::Other {
        return Servers::of_system();
    }
    match &facts.resolv_conf {
        ConfigText::Text(text) => Servers::of_resolv_conf(ResolvConf::parse(text, facts.host_name.as_deref())),
        ConfigText::Missing => Err("resolv.conf is missing".into()),
        ConfigText::Unreadable => Err("resolv.conf can't be read".into()),
    }
}

/// The difference that a refresh found. It is logged after the lock is released.
#[derive(Debug, Default)]
pub(super) struct SettingsChange {
    /// Whether the settings differ from those read before.
    pub(super) changed: bool,
    /// The settings, if they differ or were read for the first time.
    pub(super) new: Option<Arc<Resolution>>,
}

/// How often the settings are read again if no file shows that they changed.
const REREAD_INTERVAL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn settings(config: DnsConfig) -> Settings {
        Settings::new(config, Arc::new(system_files::read_facts))
    }

    #[test]
    fn changed_file_is_noticed() {
        let path = std::env::temp_dir().join(format!("mongolink-resolv-{}.conf", std::process::id()));
        let write = |text: &str| std::fs::write(&path, text).expect("file");
        let mut settings = settings(DnsConfig::ResolvConf(path.clone()));
        let now = crate::io::clock::now();
        write("nameserver 127.0.0.1\nsearch one.example\noptions ndots:2\n");
        assert!(!settings.refresh(now).changed);
        let resolution = settings.resolution().expect("read");
        assert_eq!(resolution.servers.as_ref().expect("servers").search.candidates("db"), ["db.one.example", "db"]);
        assert!(!settings.refresh(now + REREAD_INTERVAL).changed);
        write("nameserver 127.0.0.2\n");
        assert!(settings.refresh(now + 2 * REREAD_INTERVAL).changed);
        std::fs::remove_file(&path).expect("remove");
        assert!(settings.refresh(now + 3 * REREAD_INTERVAL).changed);
        assert!(settings.resolution().expect("read").servers.is_err());
    }

    #[test]
    fn changed_path_is_noticed() {
        let nsswitch = Arc::new(Mutex::new("hosts: files dns"));
        let source = Arc::clone(&nsswitch);
        let read_facts = move || SystemFacts {
            platform: Platform::NameServiceSwitch,
            nsswitch: ConfigText::Text((*source.lock().expect("text")).to_owned()),
            resolv_conf: ConfigText::Text("nameserver 127.0.0.1\n".to_owned()),
            has_mdns_allow: false,
            environment: Vec::new(),
            host_name: None,
        };
        let mut settings = Settings::new(DnsConfig::System, Arc::new(read_facts));
        let now = crate::io::clock::now();
        let first = settings.refresh(now);
        assert!(!first.changed && matches!(first.new.expect("read").path, NamePath::Direct(_)));
        *nsswitch.lock().expect("text") = "hosts: files resolve";
        let second = settings.refresh(now + REREAD_INTERVAL);
        assert!(second.changed && matches!(second.new.expect("read").path, NamePath::System(_)));
        assert!(settings.refresh(now + 2 * REREAD_INTERVAL).new.is_none(), "nothing is new");
    }

    #[test]
    fn explicit_servers_never_use_the_system() {
        let read_facts = || panic!("the system's configuration is read");
        let mut settings = Settings::new(DnsConfig::Servers(Vec::new()), Arc::new(read_facts));
        settings.refresh(crate::io::clock::now());
        let resolution = settings.resolution().expect("read");
        assert_eq!(resolution.path, NamePath::Direct(DirectPath::explicit()));
        assert!(resolution.servers.is_err());
    }
}
