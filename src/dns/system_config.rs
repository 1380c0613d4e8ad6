//! Which source resolves a name: DNS queries of our own, or the operating system's look-up.
//!
//! Follows nsswitch.conf(5), resolv.conf(5) and the choice of Go's `net` package: the hosts file and DNS are used directly
//! only if every word of the configuration can be followed, so that the answer is the one that other programs get. Does not
//! read files (`io::resolver`), and does not decide how long answers are used (`cache`).

mod resolv_conf;

use super::names::is_localhost;
pub use resolv_conf::ResolvConf;

/// What the decision depends on, read by the caller.
#[derive(Clone, Debug)]
pub struct SystemFacts {
    /// The kind of operating system.
    pub platform: Platform,
    /// `/etc/nsswitch.conf`.
    pub nsswitch: ConfigText,
    /// `/etc/resolv.conf`.
    pub resolv_conf: ConfigText,
    /// Whether `/etc/mdns.allow` exists, which names further domains for multicast DNS.
    pub has_mdns_allow: bool,
    /// The variables of [`ENVIRONMENT`] that are set.
    pub environment: Vec<&'static str>,
    /// The machine's own name, as gethostname(3) returns it.
    pub host_name: Option<String>,
}

/// A kind of operating system, by how it resolves names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// Configured by `nsswitch.conf` and `resolv.conf`: Linux, FreeBSD, NetBSD, DragonFly BSD.
    NameServiceSwitch,
    /// Configured by `resolv.conf` and its `lookup` line.
    OpenBsd,
    /// Configured in other ways: per-domain resolvers of macOS, NRPT rules of Windows, Android's network properties.
    Other,
}

/// The text of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigText {
    /// Its contents.
    Text(String),
    /// The file does not exist.
    Missing,
    /// The file can't be read.
    Unreadable,
}

/// The way in which names are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamePath {
    /// By the hosts file and by DNS queries of our own.
    Direct(DirectPath),
    /// By the operating system's look-up, for this reason.
    System(String),
}

/// A direct path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectPath {
    /// The sources in the order in which they are tried.
    pub sources: Vec<DirectSource>,
    /// Whether multicast DNS is configured: names that end in `.local` are left to the system.
    uses_mdns: bool,
    /// The names that a module of the system answers by itself, if it is configured.
    own_names: Option<OwnNames>,
}

/// A source of a direct path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectSource {
    /// Which source it is.
    pub kind: SourceKind,
    /// Whether the next source is not tried after "no such name" (`[NOTFOUND=return]`).
    pub ends_search: bool,
}

/// A kind of source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// The hosts file.
    Files,
    /// DNS servers.
    Dns,
}

/// The names of `nss-myhostname`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OwnNames {
    host_name: Option<String>,
}

/// The environment variables that change how the C library resolves names. `LOCALDOMAIN` counts even if it is empty.
pub const ENVIRONMENT: [&str; 4] = ["LOCALDOMAIN", "RES_OPTIONS", "HOSTALIASES", "ASR_CONFIG"];

/// Decides how names are resolved on a system.
pub fn decide(facts: &SystemFacts) -> NamePath {
    match direct_path(facts) {
        Ok(path) => NamePath::Direct(path),
        Err(reason) => NamePath::System(reason),
    }
}

impl DirectPath {
    /// The path of explicitly configured DNS servers: the hosts file first, never the operating system.
    pub fn explicit() -> Self {
        Self { sources: vec![FILES, DNS], uses_mdns: false, own_names: None }
    }

    /// Returns why the operating system resolves this name although the others are resolved directly.
    pub fn exception(&self, name: &str) -> Option<&'static str> {
        if self.uses_mdns && (name == "local" || name.ends_with(".local")) {
            return Some("multicast DNS is configured, and the name ends in `.local`");
        }
        let own = self.own_names.as_ref()?;
        let is_own = own.host_name.as_ref().is_none_or(|host_name| host_name.eq_ignore_ascii_case(name));
        let is_module_name = is_localhost(name) || OWN_NAMES.contains(&name);
        (is_own || is_module_name).then_some("`myhostname` is configured, and answers for the name")
    }
}

fn direct_path(facts: &SystemFacts) -> Result<DirectPath, String> {
    if facts.platform == Platform::Other {
        return Err("this operating system has no configuration files that can be followed".into());
    }
    if let Some(variable) = facts.environment.first() {
        return Err(format!("the environment variable {variable} is set"));
    }
    let path = match facts.platform {
        Platform::OpenBsd => open_bsd_path(&facts.resolv_conf)?,
        Platform::NameServiceSwitch | Platform::Other => switch_path(facts)?,
    };
    if path.sources.iter().any(|source| source.kind == SourceKind::Dns) {
        let config = match &facts.resolv_conf {
            ConfigText::Text(text) => ResolvConf::parse(text, facts.host_name.as_deref()),
            ConfigText::Missing => return Err("resolv.conf is missing".into()),
            ConfigText::Unreadable => return Err("resolv.conf can't be read".into()),
        };
        if let Some(word) = config.not_followed {
            return Err(format!("resolv.conf has {word}"));
        }
        if config.servers.is_empty() {
            return Err("resolv.conf has no `nameserver`".into());
        }
    }
    Ok(path)
}

/// Follows the `hosts` line of nsswitch.conf(5). Without the file or the line, C libraries use files and DNS.
fn switch_path(facts: &SystemFacts) -> Result<DirectPath, String> {
    let text = match &facts.nsswitch {
        ConfigText::Text(text) => text.as_str(),
        ConfigText::Missing => "",
        ConfigText::Unreadable => return Err("nsswitch.conf can't be read".into()),
    };
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let services = match lines.filter_map(|line| line.strip_prefix("hosts:")).next_back() {
        Some(line) => services(line)?,
        None => Vec::new(),
    };
    if services.is_empty() {
        return Ok(DirectPath { sources: vec![FILES, DNS], uses_mdns: false, own_names: None });
    }
    let mut path = DirectPath { sources: Vec::new(), uses_mdns: false, own_names: None };
    for (index, service) in services.iter().enumerate() {
        let is_last = index + 1 == services.len();
        match service.name {
            "files" => path.sources.push(DirectSource { kind: SourceKind::Files, ends_search: service.ends_search(is_last)? }),
            "dns" => path.sources.push(DirectSource { kind: SourceKind::Dns, ends_search: service.ends_search(is_last)? }),
            "mdns" | "mdns4" | "mdns6" | "mdns_minimal" | "mdns4_minimal" | "mdns6_minimal" => {
                if facts.has_mdns_allow {
                    return Err("mdns.allow exists".into());
                }
                // For other names than `.local` the module is "unavailable".
                service.has_no_effect_on("unavail")?;
                path.uses_mdns = true;
            }
            "myhostname" => {
                service.has_no_effect_on("notfound")?;
                path.own_names = Some(OwnNames { host_name: facts.host_name.clone() });
            }
            name => return Err(format!("nsswitch.conf has `{name}`")),
        }
    }
    if path.sources.is_empty() { Err("nsswitch.conf has neither `files` nor `dns`".into()) } else { Ok(path) }
}

/// Follows the `lookup` line of OpenBSD's resolv.conf(5).
fn open_bsd_path(resolv_conf: &ConfigText) -> Result<DirectPath, String> {
    let ConfigText::Text(text) = resolv_conf else { return Err("resolv.conf is missing or can't be read".into()) };
    let lookup = text.lines().filter_map(|line| line.trim().strip_prefix("lookup")).next_back().unwrap_or("bind file");
    let mut path = DirectPath { sources: Vec::new(), uses_mdns: false, own_names: None };
    for word in lookup.split_whitespace() {
        path.sources.push(match word {
            "bind" => DNS,
            "file" => FILES,
            _ => return Err(format!("resolv.conf has `lookup {word}`")),
        });
    }
    if path.sources.is_empty() { Err("resolv.conf has an empty `lookup`".into()) } else { Ok(path) }
}

/// A service of an nsswitch.conf line, and its criteria in lower case, such as `notfound=return`.
struct Service<'a> {
    name: &'a str,
    criteria: Vec<String>,
}

fn services(line: &str) -> Result<Vec<Service<'_>>, String> {
    let mut services: Vec<Service<'_>> = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        if let Some(bracketed) = rest.strip_prefix('[') {
            let unreadable = || "nsswitch.conf has a `hosts` line that can't be read".to_owned();
            let (criteria, after) = bracketed.split_once(']').ok_or_else(unreadable)?;
            let service = services.last_mut().ok_or_else(unreadable)?;
            service.criteria.extend(criteria.split_whitespace().map(str::to_ascii_lowercase));
            rest = after.trim_start();
        } else {
            let end = rest.find(|char: char| char.is_whitespace() || char == '[').unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            services.push(Service { name, criteria: Vec::new() });
            rest = after.trim_start();
        }
    }
    Ok(services)
}

impl Service<'_> {
    /// Returns whether "no such name" ends the search. Other criteria than the defaults can't be followed, but after the
    /// last source all of them end it.
    fn ends_search(&self, is_last: bool) -> Result<bool, String> {
        let mut ends_search = false;
        for criterion in &self.criteria {
            match criterion.as_str() {
                "success=return" | "notfound=continue" | "unavail=continue" | "tryagain=continue" => {}
                "notfound=return" => ends_search = true,
                _ if is_last && criterion.ends_with("=return") => {}
                _ => return Err(self.not_followed(criterion)),
            }
        }
        Ok(ends_search)
    }

    /// Checks that the search continues after a status of this service.
    fn has_no_effect_on(&self, status: &str) -> Result<(), String> {
        let changes = |criterion: &&String| match criterion.split_once('=') {
            Some((own, action)) => own.starts_with('!') || (own == status && action != "continue"),
            None => true,
        };
        self.criteria.iter().find(changes).map_or(Ok(()), |criterion| Err(self.not_followed(criterion)))
    }

    fn not_followed(&self, criterion: &str) -> String {
        format!("nsswitch.conf has `[{criterion}]` after `{}`", self.name)
    }
}

const FILES: DirectSource = DirectSource { kind: SourceKind::Files, ends_search: false };

const DNS: DirectSource = DirectSource { kind: SourceKind::Dns, ends_search: false };

/// The fixed names of nss-myhostname(8), beside `localhost`.
const OWN_NAMES: [&str; 3] = ["localhost.localdomain", "_gateway", "_outbound"];

#[cfg(test)]
mod tests;
