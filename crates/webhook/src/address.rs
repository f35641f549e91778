//! Which IP addresses are not somebody's on the public internet. From IANA's registries of special-purpose addresses for
//! IPv4 and IPv6 (RFC 6890), and what they leave out: the old site-local and IPv4-compatible ranges, multicast, and the
//! clouds' metadata services.

use std::net::IpAddr;

use crate::Network;

/// What an address is for, when it is not an ordinary public one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// `0.0.0.0/8` and `::`: this host, on many systems.
    Unspecified,
    /// This host.
    Loopback,
    /// A private network (RFC 1918), or the unique local addresses of IPv6.
    Private,
    /// The cable one is plugged into.
    LinkLocal,
    /// Where a cloud tells its machines their credentials.
    Metadata,
    /// Between a provider and its customers' routers (RFC 6598).
    CarrierNat,
    /// More than one receiver.
    Multicast,
    /// For measuring network equipment.
    Benchmarking,
    /// For examples in documents.
    Documentation,
    /// The private networks of early IPv6.
    SiteLocal,
    /// An IPv6 way of writing an IPv4 address, or of having one translated or tunnelled to: IPv4-mapped and -compatible,
    /// NAT64, 6to4, Teredo. What it leads to depends on the host, so whatever it carries it is not vetted but refused.
    Ipv4Inside,
    /// Not given out for ordinary use.
    Reserved,
}

impl Special {
    /// What it is called, in a few words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "an unspecified address",
            Self::Loopback => "a loopback address",
            Self::Private => "a private address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a cloud's metadata service",
            Self::CarrierNat => "an address of a carrier's NAT",
            Self::Multicast => "a multicast address",
            Self::Benchmarking => "an address for benchmarks",
            Self::Documentation => "an address for documentation",
            Self::SiteLocal => "a site-local address",
            Self::Ipv4Inside => "an IPv6 address that stands for an IPv4 one",
            Self::Reserved => "a reserved address",
        }
    }
}

use Special::{
    Benchmarking, CarrierNat, Documentation, Ipv4Inside, LinkLocal, Loopback, Metadata, Multicast, Private, Reserved,
    SiteLocal, Unspecified,
};

/// The first that contains an address says what it is.
const SPECIAL: &[(Network, Special)] = &[
    (Network::v4(169, 254, 169, 254, 32), Metadata), // AWS, Google Cloud, Azure, OpenStack and others
    (Network::v4(169, 254, 170, 2, 32), Metadata),   // credentials of AWS ECS tasks
    (Network::v4(168, 63, 129, 16, 32), Metadata),   // Azure's WireServer, which looks public
    (Network::v4(100, 100, 100, 200, 32), Metadata), // Alibaba Cloud
    (Network::v4(192, 0, 0, 192, 32), Metadata),     // Oracle Cloud
    (Network::v4(0, 0, 0, 0, 8), Unspecified),
    (Network::v4(10, 0, 0, 0, 8), Private),
    (Network::v4(100, 64, 0, 0, 10), CarrierNat),
    (Network::v4(127, 0, 0, 0, 8), Loopback),
    (Network::v4(169, 254, 0, 0, 16), LinkLocal),
    (Network::v4(172, 16, 0, 0, 12), Private),
    (Network::v4(192, 0, 0, 0, 24), Reserved), // IETF protocol assignments
    (Network::v4(192, 0, 2, 0, 24), Documentation),
    (Network::v4(192, 88, 99, 0, 24), Reserved), // relays of 6to4
    (Network::v4(192, 168, 0, 0, 16), Private),
    (Network::v4(198, 18, 0, 0, 15), Benchmarking),
    (Network::v4(198, 51, 100, 0, 24), Documentation),
    (Network::v4(203, 0, 113, 0, 24), Documentation),
    (Network::v4(224, 0, 0, 0, 4), Multicast),
    (Network::v4(240, 0, 0, 0, 4), Reserved), // and broadcast
    (Network::v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128), Metadata), // AWS
    (Network::v6([0; 8], 128), Unspecified),
    (Network::v6([0, 0, 0, 0, 0, 0, 0, 1], 128), Loopback),
    (Network::v6([0; 8], 96), Ipv4Inside),                        // IPv4-compatible
    (Network::v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), Ipv4Inside), // IPv4-mapped
    (Network::v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96), Ipv4Inside), // IPv4-translated (RFC 2765)
    (Network::v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), Ipv4Inside), // NAT64
    (Network::v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), Ipv4Inside), // NAT64 of one's own
    (Network::v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), Ipv4Inside), // Teredo
    (Network::v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48), Benchmarking),
    (Network::v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), Reserved), // IETF protocol assignments
    (Network::v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), Documentation),
    (Network::v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), Ipv4Inside), // 6to4
    (Network::v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), Documentation),
    (Network::v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), Private),
    (Network::v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), LinkLocal),
    (Network::v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), SiteLocal),
    (Network::v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), Multicast),
];

/// All of IPv6 that was given out for ordinary use so far (RFC 4291); whatever else there is or will be is refused.
const GLOBAL_UNICAST: Network = Network::v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// What `address` is for, or `None` for an ordinary public one.
pub(crate) fn special(address: IpAddr) -> Option<Special> {
    let listed = SPECIAL.iter().find(|(network, _)| network.contains(address)).map(|(_, special)| *special);
    listed.or_else(|| (address.is_ipv6() && !GLOBAL_UNICAST.contains(address)).then_some(Reserved))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_every_range() {
        let table = [
            (Unspecified, "0.0.0.0 0.255.255.255 ::"),
            (Loopback, "127.0.0.0 127.0.0.1 127.255.255.255 ::1"),
            (Private, "10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255 fc00:: fdff::1"),
            (LinkLocal, "169.254.0.0 169.254.255.255 fe80:: fe80::1 febf::1"),
            (Metadata, "169.254.169.254 168.63.129.16 100.100.100.200 192.0.0.192 fd00:ec2::254"),
            (CarrierNat, "100.64.0.0 100.127.255.255"),
            (Multicast, "224.0.0.0 239.255.255.255 ff00:: ff02::1 ffff::1"),
            (Benchmarking, "198.18.0.0 198.19.255.255 2001:2::1"),
            (Documentation, "192.0.2.1 198.51.100.1 203.0.113.255 2001:db8::1 3fff::1 3fff:fff::1"),
            (SiteLocal, "fec0:: feff::1"),
            (Ipv4Inside, "::ffff:127.0.0.1 ::ffff:a9fe:a9fe ::ffff:8.8.8.8 ::127.0.0.1 ::2 ::ffff:0:127.0.0.1"),
            (Ipv4Inside, "64:ff9b::a9fe:a9fe 64:ff9b::808:808 64:ff9b:1::1 64:ff9b:1:ffff::1"),
            (Ipv4Inside, "2002:7f00:1:: 2002:808:808::1 2001:: 2001:0:53aa::1"),
            (Reserved, "192.0.0.1 192.88.99.1 240.0.0.0 255.255.255.255 2001:10::1 2001:1ff::1"),
            (Reserved, "100:: 1000::1 1fff:ffff::1 4000::1 5f00::1 8000::1 fbff::1 fe00::1 64:ff9b:2::1"),
        ];
        for (expected, addresses) in table {
            for text in addresses.split(' ') {
                assert_eq!(special(text.parse().expect("an address")), Some(expected), "{text}");
            }
        }
    }

    #[test]
    fn their_neighbours_are_public() {
        let public = "1.0.0.0 1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 \
                      128.0.0.0 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.0.3.0 \
                      192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 203.0.112.255 203.0.114.0 \
                      223.255.255.255 168.63.129.15 2000::1 2001:200::1 2001:db7::1 2001:db9::1 2003::1 \
                      2606:4700::1111 2a00:1450::1 3ffe::1 3fff:1000::1";
        for text in public.split_whitespace() {
            assert_eq!(special(text.parse().expect("an address")), None, "{text}");
        }
    }
}
