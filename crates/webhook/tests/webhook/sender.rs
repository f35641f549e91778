//! What tests send, and through what: a deliverer with a resolver that says what the test wants.

use std::{
    collections::VecDeque,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use webhook::{Attempt, Deliverer, Guard, Limits, Message, Policy, Resolve, Secrets, Tls};

/// Long enough for whatever should end by itself, on a machine that is busy.
pub(crate) const PATIENT: Duration = Duration::from_secs(60);
/// For what should end because its time is up.
pub(crate) const BRIEF: Duration = Duration::from_secs(1);

pub(crate) const ID: &str = "evt_0195f2b0-7a1c-7000-8000-000000000001";
pub(crate) const BODY: &str = r#"{"id":"1","status":"succeeded","output":[0.5]}"#;

/// Answers with these addresses in turn, the last for ever; `None` never answers.
#[derive(Default)]
pub(crate) struct Script {
    answers: Mutex<VecDeque<Option<Vec<IpAddr>>>>,
    asked: Mutex<Vec<String>>,
}

impl Script {
    pub(crate) fn new(answers: &[&str]) -> Arc<Self> {
        let read = |line: &&str| Some(line.split_whitespace().map(|ip| ip.parse().expect("an address")).collect());
        Arc::new(Self { answers: Mutex::new(answers.iter().map(read).collect()), asked: Mutex::default() })
    }

    pub(crate) fn silent() -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new([None].into()), asked: Mutex::default() })
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Resolve for Script {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(host.to_owned());
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        drop(answers);
        async move {
            match answer {
                Some(Some(addresses)) => Ok(addresses),
                Some(None) => std::future::pending().await,
                None => Err(io::ErrorKind::NotFound.into()),
            }
        }
        .boxed()
    }
}

pub(crate) fn policy(allowed: &[&str]) -> Policy {
    Policy { allowed: allowed.iter().map(|network| network.parse().expect("a network")).collect() }
}

pub(crate) fn guard(resolver: &Arc<Script>, allowed: &[&str]) -> Guard {
    Guard::with_resolver(policy(allowed), Arc::<Script>::clone(resolver))
}

pub(crate) fn deliverer(guard: Guard, tls: Tls, deadline: Duration) -> Deliverer {
    Deliverer::new(guard, tls, Limits { deadline, ..Limits::default() })
}

pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_secs()).expect("before the end of time")
}

/// Sends the tests' message to `url` and waits for the end, which must come.
pub(crate) async fn send(deliverer: &Deliverer, url: &str, secrets: &Secrets) -> Attempt {
    let id = ID.parse().expect("a good id");
    let message =
        Message { url, id: &id, timestamp: now(), body: Bytes::from_static(BODY.as_bytes()), secrets, headers: &[] };
    tokio::time::timeout(PATIENT * 2, deliverer.attempt(&message)).await.expect("an attempt ends")
}

pub(crate) fn secrets() -> Secrets {
    "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD".parse::<webhook::Secret>().expect("a good secret").into()
}

/// Sends to a receiver on loopback, which is allowed.
pub(crate) async fn send_to_loopback(url: &str, deadline: Duration) -> Attempt {
    let guard = guard(&Script::new(&["127.0.0.1"]), &["127.0.0.0/8"]);
    send(&deliverer(guard, Tls::default(), deadline), url, &secrets()).await
}
