//! What was served at once because an earlier start had loaded it is read once more while it is served: what is left of it, and its
//! weights' digest, from the file that it was loaded from.

use super::{Changes, Key, Models, Seen};
use crate::{LoadError, remembered::Remembered};

impl Models {
    /// Verifies one model, if there is one to be verified. What is not what it was believed to be is served no longer, and its
    /// directories are looked at as if they were new; what has begun to run ends.
    pub(super) fn verify(&self, seen: &mut Seen, changes: &mut Changes) {
        let next = self.loaded_mut().iter_mut().find_map(|(key, loaded)| {
            let believed = loaded.believed.take()?;
            Some((key.clone(), loaded.model.clone(), believed))
        });
        let Some((key, model, believed)) = next else { return };
        let fault = match model.complete().and_then(|()| believed.is_so()) {
            Ok(true) => return,
            Ok(false) => {
                let reason = "is not what it was at an earlier start, although the system says that nobody touched it";
                LoadError::new(believed.path(), reason)
            }
            Err(fault) if model.is_broken() => fault,
            Err(fault) => {
                tracing::warn!(path = %fault.path.display(), reason = fault.reason, "cannot be verified yet");
                self.loaded_mut().entry(key).and_modify(|loaded| loaded.believed = Some(believed));
                return;
            }
        };
        tracing::error!(path = %fault.path.display(), reason = fault.reason, model = %key.0, "served no longer");
        Remembered::read(self.0.config.digests.as_deref()).forget(&believed);
        changes.faults.push(fault);
        self.withdraw(key, seen, changes);
    }

    fn withdraw(&self, key: Key, seen: &mut Seen, changes: &mut Changes) {
        self.loaded_mut().remove(&key);
        for known in seen.places.values_mut().filter(|known| known.holds.as_ref() == Some(&key)) {
            (known.holds, known.acted_on) = (None, None);
        }
        changes.retired.push(key);
    }
}
