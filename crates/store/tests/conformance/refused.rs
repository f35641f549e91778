//! What the database refuses to do to one harms no other, and is done once it is refused no more.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use prediction::{Event, PredictionId};
use store::{NewPrediction, Run, Swept, SweptDeliveries};

use crate::fixture::{Fixture, LEASE, SPENT, SWEEP, eventually, new, serves, told};

on_both!(
    a_claim_of_the_next_takes_all_others_and_names_it,
    leases_of_all_others_are_renewed,
    all_others_whose_leases_or_deadlines_are_over_are_swept,
    all_others_that_have_expired_are_purged,
    all_deliveries_of_others_are_swept,
);

/// From now on nothing may become of this prediction.
async fn refuse(fixture: &Fixture, id: PredictionId) {
    fixture.refuse("UPDATE", "predictions", &format!("NEW.id = {}", fixture.id(id))).await;
}

async fn refuse_no_more(fixture: &Fixture, table: &str) {
    let on = if fixture.store.is_shared() { format!("ON {table}") } else { String::new() };
    fixture.execute(format!("DROP TRIGGER guilty {on}")).await.unwrap();
}

async fn a_claim_of_the_next_takes_all_others_and_names_it(fixture: Fixture) {
    let ids = fixture.accept((0..10).map(|_| new())).await;
    refuse(&fixture, ids[0]).await;
    let claim = async |passed_over, limit| {
        let claim = fixture.store.claim_next(fixture.worker, &serves(), passed_over, limit, LEASE).await.unwrap();
        let claimed: Vec<_> = claim.claimed.iter().map(|claimed| claimed.run.id).collect();
        (claimed, claim.refused)
    };
    // It has the only place, unless it is passed over.
    assert_eq!(claim(&[], 1).await, (vec![], vec![ids[0]]));
    assert_eq!(claim(&ids[..1], 1).await, (vec![ids[1]], vec![]));
    assert_eq!(claim(&ids[2..4], 100).await, ([&ids[4..]].concat(), vec![ids[0]]));
    refuse_no_more(&fixture, "predictions").await;
    assert_eq!(claim(&[], 100).await, ([&ids[..1], &ids[2..4]].concat(), vec![]));
}

async fn leases_of_all_others_are_renewed(fixture: Fixture) {
    let ids = fixture.accept((0..10).map(|_| new())).await;
    let claim = fixture.store.claim(fixture.worker, &ids, SPENT).await.unwrap();
    let mut runs: Vec<Run> = claim.claimed.iter().map(|claimed| claimed.run).collect();
    let (guilty, lost) = (runs[3].id, runs[7].id);
    runs[7].epoch += 1;
    refuse(&fixture, guilty).await;
    assert_eq!(fixture.store.renew(fixture.worker, &runs, LEASE).await.unwrap().lost, [lost]);
    refuse_no_more(&fixture, "predictions").await;
    let mut swept = HashSet::new();
    eventually(async || {
        swept.extend(fixture.store.sweep(SWEEP).await.unwrap().requeued);
        (swept.len() == 2).then_some(())
    })
    .await;
    assert_eq!(swept, HashSet::from([guilty, lost]));
}

async fn all_others_whose_leases_or_deadlines_are_over_are_swept(fixture: Fixture) {
    let soon = || NewPrediction { deadline: Some(Duration::from_millis(1)), ..new() };
    let (held, late) = (fixture.accept((0..5).map(|_| new())).await, fixture.accept((0..5).map(|_| soon())).await);
    fixture.store.claim(fixture.worker, &held, SPENT).await.unwrap();
    let (guilty, mut swept) = ([held[0], late[0]], Swept::default());
    let or = guilty.map(|id| format!("NEW.id = {}", fixture.id(id))).join(" OR ");
    fixture.refuse("UPDATE", "predictions", &or).await;
    let mut sweep_up_to = async |number| {
        let sweep = async || {
            let now = fixture.store.sweep(SWEEP).await.unwrap();
            swept.requeued.extend(now.requeued);
            swept.ended.extend(now.ended);
            (swept.requeued.len() >= number && swept.ended.len() >= number).then_some(())
        };
        eventually(sweep).await;
        swept.requeued.sort();
        swept.ended.sort();
        (swept.requeued.clone(), swept.ended.clone())
    };
    let sorted = |ids: &[PredictionId]| BTreeSet::from_iter(ids.iter().copied()).into_iter().collect::<Vec<_>>();
    assert_eq!(sweep_up_to(4).await, (sorted(&held[1..]), sorted(&late[1..])));
    refuse_no_more(&fixture, "predictions").await;
    assert_eq!(sweep_up_to(5).await, (sorted(&held), sorted(&late)));
}

async fn all_others_that_have_expired_are_purged(fixture: Fixture) {
    let passing = || NewPrediction { retention: Duration::ZERO, ..new() };
    let ids = fixture.accept((0..10).map(|_| passing())).await;
    for id in &ids {
        fixture.store.cancel("", *id).await.unwrap();
    }
    fixture.refuse("DELETE", "predictions", &format!("OLD.id = {}", fixture.id(ids[0]))).await;
    let purge_up_to = async |number| {
        let mut purged = 0;
        let purge = async || {
            purged += fixture.store.purge(LEASE, 100).await.unwrap().predictions;
            (purged >= number).then_some(())
        };
        eventually(purge).await;
        fixture.store.get("", &ids).await.unwrap().iter().map(|found| found.id).collect::<Vec<_>>()
    };
    assert_eq!(purge_up_to(9).await, ids[..1]);
    let purged = fixture.store.purge(LEASE, 1).await.unwrap();
    assert_eq!((purged.predictions, purged.refused), (0, 1));
    refuse_no_more(&fixture, "predictions").await;
    assert_eq!(purge_up_to(1).await, []);
}

async fn all_deliveries_of_others_are_swept(fixture: Fixture) {
    let ids = fixture.accept((0..6).map(|_| told(&[Event::Completed]))).await;
    for id in &ids {
        fixture.store.cancel("", *id).await.unwrap();
    }
    let held: Vec<_> = fixture.send(5, SPENT).await.iter().map(|held| held.sending.id.prediction).collect();
    let waiting = ids.iter().copied().find(|id| !held.contains(id)).unwrap();
    let or = [held[0], waiting].map(|id| format!("NEW.prediction_id = {}", fixture.id(id))).join(" OR ");
    fixture.refuse("UPDATE", "deliveries", &or).await;
    let mut swept = SweptDeliveries::default();
    let mut sweep_up_to = async |longest, requeued, exhausted| {
        let sweep = async || {
            let now = fixture.store.sweep_deliveries(longest, 100).await.unwrap();
            swept.requeued += now.requeued;
            swept.exhausted += now.exhausted;
            (swept.requeued >= requeued && swept.exhausted >= exhausted).then_some(())
        };
        eventually(sweep).await;
        assert_eq!(swept, SweptDeliveries { requeued, exhausted });
    };
    sweep_up_to(LEASE, 4, 0).await;
    sweep_up_to(Duration::ZERO, 4, 4).await;
    refuse_no_more(&fixture, "deliveries").await;
    sweep_up_to(Duration::ZERO, 5, 6).await;
}
