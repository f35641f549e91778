//! Each URL that must be refused, at registration and in an attempt, where it must lead to no connection and no look-up.

use std::net::IpAddr;

use webhook::{Failed, Refused, Special, Tls, Unvetted};

use crate::{
    receiver::Receiver,
    sender::{PATIENT, Script, deliverer, guard, secrets, send},
};

/// Sends `url` through both gates with names resolving to `addresses`.
async fn refusals(url: &str, addresses: &str) -> (Option<Refused>, Option<Refused>, Vec<String>) {
    let resolver = Script::new(&[addresses]);
    let guard = guard(&resolver, &[]);
    let registered = match guard.vet(url).await {
        Err(Unvetted::Refused(refused)) => Some(refused),
        _ => None,
    };
    let asked = resolver.asked();
    let attempted = match send(&deliverer(guard, Tls::default(), PATIENT), url, &secrets()).await.outcome {
        Err(Failed::Refused(refused)) => Some(refused),
        _ => None,
    };
    (registered, attempted, asked)
}

fn special(refused: Option<Refused>) -> Option<Special> {
    match refused {
        Some(Refused::Address { special, .. }) => Some(special),
        _ => None,
    }
}

/// S14–S16 and S19: addresses in the URL itself, in every way of writing them.
const LITERALS: &[(&str, Special)] = &[
    ("127.0.0.1", Special::Loopback),
    ("127.255.255.254", Special::Loopback),
    ("0.0.0.0", Special::Unspecified),
    ("0", Special::Unspecified),
    ("10.0.0.1", Special::Private),
    ("172.16.0.1", Special::Private),
    ("172.31.255.255", Special::Private),
    ("192.168.1.1", Special::Private),
    ("169.254.169.254", Special::Metadata),
    ("169.254.1.1", Special::LinkLocal),
    ("100.64.0.1", Special::CarrierNat),
    ("198.18.0.1", Special::Benchmarking),
    ("240.0.0.1", Special::Reserved),
    ("255.255.255.255", Special::Reserved),
    ("224.0.0.1", Special::Multicast),
    ("192.0.2.1", Special::Documentation),
    ("2130706433", Special::Loopback),
    ("0x7f000001", Special::Loopback),
    ("0X7F000001", Special::Loopback),
    ("0x7f.1", Special::Loopback),
    ("017700000001", Special::Loopback),
    ("0177.0.0.01", Special::Loopback),
    ("127.1", Special::Loopback),
    ("127.0.1", Special::Loopback),
    ("2852039166", Special::Metadata),
    ("0xa9fea9fe", Special::Metadata),
    ("127.0.0.1.", Special::Loopback),
    ("１２７.０.０.１", Special::Loopback),
    ("127。0。0。1", Special::Loopback),
    ("①②⑦.0.0.1", Special::Loopback),
    ("%31%32%37.0.0.1", Special::Loopback),
    ("localhost", Special::Loopback),
    ("LOCALHOST", Special::Loopback),
    ("localhost.", Special::Loopback),
    ("a.b.localhost", Special::Loopback),
    ("ｌｏｃａｌｈｏｓｔ", Special::Loopback),
    ("[::1]", Special::Loopback),
    ("[0:0:0:0:0:0:0:1]", Special::Loopback),
    ("[::]", Special::Unspecified),
    ("[::ffff:127.0.0.1]", Special::Ipv4Inside),
    ("[::ffff:7f00:1]", Special::Ipv4Inside),
    ("[::ffff:a9fe:a9fe]", Special::Ipv4Inside),
    ("[::127.0.0.1]", Special::Ipv4Inside),
    ("[64:ff9b::a9fe:a9fe]", Special::Ipv4Inside),
    ("[64:ff9b::127.0.0.1]", Special::Ipv4Inside),
    ("[64:ff9b:1::1]", Special::Ipv4Inside),
    ("[2002:7f00:1::]", Special::Ipv4Inside),
    ("[2001::1]", Special::Ipv4Inside),
    ("[fe80::1]", Special::LinkLocal),
    ("[fec0::1]", Special::SiteLocal),
    ("[fc00::1]", Special::Private),
    ("[fd12:3456::1]", Special::Private),
    ("[fd00:ec2::254]", Special::Metadata),
    ("[ff02::1]", Special::Multicast),
    ("[2001:db8::1]", Special::Documentation),
    ("[4000::1]", Special::Reserved),
];

#[tokio::test]
async fn addresses_in_urls_are_vetted_at_both_gates() {
    let receiver = Receiver::saying("HTTP/1.1 200 OK\r\n\r\n").await;
    for (host, expected) in LITERALS {
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{host}:{}/", receiver.port());
            // A resolver that would let everything through must not even be asked.
            let (registered, attempted, asked) = refusals(&url, "93.184.215.14").await;
            assert_eq!(special(registered), Some(*expected), "registering {url}");
            assert_eq!(special(attempted), Some(*expected), "sending to {url}");
            assert!(asked.is_empty(), "{url} was looked up: {asked:?}");
        }
    }
    assert_eq!(receiver.connections(), 0);
}

/// S17: what names resolve to.
#[tokio::test]
async fn addresses_of_names_are_vetted_at_both_gates() {
    let receiver = Receiver::saying("HTTP/1.1 200 OK\r\n\r\n").await;
    let url = format!("http://hook.example:{}/", receiver.port());
    for (host, expected) in LITERALS {
        let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() else { continue };
        for answer in [
            format!("{address}"),
            format!("93.184.215.14 {address}"),
            format!("{address} 93.184.215.14"),
            format!("2606:4700::1111 93.184.215.14 {address}"),
        ] {
            let (registered, attempted, asked) = refusals(&url, &answer).await;
            let refused = Some(Refused::Address { address, special: *expected });
            assert_eq!((registered, attempted), (refused, refused), "{answer}");
            assert_eq!(asked, ["hook.example"]);
        }
    }
    assert_eq!(receiver.connections(), 0);
}

/// S21 and S22.
#[tokio::test]
async fn malformed_and_disguised_urls_are_refused_at_both_gates() {
    let long = format!("https://example.com/{}", "a".repeat(2048));
    let long_once_encoded = format!("http://example.com/{}", "ä".repeat(400));
    let long_name = format!("https://{}example.com/", "a.".repeat(128));
    for (url, expected) in [
        ("file:///etc/passwd", Refused::Scheme),
        ("gopher://example.com/", Refused::Scheme),
        ("ftp://example.com/", Refused::Scheme),
        ("unix:/run/docker.sock", Refused::Scheme),
        ("ws://example.com/", Refused::Scheme),
        ("javascript:alert(1)", Refused::Scheme),
        ("data:text/plain,x", Refused::Scheme),
        ("https://user@example.com/", Refused::Userinfo),
        ("https://user:password@example.com/", Refused::Userinfo),
        ("https://:password@example.com/", Refused::Userinfo),
        ("https://example.com@127.0.0.1/", Refused::Userinfo),
        ("https:user@example.com", Refused::Userinfo),
        ("http://example.com:0/", Refused::Port(0)),
        ("http://example.com:22/", Refused::Port(22)),
        ("http://example.com:25/", Refused::Port(25)),
        ("http://example.com:6379/", Refused::Port(6379)),
        ("http://example.com:5432/", Refused::Port(5432)),
        ("http://example.com:11211/", Refused::Port(11211)),
        ("https://example.com:0x50/", Refused::Malformed),
        ("http://example.com:65536/", Refused::Malformed),
        ("http://example.com/\r\nHost: internal", Refused::Character),
        ("http://example.com\n.internal/", Refused::Character),
        ("http://exa\tmple.com/", Refused::Character),
        (" http://example.com/", Refused::Character),
        ("http://example.com/\0", Refused::Character),
        ("http://example.com/\u{a0}", Refused::Character),
        ("http://example.com/\u{85}", Refused::Character),
        ("http://example.com\\@127.0.0.1/", Refused::Character),
        ("", Refused::Malformed),
        ("example.com/hook", Refused::Malformed),
        ("/hook", Refused::Malformed),
        ("http://", Refused::Malformed),
        ("http:///", Refused::Malformed),
        ("http://.../", Refused::Malformed),
        ("http://a..b/", Refused::Malformed),
        ("http://127.0.0.1../", Refused::Malformed),
        ("http://[fe80::1%eth0]/", Refused::Malformed),
        ("http://[fe80::1%25eth0]/", Refused::Malformed),
        ("http://[::1", Refused::Malformed),
        ("http://256.256.256.256/", Refused::Malformed),
        ("http://1.2.3.4.5/", Refused::Malformed),
        ("http://127.0.0.0x100/", Refused::Malformed),
        ("http://exa mple.com/", Refused::Character),
        ("http://ex%00ample.com/", Refused::Malformed),
        ("http://ex%0d%0aample.com/", Refused::Malformed),
        (&long_name, Refused::Malformed),
        (&long, Refused::TooLong),
        (&long_once_encoded, Refused::TooLong),
    ] {
        let (registered, attempted, _) = refusals(url, "127.0.0.1").await;
        assert_eq!((registered, attempted), (Some(expected), Some(expected)), "{url:?}");
    }
}

#[tokio::test]
async fn ordinary_urls_may_be_registered() {
    for (url, addresses) in [
        ("https://example.com/hook", "93.184.215.14"),
        ("http://example.com:8080/", "93.184.215.14 2606:4700::1111"),
        ("https://93.184.215.14/", ""),
        ("https://[2606:4700::1111]:8443/", ""),
        ("https://bücher.example/?q=a|b#part", "93.184.215.14"),
        ("https://user.example/@name", "93.184.215.14"),
    ] {
        let guard = guard(&Script::new(&[addresses]), &[]);
        assert!(guard.vet(url).await.is_ok(), "{url}");
    }
}
