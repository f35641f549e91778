//! What was served at once because an earlier start had loaded it is read once more while it is served: what is left of it, its weights'
//! digest, from the file that it was loaded from, and what was kept of its packed weights. What was packed anew is kept.

use std::{io, mem};

use super::{Changes, Key, Models, Seen};
use crate::{
    LoadError, Model,
    kept::{Packing, clear},
    remembered::{Believed, Remembered},
};

/// What is left to do for a model while it is served.
#[derive(Default)]
pub(super) struct Due {
    /// What of it was believed and not verified yet.
    pub(super) believed: Option<Believed>,
    /// What was kept of its packed weights and not verified yet, or could be kept.
    pub(super) packing: Option<Packing>,
    /// How often it could not be done.
    pub(super) failures: u32,
}

impl Due {
    fn is_nothing(&self) -> bool {
        self.believed.is_none() && self.packing.is_none()
    }

    /// Verifies what is not verified yet, and keeps what is not kept. Returns what is wrong with what the model was loaded from; that is
    /// still due then, and nothing else that is done.
    ///
    /// # Errors
    /// When something cannot be read now.
    fn done(&mut self, model: &Model, remembered: &Remembered) -> Result<Option<LoadError>, LoadError> {
        let versions = remembered.versions();
        if let Some(shelves) = remembered.shelves() {
            clear(&shelves, &versions);
        }
        if let Some(believed) = &self.believed {
            model.complete()?;
            if !believed.is_so()? {
                let reason = "is not what it was at an earlier start, although the system says that nobody touched it";
                return Ok(Some(LoadError::new(believed.path(), reason)));
            }
        }
        self.believed = None;
        match self.packing.take() {
            Some(Packing::Kept(kept)) => {
                if let Err(error) = kept.settle() {
                    let fault = LoadError::new(kept.path(), error.to_string());
                    if error.kind() != io::ErrorKind::OutOfMemory {
                        return Ok(Some(fault));
                    }
                    self.packing = Some(Packing::Kept(kept));
                    return Err(fault);
                }
            }
            Some(Packing::Unkept(unkept)) => {
                if let Err(error) = unkept.keep(&versions) {
                    tracing::warn!(model = %model.spec().name, %error, "packed weights are not kept for the next start");
                }
            }
            None => {}
        }
        Ok(None)
    }
}

impl Models {
    /// Does what is due for one model, if there is one with something due. What is not what it was believed to be is served no longer,
    /// and its directories are looked at as if they were new; what has begun to run ends.
    pub(super) fn do_what_is_due(&self, seen: &mut Seen, changes: &mut Changes) {
        let next = {
            let mut loaded = self.loaded_mut();
            let due = loaded.iter_mut().filter(|(_, loaded)| !loaded.due.is_nothing());
            let next = due.min_by_key(|(_, loaded)| loaded.due.failures);
            next.map(|(key, loaded)| (key.clone(), loaded.model.clone(), mem::take(&mut loaded.due)))
        };
        let Some((key, model, mut due)) = next else { return };
        let remembered = Remembered::read(&self.0.config);
        let fault = match due.done(&model, &remembered) {
            Ok(None) => return,
            Ok(Some(fault)) => fault,
            Err(fault) if model.is_broken() => fault,
            Err(fault) => {
                tracing::warn!(path = %fault.path.display(), reason = fault.reason, "cannot be verified yet");
                due.failures = due.failures.saturating_add(1);
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
