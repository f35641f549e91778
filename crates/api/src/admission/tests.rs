//! What is let in and what is refused, by numbers.

use super::*;

/// Two lines' worth of specifications: one with a rate, and one without.
fn spec(model: &str) -> ModelSpec {
    ModelSpec {
        name: model.parse().expect("a name"),
        version: "a".repeat(64).parse().expect("a version"),
        task: String::new(),
        description: String::new(),
        license: None,
        source: None,
        input_schema: serde_json::Value::Null,
        output_schema: serde_json::Value::Null,
        limits: prediction::Limits::default(),
    }
}

/// So many wait of each tenant, and are served at this rate.
fn counted(admission: &Admission, tenants: &[(&str, u64)], rate: f64) {
    let ModelSpec { name: model, version, .. } = spec("augur/echo");
    let line = |(tenant, count): &(&str, u64)| {
        ((*tenant).to_owned(), VersionCount { model: model.clone(), version: version.clone(), count: *count })
    };
    let mut queue = admission.queue();
    queue.end_counting(tenants.iter().map(line).collect(), admission.bounds.work.is_some());
    queue.rates = HashMap::from([((model.clone(), version.clone()), Rate { last_minute: rate, at_work: Some(rate) })]);
}

fn refused(admission: &Admission, caller: &Caller) -> Option<(Kind, String)> {
    let refusal = admission.admit(caller, &spec("augur/echo")).err()?;
    let response = axum::response::IntoResponse::into_response(refusal.clone());
    let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    assert!(text("ratelimit").ends_with(&format!(";r=0;t={}", text("retry-after"))));
    Some((refusal.kind, format!("{} in {} s", text("ratelimit-policy"), text("retry-after"))))
}

#[test]
fn who_has_a_part_of_the_queue_is_served_as_much_slower() {
    let admission = Admission::new(Bounds { predictions: 1000, work: None });
    let quarter = Caller::with_key("1", 0.25);
    let share = |seconds: &str| (Kind::ShareFull, format!("\"share\";q=250;qu=\"concurrent-requests\" in {seconds} s"));
    // Alone, 25 of his 250 are served in 2.5 s; as one of two alike, in 5 s.
    counted(&admission, &[("1", 250)], 10.0);
    assert_eq!(refused(&admission, &quarter), Some(share("3")));
    counted(&admission, &[("1", 250), ("2", 250)], 10.0);
    assert_eq!(refused(&admission, &quarter), Some(share("5")));
    // A key that was let fill more waits for that too; at most a minute, though.
    counted(&admission, &[("1", 350), ("2", 350)], 10.0);
    assert_eq!(refused(&admission, &quarter), Some(share("25")));
    counted(&admission, &[("1", 350), ("2", 350)], 0.1);
    assert_eq!(refused(&admission, &quarter), Some(share("60")));
    // Others are let in until the queue is full.
    let half = Caller::with_key("3", 0.5);
    assert_eq!(refused(&admission, &half), None);
    counted(&admission, &[("1", 250), ("2", 750)], 10.0);
    assert_eq!(
        refused(&admission, &half),
        Some((Kind::QueueFull, "\"queue\";q=1000;qu=\"concurrent-requests\" in 10 s".to_owned()))
    );
    assert_eq!(refused(&admission, &quarter), Some(share("10")));
}

#[test]
fn a_share_is_one_of_the_time_too() {
    let admission = Admission::new(Bounds { predictions: 1000, work: Some(Duration::from_secs(20)) });
    let half = Caller::with_key("1", 0.5);
    // At ten a second 99 are less than ten seconds of work, 100 are not.
    counted(&admission, &[("1", 99), ("2", 50)], 10.0);
    let place = admission.admit(&half, &spec("augur/echo")).expect("there is room");
    let full = (Kind::ShareFull, "\"share-time\";q=100;qu=\"concurrent-requests\" in 2 s".to_owned());
    assert_eq!(refused(&admission, &half), Some(full));
    // Of another version, whose rate is not known, nothing is refused.
    assert!(admission.admit(&half, &spec("augur/other")).is_ok());
    // A place that was not used is free again.
    drop(place);
    assert_eq!(refused(&admission, &half), None);
    counted(&admission, &[("1", 99), ("2", 101)], 10.0);
    let full = (Kind::QueueFull, "\"queue-time\";q=200;qu=\"concurrent-requests\" in 2 s".to_owned());
    assert_eq!(refused(&admission, &half), Some(full));
    // It stays full when nothing is served any more; only nobody knows when that ends.
    admission.queue().rates.values_mut().for_each(|rate| rate.last_minute = 0.0);
    let full = (Kind::QueueFull, "\"queue-time\";q=200;qu=\"concurrent-requests\" in 10 s".to_owned());
    assert_eq!(refused(&admission, &half), Some(full));
}

#[test]
fn who_has_nothing_waiting_is_forgotten() {
    let admission = Admission::new(Bounds { predictions: 1000, work: Some(Duration::from_secs(20)) });
    counted(&admission, &[("1", 5), ("2", 5), ("", 5)], 10.0);
    let known = || admission.queue().tenants.len();
    assert_eq!(known(), 2);
    let mut place = admission.admit(&Caller::with_key("3", 0.5), &spec("augur/echo")).expect("there is room");
    counted(&admission, &[("", 5)], 10.0);
    assert_eq!(known(), 1, "what is on its way is counted");
    place.hand_in();
    drop(place);
    let begin = || admission.queue().filled().flat_map(Filled::counts).for_each(Count::begin_counting);
    begin();
    counted(&admission, &[("3", 1)], 10.0);
    assert_eq!((known(), admission.queue().all.count.at_most()), (1, 1));
    begin();
    counted(&admission, &[], 10.0);
    assert_eq!((known(), admission.queue().all.lines.len()), (0, 0));
}

#[test]
fn long_counts_are_rare_and_one_hiccup_is_soon_forgotten() {
    let seconds = Duration::from_secs_f64;
    for (is_idle, took, expected) in [
        (false, 0.001, 0.25),
        (true, 0.001, 1.0),
        (false, 0.1, 2.0),
        (true, 0.1, 2.0),
        (false, 3.0, 5.0),
        (true, 1e9, 5.0),
    ] {
        assert_eq!(pause(is_idle, seconds(took)), seconds(expected));
    }
}
