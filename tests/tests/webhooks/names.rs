//! S17 and S18 with a name server of the test's own: names that are public when they are registered and private later, or both at
//! once, are never connected to.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use prediction::DeliveryId;
use reqwest::Method;
use serde_json::json;
use servers::Process;
use tests::{Cluster, PATIENCE, Plan, Receiver, Webhooks};
use tokio::{net::UdpSocket, process::Command, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use webhook::{Deliverer, Failed, Guard, Limits, Message, Policy, Refused, Resolve, Secret, Secrets, Tls};

const PUBLIC: &str = "93.184.215.14";

/// Names under test, what they resolve to when they are registered, and later; all later answers contain a private address.
const NAMES: &[(&str, &str, &str)] = &[
    ("rebind.example", PUBLIC, "127.0.0.1"),
    ("mixed.example", PUBLIC, "93.184.215.14 127.0.0.1"),
    ("mixed-first.example", "93.184.215.14 2606:4700::1111", "127.0.0.1 93.184.215.14"),
    ("six.example", PUBLIC, "93.184.215.14 ::1"),
    ("mapped.example", "2606:4700::1111", "::ffff:127.0.0.1"),
    ("metadata.example", PUBLIC, "169.254.169.254"),
];

/// The one private address that is allowed, so that a name's webhook arrives when all is in order.
const ALLOWED: &str = "127.0.0.2";

/// Answers by its table, for ever, over UDP.
struct NameServer {
    address: SocketAddr,
    table: Arc<Mutex<BTreeMap<String, Vec<IpAddr>>>>,
    _serving: AbortOnDropHandle<()>,
}

impl NameServer {
    async fn start(address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(address).await?;
        let address = socket.local_addr()?;
        let table: Arc<Mutex<BTreeMap<String, Vec<IpAddr>>>> = Arc::default();
        let known = Arc::clone(&table);
        let serving = tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut query).await {
                let answer = answer(&query[..length], &known.lock().expect("no panic while locked"));
                let _ = socket.send_to(&answer, client).await;
            }
        });
        Ok(Self { address, table, _serving: AbortOnDropHandle::new(serving) })
    }

    fn set(&self, name: &str, addresses: &str) {
        let addresses = addresses.split(' ').map(|address| address.parse().expect("an address")).collect();
        self.table.lock().expect("no panic while locked").insert(name.to_owned(), addresses);
    }
}

const A: u16 = 1;
const AAAA: u16 = 28;
const HEADER: usize = 12;

/// The question's name, type, and where it ends (RFC 1035, section 4.1.2).
fn question(message: &[u8]) -> (String, u16, usize) {
    let (mut labels, mut at) = (Vec::new(), HEADER);
    while message[at] != 0 {
        let end = at + 1 + usize::from(message[at]);
        labels.push(String::from_utf8_lossy(&message[at + 1..end]).to_ascii_lowercase());
        at = end;
    }
    (labels.join("."), u16::from_be_bytes([message[at + 1], message[at + 2]]), at + 5)
}

fn answer(query: &[u8], table: &BTreeMap<String, Vec<IpAddr>>) -> Vec<u8> {
    let (name, kind, end) = question(query);
    let known = table.get(&name);
    let octets = |address: &IpAddr| match (address, kind) {
        (IpAddr::V4(address), A) => Some(address.octets().to_vec()),
        (IpAddr::V6(address), AAAA) => Some(address.octets().to_vec()),
        _ => None,
    };
    let records: Vec<Vec<u8>> = known.into_iter().flatten().filter_map(octets).collect();
    let mut answer = query[..2].to_vec();
    // A response, recursion available; no such name where it is not in the table.
    answer.extend([0x81, if known.is_some() { 0x80 } else { 0x83 }, 0, 1, 0]);
    answer.push(u8::try_from(records.len()).expect("few"));
    answer.extend([0; 4]);
    answer.extend(&query[HEADER..end]);
    for octets in records {
        answer.extend([0xc0, 0x0c]);
        answer.extend(kind.to_be_bytes());
        // Class IN, to be forgotten at once.
        answer.extend([0, 1, 0, 0, 0, 0, 0]);
        answer.push(u8::try_from(octets.len()).expect("4 or 16"));
        answer.extend(octets);
    }
    answer
}

/// Asks a name server over UDP, as the system does whose settings name it.
struct Udp(SocketAddr);

impl Udp {
    async fn ask(&self, host: &str, kind: u16) -> io::Result<Vec<IpAddr>> {
        let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in host.split('.') {
            query.push(u8::try_from(label.len()).map_err(io::Error::other)?);
            query.extend(label.as_bytes());
        }
        query.push(0);
        query.extend(kind.to_be_bytes());
        query.extend([0, 1]);
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        socket.send_to(&query, self.0).await?;
        let mut message = [0; 512];
        let length = socket.recv(&mut message).await?;
        let (_, _, mut at) = question(&message[..length]);
        let mut addresses = Vec::new();
        // Our own server's records: a pointer to the name, then type, class, lifetime and length.
        while at < length {
            let octets = &message[at + 12..at + 12 + usize::from(message[at + 11])];
            at += 12 + octets.len();
            addresses.extend(<[u8; 4]>::try_from(octets).ok().map(IpAddr::from));
            addresses.extend(<[u8; 16]>::try_from(octets).ok().map(IpAddr::from));
        }
        Ok(addresses)
    }
}

impl Resolve for Udp {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        async move { Ok([self.ask(host, A).await?, self.ask(host, AAAA).await?].concat()) }.boxed()
    }
}

#[tokio::test]
async fn the_guard_refuses_what_a_name_server_says_later() {
    let server = NameServer::start((Ipv4Addr::LOCALHOST, 0).into()).await.expect("a free port");
    let receiver = Receiver::well().await;
    let policy = Policy { allowed: vec![ALLOWED.parse().expect("a network")] };
    let guard = Guard::with_resolver(policy, Arc::new(Udp(server.address)));
    let deliverer = Deliverer::new(guard.clone(), Tls::default(), Limits::default());
    let (id, secrets): (_, Secrets) = ("an-event".parse().expect("an id"), Secret::generate().into());
    let send = async |url: &str| {
        let body = "{}".into();
        deliverer.attempt(&Message { url, id: &id, timestamp: 0, body, secrets: &secrets, headers: &[] }).await.outcome
    };
    for (name, registered, later) in NAMES {
        let url = receiver.url_at(name, "/hook");
        server.set(name, registered);
        assert!(guard.vet(&url).await.is_ok(), "{name}: {registered}");
        server.set(name, later);
        let outcome = send(&url).await;
        assert!(matches!(outcome, Err(Failed::Refused(Refused::Address { .. }))), "{name}: {outcome:?}");
        server.set(name, ALLOWED);
        assert_eq!(send(&url).await.map(|answer| answer.status), Ok(204), "{name}");
    }
    assert_eq!(receiver.connections(), NAMES.len(), "only to the allowed address");
}

/// What starts a program where the system's resolver asks the name server at `$0`. The mount is seen by nobody else.
const ASKING: &str = r#"printf 'nameserver %s\noptions timeout:5 attempts:2\n' "$0" >resolv.conf
mount --bind resolv.conf /etc/resolv.conf && exec "$@""#;

fn asking(server: &NameServer, command: Vec<OsString>) -> Vec<OsString> {
    let asking = ["unshare", "--mount", "sh", "-c", ASKING].into_iter().map(Into::into);
    asking.chain([server.address.ip().to_string().into()]).chain(command).collect()
}

/// A name server that the system's resolver can be made to ask, which asks at port 53 alone; none where that is not allowed.
async fn system_name_server() -> Option<NameServer> {
    let [_, third, fourth, _] = rand::random::<u32>().to_be_bytes();
    let server = NameServer::start((Ipv4Addr::new(127, 53, third, fourth), 53).into()).await.ok()?;
    let command = asking(&server, vec!["true".into()]);
    let directory = tempfile::tempdir().expect("temporary directories can be made");
    let tried = Command::new(&command[0]).args(&command[1..]).current_dir(directory.path()).output().await;
    tried.is_ok_and(|output| output.status.success()).then_some(server)
}

/// The same through the programs and the system's resolver. That takes root's rights.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stderr, reason = "the test runner shows it")]
async fn programs_refuse_what_a_name_server_says_later() {
    let Some(server) = system_name_server().await else {
        eprintln!(
            "not run with the programs, for want of the right to mount and of port 53; the test beside it stands for it"
        );
        return;
    };
    let webhooks = Webhooks { senders: 0, registered: &[ALLOWED], sent: &[ALLOWED], ..Webhooks::default() };
    let mut cluster = Cluster::start(Plan { workers: 1, webhooks: Some(webhooks), ..Plan::default() }).await;
    let sender = Process::new("augur-sender", asking(&server, cluster.sender_command()));
    cluster.api.end("KILL").await;
    cluster.api = Process::new("augur-api", asking(&server, cluster.api_command()));
    cluster.start_api().await;
    let receiver = Receiver::well().await;

    // A name server that is slow is no reason to refuse: then another name is tried, until one is known in time.
    for number in 0.. {
        let name = format!("private-{number}.example");
        server.set(&name, "10.0.0.1");
        let private = json!({ "url": receiver.url_at(&name, "/hook") });
        let (status, answer) = cluster.ask(Method::POST, "/v1/webhooks/test", &private).await;
        if status == 422 {
            break;
        }
        assert!(status == 202 && number < 20, "{answer}");
    }
    let mut tests: Vec<DeliveryId> = Vec::new();
    for (name, registered, later) in NAMES {
        server.set(name, registered);
        tests.push(cluster.send_test(&receiver.url_at(name, "/hook")).await.parse().expect("an id"));
        server.set(name, later);
    }
    server.set("allowed.example", ALLOWED);
    let allowed = cluster.send_test(&receiver.url_at("allowed.example", "/hook")).await;

    sender.start().await;
    receiver
        .until("the allowed one", |received| received.iter().any(|webhook| webhook.id() == allowed).then_some(()))
        .await;
    for (test, (name, ..)) in tests.into_iter().zip(NAMES) {
        let tried = async {
            loop {
                if let Some(first) = cluster.recorded(test).await.into_iter().next() {
                    return first;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let tried = timeout(PATIENCE, tried).await;
        let first = tried.unwrap_or_else(|_| panic!("{name} was not tried: {}", sender.log()));
        let message = first.message.as_deref().unwrap_or_default();
        assert_eq!(first.error.as_deref(), Some("refused"), "{name}: {first:?}");
        assert!(message.starts_with("webhooks may not go to"), "{name}: {message}");
    }
    assert_eq!(receiver.connections(), 1, "only to the allowed address");
}
