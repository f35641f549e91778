//! Sending deliveries: claimed fairly under a lease, settled behind the fence, swept.

use std::{collections::HashSet, time::Duration};

use prediction::{BodyForm, DeliveryId, DeliveryStatus, Event, PredictionId, WorkerId};
use store::{
    Answer, Attempt, ClaimedDelivery, EndpointChange, Line, NewPrediction, NextStep, Others, Room, Sending, Settled,
    Spare, SweptDeliveries, Unanswered, Webhook, Written,
};

use crate::fixture::{Fixture, LEASE, SPENT, attempted, eventually, new, told, webhook};

on_both!(
    a_claim_hands_over_all_that_sending_needs,
    origins_take_turns_within_their_spare,
    an_ill_endpoint_does_not_hold_up_its_neighbours,
    an_origin_has_its_share_whatever_its_paths,
    room_is_kept_for_origins_known_to_be_well,
    claims_get_round_to_every_line,
    the_longest_due_go_first,
    concurrent_senders_never_share,
    a_late_word_writes_nothing,
    mixed_words_are_answered_in_order,
    attempts_are_kept_and_counted,
    what_waits_too_long_is_given_up,
    gone_disables_the_endpoint,
);

/// Stores these at an origin and ends them: one delivery each.
async fn ended(fixture: &Fixture, origin: &str, number: usize) -> Vec<PredictionId> {
    let to_origin = || NewPrediction { webhook: Some(webhook(origin, &[Event::Completed])), ..new() };
    let ids = fixture.accept((0..number).map(|_| to_origin())).await;
    for id in &ids {
        fixture.store.cancel("", *id).await.unwrap();
    }
    ids
}

fn to<'a>(sent: &'a [ClaimedDelivery], origin: &str) -> Vec<&'a ClaimedDelivery> {
    sent.iter().filter(|delivery| delivery.origin == origin).collect()
}

/// A delivery for each of these endpoints, in this order, all due.
async fn due_at(fixture: &Fixture, origin: &str, endpoints: impl IntoIterator<Item = String>) {
    let to_endpoint =
        |endpoint: String| Webhook { url: endpoint.clone(), endpoint, ..webhook(origin, &[Event::Start]) };
    let told = |endpoint| NewPrediction { webhook: Some(to_endpoint(endpoint)), ..new() };
    let ids = fixture.accept(endpoints.into_iter().map(told)).await;
    fixture.store.claim(fixture.worker, &ids, LEASE).await.unwrap();
}

fn said(usual: u32, known: &[(&str, u32)]) -> Spare {
    let known = known.iter().map(|(name, attempts)| ((*name).to_owned(), *attempts)).collect();
    Spare { known, usual }
}

async fn a_claim_hands_over_all_that_sending_needs(fixture: Fixture) {
    let sent = NewPrediction { tenant: "other".into(), ..told(&[Event::Output, Event::Completed]) };
    let hook = sent.webhook.clone().unwrap();
    fixture.accept([sent.clone()]).await;
    let run = fixture.store.claim(fixture.worker, &[sent.id], LEASE).await.unwrap().claimed[0].run;
    let output = crate::fixture::json(r#""äöü""#);
    let metrics = store::RunMetrics::default();
    fixture
        .store
        .complete(fixture.worker, vec![store::Outcome::Succeeded { run, output: output.clone(), metrics }])
        .await
        .unwrap();
    fixture.store.add_endpoint("other", &hook.endpoint, BodyForm::Event).await.unwrap();
    fixture.store.add_endpoint("", &hook.endpoint, BodyForm::Prediction).await.unwrap();

    assert!(fixture.send(0, LEASE).await.is_empty());
    let claimed = fixture.send(10, LEASE).await;
    assert_eq!(claimed.iter().map(|one| one.sending.id.event).collect::<Vec<_>>(), [Event::Output, Event::Completed]);
    let completed_at = fixture.store.get("other", &[sent.id]).await.unwrap()[0].completed_at.unwrap();
    for one in &claimed {
        assert_eq!((one.sending.id.prediction, one.sending.epoch, one.round), (sent.id, 1, 0));
        assert_eq!((&*one.tenant, &one.url, &one.endpoint), ("other", &hook.url, &hook.endpoint));
        assert_eq!((&one.origin, one.body, one.is_disabled), (&hook.origin, BodyForm::Event, false));
        assert_eq!(one.payload_bytes as usize, sent.input.get().len() + output.get().len());
        assert!(one.created_at == completed_at && one.claimed_at >= completed_at);
        let found = fixture.store.delivery("other", one.sending.id).await.unwrap().unwrap();
        assert_eq!(found.status, DeliveryStatus::Sending);
    }
    assert!(fixture.send(10, LEASE).await.is_empty(), "a lease is one sender's");
}

async fn origins_take_turns_within_their_spare(fixture: Fixture) {
    let (many, few, one) = ("https://many:443", "https://few:443", "https://one:443");
    for (origin, number) in [(many, 60), (few, 3), (one, 1)] {
        ended(&fixture, origin, number).await;
    }
    let sender = WorkerId::generate();
    let claim = async |spare: &[(&str, u32)], usual: u32, limit: u32| {
        let room = Room { origins: said(usual, spare), ..Room::each(100) };
        let sent = fixture.store.claim_deliveries(sender, &room, None, limit, LEASE).await.unwrap().claimed;
        [many, few, one].map(|origin| to(&sent, origin).len())
    };
    assert_eq!(claim(&[], 0, 10).await, [0, 0, 0]);
    assert_eq!(claim(&[(many, 0), (few, 1), ("https://unknown:443", 9)], 0, 10).await, [0, 1, 0]);
    assert_eq!(claim(&[(many, 0)], 1, 10).await, [0, 1, 1]);
    assert_eq!(claim(&[], 16, 5).await, [4, 1, 0]);
    assert_eq!(claim(&[(many, 20)], 1, 10).await, [10, 0, 0]);
    assert_eq!(claim(&[(many, 20)], 1, 100).await, [20, 0, 0]);
    ended(&fixture, few, 20).await;
    ended(&fixture, one, 1).await;
    // The youngest of all, but the first of its line, goes before the fifth of another.
    assert_eq!(claim(&[], 16, 10).await, [5, 4, 1]);
}

async fn an_ill_endpoint_does_not_hold_up_its_neighbours(fixture: Fixture) {
    let (origin, ill, well) = ("https://gateway:443", "https://gateway/dead", "https://gateway/ok");
    due_at(&fixture, origin, (0..300).map(|_| ill.to_owned())).await;
    due_at(&fixture, origin, (0..5).map(|_| well.to_owned())).await;
    let claim = async |origins: Spare, endpoints: Spare| {
        let room = Room { origins, endpoints, others: None };
        let claim = fixture.store.claim_deliveries(WorkerId::generate(), &room, None, 64, LEASE).await.unwrap();
        assert_eq!(claim.looked_to, None, "there are two lines");
        [ill, well].map(|endpoint| claim.claimed.iter().filter(|one| one.endpoint == endpoint).count())
    };
    // One attempt to see whether the origin is well again goes to whom there is no doubt about.
    assert_eq!(claim(said(64, &[(origin, 1)]), said(16, &[(ill, 1)])).await, [0, 1]);
    assert_eq!(claim(Spare::each(2), said(16, &[])).await, [1, 1]);
    assert_eq!(claim(Spare::each(64), said(2, &[(ill, 0)])).await, [0, 2]);
    assert_eq!(claim(Spare::each(64), said(16, &[(ill, 3)])).await, [3, 1]);
    assert_eq!(claim(Spare::each(20), said(16, &[])).await, [16, 0]);
    assert_eq!(claim(Spare::each(0), said(16, &[])).await, [0, 0]);
}

async fn an_origin_has_its_share_whatever_its_paths(fixture: Fixture) {
    let (many, one) = ("https://a:443", "https://b:443");
    due_at(&fixture, many, (0..500).map(|job| format!("https://a/hook/{job:03}"))).await;
    due_at(&fixture, one, (0..20).map(|_| "https://b/hook".to_owned())).await;
    let claim = async |origins: Spare, after: Option<&Line>, limit: u32| {
        let room = Room { origins, ..Room::each(16) };
        let claim = fixture.store.claim_deliveries(WorkerId::generate(), &room, after, limit, LEASE).await.unwrap();
        ([many, one].map(|origin| to(&claim.claimed, origin).len()), claim.looked_to)
    };
    let (taken, looked_to) = claim(Spare::each(64), None, 256).await;
    assert_eq!((taken, looked_to.is_some()), ([64, 0], true));
    let (taken, looked_to) = claim(Spare::each(64), looked_to.as_ref(), 10).await;
    assert_eq!((taken, looked_to), ([5, 5], None));
    // An origin with nothing to spare is passed by at once.
    assert_eq!(claim(said(64, &[(many, 0)]), None, 256).await, ([0, 15], None));
}

async fn room_is_kept_for_origins_known_to_be_well(fixture: Fixture) {
    let well = "https://well:443";
    for stranger in 0..30 {
        ended(&fixture, &format!("https://stranger-{stranger}:443"), 3).await;
    }
    ended(&fixture, well, 20).await;
    let claim = async |spare: u32, limit: u32| {
        let others = Some(Others { spare, well: HashSet::from([well.to_owned()]) });
        let room = Room { others, ..Room::each(16) };
        let sent =
            fixture.store.claim_deliveries(WorkerId::generate(), &room, None, limit, LEASE).await.unwrap().claimed;
        let to_well = to(&sent, well).len();
        let origins: HashSet<_> = sent.iter().map(|one| &one.origin).filter(|origin| **origin != well).collect();
        (sent.len() - to_well, origins.len(), to_well)
    };
    assert_eq!(claim(0, 4).await, (0, 0, 4));
    assert_eq!(claim(10, 14).await, (10, 10, 4), "the longest due go first, one of each");
    assert_eq!(claim(40, 100).await, (40, 30, 12));
    assert_eq!(claim(100, 100).await, (40, 20, 0));
}

async fn claims_get_round_to_every_line(fixture: Fixture) {
    let endpoints: Vec<String> = (0..2000).map(|path| format!("https://a/{path:04}")).collect();
    due_at(&fixture, "https://a:443", endpoints.iter().cloned()).await;
    let (mut found, mut after, mut tours) = (Vec::new(), None, 0);
    while tours < 2 {
        let sender = WorkerId::generate();
        let claim = fixture.store.claim_deliveries(sender, &Room::each(400), after.as_ref(), 400, LEASE).await.unwrap();
        found.extend(claim.claimed.into_iter().map(|one| one.endpoint));
        tours += usize::from(claim.looked_to.is_none());
        after = claim.looked_to;
    }
    found.sort();
    assert_eq!(found, endpoints);
}

async fn the_longest_due_go_first(fixture: Fixture) {
    let origin = "https://example.com:443";
    let ids = ended(&fixture, origin, 5).await;
    let first = fixture.send(1, LEASE).await.remove(0);
    // The clock of one database ticks in milliseconds.
    tokio::time::sleep(Duration::from_millis(2)).await;
    fixture.settle(&first, 500, NextStep::Retry { wait: Duration::ZERO }).await;
    let later = fixture.send(1, LEASE).await.remove(0);
    fixture.settle(&later, 500, NextStep::Retry { wait: LEASE }).await;
    let mut order = vec![first.sending.id.prediction, later.sending.id.prediction];
    let rest = eventually(async || Some(fixture.send(10, LEASE).await).filter(|rest| rest.len() == 4)).await;
    let rest: Vec<PredictionId> = rest.iter().map(|one| one.sending.id.prediction).collect();
    assert_eq!(rest[3], order[0], "behind those that were due before it became due again");
    order.extend(&rest[..3]);
    assert_eq!(order, ids);
    let due_at = fixture.store.delivery("", later.sending.id).await.unwrap().unwrap().due_at.unwrap();
    assert!(due_at - fixture.store.now().await.unwrap() > LEASE / 2);
}

async fn concurrent_senders_never_share(fixture: Fixture) {
    for origin in ["https://a:443", "https://b:443", "https://c:443"] {
        ended(&fixture, origin, 50).await;
    }
    let senders = (0..6).map(|_| {
        let store = fixture.store.clone();
        tokio::spawn(async move {
            let sender = WorkerId::generate();
            let mut held: Vec<Sending> = Vec::new();
            loop {
                let sent = store.claim_deliveries(sender, &Room::each(4), None, 7, LEASE).await.unwrap().claimed;
                held.extend(sent.iter().map(|delivery| delivery.sending));
                if sent.is_empty() {
                    return held;
                }
            }
        })
    });
    let held = futures::future::join_all(senders).await.into_iter().flat_map(|held| held.unwrap());
    let held: Vec<DeliveryId> = held.map(|sending| sending.id).collect();
    let distinct: HashSet<DeliveryId> = held.iter().copied().collect();
    assert_eq!((held.len(), distinct.len()), (150, 150));
}

async fn a_late_word_writes_nothing(fixture: Fixture) {
    ended(&fixture, "https://example.com:443", 1).await;
    let late = fixture.send(1, SPENT).await.remove(0);
    let swept = SweptDeliveries { requeued: 1, exhausted: 0 };
    eventually(async || (fixture.store.sweep_deliveries(LEASE, 10).await.unwrap() == swept).then_some(())).await;
    let waits = fixture.store.delivery("", late.sending.id).await.unwrap().unwrap();
    assert_eq!((waits.status, waits.due_at), (DeliveryStatus::Waiting, Some(late.created_at)));

    let next = [NextStep::Delivered, NextStep::Gone, NextStep::Retry { wait: LEASE }, NextStep::Exhausted];
    for word in next.clone() {
        assert_eq!(fixture.settle(&late, 200, word).await, Written::Stale);
    }
    let second = fixture.send(1, LEASE).await.remove(0);
    assert_eq!(second.sending, Sending { epoch: 3, ..late.sending });
    for word in next {
        assert_eq!(fixture.settle(&late, 200, word).await, Written::Stale);
    }
    for table in ["delivery_attempts", "endpoints"] {
        assert_eq!(fixture.number(format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
    assert_eq!(fixture.settle(&second, 200, NextStep::Delivered).await, Written::Applied);
    assert_eq!(fixture.settle(&second, 500, NextStep::Exhausted).await, Written::Stale);
    let over = fixture.store.delivery("", late.sending.id).await.unwrap().unwrap();
    assert_eq!((over.status, over.attempts, over.due_at), (DeliveryStatus::Delivered, 1, None));
    assert!(over.completed_at.unwrap() >= second.claimed_at);
    assert_eq!(fixture.store.sweep_deliveries(SPENT, 10).await.unwrap(), SweptDeliveries::default());
}

async fn mixed_words_are_answered_in_order(fixture: Fixture) {
    ended(&fixture, "https://a:443", 16).await;
    ended(&fixture, "https://b:443", 16).await;
    let sent = fixture.send(40, LEASE).await;
    assert_eq!(sent.len(), 32);
    let unknown = DeliveryId { prediction: PredictionId::generate(), event: Event::Completed };
    let mut words: Vec<Settled> = sent
        .iter()
        .enumerate()
        .map(|(place, delivery)| match place % 4 {
            0 => attempted(delivery, 204, NextStep::Delivered),
            1 => Settled { attempt: None, ..attempted(delivery, 0, NextStep::Retry { wait: LEASE }) },
            2 => {
                let sending = Sending { epoch: 2, ..delivery.sending };
                Settled { sending, ..attempted(delivery, 204, NextStep::Delivered) }
            }
            _ => {
                let sending = Sending { id: unknown, epoch: 1 };
                Settled { sending, ..attempted(delivery, 204, NextStep::Delivered) }
            }
        })
        .collect();
    // A second word about the same claim.
    words.push(attempted(&sent[0], 500, NextStep::Exhausted));
    let written = fixture.store.settle_deliveries(&words).await.unwrap();
    for (place, written) in written.into_iter().enumerate() {
        assert_eq!(written == Written::Applied, place < 32 && place % 4 < 2, "{place}");
    }
    assert_eq!(fixture.number("SELECT count(*) FROM delivery_attempts WHERE status = 204").await, 8);
    let untried = "SELECT count(*) FROM deliveries WHERE status = 0 AND attempts = 0 AND round = 0 AND epoch = 1";
    assert_eq!(fixture.number(untried).await, 8);
    assert!(fixture.store.settle_deliveries(&[]).await.unwrap().is_empty());
}

async fn attempts_are_kept_and_counted(fixture: Fixture) {
    ended(&fixture, "https://example.com:443", 1).await;
    let long = vec![b'x'; Answer::KEPT_BYTES + 1];
    let silence = Unanswered { error: "timeout".into(), message: "no answer\0 in time".into() };
    let results =
        [Ok(Answer { status: 500, body: long.clone() }), Err(silence), Ok(Answer { status: 200, body: vec![] })];
    let mut kept = Vec::new();
    let mut id = None;
    for (place, result) in results.into_iter().enumerate() {
        let held = eventually(async || fixture.send(1, LEASE).await.pop()).await;
        assert_eq!(held.round as usize, place);
        let attempt = Attempt { at: held.claimed_at, latency: Duration::from_micros(1_234_567), result };
        let next = if place == 2 { NextStep::Delivered } else { NextStep::Retry { wait: Duration::ZERO } };
        let settled = Settled { sending: held.sending, attempt: Some(attempt.clone()), next };
        assert_eq!(fixture.store.settle_deliveries(&[settled]).await.unwrap(), [Written::Applied]);
        let found = fixture.store.delivery("", held.sending.id).await.unwrap().unwrap();
        assert_eq!(found.attempts as usize, place + 1);
        let latest = found.latest.unwrap();
        assert_eq!((latest.at, latest.latency), (attempt.at, attempt.latency));
        kept.insert(0, (u32::try_from(place).unwrap() + 1, attempt));
        id = Some(held.sending.id);
    }
    if let Ok(answer) = &mut kept[2].1.result {
        answer.body.pop();
    }
    if let Err(unanswered) = &mut kept[1].1.result {
        unanswered.message = "no answer\u{fffd} in time".into();
    }
    let id = id.unwrap();
    assert_eq!(fixture.store.delivery_attempts("", id, None, 10).await.unwrap(), kept);
    assert_eq!(fixture.store.delivery_attempts("", id, None, 2).await.unwrap(), kept[..2]);
    assert_eq!(fixture.store.delivery_attempts("", id, Some(2), 2).await.unwrap(), kept[2..]);
    assert!(fixture.store.delivery_attempts("other", id, None, 10).await.unwrap().is_empty());
    let latest = fixture.store.delivery("", id).await.unwrap().unwrap().latest.unwrap();
    assert_eq!(latest, kept[0].1);
}

async fn what_waits_too_long_is_given_up(fixture: Fixture) {
    ended(&fixture, "https://example.com:443", 4).await;
    let held = fixture.send(3, LEASE).await;
    fixture.settle(&held[0], 200, NextStep::Delivered).await;
    fixture.settle(&held[1], 503, NextStep::Retry { wait: LEASE }).await;
    assert_eq!(fixture.store.sweep_deliveries(LEASE, 10).await.unwrap(), SweptDeliveries::default());
    let mut exhausted = 0;
    eventually(async || {
        let swept = fixture.store.sweep_deliveries(Duration::ZERO, 1).await.unwrap();
        assert!(swept.requeued == 0 && swept.exhausted <= 1);
        exhausted += swept.exhausted;
        (exhausted == 2).then_some(())
    })
    .await;
    assert_eq!(fixture.store.sweep_deliveries(Duration::ZERO, 10).await.unwrap(), SweptDeliveries::default());
    let tried = fixture.store.delivery("", held[1].sending.id).await.unwrap().unwrap();
    assert_eq!((tried.status, tried.attempts, tried.due_at), (DeliveryStatus::Exhausted, 1, None));
    assert!(tried.completed_at.is_some() && tried.latest.is_some());
    // What is being sent at that moment is not: its word counts.
    assert_eq!(fixture.settle(&held[2], 200, NextStep::Delivered).await, Written::Applied);
    assert!(fixture.send(10, LEASE).await.is_empty());
}

async fn gone_disables_the_endpoint(fixture: Fixture) {
    ended(&fixture, "https://gone:443", 3).await;
    ended(&fixture, "https://well:443", 1).await;
    let first = fixture.send(10, LEASE).await;
    let gone = to(&first, "https://gone:443");
    let word = |delivery: &&ClaimedDelivery| attempted(delivery, 410, NextStep::Gone);
    // Two of them in one batch, and one that is handed back.
    let mut words: Vec<Settled> = gone[..2].iter().map(word).collect();
    words.push(Settled { attempt: None, ..attempted(gone[2], 0, NextStep::Retry { wait: Duration::ZERO }) });
    assert_eq!(fixture.store.settle_deliveries(&words).await.unwrap(), [Written::Applied; 3]);
    let page = fixture.store.endpoints("", None, 10).await.unwrap();
    let [endpoint] = &page.entries[..] else { panic!("{page:?}") };
    assert_eq!((&*endpoint.url, endpoint.body), ("https://gone:443/hook", BodyForm::Prediction));
    let disabled_at = endpoint.disabled_at.unwrap();

    let mut held = eventually(async || fixture.send(10, LEASE).await.pop()).await;
    assert!(held.is_disabled);
    // Another 410 changes nothing about when it was disabled.
    assert_eq!(fixture.settle(&held, 410, NextStep::Gone).await, Written::Applied);
    assert_eq!(fixture.store.endpoint("", endpoint.id).await.unwrap().unwrap().disabled_at, Some(disabled_at));
    let found = fixture.store.delivery("", held.sending.id).await.unwrap().unwrap();
    assert_eq!((found.status, found.attempts), (DeliveryStatus::Disabled, 1));

    // Enabled again, it is sent to again, if somebody asks for that.
    assert!(fixture.send(10, LEASE).await.is_empty());
    fixture.store.redeliver("", held.sending.id).await.unwrap();
    held = fixture.send(10, LEASE).await.remove(0);
    assert!(held.is_disabled);
    let settled = Settled { sending: held.sending, attempt: None, next: NextStep::Disabled };
    assert_eq!(fixture.store.settle_deliveries(&[settled]).await.unwrap(), [Written::Applied]);
    let change = EndpointChange { is_disabled: Some(false), body: Some(BodyForm::Event) };
    fixture.store.change_endpoint("", endpoint.id, change).await.unwrap();
    fixture.store.redeliver("", held.sending.id).await.unwrap();
    held = fixture.send(10, LEASE).await.remove(0);
    assert_eq!((held.is_disabled, held.body), (false, BodyForm::Event));
    assert_eq!(fixture.settle(&held, 200, NextStep::Delivered).await, Written::Applied);
    let found = fixture.store.delivery("", held.sending.id).await.unwrap().unwrap();
    assert_eq!((found.status, found.attempts), (DeliveryStatus::Delivered, 2));
}
