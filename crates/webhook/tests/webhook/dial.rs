//! That exactly the vetted addresses are connected to: rebinding, mixed answers, private receivers that are allowed.

use std::io;

use webhook::{Failed, Refused, Special, Step, Tls, Unvetted, Verdict};

use crate::{
    receiver::Receiver,
    sender::{BRIEF, PATIENT, Script, deliverer, guard, policy, secrets, send},
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// S18: public when it is registered, private when it is delivered.
#[tokio::test]
async fn a_name_that_turns_private_is_refused_at_dial() {
    let receiver = Receiver::saying(OK).await;
    let url = format!("http://rebind.example:{}/", receiver.port());
    let resolver = Script::new(&["93.184.215.14", "127.0.0.1"]);
    let guard = guard(&resolver, &[]);
    assert!(guard.vet(&url).await.is_ok(), "public when registered");
    let attempt = send(&deliverer(guard, Tls::default(), PATIENT), &url, &secrets()).await;
    let address = "127.0.0.1".parse().expect("an address");
    assert_eq!(attempt.outcome, Err(Failed::Refused(Refused::Address { address, special: Special::Loopback })));
    assert_eq!((receiver.connections(), resolver.asked().len()), (0, 2));
}

/// The other half of S18: within one attempt there is one look-up, and what it said is what is connected to.
#[tokio::test]
async fn one_look_up_is_vetted_and_connected_to() {
    let receiver = Receiver::saying(OK).await;
    let resolver = Script::new(&["127.0.0.1", "10.0.0.1"]);
    let deliverer = deliverer(guard(&resolver, &["127.0.0.0/8"]), Tls::default(), PATIENT);
    let url = format!("http://rebind.example:{}/", receiver.port());
    assert_eq!(send(&deliverer, &url, &secrets()).await.verdict(0), Verdict::Delivered);
    assert_eq!((receiver.connections(), resolver.asked().len()), (1, 1));
    let second = send(&deliverer, &url, &secrets()).await.outcome;
    assert!(matches!(second, Err(Failed::Refused(Refused::Address { special: Special::Private, .. }))), "{second:?}");
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn one_forbidden_address_among_allowed_ones_refuses_all() {
    let receiver = Receiver::saying(OK).await;
    let url = format!("http://mixed.example:{}/", receiver.port());
    for answer in ["127.0.0.1 10.0.0.1", "10.0.0.1 127.0.0.1", "127.0.0.1 ::1", "127.0.0.1 ::ffff:127.0.0.1"] {
        let deliverer = deliverer(guard(&Script::new(&[answer]), &["127.0.0.0/8"]), Tls::default(), PATIENT);
        let outcome = send(&deliverer, &url, &secrets()).await.outcome;
        assert!(matches!(outcome, Err(Failed::Refused(Refused::Address { .. }))), "{answer}: {outcome:?}");
    }
    assert_eq!(receiver.connections(), 0);
}

/// The ways of writing an address mean what the guard thinks they mean, and an allowed literal needs no resolver.
#[tokio::test]
async fn allowed_networks_can_be_reached_however_written() {
    let receiver = Receiver::saying(OK).await;
    let hosts = ["127.0.0.1", "2130706433", "0x7f.1", "017700000001", "127.1", "１２７.０.０.１", "127.0.0.1."];
    for host in hosts {
        let resolver = Script::new(&[]);
        let deliverer = deliverer(guard(&resolver, &["127.0.0.0/8"]), Tls::default(), PATIENT);
        let url = format!("http://{host}:{}/", receiver.port());
        assert_eq!(send(&deliverer, &url, &secrets()).await.verdict(0), Verdict::Delivered, "{host}");
        assert!(resolver.asked().is_empty());
    }
    let expected = format!("127.0.0.1:{}", receiver.port());
    assert!(receiver.requests().iter().all(|request| request.header("host") == [&expected]));
    assert_eq!(receiver.requests().len(), hosts.len());
}

#[test]
fn an_allowed_network_allows_nothing_else() {
    let policy = policy(&["127.0.0.0/8", "fd00:1::/32"]);
    for (url, allowed) in [
        ("http://127.9.9.9/", true),
        ("http://localhost:3000/", true),
        ("http://[fd00:1::7]/", true),
        ("http://[::1]/", false),
        ("http://[::ffff:127.0.0.1]/", false),
        ("http://10.0.0.1/", false),
        ("http://[fd00:2::7]/", false),
        ("http://127.0.0.1:6379/", false),
    ] {
        assert_eq!(policy.vet_url(url).is_ok(), allowed, "{url}");
    }
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_does_not_answer() {
    let receiver = Receiver::saying(OK).await;
    // Nobody listens at the first.
    let guard = guard(&Script::new(&["127.0.0.2 127.0.0.1"]), &["127.0.0.0/8"]);
    let url = format!("http://two.example:{}/", receiver.port());
    let attempt = send(&deliverer(guard, Tls::default(), PATIENT), &url, &secrets()).await;
    assert_eq!(attempt.verdict(0), Verdict::Delivered);
    assert_eq!(receiver.requests()[0].header("host"), [format!("two.example:{}", receiver.port())]);
}

#[tokio::test]
async fn names_without_addresses_are_not_refused_but_unresolved() {
    for resolver in [Script::new(&[]), Script::new(&[""])] {
        let guard = guard(&resolver, &[]);
        let registered = guard.vet("https://gone.example/").await.map(|target| target.to_string());
        assert_eq!(registered, Err(Unvetted::Unresolved(io::ErrorKind::NotFound)));
        let attempt = send(&deliverer(guard, Tls::default(), PATIENT), "https://gone.example/", &secrets()).await;
        assert_eq!(attempt.outcome, Err(Failed::Unresolved(io::ErrorKind::NotFound)));
    }
}

#[tokio::test]
async fn a_name_server_that_never_answers_costs_one_deadline() {
    let deliverer = deliverer(guard(&Script::silent(), &[]), Tls::default(), BRIEF);
    let attempt = send(&deliverer, "https://slow.example/", &secrets()).await;
    assert_eq!(attempt.outcome, Err(Failed::TimedOut(Step::Resolve)));
}

#[tokio::test]
async fn the_systems_resolver_knows_this_host() {
    let receiver = Receiver::saying(OK).await;
    let guard = webhook::Guard::new(policy(&["127.0.0.0/8", "::1"]));
    let url = format!("http://localhost:{}/", receiver.port());
    let attempt = send(&deliverer(guard, Tls::default(), PATIENT), &url, &secrets()).await;
    assert_eq!(attempt.verdict(0), Verdict::Delivered, "{attempt:?}");
}
