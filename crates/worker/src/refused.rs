//! What the database refused of late, so that it is passed over for a while and others have its turns.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// How long something is passed over. What is refused is most likely refused again, costs several statements each time that it is
/// tried, and is to be done soon once somebody has mended what was wrong with it.
const FOR: Duration = Duration::from_secs(5);

/// What was refused, and when.
pub(crate) struct Refused<K>(HashMap<K, Instant>);

impl<K> Default for Refused<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash + Clone> Refused<K> {
    /// Notes what was refused now.
    pub(crate) fn note(&mut self, refused: impl IntoIterator<Item = K>, now: Instant) {
        self.0.extend(refused.into_iter().map(|refused| (refused, now)));
    }

    /// What is passed over; the rest is forgotten.
    pub(crate) fn recent(&mut self, now: Instant) -> Vec<K> {
        self.0.retain(|_, at| now.saturating_duration_since(*at) < FOR);
        self.0.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_passed_over_for_a_while() {
        let (mut refused, start) = (Refused::default(), Instant::now());
        refused.note(["a"], start);
        let now = start + FOR / 2;
        refused.note(["b"], now);
        let mut recent = refused.recent(now);
        recent.sort_unstable();
        assert_eq!(recent, ["a", "b"]);
        assert_eq!(refused.recent(start + FOR), ["b"]);
        refused.note(["b"], start + FOR);
        assert_eq!(refused.recent(now + FOR), ["b"], "refused once more");
        assert_eq!(refused.recent(start + 2 * FOR), [""; 0]);
    }
}
