//! What may be a webhook's URL and address: the rules, which look nothing up.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use hyper::http::uri::PathAndQuery;
use url::{Host, Position, Url};

use crate::{Network, Special, address, port};

/// In bytes; more than browsers and proxies reliably take.
const LONGEST_URL: usize = 2048;

/// Where webhooks may go: the public internet, and the networks that whoever runs this server allows besides.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Networks of private receivers, allowed whatever they are; an address is looked up in them as it is, so that
    /// `127.0.0.0/8` allows neither `::1` nor `::ffff:127.0.0.1`.
    pub allowed: Vec<Network>,
}

/// Why a webhook may not go there. For whoever wrote the URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not an absolute URL with a host, or with characters that HTTP cannot carry.
    #[error("this is not a URL")]
    Malformed,
    /// More than 2,048 bytes, as it is written or normalised.
    #[error("the URL is longer than {LONGEST_URL} bytes")]
    TooLong,
    /// A space, line break or other control character, or a backslash: those that programs disagree about.
    #[error("the URL contains a space, a control character or a backslash")]
    Character,
    /// Neither `http` nor `https`.
    #[error("a webhook's URL begins with https:// or http://")]
    Scheme,
    /// It names a user or a password, which would be stored and shown; and hides the host from the eye.
    #[error("the URL contains a user name or password")]
    Userinfo,
    /// A port of a service that is no web server.
    #[error("webhooks may not go to port {0}; use 80, 443 or one above 1023 that no well-known service has")]
    Port(u16),
    /// An address that is not a public one, named in the URL or found for its host.
    #[error("webhooks may not go to {address}, {}", .special.as_str())]
    Address {
        /// The address.
        address: IpAddr,
        /// What it is.
        special: Special,
    },
}

/// A URL that keeps the rules, with its host as the WHATWG's URL standard normalises it: `http://0x7f.1` is
/// `http://127.0.0.1/`, full-width digits are digits, and a name is lower-case ASCII. An address in it was vetted; a name
/// was not looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    url: Url,
    host: TargetHost,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TargetHost {
    Name(String),
    Address(IpAddr),
}

impl Policy {
    /// Reads a webhook's URL.
    ///
    /// # Errors
    /// When it breaks a rule. Names are not looked up here but by [`Guard`](crate::Guard); `localhost` counts as the
    /// address it always is (RFC 6761).
    pub fn vet_url(&self, text: &str) -> Result<Target, Refused> {
        if text.len() > LONGEST_URL {
            return Err(Refused::TooLong);
        }
        // Before parsing, which would drop line breaks and take a backslash for a slash.
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err(Refused::Character);
        }
        let url = Url::parse(text).map_err(|_| Refused::Malformed)?;
        // Percent-encoding makes three of one byte, and what is kept and indexed is this.
        if url.as_str().len() > LONGEST_URL {
            return Err(Refused::TooLong);
        }
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refused::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::Userinfo);
        }
        let port = url.port_or_known_default().ok_or(Refused::Malformed)?;
        if !port::is_allowed(port) {
            return Err(Refused::Port(port));
        }
        let host = match url.host().ok_or(Refused::Malformed)? {
            Host::Ipv4(address) => TargetHost::Address(address.into()),
            Host::Ipv6(address) => TargetHost::Address(address.into()),
            Host::Domain(name) if is_name(name) => TargetHost::Name(name.to_owned()),
            Host::Domain(_) => return Err(Refused::Malformed),
        };
        match &host {
            TargetHost::Address(address) => self.vet_address(*address)?,
            TargetHost::Name(name) if is_localhost(name) => self.vet_address(Ipv4Addr::LOCALHOST.into())?,
            TargetHost::Name(_) => {}
        }
        let target = Target { url, host, port };
        // The URL standard lets characters through that HTTP's grammar does not have.
        PathAndQuery::try_from(target.path_and_query()).map_err(|_| Refused::Malformed)?;
        Ok(target)
    }

    /// Whether a webhook may go to this address.
    ///
    /// # Errors
    /// When it is special and in no allowed network.
    pub fn vet_address(&self, address: IpAddr) -> Result<(), Refused> {
        match address::special(address) {
            Some(special) if !self.allowed.iter().any(|network| network.contains(address)) => {
                Err(Refused::Address { address, special })
            }
            _ => Ok(()),
        }
    }
}

/// Whether name servers can be asked for it (RFC 1035, section 2.3.4), which the URL standard leaves open. In ASCII.
fn is_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253 && name.split('.').all(|label| (1..=63).contains(&label.len()))
}

fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost")
}

impl Target {
    /// The URL, normalised.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.url.as_str()
    }

    /// Scheme, host and port, for example `https://example.com`: what one receiver's health and limits go by.
    #[must_use]
    pub fn origin(&self) -> String {
        self.url[..Position::BeforePath].to_owned()
    }

    /// The URL without its query and fragment, for example `https://example.com/hook`: what a receiver's settings and
    /// secrets go by.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.url[..Position::AfterPath].to_owned()
    }

    pub(crate) fn host(&self) -> &TargetHost {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The host as certificates name it: an IPv6 address without its brackets, a name without a trailing full stop.
    pub(crate) fn certificate_name(&self) -> String {
        match &self.host {
            TargetHost::Address(address) => address.to_string(),
            TargetHost::Name(name) => name.strip_suffix('.').unwrap_or(name).to_owned(),
        }
    }

    /// The value of `Host`: the port only where it is not the scheme's.
    pub(crate) fn authority(&self) -> &str {
        &self.url[Position::BeforeHost..Position::AfterPort]
    }

    pub(crate) fn path_and_query(&self) -> &str {
        &self.url[Position::BeforePath..Position::AfterQuery]
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_urls_are_taken_apart() {
        let vet = |text: &str| Policy::default().vet_url(text).expect(text);
        let target = vet("https://Example.COM:8443/hook/a?b=%0d%0a#c");
        assert_eq!(target.origin(), "https://example.com:8443");
        assert_eq!(target.endpoint(), "https://example.com:8443/hook/a");
        assert_eq!(vet("http://example.com:80").endpoint(), "http://example.com/");
        assert_eq!((target.authority(), target.path_and_query()), ("example.com:8443", "/hook/a?b=%0d%0a"));
        assert_eq!((target.port(), target.is_https()), (8443, true));
        let target = vet("http://example.com");
        assert_eq!((target.authority(), target.path_and_query(), target.port()), ("example.com", "/", 80));
        assert_eq!(vet("https://example.com:443/").authority(), "example.com");
        let target = vet("https://[2606:4700::1111]/x");
        assert_eq!((target.authority(), &*target.certificate_name()), ("[2606:4700::1111]", "2606:4700::1111"));
        let target = vet("https://bücher.example./");
        assert_eq!(target.authority(), "xn--bcher-kva.example.");
        assert_eq!(target.certificate_name(), "xn--bcher-kva.example");
    }
}
