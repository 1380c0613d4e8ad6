//! The text of a resolv.conf file.
//!
//! Follows resolv.conf(5) of glibc, musl and the BSDs. Time-outs, attempts and rotation are read and not used: queries have
//! limits of their own. Does not decide whether the file is used (`system_config`).

use std::net::IpAddr;

use crate::dns::names::SearchList;

/// The contents of a resolv.conf file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvConf {
    /// The name servers, in order.
    pub servers: Vec<IpAddr>,
    /// The search list.
    pub search: SearchList,
    /// Whether queries carry EDNS (`options edns0`).
    pub edns: bool,
    /// Whether queries go by TCP only (`options use-vc`).
    pub tcp_only: bool,
    /// The first word that can't be followed.
    pub not_followed: Option<String>,
}

impl ResolvConf {
    /// Parses a file. Without `search` and `domain`, the domain of the machine's own name is searched.
    pub fn parse(text: &str, host_name: Option<&str>) -> Self {
        let search = SearchList { domains: Vec::new(), ndots: NDOTS_DEFAULT };
        let mut config = Self { servers: Vec::new(), search, edns: false, tcp_only: false, not_followed: None };
        let mut domains: Option<Vec<String>> = None;
        for line in text.trim_start_matches('\u{feff}').lines() {
            if line.starts_with([';', '#']) {
                continue;
            }
            let mut words = line.split_whitespace();
            match words.next() {
                None => {}
                Some("nameserver") => config.add_server(words.next().unwrap_or_default()),
                Some("domain") => domains = Some(words.next().map(str::to_owned).into_iter().collect()),
                Some("search") => domains = Some(words.map(str::to_owned).collect()),
                Some("options") => words.for_each(|option| config.add_option(option)),
                // Which sources are used on OpenBSD is read by `system_config`.
                Some("lookup") => {}
                Some(word) => config.note(format!("`{word}`")),
            }
        }
        let own_domain = || host_name.and_then(|name| name.split_once('.')).map(|(_, domain)| domain.to_owned());
        config.search.domains = domains.unwrap_or_else(|| own_domain().filter(|domain| !domain.is_empty()).into_iter().collect());
        config
    }

    fn add_server(&mut self, text: &str) {
        match text.parse::<IpAddr>() {
            Ok(_) if self.servers.len() >= SERVERS_MAX => {}
            Ok(address) => self.servers.push(address),
            Err(_) => self.note(format!("`nameserver {text}`")),
        }
    }

    fn add_option(&mut self, option: &str) {
        match option.split_once(':').unwrap_or((option, "")) {
            ("ndots", count) => match count.parse::<usize>() {
                Ok(count) => self.search.ndots = count.min(NDOTS_MAX),
                Err(_) => self.note(format!("`options {option}`")),
            },
            ("edns0", "") => self.edns = true,
            ("use-vc" | "usevc" | "tcp", "") => self.tcp_only = true,
            // Both record types are always requested from sockets of their own, which `single-request-reopen` asks for.
            ("timeout" | "attempts", _) | ("rotate" | "trust-ad" | "no-reload" | "single-request-reopen", "") => {}
            _ => self.note(format!("`options {option}`")),
        }
    }

    fn note(&mut self, word: String) {
        self.not_followed.get_or_insert(word);
    }
}

/// Maximum number of servers used (MAXNS of resolv.conf(5)).
const SERVERS_MAX: usize = 3;

/// The default of `options ndots`.
const NDOTS_DEFAULT: usize = 1;

/// Maximum of `options ndots` (RES_MAXNDOTS).
const NDOTS_MAX: usize = 15;
