//! Asking: lists with filters and cursors, places in line, and the lines themselves.

use std::time::Duration;

use prediction::{PredictionId, Priority, Status};
use store::{Cursor, ListFilter, NewPrediction, Outcome, Page, RunMetrics};

use crate::fixture::{Fixture, LEASE, json, model, new, version};

on_both!(pages_go_both_ways, filters_narrow_the_list, places_in_line_are_counted, queues_are_described);

fn ids(page: &Page) -> Vec<PredictionId> {
    page.predictions.iter().map(|prediction| prediction.id).collect()
}

async fn pages_go_both_ways(fixture: Fixture) {
    let others = fixture.accept([NewPrediction { tenant: "other".into(), ..new() }]).await;
    assert_eq!(fixture.store.tenant_of(others[0]).await.unwrap().as_deref(), Some("other"));
    assert_eq!(fixture.store.tenant_of(PredictionId::generate()).await.unwrap(), None);
    let mut newest_first = Vec::new();
    for _ in 0..3 {
        // Those of one batch are equally old: their ids decide.
        let batch = fixture.accept((0..4).map(|_| new())).await;
        newest_first.splice(0..0, batch.into_iter().rev());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let list = |cursor: Option<Cursor>| {
        let store = &fixture.store;
        async move { store.list("", &ListFilter::default(), cursor, 5).await.unwrap() }
    };
    let first = list(None).await;
    assert_eq!(ids(&first), newest_first[..5]);
    assert_eq!(first.previous, None);
    let second = list(first.next).await;
    assert_eq!(ids(&second), newest_first[5..10]);
    let third = list(second.next).await;
    assert_eq!(ids(&third), newest_first[10..]);
    assert_eq!(third.next, None);
    let back = list(third.previous).await;
    assert_eq!((ids(&back), back.next), (newest_first[5..10].to_vec(), second.next));
    let front = list(back.previous).await;
    assert_eq!((ids(&front), front.previous), (newest_first[..5].to_vec(), None));
    let all = fixture.store.list("", &ListFilter::default(), None, 12).await.unwrap();
    assert_eq!((all.predictions.len(), all.next, all.previous), (12, None, None));
    // What the cursor's predictions were is gone: the way back is still open.
    let oldest = Cursor { created_at: third.predictions[1].created_at, id: newest_first[11], newer: false };
    let empty = list(Some(oldest)).await;
    assert!(empty.predictions.is_empty() && empty.next.is_none() && empty.previous.is_some());
}

async fn filters_narrow_the_list(fixture: Fixture) {
    let metadata = json(r#"{"text": "a'b", "number": 7, "yes": true, "list": [1], "$.x": "y", "empty": null}"#);
    let tagged = NewPrediction { metadata: Some(metadata), ..new() };
    let other_model = NewPrediction { model: "other/model".parse().unwrap(), ..new() };
    let sent = fixture.accept([tagged, other_model, new()]).await;
    fixture.store.cancel("", sent[2]).await.unwrap();
    let list = |filter: ListFilter| {
        let store = &fixture.store;
        async move { ids(&store.list("", &filter, None, 10).await.unwrap()) }
    };
    let by_metadata = |pairs: &[(&str, &str)]| ListFilter {
        metadata: pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..ListFilter::default()
    };
    for pairs in [
        &[("text", "a'b")][..],
        &[("number", "7")],
        &[("yes", "true")],
        &[("$.x", "y")],
        &[("text", "a'b"), ("number", "7"), ("yes", "true")],
    ] {
        assert_eq!(list(by_metadata(pairs)).await, sent[..1], "{pairs:?}");
    }
    for pairs in [&[("text", "a")][..], &[("yes", "1")], &[("list", "[1]")], &[("none", "")], &[("empty", "null")]] {
        assert!(list(by_metadata(pairs)).await.is_empty(), "{pairs:?}");
    }
    let by_status = |status| ListFilter { status: Some(status), ..ListFilter::default() };
    assert_eq!(list(by_status(Status::Canceled)).await, sent[2..]);
    assert_eq!(list(by_status(Status::Starting)).await.len(), 2);
    assert!(list(by_status(Status::Failed)).await.is_empty());
    let by_model = ListFilter { model: Some("other/model".parse().unwrap()), ..ListFilter::default() };
    assert_eq!(list(by_model).await, sent[1..2]);

    let created_at = fixture.store.get("", &sent[..1]).await.unwrap()[0].created_at;
    let moment = Duration::from_micros(1);
    let after = |moment| ListFilter { created_after: Some(moment), ..ListFilter::default() };
    let before = |moment| ListFilter { created_before: Some(moment), ..ListFilter::default() };
    assert_eq!(list(after(created_at - moment)).await.len(), 3);
    assert!(list(after(created_at)).await.is_empty());
    assert_eq!(list(before(created_at + moment)).await.len(), 3);
    assert!(list(before(created_at)).await.is_empty());
}

async fn places_in_line_are_counted(fixture: Fixture) {
    let sent = fixture.accept((0..5).map(|_| new())).await;
    let high = fixture.accept([NewPrediction { priority: Priority::High, ..new() }]).await[0];
    assert_eq!(fixture.store.position(sent[4], 100).await.unwrap(), Some(4));
    assert_eq!(fixture.store.position(sent[4], 3).await.unwrap(), Some(3));
    assert_eq!(fixture.store.position(high, 100).await.unwrap(), Some(0));
    fixture.store.claim(fixture.worker, &sent[..2], LEASE).await.unwrap();
    assert_eq!(fixture.store.position(sent[4], 100).await.unwrap(), Some(2));
    assert_eq!(fixture.store.position(sent[0], 100).await.unwrap(), None);
    assert_eq!(fixture.store.position(PredictionId::generate(), 100).await.unwrap(), None);
}

async fn queues_are_described(fixture: Fixture) {
    assert!(fixture.store.queues().await.unwrap().is_empty());
    let ids = fixture.accept((0..6).map(|_| new())).await;
    let claim = fixture.store.claim(fixture.worker, &ids[..3], LEASE).await.unwrap();
    let (run, metrics) = (claim.claimed[0].run, RunMetrics::default());
    fixture.store.complete(fixture.worker, vec![Outcome::Succeeded { run, output: json("1"), metrics }]).await.unwrap();
    fixture.store.cancel("", ids[5]).await.unwrap();
    let queues = fixture.store.queues().await.unwrap();
    let [queue] = &queues[..] else { panic!("{queues:?}") };
    assert_eq!((&queue.model, &queue.version), (&model(), &version()));
    assert_eq!((queue.waiting, queue.processing), (2, 2));
    assert!(queue.oldest_seconds >= 0.0 && queue.oldest_seconds < 60.0, "{queue:?}");
}
