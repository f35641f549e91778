//! What workers publish: who is alive and serves what.

use std::{slice, time::Duration};

use prediction::{Limits, ModelSpec, Offer, WorkerId};
use store::Outcome;

use crate::fixture::{Fixture, LEASE, eventually, model, new, version};

on_both!(
    workers_publish_and_withdraw,
    concurrent_workers_publish_the_same,
    workers_say_which_version_a_name_means,
    versions_are_unfinished_until_their_last_prediction_is,
    the_secret_stays
);

fn spec(name: &str, digit: char) -> ModelSpec {
    ModelSpec {
        name: name.parse().unwrap(),
        version: digit.to_string().repeat(64).parse().unwrap(),
        task: "echo".to_owned(),
        description: "gives back what it gets".to_owned(),
        license: None,
        source: Some("here".to_owned()),
        input_schema: serde_json::json!({"type": "object"}),
        output_schema: serde_json::json!({}),
        limits: Limits::default(),
    }
}

fn offer(spec: &ModelSpec, is_default: bool) -> Offer {
    Offer { spec: spec.clone(), is_default }
}

async fn workers_say_which_version_a_name_means(fixture: Fixture) {
    let (first, second) = (WorkerId::generate(), WorkerId::generate());
    let (old, new) = (spec("b/model", '1'), spec("b/model", '3'));
    let publish = async |worker, offers: &[Offer]| fixture.store.publish(worker, "host", offers, 0).await.unwrap();
    let defaults = async || {
        let models = fixture.store.models(LEASE).await.unwrap();
        let of = |spec: &ModelSpec| models.iter().find(|model| model.spec == *spec).unwrap().clone();
        [of(&old), of(&new)]
    };
    publish(first, &[offer(&old, true), offer(&new, false)]).await;
    publish(second, &[offer(&new, false), offer(&old, true)]).await;
    let [before, other] = defaults().await;
    assert_eq!((before.workers, before.default_workers, before.default_at.is_some()), (2, 2, true));
    assert_eq!((other.workers, other.default_workers, other.default_at), (2, 0, None));

    // Another becomes the default, on one worker first; saying it again changes nothing.
    publish(first, &[offer(&old, false), offer(&new, true)]).await;
    let [old_one, new_one] = defaults().await;
    assert_eq!((old_one.default_workers, new_one.default_workers), (1, 1));
    assert!(new_one.default_at > old_one.default_at && old_one.default_at == before.default_at);
    publish(first, &[offer(&old, false), offer(&new, true)]).await;
    publish(second, &[offer(&old, false), offer(&new, true)]).await;
    let [old_one, both] = defaults().await;
    assert_eq!((old_one.workers, old_one.default_workers, both.default_workers), (2, 0, 2));
    publish(first, &[offer(&old, false), offer(&new, true)]).await;
    assert_eq!(defaults().await[1].default_at, both.default_at);

    // And back; what nobody serves any more keeps when it was the default.
    tokio::time::sleep(Duration::from_millis(2)).await;
    publish(first, &[offer(&old, true)]).await;
    fixture.store.withdraw(first).await.unwrap();
    fixture.store.withdraw(second).await.unwrap();
    let [old_one, new_one] = defaults().await;
    assert_eq!((old_one.default_workers, new_one.default_workers, new_one.workers), (0, 0, 0));
    assert!(old_one.default_at > new_one.default_at && new_one.default_at == both.default_at);
}

async fn versions_are_unfinished_until_their_last_prediction_is(fixture: Fixture) {
    let (asked, unknown) = ((model(), version()), (model(), "f".repeat(64).parse().unwrap()));
    let unfinished = async || fixture.store.unfinished(&[unknown.clone(), asked.clone()]).await.unwrap();
    assert!(unfinished().await.is_empty());
    let run = fixture.claimed(LEASE).await;
    assert_eq!(unfinished().await, slice::from_ref(&asked), "one runs");
    fixture.store.complete(fixture.worker, vec![Outcome::Retry { run, delay: LEASE }]).await.unwrap();
    assert_eq!(unfinished().await, slice::from_ref(&asked), "one waits to be tried again");
    fixture.store.cancel("", run.id).await.unwrap();
    assert!(unfinished().await.is_empty());
}

async fn workers_publish_and_withdraw(fixture: Fixture) {
    // A version that only predictions know is not published.
    fixture.accept([new()]).await;
    assert!(fixture.store.models(LEASE).await.unwrap().is_empty());
    let (first, second) = (WorkerId::generate(), WorkerId::generate());
    let old = spec("b/model", '1');
    let before = fixture.store.now().await.unwrap();
    fixture.store.publish(first, "one", &[offer(&old, true), offer(&spec("a/model", '2'), true)], 3).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
    let changed = ModelSpec { description: "another".to_owned(), ..old.clone() };
    let new = spec("b/model", '3');
    fixture.store.publish(second, "two", &[offer(&changed, true), offer(&new, true)], 4).await.unwrap();
    let models = fixture.store.models(LEASE).await.unwrap();
    let found: Vec<_> = models.iter().map(|model| (model.spec.clone(), model.workers)).collect();
    assert_eq!(found, [(spec("a/model", '2'), 1), (new.clone(), 1), (old.clone(), 2)]);
    assert!(models.iter().all(|model| model.created_at >= before));
    assert_eq!(fixture.store.stale_completions().await.unwrap(), 7);

    // A worker says what it serves now, all of it.
    fixture.store.publish(second, "two", &[offer(&new, true)], 6).await.unwrap();
    assert_eq!(fixture.store.stale_completions().await.unwrap(), 9);
    fixture.store.withdraw(first).await.unwrap();
    let workers = |models: Vec<store::PublishedModel>| models.iter().map(|model| model.workers).collect::<Vec<_>>();
    assert_eq!(workers(fixture.store.models(LEASE).await.unwrap()), [0, 1, 0]);
    // Silence is taken for death.
    eventually(async || {
        let models = fixture.store.models(Duration::from_millis(20)).await.unwrap();
        (workers(models) == [0, 0, 0]).then_some(())
    })
    .await;
    // A prediction for it came first: the version is published all the same.
    let known = ModelSpec { name: model(), version: version(), ..spec("x/y", '4') };
    fixture.store.publish(first, "one", &[offer(&known, true)], 0).await.unwrap();
    assert!(fixture.store.models(LEASE).await.unwrap().iter().any(|model| model.spec == known));
}

async fn concurrent_workers_publish_the_same(fixture: Fixture) {
    let offers: Vec<Offer> = ('0'..='9').map(|digit| offer(&spec("a/model", digit), digit == '7')).collect();
    let publishers = (0..8).map(|place| {
        let (store, mut offers) = (fixture.store.clone(), offers.clone());
        offers.rotate_left(place);
        tokio::spawn(async move { store.publish(WorkerId::generate(), "host", &offers, 0).await.unwrap() })
    });
    for published in futures::future::join_all(publishers).await {
        published.unwrap();
    }
    let models = fixture.store.models(LEASE).await.unwrap();
    assert_eq!(models.len(), 10);
    assert!(models.iter().all(|model| model.workers == 8));
    assert_eq!(models.iter().map(|model| model.default_workers).sum::<u32>(), 8);
}

async fn the_secret_stays(fixture: Fixture) {
    let secret = fixture.store.secret().await.unwrap();
    assert_ne!(secret, [0; 32]);
    fixture.store.migrate().await.unwrap();
    assert_eq!(fixture.store.secret().await.unwrap(), secret);
}
