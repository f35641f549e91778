//! Fairness between endpoints: how many attempts one may have in flight, and a circuit breaker for those that are ill. So a
//! dead endpoint with ten thousand deliveries holds a few slots for a moment and one slot now and then, and a healthy one
//! waits for none of them. No I/O and no clock of its own.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::Health;

/// What bounds one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointLimits {
    /// The most attempts in flight.
    pub in_flight: usize,
    /// How many attempts in a row must find it ill for the breaker to open.
    pub failures: u32,
    /// How long the breaker is open the first time; each time that the one attempt after it fails too, twice as long.
    pub first_pause: Duration,
    /// No pause is longer.
    pub longest_pause: Duration,
    /// When to ask again while all of `in_flight` are in use.
    pub full_pause: Duration,
}

impl Default for EndpointLimits {
    fn default() -> Self {
        Self {
            in_flight: 16,
            failures: 5,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
            full_pause: Duration::from_millis(100),
        }
    }
}

/// Who may be tried now. Cloning gives another handle to the same state. `K` names an endpoint, for example
/// [`Target::origin`](crate::Target::origin).
#[derive(Clone, Debug)]
pub struct Fairness<K: Eq + Hash + Clone> {
    limits: EndpointLimits,
    /// Those of which there is anything to remember.
    endpoints: Arc<Mutex<HashMap<K, Endpoint>>>,
}

#[derive(Clone, Copy, Debug)]
struct Endpoint {
    in_flight: usize,
    /// Attempts in a row that found it ill.
    failures: u32,
    breaker: Breaker,
    /// When it was last heard of.
    seen: Instant,
}

#[derive(Clone, Copy, Debug)]
enum Breaker {
    Closed,
    Open {
        until: Instant,
        pause: Duration,
        /// The pause is over and one attempt is in flight to see whether the endpoint is well again.
        probing: bool,
    },
}

/// Why an endpoint may not be tried now. This is no attempt: it uses up none of a delivery's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotNow {
    /// When to ask again.
    pub due: Instant,
    /// What for.
    pub wait: Wait,
}

/// What a delivery waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// For another attempt at this endpoint to end.
    Full,
    /// For the endpoint to get well.
    Open,
}

/// The right to one attempt at an endpoint. To be settled; dropping it gives the slot back and says nothing.
#[derive(Debug)]
#[must_use]
pub struct Permit<K: Eq + Hash + Clone> {
    fairness: Fairness<K>,
    endpoint: K,
    is_probe: bool,
}

impl<K: Eq + Hash + Clone> Fairness<K> {
    /// Nothing is in flight and all are taken to be well.
    #[must_use]
    pub fn new(limits: EndpointLimits) -> Self {
        Self { limits, endpoints: Arc::default() }
    }

    /// Asks for an attempt at `endpoint`.
    ///
    /// # Errors
    /// When it has enough in flight, or its breaker is open: then with the time to ask again.
    pub fn try_acquire(&self, endpoint: K, now: Instant) -> Result<Permit<K>, NotNow> {
        let mut endpoints = self.endpoints();
        let known = endpoints.get(&endpoint).copied();
        let mut state = known.unwrap_or(Endpoint { in_flight: 0, failures: 0, breaker: Breaker::Closed, seen: now });
        if let Some(not_now) = self.refusal(&state, now) {
            return Err(not_now);
        }
        let is_probe = match &mut state.breaker {
            Breaker::Closed => false,
            Breaker::Open { probing, .. } => {
                *probing = true;
                true
            }
        };
        state.in_flight += 1;
        state.seen = now;
        endpoints.insert(endpoint.clone(), state);
        drop(endpoints);
        Ok(Permit { fairness: self.clone(), endpoint, is_probe })
    }

    /// How many more permits each endpoint would get now, so that a claim of due deliveries takes no others; an endpoint
    /// that is not named would get as many as the limits say. Also forgets endpoints that were not tried for long, so it is
    /// to be called now and then.
    #[must_use]
    pub fn spare(&self, now: Instant) -> Vec<(K, usize)> {
        let longest = self.limits.longest_pause;
        let mut endpoints = self.endpoints();
        endpoints.retain(|_, state| {
            let is_old = now.saturating_duration_since(state.seen) > longest * 10;
            state.in_flight > 0 || !is_old
        });
        let spare = |state: &Endpoint| match state.breaker {
            _ if self.refusal(state, now).is_some() => 0,
            // One, to see whether it is well again.
            Breaker::Open { .. } => 1,
            Breaker::Closed => self.limits.in_flight - state.in_flight,
        };
        endpoints.iter().map(|(endpoint, state)| (endpoint.clone(), spare(state))).collect()
    }

    fn refusal(&self, state: &Endpoint, now: Instant) -> Option<NotNow> {
        let full = NotNow { due: now + self.limits.full_pause, wait: Wait::Full };
        match state.breaker {
            Breaker::Open { until, .. } if now < until => Some(NotNow { due: until, wait: Wait::Open }),
            Breaker::Open { probing: true, .. } => Some(NotNow { wait: Wait::Open, ..full }),
            _ if state.in_flight >= self.limits.in_flight => Some(full),
            _ => None,
        }
    }

    fn endpoints(&self) -> MutexGuard<'_, HashMap<K, Endpoint>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone> Permit<K> {
    /// Ends the attempt and says how it found the endpoint. Whoever finds it well closes the breaker.
    pub fn settle(self, health: Health, now: Instant) {
        let mut endpoints = self.fairness.endpoints();
        let Some(state) = endpoints.get_mut(&self.endpoint) else { return };
        state.seen = now;
        let limits = &self.fairness.limits;
        match (health, state.breaker) {
            (Health::Well, _) => {
                state.failures = 0;
                state.breaker = Breaker::Closed;
            }
            (Health::Ill, Breaker::Closed) => {
                state.failures += 1;
                if state.failures >= limits.failures {
                    let pause = limits.first_pause;
                    state.breaker = Breaker::Open { until: now + pause, pause, probing: false };
                }
            }
            (Health::Ill, Breaker::Open { pause, .. }) if self.is_probe => {
                let pause = (pause * 2).min(limits.longest_pause);
                state.breaker = Breaker::Open { until: now + pause, pause, probing: false };
            }
            // Begun before the breaker opened; it says nothing new.
            (Health::Ill, Breaker::Open { .. }) => {}
        }
        drop(endpoints);
    }
}

impl<K: Eq + Hash + Clone> Drop for Permit<K> {
    fn drop(&mut self) {
        let mut endpoints = self.fairness.endpoints();
        let Some(state) = endpoints.get_mut(&self.endpoint) else { return };
        state.in_flight -= 1;
        match &mut state.breaker {
            Breaker::Closed if state.in_flight == 0 && state.failures == 0 => {
                endpoints.remove(&self.endpoint);
            }
            Breaker::Open { probing, .. } if self.is_probe => *probing = false,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
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
        held.into_iter().for_each(|permit| permit.settle(Health::Well, now));
        assert!(fairness.endpoints().is_empty(), "nothing is left to remember");
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
        assert_eq!(fairness.endpoints().len(), 1);
        let _ = fairness.spare(now + 601 * SECOND);
        assert!(fairness.endpoints().is_empty());
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
}
