//! Did the DNS settings change?
//!
//! What the settings are is read in `servers`; what a change means for answers is decided in `dns`.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::servers::{DnsConfig, Servers};

/// Is the DNS settings, and when they were looked at.
pub(super) struct Settings {
    config: DnsConfig,
    seen: Option<Seen>,
}

struct Seen {
    at: Instant,
    modified: Option<SystemTime>,
    servers: Result<Arc<Servers>, String>,
}

impl Settings {
    pub(super) fn new(config: DnsConfig) -> Self {
        Self { config, seen: None }
    }

    /// Returns the servers as they were when last looked at; the error says why there are none.
    pub(super) fn servers(&self) -> Result<Arc<Servers>, String> {
        match &self.seen {
            Some(seen) => seen.servers.clone(),
            None => Err("the DNS settings have not been read".into()),
        }
    }

    /// Reads the settings if they may have changed; tells what is new.
    pub(super) fn look(&mut self, now: Instant) -> News {
        let modified = self.config.file().and_then(|path| std::fs::metadata(path).ok()?.modified().ok());
        if let Some(seen) = &self.seen
            && now < seen.at + LOOK_AGAIN
            && modified == seen.modified
        {
            return News::default();
        }
        let servers = Servers::read(&self.config).map(Arc::new);
        let changed = self.seen.as_ref().is_some_and(|seen| seen.servers != servers);
        let unusable = servers.as_ref().err().filter(|_| changed || self.seen.is_none()).cloned();
        self.seen = Some(Seen { at: now, modified, servers });
        News { changed, unusable }
    }
}

/// What a look at the settings has brought; it is logged when no lock is held.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Whether the settings have changed.
    pub(super) changed: bool,
    /// Why they can't be used, unless that was known.
    pub(super) unusable: Option<String>,
}

/// How often the system's settings are looked at, if no file tells that they changed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

#[cfg(all(test, unix, not(any(target_os = "android", target_vendor = "apple"))))]
mod tests {
    use super::*;

    #[test]
    fn changed_settings_are_noticed() {
        let path = std::env::temp_dir().join(format!("mongolink-resolv-{}.conf", std::process::id()));
        let write = |text: &str| std::fs::write(&path, text).expect("file");
        let mut settings = Settings::new(DnsConfig::ResolvConf(path.clone()));
        let now = crate::io::clock::now();
        write("nameserver 127.0.0.1\nsearch one.example\noptions ndots:2\n");
        assert!(!settings.look(now).changed);
        assert_eq!(settings.servers().expect("servers").search.candidates("db"), ["db.one.example", "db"]);
        assert!(!settings.look(now + LOOK_AGAIN).changed);
        write("nameserver 127.0.0.2\n");
        assert!(settings.look(now + 2 * LOOK_AGAIN).changed);
        std::fs::remove_file(&path).expect("remove");
        assert!(settings.look(now + 3 * LOOK_AGAIN).changed);
        assert!(settings.servers().is_err());
    }
}
