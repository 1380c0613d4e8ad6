//! Names before they reach DNS: search lists, `localhost` and the hosts file.
//!
//! Follows resolv.conf(5), RFC 6761 section 6.3 and hosts(5). Names are in normal form (`host`), so that a final dot is not
//! known any more. Does not read files (`io::resolver`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::known_answer::ADDRESSES_MAX;
use crate::error::ErrorKind;
use crate::host::normalize_name;

/// The search list of resolv.conf(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchList {
    /// The domains to append, in order.
    pub domains: Vec<String>,
    /// A name with at least this many dots is tried unchanged before the search list, any other one after it.
    pub ndots: usize,
}

impl SearchList {
    /// Returns the full names to query, in order, without final dots and each once.
    pub fn candidates(&self, name: &str) -> Vec<String> {
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        let mut names = Vec::new();
        if dots >= self.ndots {
            names.push(name.to_owned());
        }
        for domain in self.domains.iter().take(SEARCH_DOMAINS_MAX) {
            let full = if domain == "." { Ok(name.to_owned()) } else { normalize_name(&format!("{name}.{domain}")) };
            if let Ok(full) = full
                && !names.contains(&full)
            {
                names.push(full);
            }
        }
        if !names.iter().any(|full| full == name) {
            names.push(name.to_owned());
        }
        names
    }
}

/// Returns whether a name stands for this machine (RFC 6761 section 6.3).
pub(crate) fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// The addresses of `localhost`.
pub(crate) const LOCALHOST: [IpAddr; 2] = [IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)];

/// Returns a name's addresses in the text of a hosts file, IPv6 first, at most `ADDRESSES_MAX`. Unreadable lines are skipped.
pub fn hosts_addresses(text: &str, name: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        if found.len() == ADDRESSES_MAX {
            break;
        }
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        let named = words.any(|word| {
            word.trim_end_matches('.').eq_ignore_ascii_case(name) || (!word.is_ascii() && normalize_name(word).is_ok_and(|own| own == name))
        });
        if named && !found.contains(&address) {
            found.push(address);
        }
    }
    found.sort_by_key(IpAddr::is_ipv4);
    found
}

/// Returns what an error text of the operating system's look-up means: [`ErrorKind::NoSuchName`] and
/// [`ErrorKind::NoAddresses`] only where the C library (glibc, musl) tells them from an outage. macOS and Windows do not.
pub(crate) fn system_failure_kind(text: &str) -> ErrorKind {
    if ["Name or service not known", "Name does not resolve"].iter().any(|known| text.contains(known)) {
        ErrorKind::NoSuchName
    } else if ["No address associated with hostname", "Name has no usable address"].iter().any(|known| text.contains(known)) {
        ErrorKind::NoAddresses
    } else {
        ErrorKind::DnsFailed
    }
}

/// Maximum number of search domains tried: each costs two queries.
const SEARCH_DOMAINS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn list(ndots: usize) -> SearchList {
        SearchList { domains: vec!["one.example".into(), "two.example.".into()], ndots }
    }

    #[test]
    fn search_list_follows_resolv_conf() {
        let dotted = ["db.svc", "db.svc.one.example", "db.svc.two.example"];
        assert_eq!(list(1).candidates("db.svc"), dotted, "a name with enough dots is tried unchanged first");
        assert_eq!(list(0).candidates("db"), ["db", "db.one.example", "db.two.example"]);
        assert_eq!(list(1).candidates("db"), ["db.one.example", "db.two.example", "db"]);
        assert_eq!(list(5).candidates("db.svc"), ["db.svc.one.example", "db.svc.two.example", "db.svc"]);
        assert_eq!(SearchList::default().candidates("db"), ["db"]);
        let root = SearchList { domains: vec![".".into(), "one.example".into()], ndots: 1 };
        assert_eq!(root.candidates("db"), ["db", "db.one.example"]);
    }

    #[test]
    fn names_that_are_too_long_are_skipped() {
        let long = vec!["a".repeat(63); 3].join(".");
        let list = SearchList { domains: vec![long.clone()], ndots: 0 };
        assert_eq!(list.candidates(&long), [long]);
    }

    #[test]
    fn localhost_is_this_machine() {
        assert!(is_localhost("localhost") && is_localhost("db.localhost"));
        assert!(!is_localhost("localhost.example") && !is_localhost("notlocalhost"));
    }

    #[test]
    fn hosts_file_has_names_and_aliases() {
        let text = "\u{feff}127.0.0.1 localhost # db.example\n10.0.0.2\tother DB.Example\nnonsense db.example\n::5 db.example.\n10.0.0.1 db.example\n";
        let v6: IpAddr = "::5".parse().expect("address");
        let v4 = ["10.0.0.2", "10.0.0.1"].map(|text| text.parse::<IpAddr>().expect("address"));
        assert_eq!(hosts_addresses(text, "db.example"), [v6, v4[0], v4[1]]);
        assert_eq!(hosts_addresses(text, "example"), [] as [IpAddr; 0]);
    }

    #[test]
    fn hosts_file_may_be_unicode() {
        assert_eq!(hosts_addresses("10.0.0.1 bücher.example", "xn--bcher-kva.example").len(), 1);
        assert_eq!(hosts_addresses("10.0.0.1 bücher.example", "db.example"), [] as [IpAddr; 0]);
    }

    #[test]
    fn only_clear_words_of_the_system_deny_a_name() {
        for (text, kind) in [
            ("failed to lookup address information: Name or service not known", ErrorKind::NoSuchName),
            ("failed to lookup address information: Name does not resolve", ErrorKind::NoSuchName),
            ("failed to lookup address information: No address associated with hostname", ErrorKind::NoAddresses),
            ("failed to lookup address information: Temporary failure in name resolution", ErrorKind::DnsFailed),
            ("failed to lookup address information: nodename nor servname provided, or not known", ErrorKind::DnsFailed),
            ("No such host is known. (os error 11001)", ErrorKind::DnsFailed),
        ] {
            assert_eq!(system_failure_kind(text), kind, "{text}");
        }
    }
}
