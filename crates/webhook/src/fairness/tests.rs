//! Fairness, step by step and over an hour.

use std::cmp::Reverse;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn fairness() -> (Fairness<&'static str>, Instant) {
    (Fairness::new(EndpointLimits::default()), Instant::now())
}

fn fail(fairness: &Fairness<&'static str>, endpoint: &'static str, times: u32, now: Instant) {
    for _ in 0..times {
        fairness.try_acquire(endpoint, now).expect("a permit").settle(Health::Ill, now);
    }
}

#[test]
fn one_endpoint_has_only_so_many_in_flight() {
    let (fairness, now) = fairness();
    let mut held: Vec<_> = (0..16).map(|_| fairness.try_acquire("a", now).expect("a permit")).collect();
    let refused = fairness.try_acquire("a", now).expect_err("full");
    assert_eq!(refused, NotNow { due: now + Duration::from_millis(100), wait: Wait::Full });
    assert_eq!(fairness.spare(now), [("a", 0)]);
    assert!(fairness.try_acquire("b", now).is_ok());
    held.pop();
    assert_eq!(fairness.spare(now), [("a", 1)]);
    drop(fairness.try_acquire("a", now).expect("a slot came back without a word"));
    drop(held);
    assert!(fairness.known().endpoints.is_empty(), "nothing is left to remember");
}

#[test]
fn room_is_kept_for_those_found_well_of_late() {
    let fairness = Fairness::new(EndpointLimits { others: 2, ..EndpointLimits::default() });
    let start = Instant::now();
    let others = |now| {
        let Others { spare, well } = fairness.others(now);
        (spare, well.into_iter().collect::<Vec<_>>())
    };
    fairness.try_acquire("a", start).expect("a permit").settle(Health::Well, start);
    let held = ["b", "c"].map(|name| fairness.try_acquire(name, start).expect("one of two"));
    assert!(held.iter().all(Permit::is_other));
    assert_eq!(others(start), (0, vec!["a"]));
    let refused = fairness.try_acquire("d", start).expect_err("no room for others");
    assert_eq!(refused, NotNow { due: start + Duration::from_millis(100), wait: Wait::Full });
    assert!(fairness.try_acquire("b", start).is_err(), "two in all");

    let now = start + 599 * SECOND;
    let known: Vec<_> = (0..16).map(|_| fairness.try_acquire("a", now).expect("there is room for it")).collect();
    assert!(!known.iter().any(Permit::is_other) && fairness.try_acquire("a", now).is_err());
    assert_eq!(others(now).0, 0);
    let now = start + 601 * SECOND;
    assert_eq!(others(now), (0, vec![]), "that was long ago");
    drop(known);
    assert!(fairness.try_acquire("a", now).is_err(), "it is one of the others");

    let [b, c] = held;
    b.settle(Health::Well, now);
    drop(c);
    assert_eq!(others(now), (2, vec!["b"]));
    fail(&fairness, "b", 4, now);
    assert_eq!(others(now).1, ["b"], "it was well of late");
}

#[test]
fn of_those_found_well_the_most_recent_are_remembered() {
    let fairness = Fairness::new(EndpointLimits::default());
    let start = Instant::now();
    let well = |name, now| fairness.try_acquire(name, now).expect("a permit").settle(Health::Well, now);
    (0..MOST_REMEMBERED).for_each(|name| well(name, start));
    assert_eq!(fairness.spare(start), [], "as the limits say");
    assert_eq!(fairness.others(start).well.len(), MOST_REMEMBERED);
    let now = start + SECOND;
    (0..10).for_each(|name| well(MOST_REMEMBERED + name, now));
    let _ = fairness.spare(now);
    let well = fairness.others(now).well;
    assert!(well.len() < MOST_REMEMBERED && (0..10).all(|name| well.contains(&(MOST_REMEMBERED + name))));
}

#[test]
fn the_breaker_opens_probes_and_closes() {
    let (fairness, start) = fairness();
    fail(&fairness, "a", 4, start);
    fairness.try_acquire("a", start).expect("a permit").settle(Health::Well, start);
    fail(&fairness, "a", 5, start);
    let refused = fairness.try_acquire("a", start).expect_err("open");
    assert_eq!(refused, NotNow { due: start + SECOND, wait: Wait::Open });
    assert_eq!(fairness.spare(start), [("a", 0)]);

    let now = refused.due;
    assert_eq!(fairness.spare(now), [("a", 1)]);
    let probe = fairness.try_acquire("a", now).expect("one probe");
    assert_eq!(fairness.spare(now), [("a", 0)]);
    assert_eq!(fairness.try_acquire("a", now).expect_err("one only").wait, Wait::Open);
    probe.settle(Health::Ill, now);
    assert_eq!(fairness.try_acquire("a", now).expect_err("open for twice as long").due, now + 2 * SECOND);

    let now = now + 2 * SECOND;
    drop(fairness.try_acquire("a", now).expect("a probe, abandoned"));
    fairness.try_acquire("a", now).expect("another").settle(Health::Well, now);
    let all: Vec<_> = (0..16).map(|_| fairness.try_acquire("a", now)).collect();
    assert!(all.iter().all(Result::is_ok), "closed");
}

#[test]
fn attempts_that_were_in_flight_when_it_opened_do_not_lengthen_the_pause() {
    let (fairness, start) = fairness();
    let held: Vec<_> = (0..16).map(|_| fairness.try_acquire("a", start).expect("a permit")).collect();
    held.into_iter().for_each(|permit| permit.settle(Health::Ill, start));
    assert_eq!(fairness.try_acquire("a", start).expect_err("open").due, start + SECOND);
}

#[test]
fn pauses_have_a_longest_and_idle_endpoints_are_forgotten() {
    let (fairness, start) = fairness();
    fail(&fairness, "a", 5, start);
    let mut now = start;
    for _ in 0..20 {
        now = fairness.try_acquire("a", now).expect_err("open").due;
        fairness.try_acquire("a", now).expect("a probe").settle(Health::Ill, now);
    }
    assert_eq!(fairness.try_acquire("a", now).expect_err("open").due, now + 60 * SECOND);
    let _ = fairness.spare(now + 599 * SECOND);
    assert_eq!(fairness.known().endpoints.len(), 1);
    let _ = fairness.spare(now + 601 * SECOND);
    assert!(fairness.known().endpoints.is_empty());
}

/// A sender with 32 slots takes the oldest due deliveries first, as a store gives them; 10,000 are for an endpoint that
/// takes 15 s to fail, and each tenth of a second one is due for another that answers at once.
#[test]
fn a_dead_endpoint_with_ten_thousand_deliveries_delays_nobody() {
    let (fairness, start) = fairness();
    let tick = SECOND / 10;
    let mut waiting = 10_000;
    let (mut in_flight, mut worst, mut attempts) = (Vec::new(), 0, 0);
    for step in 0..36_000_u32 {
        let now = start + tick * step;
        let (over, still): (Vec<_>, Vec<_>) = in_flight.into_iter().partition(|(end, _)| *end <= now);
        in_flight = still;
        over.into_iter().for_each(|(_, permit): (Instant, Permit<_>)| permit.settle(Health::Ill, now));
        let spare = |endpoint| fairness.spare(now).into_iter().find(|(known, _)| *known == endpoint);
        while waiting > 0 && in_flight.len() < 32 && spare("dead") != Some(("dead", 0)) {
            let permit = fairness.try_acquire("dead", now).expect("something to spare");
            in_flight.push((now + 15 * SECOND, permit));
            waiting -= 1;
            attempts += 1;
        }
        worst = worst.max(in_flight.len());
        assert_eq!(spare("healthy"), None, "all that the limits say");
        fairness.try_acquire("healthy", now).expect("a permit at once").settle(Health::Well, now);
    }
    assert_eq!(worst, 16, "half of the slots were always free");
    // 16 at first, then one each 15 s and a pause, in an hour.
    assert!((40..=70).contains(&attempts), "{attempts} attempts at the dead one in an hour");
}

/// A sender with 32 slots, half of them for receivers not found well of late. 300 receivers of which nothing was ever heard have
/// 20 deliveries due each, and take 15 s to fail; each second one is due for another that answers at once.
#[test]
fn three_hundred_dead_endpoints_delay_nobody_who_was_found_well() {
    let fairness = Fairness::new(EndpointLimits { others: 16, ..EndpointLimits::default() });
    let (start, healthy) = (Instant::now(), 300);
    fairness.try_acquire(healthy, start).expect("a permit").settle(Health::Well, start);
    let mut waiting = [20; 300];
    let (mut in_flight, mut worst) = (Vec::new(), 0);
    for step in 0..3600 {
        let now = start + SECOND * step;
        let (over, still): (Vec<_>, Vec<_>) = in_flight.into_iter().partition(|(end, _)| *end <= now);
        in_flight = still;
        over.into_iter().for_each(|(_, permit): (Instant, Permit<_>)| permit.settle(Health::Ill, now));
        let named: HashMap<_, _> = fairness.spare(now).into_iter().collect();
        let Others { spare, well } = fairness.others(now);
        assert!(well.contains(&healthy) && !named.contains_key(&healthy), "all that the limits say");
        // One of each, the longest due first, as a claim takes them.
        let mut due: Vec<_> = (0..300).filter(|dead| waiting[*dead] > 0 && named.get(dead) != Some(&0)).collect();
        due.sort_by_key(|dead| Reverse(waiting[*dead]));
        for dead in due.into_iter().take(spare) {
            let permit = fairness.try_acquire(dead, now).expect("something to spare");
            in_flight.push((now + 15 * SECOND, permit));
            waiting[dead] -= 1;
        }
        worst = worst.max(in_flight.len());
        fairness.try_acquire(healthy, now).expect("a permit at once").settle(Health::Well, now);
    }
    assert_eq!(worst, 16, "half of the slots were always free");
    assert!(waiting.iter().all(|waiting| *waiting < 20), "each was tried: {waiting:?}");
}
