//! A network that swallows everything: calls end, connections are given up, and work goes on when it heals.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::{Either, select};
use store::{Finder, Lead, Location, Store, StoreError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::fixture::{Fixture, LEASE, eventually, new};

/// Far longer than any call may take; only so that a call that never ends fails its test.
const FOREVER: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_server_that_says_nothing_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://nobody@{}/none", listener.local_addr().unwrap());
    let opened = tokio::time::timeout(FOREVER, Store::open(&Location::Postgres { url, max_connections: 2 })).await;
    assert!(matches!(opened.expect("it ends"), Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn calls_end_when_the_network_swallows_everything() {
    let fixture = Fixture::postgres().await;
    let id = fixture.accept([new()]).await[0];
    let swallows = Arc::new(AtomicBool::new(false));
    let store = Store::open(&through_a_proxy(&fixture.location, &swallows).await).await.unwrap();
    let dedicated = store.dedicated().await.unwrap();
    let run = fixture.claimed(LEASE).await;
    assert_eq!(store.lead("role").await.unwrap(), Lead::Begun);
    dedicated.ping().await.unwrap();

    swallows.store(true, Ordering::SeqCst);
    let unanswered = |result: Result<(), StoreError>| matches!(result, Err(StoreError::Unavailable(_)));
    let renewed = tokio::time::timeout(FOREVER, dedicated.finished(&[run.id])).await.expect("it ends");
    assert!(unanswered(renewed.map(drop)));
    let led = tokio::time::timeout(FOREVER, store.lead("role")).await.expect("it ends");
    assert!(unanswered(led.map(drop)));
    let found = tokio::time::timeout(FOREVER, store.get("", &[id])).await.expect("it ends");
    assert!(unanswered(found.map(drop)));

    // The places of the dead connections in the pools are free again.
    swallows.store(false, Ordering::SeqCst);
    eventually(async || store.get("", &[id]).await.ok()).await;
    eventually(async || dedicated.finished(&[run.id]).await.ok()).await;
}

/// Look-ups that are not answered keep their readers no longer than their callers wait.
#[tokio::test]
async fn look_ups_go_on_beside_dead_connections() {
    const PATIENCE: Duration = Duration::from_millis(300);
    let fixture = Fixture::postgres().await;
    let id = fixture.accept([new()]).await[0];
    let swallows = Arc::new(AtomicBool::new(false));
    let Location::Postgres { url, .. } = through_a_proxy(&fixture.location, &swallows).await else { unreachable!() };
    let store = Store::open(&Location::Postgres { url, max_connections: 3 }).await.unwrap();
    let finder = Finder::start(&store, 1, PATIENCE);
    assert!(finder.find("", id).await.unwrap().is_some());

    swallows.store(true, Ordering::SeqCst);
    let ids = [id];
    let (found, call) = (pin!(finder.find("", id)), pin!(store.get("", &ids)));
    match tokio::time::timeout(FOREVER, select(found, call)).await.expect("it ends") {
        Either::Left((found, _)) => assert!(matches!(found.unwrap_err().as_ref(), StoreError::Unavailable(_))),
        Either::Right(_) => panic!("a call is waited for longer than a look-up"),
    }
    swallows.store(false, Ordering::SeqCst);
    // The dead connections still have their places; another one is made.
    eventually(async || finder.find("", id).await.ok()).await;
}

/// Callers that give up in the middle of a statement leave connections that others can use.
#[tokio::test]
async fn callers_may_give_up() {
    let fixture = Fixture::postgres().await;
    let id = fixture.accept([new()]).await[0];
    for patience in 0..200 {
        let ids = [id];
        let call = fixture.store.get("", &ids);
        let _ = tokio::time::timeout(Duration::from_micros(patience * 10), call).await;
    }
    let found = eventually(async || fixture.store.get("", &[id]).await.ok()).await;
    assert_eq!(found.len(), 1);
}

/// The same location behind a proxy that, while `swallows` is set, reads everything and passes on nothing.
async fn through_a_proxy(location: &Location, swallows: &Arc<AtomicBool>) -> Location {
    let Location::Postgres { url, .. } = location else { panic!("only Postgres has a network") };
    let (user, rest) = url.split_once('@').unwrap();
    let (server, database) = rest.split_once('/').unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let (server, swallows) = (server.to_owned(), Arc::clone(swallows));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.unwrap();
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            tokio::spawn(pass_on(from_client, to_server, Arc::clone(&swallows)));
            tokio::spawn(pass_on(from_server, to_client, Arc::clone(&swallows)));
        }
    });
    Location::Postgres { url: format!("{user}@{proxy}/{database}"), max_connections: 1 }
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, swallows: Arc<AtomicBool>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if !swallows.load(Ordering::SeqCst) && to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
