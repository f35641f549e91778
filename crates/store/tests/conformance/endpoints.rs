//! What is remembered of endpoints, and their secrets.

use std::time::Duration;

use prediction::BodyForm;
use sqlx::types::Uuid;
use store::{EndpointChange, Place};

use crate::fixture::{Fixture, LEASE, SPENT, eventually};

on_both!(
    endpoints_are_remembered_once,
    endpoints_change_as_asked,
    a_forgotten_endpoint_takes_its_secrets_along,
    endpoints_are_listed_both_ways,
    the_first_secret_is_added_once,
    a_replaced_secret_signs_until_its_grace_ends,
    rotations_at_the_same_time_leave_one_current,
);

const URL: &str = "https://example.com/hook";

/// The sealed texts of the secrets that sign for this endpoint.
async fn sealed(fixture: &Fixture, tenant: &str, endpoint: &str) -> Vec<String> {
    let secrets = fixture.store.secrets(&[(tenant, endpoint)]).await.unwrap();
    assert!(secrets.iter().all(|secret| (&*secret.tenant, &*secret.endpoint) == (tenant, endpoint)));
    assert_eq!(secrets.iter().filter(|secret| secret.expires_at.is_none()).count(), secrets.len().min(1));
    assert!(secrets.first().is_none_or(|first| first.expires_at.is_none()), "the current one first: {secrets:?}");
    secrets.into_iter().map(|secret| String::from_utf8(secret.sealed).unwrap()).collect()
}

async fn endpoints_are_remembered_once(fixture: Fixture) {
    let adders = (0..8).map(|_| fixture.store.add_endpoint("", URL, BodyForm::Event));
    let added: Vec<_> = futures::future::join_all(adders).await.into_iter().map(|added| added.unwrap()).collect();
    assert_eq!(added.iter().filter(|(_, is_new)| *is_new).count(), 1);
    assert!(added.iter().all(|(endpoint, _)| *endpoint == added[0].0));
    let endpoint = &added[0].0;
    assert_eq!((&*endpoint.url, endpoint.body, endpoint.disabled_at), (URL, BodyForm::Event, None));
    let (known, is_new) = fixture.store.add_endpoint("", URL, BodyForm::Prediction).await.unwrap();
    assert_eq!((&known, is_new), (endpoint, false), "what was chosen stays");
    let (other, is_new) = fixture.store.add_endpoint("other", URL, BodyForm::Prediction).await.unwrap();
    assert!(is_new && other.id != endpoint.id);
    assert_eq!(fixture.store.endpoint("", endpoint.id).await.unwrap().as_ref(), Some(endpoint));
    assert_eq!(fixture.store.endpoint("", other.id).await.unwrap(), None);
}

async fn endpoints_change_as_asked(fixture: Fixture) {
    let (endpoint, _) = fixture.store.add_endpoint("", URL, BodyForm::Prediction).await.unwrap();
    let change = async |body: Option<BodyForm>, is_disabled: Option<bool>| {
        let change = EndpointChange { body, is_disabled };
        let changed = fixture.store.change_endpoint("", endpoint.id, change).await.unwrap().unwrap();
        assert_eq!((changed.id, changed.created_at), (endpoint.id, endpoint.created_at));
        (changed.body, changed.disabled_at)
    };
    assert_eq!(change(None, None).await, (BodyForm::Prediction, None));
    assert_eq!(change(Some(BodyForm::Event), Some(false)).await, (BodyForm::Event, None));
    let (body, disabled_at) = change(None, Some(true)).await;
    assert!(body == BodyForm::Event && disabled_at.is_some());
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(change(Some(BodyForm::Prediction), None).await, (BodyForm::Prediction, disabled_at));
    assert_eq!(change(None, Some(true)).await, (BodyForm::Prediction, disabled_at), "since the first time");
    assert_eq!(change(None, Some(false)).await, (BodyForm::Prediction, None));
    let change = EndpointChange { body: None, is_disabled: Some(true) };
    assert_eq!(fixture.store.change_endpoint("other", endpoint.id, change).await.unwrap(), None);
    assert_eq!(fixture.store.change_endpoint("", Uuid::new_v4(), change).await.unwrap(), None);
    assert_eq!(fixture.store.endpoint("", endpoint.id).await.unwrap().unwrap().disabled_at, None);
}

async fn a_forgotten_endpoint_takes_its_secrets_along(fixture: Fixture) {
    let (endpoint, _) = fixture.store.add_endpoint("", URL, BodyForm::Prediction).await.unwrap();
    for (tenant, of) in [("", URL), ("", ""), ("other", URL)] {
        assert!(fixture.store.add_secret(tenant, of, b"sealed").await.unwrap());
    }
    fixture.store.rotate_secret("", URL, b"next", None, LEASE).await.unwrap();
    assert!(!fixture.store.forget_endpoint("other", endpoint.id).await.unwrap());
    assert_eq!(sealed(&fixture, "", URL).await, ["next", "sealed"]);
    assert!(fixture.store.forget_endpoint("", endpoint.id).await.unwrap());
    assert!(!fixture.store.forget_endpoint("", endpoint.id).await.unwrap());
    assert_eq!(fixture.store.endpoint("", endpoint.id).await.unwrap(), None);
    assert!(sealed(&fixture, "", URL).await.is_empty());
    assert_eq!(fixture.number("SELECT count(*) FROM webhook_secrets").await, 2);
}

async fn endpoints_are_listed_both_ways(fixture: Fixture) {
    fixture.store.add_endpoint("other", URL, BodyForm::Prediction).await.unwrap();
    let mut newest_first = Vec::new();
    for number in 0..5 {
        let url = format!("{URL}/{number}");
        newest_first.insert(0, fixture.store.add_endpoint("", &url, BodyForm::Prediction).await.unwrap().0);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let list = async |place: Option<Place<Uuid>>| fixture.store.endpoints("", place, 2).await.unwrap();
    let first = list(None).await;
    assert_eq!((&first.entries[..], first.previous), (&newest_first[..2], None));
    let second = list(first.next).await;
    assert_eq!(second.entries, newest_first[2..4]);
    let third = list(second.next).await;
    assert_eq!((&third.entries[..], third.next), (&newest_first[4..], None));
    let back = list(third.previous).await;
    assert_eq!((&back.entries[..], back.next), (&newest_first[2..4], second.next));
    assert_eq!(list(back.previous).await.entries, newest_first[..2]);
}

async fn the_first_secret_is_added_once(fixture: Fixture) {
    assert!(sealed(&fixture, "", "").await.is_empty());
    let adders = (0..8).map(|number| {
        let (store, secret) = (fixture.store.clone(), format!("secret {number}"));
        tokio::spawn(async move { store.add_secret("", "", secret.as_bytes()).await.unwrap().then_some(secret) })
    });
    let added = futures::future::join_all(adders).await.into_iter().filter_map(|added| added.unwrap());
    let added: Vec<String> = added.collect();
    assert_eq!((added.len(), sealed(&fixture, "", "").await), (1, added));

    // Several endpoints at once; those without secrets, and those asked for twice, are no trouble.
    assert!(fixture.store.add_secret("other", URL, b"theirs").await.unwrap());
    let of = [("", ""), ("", URL), ("other", URL), ("other", ""), ("", "")];
    let secrets = fixture.store.secrets(&of).await.unwrap();
    let owners: Vec<(&str, &str)> = secrets.iter().map(|secret| (&*secret.tenant, &*secret.endpoint)).collect();
    assert_eq!(owners, [("", ""), ("other", URL)]);
    assert!(fixture.store.secrets(&[]).await.unwrap().is_empty());
}

async fn a_replaced_secret_signs_until_its_grace_ends(fixture: Fixture) {
    // The first of its own: what signed instead goes on.
    let rotate = async |endpoint: &str, secret: &str, instead: Option<&str>, grace: Duration| {
        let instead = instead.map(str::as_bytes);
        fixture.store.rotate_secret("", endpoint, secret.as_bytes(), instead, grace).await.unwrap();
    };
    rotate(URL, "one", Some("default"), LEASE).await;
    assert_eq!(sealed(&fixture, "", URL).await, ["one", "default"]);
    let until = fixture.store.secrets(&[("", URL)]).await.unwrap()[1].expires_at.unwrap();
    let left = until - fixture.store.now().await.unwrap();
    assert!(left <= LEASE && left > LEASE / 2, "{left}");
    rotate(URL, "two", Some("not needed"), LEASE * 2).await;
    assert_eq!(sealed(&fixture, "", URL).await, ["two", "one", "default"]);
    assert!(!fixture.store.add_secret("", URL, b"second").await.unwrap());

    rotate(URL, "three", None, SPENT).await;
    eventually(async || (sealed(&fixture, "", URL).await == ["three"]).then_some(())).await;
    fixture.store.purge(LEASE, 10).await.unwrap();
    assert_eq!(fixture.number("SELECT count(*) FROM webhook_secrets").await, 1);

    // One that never had any and nothing to put instead.
    rotate("", "first", None, LEASE).await;
    assert_eq!(sealed(&fixture, "", "").await, ["first"]);
}

async fn rotations_at_the_same_time_leave_one_current(fixture: Fixture) {
    let rotations = (0..8).map(|number| {
        let store = fixture.store.clone();
        tokio::spawn(async move {
            let secret = format!("secret {number}");
            if number == 7 {
                store.add_secret("", URL, secret.as_bytes()).await.unwrap();
            } else {
                store.rotate_secret("", URL, secret.as_bytes(), Some(b"default"), LEASE).await.unwrap();
            }
        })
    });
    for done in futures::future::join_all(rotations).await {
        done.unwrap();
    }
    let mut signing = sealed(&fixture, "", URL).await;
    signing.sort();
    // What came first replaced the default, unless it was the one that was merely added.
    let rotated = (0..7).map(|number| format!("secret {number}"));
    assert!(rotated.into_iter().all(|secret| signing.contains(&secret)), "{signing:?}");
    let first: Vec<&String> = signing.iter().filter(|secret| *secret == "default" || *secret == "secret 7").collect();
    assert_eq!((signing.len(), first.len()), (8, 1), "{signing:?}");
}
