//! The hosts of a source that are its owner's: all others are names that clients made up.

use std::collections::HashSet;

/// The longest name of a host, in bytes.
const MAX_BYTES: usize = 253;

/// Names of hosts, and of domains with all hosts below them; ASCII case does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostList {
    names: HashSet<Box<[u8]>>,
    /// With the dot before them.
    domains: HashSet<Box<[u8]>>,
}

/// Why a text is no entry of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// A `*` that is not the first label.
    #[error("`*` stands only for what is before a domain")]
    Star,
    /// `https://…`, or a path.
    #[error("it is not the name of a host alone")]
    Address,
    /// `name:8080`.
    #[error("it has a port, which hosts of events have not")]
    Port,
    /// Empty, too long, or with characters that no name has.
    #[error("a name has 1 to 253 characters, none of them a space or a control character, and no empty label")]
    Name,
}

impl HostList {
    /// Adds `shop.example` or `*.example.org`.
    ///
    /// # Errors
    /// Where it is neither.
    pub fn add(&mut self, entry: &str) -> Result<(), HostError> {
        let domain = entry.strip_prefix("*.");
        let name = domain.unwrap_or(entry);
        if name.contains('*') {
            return Err(HostError::Star);
        }
        if name.contains('/') {
            return Err(HostError::Address);
        }
        let digits = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        if name.split_once(':').is_some_and(|(_, port)| digits(port)) || name.rsplit_once("]:").is_some() {
            return Err(HostError::Port);
        }
        let is_no_name = |c: char| c.is_whitespace() || c.is_control();
        // In an IPv6 address there may be nothing between colons, but in no name is there nothing between dots.
        if name.is_empty() || name.len() > MAX_BYTES || name.contains(is_no_name) || name.split('.').any(str::is_empty)
        {
            return Err(HostError::Name);
        }
        let lower = entry.trim_start_matches('*').to_ascii_lowercase().into_bytes().into();
        if domain.is_some() {
            self.domains.insert(lower)
        } else {
            self.names.insert(lower)
        };
        Ok(())
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.domains.is_empty()
    }

    /// Whether a host, in lower case, is one of these.
    pub fn holds(&self, host: &[u8]) -> bool {
        if host.is_empty() || host.len() > MAX_BYTES {
            return false;
        }
        let mut dots = memchr::memchr_iter(b'.', host).filter(|at| *at > 0);
        self.names.contains(host) || dots.any(|at| self.domains.contains(&host[at..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_holds_its_names_and_what_is_below_its_domains() {
        let mut list = HostList::default();
        assert!(list.is_empty());
        for entry in ["Shop.example", "*.Example.org", "::1", "intranet"] {
            list.add(entry).unwrap();
        }
        assert!(!list.is_empty());
        let long = [b"a".repeat(250), b".example.org".to_vec()].concat();
        let rows: &[(&[u8], bool)] = &[
            (b"shop.example", true),
            (b"www.shop.example", false),
            (b"shop.example.", false),
            (b"xshop.example", false),
            (b"example.org", false),
            (b".example.org", false),
            (b"a.example.org", true),
            (b"a.b.example.org", true),
            (b"aexample.org", false),
            (b"a.example.org.evil", false),
            (b"\xff.example.org", true),
            (b"::1", true),
            (b"intranet", true),
            (b"", false),
            (&long, false),
        ];
        for (host, want) in rows {
            assert_eq!(list.holds(host), *want, "{}", String::from_utf8_lossy(host));
        }
    }

    #[test]
    fn an_entry_is_a_name_or_a_domain() {
        let rows: &[(&str, Result<(), HostError>)] = &[
            ("a", Ok(())),
            ("*.a", Ok(())),
            ("fe80::1", Ok(())),
            ("", Err(HostError::Name)),
            ("*.", Err(HostError::Name)),
            ("a..b", Err(HostError::Name)),
            (".a", Err(HostError::Name)),
            ("a b", Err(HostError::Name)),
            ("*", Err(HostError::Star)),
            ("a.*", Err(HostError::Star)),
            ("*.*.a", Err(HostError::Star)),
            ("www*.a", Err(HostError::Star)),
            ("a:80", Err(HostError::Port)),
            ("[::1]:80", Err(HostError::Port)),
            ("https://a", Err(HostError::Address)),
            ("a/b", Err(HostError::Address)),
        ];
        for (entry, want) in rows {
            assert_eq!(HostList::default().add(entry), *want, "{entry}");
        }
    }
}
