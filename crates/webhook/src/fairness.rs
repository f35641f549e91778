//! Fairness between endpoints: how many attempts one may have in flight, a circuit breaker for those that are ill, and room
//! kept for those that were found well of late. So a dead endpoint with ten thousand deliveries holds a few slots for a moment
//! and one slot now and then, ten thousand dead endpoints hold their part of the slots, and a healthy one waits for none of
//! them. No I/O and no clock of its own.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::Health;

/// How long an endpoint that was found well counts as found well of late, and any is remembered that is not tried.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);

/// How many are remembered that were found well and have nothing in flight.
const MOST_REMEMBERED: usize = 4096;

/// What bounds endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointLimits {
    /// The most attempts in flight at one.
    pub in_flight: usize,
    /// The most attempts in flight at all those together that were not found well of late.
    pub others: usize,
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
            others: usize::MAX,
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
    known: Arc<Mutex<Known<K>>>,
}

#[derive(Debug)]
struct Known<K> {
    /// Those of which there is anything to remember.
    endpoints: HashMap<K, Endpoint>,
    /// Attempts in flight that began at endpoints not found well of late.
    others: usize,
}

#[derive(Clone, Copy, Debug)]
struct Endpoint {
    in_flight: usize,
    /// Attempts in a row that found it ill.
    failures: u32,
    breaker: Breaker,
    /// When it was last found well.
    well: Option<Instant>,
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
    /// For another attempt to end: at this endpoint, or at any that was not found well of late either.
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
    is_other: bool,
}

/// What all those endpoints may have together that were not found well of late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Others<K: Eq + Hash> {
    /// How many more permits they would get now.
    pub spare: usize,
    /// Those that were found well of late, which this does not bound.
    pub well: HashSet<K>,
}

impl Endpoint {
    fn new(now: Instant) -> Self {
        Self { in_flight: 0, failures: 0, breaker: Breaker::Closed, well: None, seen: now }
    }

    fn is_well(&self, now: Instant) -> bool {
        self.well.is_some_and(|well| now.saturating_duration_since(well) < REMEMBERED_FOR)
    }

    /// Whether there is nothing to remember but that it was found well.
    fn is_at_rest(&self) -> bool {
        self.in_flight == 0 && self.failures == 0
    }
}

impl<K: Eq + Hash + Clone> Fairness<K> {
    /// Nothing is in flight and nothing is known of any.
    #[must_use]
    pub fn new(limits: EndpointLimits) -> Self {
        Self { limits, known: Arc::new(Mutex::new(Known { endpoints: HashMap::new(), others: 0 })) }
    }

    /// Asks for an attempt at `endpoint`.
    ///
    /// # Errors
    /// When it has enough in flight, or it was not found well of late and all of those have, or its breaker is open: with the
    /// time to ask again.
    pub fn try_acquire(&self, endpoint: K, now: Instant) -> Result<Permit<K>, NotNow> {
        let mut known = self.known();
        let mut state = known.endpoints.get(&endpoint).copied().unwrap_or(Endpoint::new(now));
        if let Some(not_now) = self.refusal(&state, now) {
            return Err(not_now);
        }
        let is_other = !state.is_well(now);
        if is_other && known.others >= self.limits.others {
            return Err(self.full(now));
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
        known.endpoints.insert(endpoint.clone(), state);
        known.others += usize::from(is_other);
        drop(known);
        Ok(Permit { fairness: self.clone(), endpoint, is_probe, is_other })
    }

    /// How many more permits each endpoint would get now, so that a claim of due deliveries takes no others; an endpoint
    /// that is not named would get as many as the limits say. [`others`](Self::others) bounds some of them together. Also
    /// forgets endpoints that were not tried for long, so it is to be called now and then.
    #[must_use]
    pub fn spare(&self, now: Instant) -> Vec<(K, usize)> {
        let mut known = self.known();
        let endpoints = &mut known.endpoints;
        let is_recent = |state: &Endpoint, time| now.saturating_duration_since(state.seen) < time;
        endpoints.retain(|_, state| state.in_flight > 0 || is_recent(state, REMEMBERED_FOR));
        let mut time = REMEMBERED_FOR;
        while endpoints.values().filter(|state| state.is_at_rest()).count() > MOST_REMEMBERED {
            time /= 2;
            endpoints.retain(|_, state| !state.is_at_rest() || is_recent(state, time));
        }
        let spare = |state: &Endpoint| match state.breaker {
            _ if self.refusal(state, now).is_some() => 0,
            // One, to see whether it is well again.
            Breaker::Open { .. } => 1,
            Breaker::Closed => self.limits.in_flight - state.in_flight,
        };
        let named = endpoints.iter().map(|(endpoint, state)| (endpoint, spare(state)));
        let named = named.filter(|(_, spare)| *spare != self.limits.in_flight);
        named.map(|(endpoint, spare)| (endpoint.clone(), spare)).collect()
    }

    /// How many more permits all those endpoints would get together that were not found well of late, and which were.
    #[must_use]
    pub fn others(&self, now: Instant) -> Others<K> {
        let known = self.known();
        let well = known.endpoints.iter().filter(|(_, state)| state.is_well(now));
        Others {
            spare: self.limits.others.saturating_sub(known.others),
            well: well.map(|(endpoint, _)| endpoint.clone()).collect(),
        }
    }

    fn full(&self, now: Instant) -> NotNow {
        NotNow { due: now + self.limits.full_pause, wait: Wait::Full }
    }

    fn refusal(&self, state: &Endpoint, now: Instant) -> Option<NotNow> {
        let full = self.full(now);
        match state.breaker {
            Breaker::Open { until, .. } if now < until => Some(NotNow { due: until, wait: Wait::Open }),
            Breaker::Open { probing: true, .. } => Some(NotNow { wait: Wait::Open, ..full }),
            _ if state.in_flight >= self.limits.in_flight => Some(full),
            _ => None,
        }
    }

    fn known(&self) -> MutexGuard<'_, Known<K>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone> Permit<K> {
    /// Whether the endpoint had not been found well of late when the attempt began.
    #[must_use]
    pub fn is_other(&self) -> bool {
        self.is_other
    }

    /// Ends the attempt and says how it found the endpoint. Whoever finds it well closes the breaker.
    pub fn settle(self, health: Health, now: Instant) {
        let mut known = self.fairness.known();
        let Some(state) = known.endpoints.get_mut(&self.endpoint) else { return };
        state.seen = now;
        let limits = &self.fairness.limits;
        match (health, state.breaker) {
            (Health::Well, _) => {
                state.failures = 0;
                state.well = Some(now);
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
        drop(known);
    }
}

impl<K: Eq + Hash + Clone> Drop for Permit<K> {
    fn drop(&mut self) {
        let mut known = self.fairness.known();
        known.others -= usize::from(self.is_other);
        let Some(state) = known.endpoints.get_mut(&self.endpoint) else { return };
        state.in_flight -= 1;
        if self.is_probe
            && let Breaker::Open { probing, .. } = &mut state.breaker
        {
            *probing = false;
        }
        if state.is_at_rest() && state.well.is_none() {
            known.endpoints.remove(&self.endpoint);
        }
    }
}

#[cfg(test)]
mod tests;
