//! API keys: made, listed, revoked for good; what they are not is stored nowhere.

use std::{collections::BTreeMap, time::Duration};

use prediction::WorkerId;
use store::{NewPrediction, Schema, Store, StoreError};

use crate::fixture::{Fixture, LEASE, new};

const HOUR: Duration = Duration::from_secs(3600);

on_both!(
    keys_are_made_listed_and_revoked,
    a_rotated_key_is_the_same_with_another_text,
    former_texts_are_good_until_their_grace_ends,
    a_name_is_free_again_once_its_key_is_revoked,
    the_database_keeps_keys_and_what_they_may,
    what_waits_is_counted_by_tenant,
    beside_a_running_server_keys_can_be_made,
);

async fn keys_are_made_listed_and_revoked(fixture: Fixture) {
    let store = &fixture.store;
    assert_eq!((store.valid_api_keys().await.unwrap(), store.api_keys().await.unwrap()), (None, vec![]));
    let web = store.add_api_key("web", &[1; 32], Some(0.25)).await.unwrap().unwrap();
    let batch = store.add_api_key("batch", &[2; 32], None).await.unwrap().unwrap();
    assert_eq!((web.name.as_str(), web.digest, web.share, web.revoked_at), ("web", [1; 32], Some(0.25), None));
    assert!(web.id != batch.id && web.tenant() == web.id.to_string());
    assert!((store.now().await.unwrap() - web.created_at).abs() < time::Duration::MINUTE);
    assert_eq!(store.valid_api_keys().await.unwrap(), Some(vec![web.clone(), batch.clone()]));

    let revoked = store.revoke_api_key(web.id).await.unwrap().unwrap();
    assert!(revoked.revoked_at.is_some_and(|at| at >= web.created_at));
    assert_eq!(store.valid_api_keys().await.unwrap(), Some(vec![batch.clone()]));
    assert_eq!(store.api_keys().await.unwrap(), [revoked, batch.clone()]);
    for gone in [web.id, 12_345] {
        assert_eq!(store.revoke_api_key(gone).await.unwrap(), None);
    }
    // The last one: there are keys all the same, and none is valid.
    store.revoke_api_key(batch.id).await.unwrap().unwrap();
    assert_eq!(store.valid_api_keys().await.unwrap(), Some(vec![]));
}

async fn a_rotated_key_is_the_same_with_another_text(fixture: Fixture) {
    let store = &fixture.store;
    let key = store.add_api_key("web", &[1; 32], Some(0.25)).await.unwrap().unwrap();
    let rotated = store.rotate_api_key(key.id, &[2; 32], Duration::ZERO).await.unwrap().unwrap();
    assert_eq!(rotated, store::ApiKey { digest: [2; 32], ..key.clone() });
    assert_eq!(store.valid_api_keys().await.unwrap(), Some(vec![rotated]));
    assert_eq!(store.former_api_keys().await.unwrap(), [], "without any grace");
    store.revoke_api_key(key.id).await.unwrap().unwrap();
    for gone in [key.id, 12_345] {
        assert_eq!(store.rotate_api_key(gone, &[3; 32], HOUR).await.unwrap(), None);
    }
}

async fn former_texts_are_good_until_their_grace_ends(fixture: Fixture) {
    let store = &fixture.store;
    let web = store.add_api_key("web", &[1; 32], None).await.unwrap().unwrap().id;
    let other = store.add_api_key("other", &[11; 32], None).await.unwrap().unwrap().id;
    let good = async || -> Vec<(i32, u8, u64)> {
        let (former, now) = (store.former_api_keys().await.unwrap(), store.now().await.unwrap());
        former
            .iter()
            .map(|former| {
                let apart = former.expires_at - now - former.expires_in;
                assert!(apart.abs() < time::Duration::MINUTE, "{former:?}");
                (former.key_id, former.digest[0], (former.expires_in.as_secs() + 60) / 3600)
            })
            .collect()
    };
    store.rotate_api_key(web, &[2; 32], 2 * HOUR).await.unwrap().unwrap();
    store.rotate_api_key(other, &[12; 32], 3 * HOUR).await.unwrap().unwrap();
    assert_eq!(good().await, [(web, 1, 2), (other, 11, 3)]);
    assert!(store.valid_api_keys().await.unwrap().unwrap().iter().all(|key| [2, 12].contains(&key.digest[0])));
    // The earlier ones do not outlive the next, nor longer than they would have.
    store.rotate_api_key(web, &[3; 32], HOUR).await.unwrap().unwrap();
    assert_eq!(good().await, [(web, 1, 1), (web, 2, 1), (other, 11, 3)]);
    store.rotate_api_key(web, &[4; 32], 4 * HOUR).await.unwrap().unwrap();
    assert_eq!(good().await, [(web, 1, 1), (web, 2, 1), (web, 3, 4), (other, 11, 3)]);
    store.rotate_api_key(web, &[5; 32], Duration::ZERO).await.unwrap().unwrap();
    assert_eq!(good().await, [(other, 11, 3)], "without any grace none is left");
    store.revoke_api_key(other).await.unwrap().unwrap();
    assert_eq!(good().await, [], "of a key that is revoked");
    // What has ended is no more, and is removed by the next rotation.
    store.rotate_api_key(web, &[6; 32], HOUR).await.unwrap().unwrap();
    let ended = if store.is_shared() { "now()" } else { "unixepoch() * 1000000" };
    fixture.execute(format!("UPDATE former_api_keys SET expires_at = {ended}")).await.unwrap();
    assert_eq!(good().await, []);
    store.rotate_api_key(web, &[7; 32], Duration::ZERO).await.unwrap().unwrap();
    assert_eq!(fixture.number("SELECT count(*) FROM former_api_keys").await, 0);
}

async fn a_name_is_free_again_once_its_key_is_revoked(fixture: Fixture) {
    let store = &fixture.store;
    let first = store.add_api_key("web", &[1; 32], None).await.unwrap().unwrap();
    assert_eq!(store.add_api_key("web", &[2; 32], None).await.unwrap(), None);
    store.revoke_api_key(first.id).await.unwrap().unwrap();
    let second = store.add_api_key("web", &[2; 32], None).await.unwrap().unwrap();
    assert_ne!(second.tenant(), first.tenant());
    assert_eq!(store.valid_api_keys().await.unwrap(), Some(vec![second]));
    // The same key twice is none that was drawn at random.
    assert!(matches!(store.add_api_key("again", &[1; 32], None).await, Err(StoreError::Refused(_))));
}

async fn the_database_keeps_keys_and_what_they_may(fixture: Fixture) {
    let key = fixture.store.add_api_key("web", &[1; 32], None).await.unwrap().unwrap();
    let refused = async |sql: &str| assert!(fixture.execute(sql).await.is_err(), "{sql}");
    refused("DELETE FROM api_keys").await;
    for share in [0.0, -0.5, 1.5] {
        assert!(matches!(fixture.store.add_api_key("other", &[2; 32], Some(share)).await, Err(StoreError::Refused(_))));
    }
    fixture.store.revoke_api_key(key.id).await.unwrap().unwrap();
    refused("UPDATE api_keys SET revoked_at = NULL").await;
    refused("DELETE FROM api_keys").await;
}

async fn what_waits_is_counted_by_tenant(fixture: Fixture) {
    let store = &fixture.store;
    let count = async |bound| -> BTreeMap<(String, String), u64> {
        let counts = store.waiting_by_tenant(bound).await.unwrap();
        counts.into_iter().map(|(tenant, line)| ((tenant, line.model.to_string()), line.count)).collect()
    };
    assert!(count(10).await.is_empty());
    let of = |tenant: &str| NewPrediction { tenant: tenant.to_owned(), ..new() };
    let other = |tenant: &str| NewPrediction { model: "augur/other".parse().unwrap(), ..of(tenant) };
    let ids = fixture.accept([of("1"), of("1"), of("1"), of("2"), of(""), other("2")]).await;
    let counts = |each: &[(&str, &str, u64)]| -> BTreeMap<(String, String), u64> {
        each.iter().map(|(tenant, model, count)| ((tenant.to_string(), format!("augur/{model}")), *count)).collect()
    };
    let all = counts(&[("", "echo", 1), ("1", "echo", 3), ("2", "echo", 1), ("2", "other", 1)]);
    assert_eq!(count(10).await, all);
    assert_eq!(count(5).await, all);
    assert_eq!(count(2).await.values().sum::<u64>(), 2 + 1);
    store.claim(WorkerId::generate(), &ids[..2], LEASE).await.unwrap();
    store.cancel("2", ids[5]).await.unwrap();
    assert_eq!(count(10).await, counts(&[("", "echo", 1), ("1", "echo", 1), ("2", "echo", 1)]));
    let in_all: u64 = store.waiting(10).await.unwrap().iter().map(|line| line.count).sum();
    assert_eq!(in_all, 3);
}

async fn beside_a_running_server_keys_can_be_made(fixture: Fixture) {
    let beside = Store::open_beside(&fixture.location).await.unwrap();
    assert_eq!(beside.schema().await.unwrap(), Schema::Current);
    let busy = async {
        for _ in 0..50 {
            fixture.accept([new()]).await;
        }
    };
    let made = async {
        for digest in 0..10 {
            let made = beside.add_api_key(&format!("key{digest}"), &[digest; 32], None).await.unwrap();
            assert!(made.is_some());
        }
    };
    tokio::join!(busy, made);
    assert_eq!(fixture.store.valid_api_keys().await.unwrap().unwrap().len(), 10);
    beside.close().await;
    fixture.accept([new()]).await;
}
