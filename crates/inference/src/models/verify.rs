//! What was served at once because an earlier start had loaded it is read once more while it is served: what is left of it, its weights'
//! digest, from the file that it was loaded from, and what was kept of its packed weights. What was packed anew is kept.

use std::mem;

use super::{Changes, Key, Models, Seen};
use crate::{
    LoadError, Model,
    kept::Packing,
    remembered::{Believed, Remembered},
};

/// What is left to do for a model while it is served.
#[derive(Default)]
pub(super) struct Due {
    /// What of it was believed and not verified yet.
    pub(super) believed: Option<Believed>,
    /// What was kept of its packed weights and not verified yet, or could be kept.
    pub(super) packing: Option<Packing>,
}

impl Due {
    fn take(&mut self) -> Option<Self> {
        (self.believed.is_some() || self.packing.is_some()).then(|| mem::take(self))
    }

    /// What is wrong with what the model was loaded from.
    ///
    /// # Errors
    /// When that cannot be read.
    fn fault(&self, model: &Model) -> Result<Option<LoadError>, LoadError> {
        if let Some(believed) = &self.believed {
            model.complete()?;
            if !believed.is_so()? {
                let reason = "is not what it was at an earlier start, although the system says that nobody touched it";
                return Ok(Some(LoadError::new(believed.path(), reason)));
            }
        }
        if let Some(Packing::Kept(kept)) = &self.packing
            && !kept.settle()?
        {
            kept.remove();
            return Ok(Some(LoadError::new(kept.path(), "is not what an earlier start has written")));
        }
        Ok(None)
    }
}

impl Models {
    /// Does what is due for one model, if there is one with something due. What is not what it was believed to be is served no longer,
    /// and its directories are looked at as if they were new; what has begun to run ends.
    pub(super) fn do_what_is_due(&self, seen: &mut Seen, changes: &mut Changes) {
        let next = self.loaded_mut().iter_mut().find_map(|(key, loaded)| {
            let due = loaded.due.take()?;
            Some((key.clone(), loaded.model.clone(), due))
        });
        let Some((key, model, due)) = next else { return };
        let remembered = Remembered::read(self.0.config.digests.as_deref());
        let fault = match due.fault(&model) {
            Ok(Some(fault)) => fault,
            Err(fault) if model.is_broken() => fault,
            Ok(None) => {
                if let Some(Packing::Unkept(unkept)) = due.packing
                    && let Err(error) = unkept.keep(&remembered.versions())
                {
                    tracing::warn!(model = %key.0, %error, "packed weights are not kept for the next start");
                }
                return;
            }
            Err(fault) => {
                tracing::warn!(path = %fault.path.display(), reason = fault.reason, "cannot be verified yet");
                self.loaded_mut().entry(key).and_modify(|loaded| loaded.due = due);
                return;
            }
        };
        tracing::error!(path = %fault.path.display(), reason = fault.reason, model = %key.0, "served no longer");
        if let Some(believed) = &due.believed {
            remembered.forget(believed);
        }
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
