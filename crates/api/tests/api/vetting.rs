//! Where webhooks may go, asked when they are registered: every address and disguise that is refused, and how.

use std::{net::IpAddr, sync::Arc};

use crate::{
    harness::{Server, config, id_of, json_of, pointers, problem},
    resolver::{Names, leading_to, webhooks},
};
use serde_json::{Value, json};

/// Addresses in the URL itself, in every way of writing them, and what they are.
const LITERALS: &[(&str, &str)] = &[
    ("127.0.0.1", "a loopback address"),
    ("127.255.255.254", "a loopback address"),
    ("0.0.0.0", "an unspecified address"),
    ("0", "an unspecified address"),
    ("10.0.0.1", "a private address"),
    ("172.16.0.1", "a private address"),
    ("172.31.255.255", "a private address"),
    ("192.168.1.1", "a private address"),
    ("169.254.169.254", "a cloud's metadata service"),
    ("169.254.1.1", "a link-local address"),
    ("100.64.0.1", "an address of a carrier's NAT"),
    ("198.18.0.1", "an address for benchmarks"),
    ("240.0.0.1", "a reserved address"),
    ("255.255.255.255", "a reserved address"),
    ("224.0.0.1", "a multicast address"),
    ("192.0.2.1", "an address for documentation"),
    ("2130706433", "a loopback address"),
    ("0x7f000001", "a loopback address"),
    ("0x7f.1", "a loopback address"),
    ("017700000001", "a loopback address"),
    ("0177.0.0.01", "a loopback address"),
    ("127.1", "a loopback address"),
    ("2852039166", "a cloud's metadata service"),
    ("127.0.0.1.", "a loopback address"),
    ("１２７.０.０.１", "a loopback address"),
    ("127。0。0。1", "a loopback address"),
    ("%31%32%37.0.0.1", "a loopback address"),
    ("LOCALHOST.", "a loopback address"),
    ("a.b.localhost", "a loopback address"),
    ("[::1]", "a loopback address"),
    ("[::]", "an unspecified address"),
    ("[::ffff:127.0.0.1]", "an IPv6 address that stands for an IPv4 one"),
    ("[::ffff:a9fe:a9fe]", "an IPv6 address that stands for an IPv4 one"),
    ("[::127.0.0.1]", "an IPv6 address that stands for an IPv4 one"),
    ("[64:ff9b::a9fe:a9fe]", "an IPv6 address that stands for an IPv4 one"),
    ("[64:ff9b:1::1]", "an IPv6 address that stands for an IPv4 one"),
    ("[2002:7f00:1::]", "an IPv6 address that stands for an IPv4 one"),
    ("[2001::1]", "an IPv6 address that stands for an IPv4 one"),
    ("[fe80::1]", "a link-local address"),
    ("[fec0::1]", "a site-local address"),
    ("[fd12:3456::1]", "a private address"),
    ("[fd00:ec2::254]", "a cloud's metadata service"),
    ("[ff02::1]", "a multicast address"),
    ("[2001:db8::1]", "an address for documentation"),
    ("[4000::1]", "a reserved address"),
];

fn body(webhook: &str) -> Value {
    json!({"model": "augur/echo", "input": {"value": 1}, "webhook": webhook})
}

/// The one fault of a webhook that every call refuses which takes one: its code and detail.
async fn refused(server: &Server, url: &str) -> (String, String) {
    let mut faults = Vec::new();
    for (path, pointer, request) in [
        ("/v1/predictions", "/webhook", body(url)),
        ("/v1/webhooks/test", "/url", json!({"url": url})),
        ("/v1/webhooks/endpoints", "/url", json!({"url": url})),
    ] {
        let refused = problem(server.post(path, &request).send().await.unwrap(), 422, "invalid_webhook").await;
        assert_eq!(pointers(&refused), [pointer], "{path}: {refused}");
        let fault = &refused["errors"][0];
        faults.push((fault["code"].as_str().unwrap().to_owned(), fault["detail"].as_str().unwrap().to_owned()));
    }
    assert!(faults.iter().all(|fault| *fault == faults[0]), "{faults:?}");
    faults.remove(0)
}

/// Nothing of what was refused was stored.
async fn assert_empty(server: &Server) {
    for list in ["/v1/predictions", "/v1/webhooks/deliveries", "/v1/webhooks/endpoints"] {
        assert_eq!(server.read(list).await["results"], json!([]), "{list}");
    }
}

#[tokio::test]
async fn addresses_in_urls_are_refused_without_a_look_up() {
    let names = Arc::new(Names::default());
    let server = Server::start_with(api::Config { webhooks: Some(webhooks(&names, &[])), ..config() }).await;
    for (host, special) in LITERALS {
        for scheme in ["http", "https"] {
            let (code, detail) = refused(&server, &format!("{scheme}://{host}:8080/hook")).await;
            assert_eq!(code, "address", "{host}");
            assert!(detail.starts_with("is refused: webhooks may not go to ") && detail.ends_with(special), "{detail}");
        }
    }
    assert_eq!(names.asked(), Vec::<String>::new());
    assert_empty(&server).await;
}

#[tokio::test]
async fn names_that_lead_to_such_addresses_are_refused_and_the_addresses_kept_to_ourselves() {
    let server = Server::start().await;
    let public: [IpAddr; 2] = ["93.184.215.14".parse().unwrap(), "2606:4700::1111".parse().unwrap()];
    for (host, special) in LITERALS {
        let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() else { continue };
        for addresses in [vec![address], vec![public[0], address], vec![address, public[1]]] {
            let (code, detail) = refused(&server, &format!("http://{}/", leading_to(&addresses))).await;
            assert_eq!((&*code, detail), ("address", format!("is refused: its host leads to {special}")), "{address}");
        }
    }
    assert_empty(&server).await;
}

#[tokio::test]
async fn malformed_and_disguised_urls_are_refused_each_with_its_word() {
    let server = Server::start().await;
    let long = format!("https://example.com/{}", "a".repeat(2048));
    let long_name = format!("https://{}example.com/", "a.".repeat(128));
    for (word, urls) in [
        ("scheme", vec!["file:///etc/passwd", "gopher://a.example/", "ftp://a.example/", "unix:/run/docker.sock"]),
        ("scheme", vec!["ws://a.example/", "javascript:alert(1)", "data:text/plain,x"]),
        ("userinfo", vec!["https://user@a.example/", "https://user:password@a.example/", "https://:p@a.example/"]),
        ("userinfo", vec!["https://a.example@127.0.0.1/", "https:user@a.example"]),
        ("port", vec!["http://a.example:0/", "http://a.example:22/", "http://a.example:25/", "http://a.example:6379/"]),
        ("malformed", vec!["", "a.example/hook", "/hook", "http://", "http://a..b/", "http://127.0.0.1../"]),
        ("malformed", vec!["http://[fe80::1%eth0]/", "http://[fe80::1%25eth0]/", "http://[::1", "http://1.2.3.4.5/"]),
        ("malformed", vec!["http://a.example:65536/", "https://a.example:0x50/", "http://256.256.256.256/"]),
        ("malformed", vec!["http://ex%00ample.com/", "http://ex%0d%0aample.com/", &long_name]),
        (
            "character",
            vec!["http://a.example/\r\nHost: internal", "http://a.example\n.internal/", "http://a\t.example/"],
        ),
        ("character", vec![" http://a.example/", "http://a.example/\0", "http://a.example/\u{a0}", "http://a b/"]),
        ("character", vec!["http://a.example\\@127.0.0.1/"]),
        ("too_long", vec![&long]),
    ] {
        for url in urls {
            let (code, detail) = refused(&server, url).await;
            assert_eq!(code, word, "{url:?}");
            // Neither the credentials nor kilobytes of what was sent come back.
            assert!(!detail.contains("password") || detail.contains("user name or password"), "{detail}");
            assert!(detail.len() < 200, "{detail}");
        }
    }
    assert_empty(&server).await;
}

#[tokio::test]
async fn public_receivers_are_accepted_normalised() {
    let server = Server::start().await;
    for (url, expected) in [
        ("https://hook.example", "https://hook.example/"),
        ("HTTP://Hook.Example:80/a?b=%20c", "http://hook.example/a?b=%20c"),
        ("http://hook.example:8080/", "http://hook.example:8080/"),
        ("https://93.184.215.14/", "https://93.184.215.14/"),
        ("https://[2606:4700:0::1111]:8443/", "https://[2606:4700::1111]:8443/"),
        ("https://bücher.example/?q=a|b#part", "https://xn--bcher-kva.example/?q=a|b#part"),
        ("https://user.example/@name", "https://user.example/@name"),
    ] {
        let created = json_of(server.post("/v1/predictions", &body(url)).send().await.unwrap(), 202).await;
        assert_eq!((&created["webhook"], &created["webhook_events_filter"]), (&json!(expected), &usual()), "{url}");
        let read = server.read(&format!("/v1/predictions/{}", id_of(&created))).await;
        assert_eq!((&read["webhook"], &read["webhook_events_filter"]), (&json!(expected), &usual()));
    }
    let listed = server.read("/v1/predictions?limit=1").await;
    assert_eq!(listed["results"][0]["webhook"], "https://user.example/@name");
}

fn usual() -> Value {
    json!(["output", "completed"])
}

#[tokio::test]
async fn networks_can_be_allowed() {
    let names = Arc::new(Names::default());
    let allowed = ["127.0.0.0/8", "10.1.0.0/16"];
    let server = Server::start_with(api::Config { webhooks: Some(webhooks(&names, &allowed)), ..config() }).await;
    let private = leading_to(&["10.1.2.3".parse().unwrap()]);
    for url in ["http://127.0.0.1:9000/", "http://localhost:9000/", "http://10.1.2.3/", &format!("http://{private}/")] {
        json_of(server.post("/v1/predictions", &body(url)).send().await.unwrap(), 202).await;
    }
    for url in ["http://10.2.0.1/", "http://[::1]:9000/", "http://127.0.0.1:6379/"] {
        refused(&server, url).await;
    }
}

#[tokio::test]
async fn a_name_server_that_is_slow_or_has_no_answer_yet_refuses_nothing() {
    let names = Arc::new(Names::default());
    let server = Server::start_with(api::Config { webhooks: Some(webhooks(&names, &[])), ..config() }).await;
    for url in ["https://silent.example/", "https://nowhere.example/"] {
        let created = json_of(server.post("/v1/predictions", &body(url)).send().await.unwrap(), 202).await;
        assert_eq!(created["webhook"], url);
    }
    // Nor is it asked again for every prediction to the same origin.
    for path in ["a", "b"] {
        for origin in ["https://silent.example", "https://hook.example", "https://hook.example:8443"] {
            let webhook = body(&format!("{origin}/{path}"));
            json_of(server.post("/v1/predictions", &webhook).send().await.unwrap(), 202).await;
        }
    }
    assert_eq!(names.asked(), ["silent.example", "nowhere.example", "hook.example", "hook.example"]);
    // What is refused is not remembered as anything else.
    let private = format!("https://{}/", leading_to(&["10.0.0.1".parse().unwrap()]));
    refused(&server, &private).await;
    refused(&server, &private).await;
}

#[tokio::test]
async fn events_are_chosen_from_those_there_are() {
    let server = Server::start().await;
    let with = |events: Value| {
        let mut body = body("https://hook.example/");
        body["webhook_events_filter"] = events;
        body
    };
    for (events, expected) in [
        (json!(null), usual()),
        (json!(["completed"]), json!(["completed"])),
        (json!(["completed", "logs", "start", "output", "start"]), json!(["start", "output", "logs", "completed"])),
    ] {
        let created = json_of(server.post("/v1/predictions", &with(events)).send().await.unwrap(), 202).await;
        assert_eq!(created["webhook_events_filter"], expected);
    }
    for events in
        [json!([]), json!(["test"]), json!(["finish"]), json!(["completed", 1]), json!("completed"), json!({})]
    {
        let refused = server.post("/v1/predictions", &with(events.clone())).send().await.unwrap();
        let refused = problem(refused, 422, "invalid_request").await;
        assert_eq!(pointers(&refused), ["/webhook_events_filter"], "{events}");
    }
    let plain = json_of(
        server
            .post("/v1/predictions", &json!({"model": "augur/echo", "input": {"value": 1}, "webhook": null}))
            .send()
            .await
            .unwrap(),
        202,
    );
    let plain = plain.await;
    assert!(plain.get("webhook").is_none() && plain.get("webhook_events_filter").is_none(), "{plain}");
}

#[tokio::test]
async fn without_a_key_webhooks_are_off_and_say_so() {
    let server = Server::start_with(api::Config { webhooks: None, ..config() }).await;
    let refused = server.post("/v1/predictions", &body("https://hook.example/")).send().await.unwrap();
    let refused = problem(refused, 422, "invalid_webhook").await;
    assert_eq!(pointers(&refused), ["/webhook"]);
    let detail = refused["errors"][0]["detail"].as_str().unwrap();
    assert!(detail.ends_with("this server has no webhook key: set AUGUR_WEBHOOK_KEY"), "{detail}");
    server.create(1).await;
    let id = uuid::Uuid::now_v7();
    for call in crate::documents::CALLS.iter().filter(|call| call.contains("/v1/webhooks/")) {
        let (method, path) = call.split_once(' ').unwrap();
        let path = path.replace("deliveries/{id}", &format!("deliveries/{id}_completed"));
        let path = path.replace("{id}", &id.to_string());
        let request = server.client.request(method.to_uppercase().parse().unwrap(), server.url(&path));
        let body = json!({"url": "https://hook.example/"});
        problem(request.json(&body).send().await.unwrap(), 404, "webhooks_off").await;
    }
}
