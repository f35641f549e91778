//! Places for those who follow predictions as streams: so many in all, of which one key has its share, and one prediction's readers
//! have a part. So neither a key nor whoever holds one address can take them all.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prediction::PredictionId;

use crate::{
    keys::Caller,
    problem::{Kind, Problem},
};

/// Of all places, a tenth is for the readers of one prediction, but not less than a few.
const OF_ONE_PREDICTION: usize = 10;
const FEWEST_OF_ONE_PREDICTION: usize = 4;
/// Seconds after which it is worth trying again when there is no place.
const RETRY_AFTER: u32 = 5;

/// All places.
pub(crate) struct Places {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    in_all: usize,
    /// Of each tenant whose predictions are followed.
    of_tenants: HashMap<Arc<str>, usize>,
    of_predictions: HashMap<PredictionId, usize>,
}

/// One place, until dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    tenant: Arc<str>,
    id: PredictionId,
}

impl Places {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// Takes a place to follow this prediction of `owner`'s. Who has used up a share is told so, even when nothing is left at all.
    pub(crate) fn take(self: &Arc<Self>, owner: &Caller, id: PredictionId) -> Result<Place, Problem> {
        let mut taken = self.lock();
        let refuse = |kind, detail: String| Err(Problem::new(kind, detail).retry_after(RETRY_AFTER));
        if let Some(share) = owner.share {
            let most = ((self.most as f64 * share) as usize).max(1);
            if taken.of_tenants.get(&owner.tenant).is_some_and(|taken| *taken >= most) {
                let detail = "As many streams are open on this key's predictions as its share has room for";
                return refuse(Kind::StreamShareFull, format!("{detail} ({most})."));
            }
        }
        let most = (self.most / OF_ONE_PREDICTION).max(FEWEST_OF_ONE_PREDICTION);
        if taken.of_predictions.get(&id).is_some_and(|taken| *taken >= most) {
            return refuse(
                Kind::StreamShareFull,
                format!("As many streams are open on this prediction as may be ({most})."),
            );
        }
        if taken.in_all >= self.most {
            return refuse(Kind::TooManyStreams, "This server follows as many predictions as it can.".to_owned());
        }
        taken.in_all += 1;
        *taken.of_tenants.entry(Arc::clone(&owner.tenant)).or_default() += 1;
        *taken.of_predictions.entry(id).or_default() += 1;
        Ok(Place { places: Arc::clone(self), tenant: Arc::clone(&owner.tenant), id })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.in_all -= 1;
        leave(&mut taken.of_tenants, &self.tenant);
        leave(&mut taken.of_predictions, &self.id);
    }
}

/// One fewer. What nobody has a place for is forgotten.
fn leave<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_the_whole_are_kept_and_given_back() {
        let places = Places::new(60);
        let keyed = |tenant: &str, share| Caller::with_key(tenant, share);
        let ids: Vec<_> = (0..100).map(|_| PredictionId::generate()).collect();
        let refusal = |owner: &Caller, id| places.take(owner, id).err().map(|problem| problem.kind);
        // A tenth of one prediction's readers.
        let one = keyed("one", 0.5);
        let mut taken: Vec<_> = (0..6).filter_map(|_| places.take(&one, ids[0]).ok()).collect();
        assert_eq!((taken.len(), refusal(&one, ids[0])), (6, Some(Kind::StreamShareFull)));
        // A half of one key's.
        taken.extend(ids[1..].iter().map_while(|id| places.take(&one, *id).ok()));
        assert_eq!((taken.len(), refusal(&one, ids[99])), (30, Some(Kind::StreamShareFull)));
        // Others have the rest; nobody has none.
        let (small, all) = (keyed("small", 0.001), keyed("all", 1.0));
        let smalls = places.take(&small, ids[98]).ok();
        assert_eq!((smalls.is_some(), refusal(&small, ids[99])), (true, Some(Kind::StreamShareFull)));
        let rest: Vec<_> = ids[50..].iter().map_while(|id| places.take(&all, *id).ok()).collect();
        assert_eq!((rest.len(), refusal(&all, ids[99])), (29, Some(Kind::TooManyStreams)));
        assert_eq!(refusal(&one, ids[99]), Some(Kind::StreamShareFull));
        drop((taken, smalls, rest));
        let left = places.lock();
        assert_eq!((left.in_all, left.of_tenants.len(), left.of_predictions.len()), (0, 0, 0));
    }
}
