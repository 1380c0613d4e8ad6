//! Which full names does a name stand for, and which names never meet DNS?
//!
//! Search lists as in resolv.conf(5), `localhost` (RFC 6761), and the hosts file as in hosts(5). Names are given in normal
//! form (`host`). Reading files is `io::resolver`'s business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::good::ADDRESSES_MAX;
use crate::host::normalize_name;

/// Says in which order a search list is tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SearchList {
    /// The domains to append.
    pub(crate) domains: Vec<String>,
    /// A name with at least this many dots is full, and tried as it stands only.
    pub(crate) ndots: usize,
}

impl SearchList {
    /// Returns the full names to ask for, in order, without final dots.
    pub(crate) fn candidates(&self, name: &str) -> Vec<String> {
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        if dots >= self.ndots.max(1) {
            // A full name is not looked for elsewhere: another domain's wildcard would answer for it.
            return vec![name.to_owned()];
        }
        let mut names = Vec::new();
        let found = self.domains.iter().take(SEARCH_DOMAINS_MAX).filter_map(|domain| normalize_name(&format!("{name}.{domain}")).ok());
        names.extend(found);
        names.push(name.to_owned());
        names
    }
}

/// Tells whether a name is the machine itself (RFC 6761 section 6.3).
pub(crate) fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// The addresses of `localhost`.
pub(crate) const LOCALHOST: [IpAddr; 2] = [IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)];

/// Returns a name's addresses in the text of a hosts file, IPv6 first, `ADDRESSES_MAX` at the most. Lines that can't be
/// read are passed over.
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

/// How many search domains are tried.
const SEARCH_DOMAINS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn list(ndots: usize) -> SearchList {
        SearchList { domains: vec!["one.example".into(), "two.example.".into()], ndots }
    }

    #[test]
    fn full_names_stand_for_themselves_only() {
        assert_eq!(list(1).candidates("db.example"), ["db.example"]);
    }

    #[test]
    fn short_names_go_through_the_search_list_first() {
        assert_eq!(list(1).candidates("db"), ["db.one.example", "db.two.example", "db"]);
        assert_eq!(list(5).candidates("db.svc")[0], "db.svc.one.example");
        assert_eq!(SearchList::default().candidates("db"), ["db"]);
    }

    #[test]
    fn candidates_that_are_too_long_are_left_out() {
        let long = vec!["a".repeat(63); 3].join(".");
        let list = SearchList { domains: vec![long.clone()], ndots: 0 };
        assert_eq!(list.candidates(&long), [long]);
    }

    #[test]
    fn localhost_is_the_machine_itself() {
        assert!(is_localhost("localhost") && is_localhost("db.localhost"));
        assert!(!is_localhost("localhost.example") && !is_localhost("notlocalhost"));
    }

    #[test]
    fn hosts_file_knows_names_and_aliases() {
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
}
