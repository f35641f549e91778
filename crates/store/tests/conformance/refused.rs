//! What the database refuses to do to one harms no other, and is done once it is refused no more.

use std::collections::HashSet;

use prediction::PredictionId;
use store::Run;

use crate::fixture::{Fixture, LEASE, SPENT, SWEEP, eventually, new, serves};

on_both!(a_claim_of_the_next_takes_all_others_and_names_it, leases_of_all_others_are_renewed,);

/// From now on nothing may become of this prediction.
async fn refuse(fixture: &Fixture, id: PredictionId) {
    fixture.refuse("predictions", &format!("NEW.id = {}", fixture.id(id))).await;
}

async fn refuse_no_more(fixture: &Fixture) {
    let on = if fixture.store.is_shared() { "ON predictions" } else { "" };
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
    refuse_no_more(&fixture).await;
    assert_eq!(claim(&[], 100).await, ([&ids[..1], &ids[2..4]].concat(), vec![]));
}

async fn leases_of_all_others_are_renewed(fixture: Fixture) {
    let ids = fixture.accept((0..10).map(|_| new())).await;
    let claim = fixture.store.claim(fixture.worker, &ids, SPENT).await.unwrap();
    let mut runs: Vec<Run> = claim.claimed.iter().map(|claimed| claimed.run).collect();
    let (guilty, lost) = (runs[3].id, runs[7].id);
    runs[7].epoch += 1;
    refuse(&fixture, guilty).await;
    assert_eq!(fixture.store.renew(fixture.worker, &runs, LEASE).await.unwrap(), [lost]);
    refuse_no_more(&fixture).await;
    let mut swept = HashSet::new();
    eventually(async || {
        swept.extend(fixture.store.sweep(SWEEP).await.unwrap().requeued);
        (swept.len() == 2).then_some(())
    })
    .await;
    assert_eq!(swept, HashSet::from([guilty, lost]));
}
