//! The models of this process: what is served, and how that follows the directories while others run.
//!
//! A directory that is new, or holds another version, is loaded and warmed beside what runs, and only then served. A version that
//! no directory holds any more is retired: it is no longer to be published, but runs what was accepted for it until
//! [`Models::unload`]. A directory that became unreadable or broken changes nothing but the log.
//!
//! Of several versions of a model, its name alone means one: that in the directory without a label, or another that is declared
//! ([`crate::versions`]); of what is declared nowhere, that of the directory that was named first. It goes on meaning what it meant
//! until the one that it shall mean is loaded.

mod changes;
mod defaults;
mod seen;
mod verify;

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use prediction::{ModelName, ModelSpec, Offer, Version};

pub use self::changes::{Changes, Look};
use self::{
    defaults::Meaning,
    seen::{Known, Seen, is_gone},
    verify::Due,
};
use crate::{
    LoadError, Machine, Model, digest, echo,
    places::{self, Place},
    remembered::Remembered,
    signature::Signature,
    versions::Declared,
};

/// Which models to load.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Directory of `<owner>/<name>/` and `<owner>/<name>@<label>/` model directories; absent is no error when `model_dirs` names others, or echo is on.
    pub models_dir: Option<PathBuf>,
    /// Further model directories: ours with a manifest, or plain Hugging Face ones.
    pub model_dirs: Vec<PathBuf>,
    /// Only these of `models_dir` (all when empty).
    pub only: Vec<ModelName>,
    /// Whether `augur/echo`, a toy for tests and benchmarks, is served.
    pub enable_echo: bool,
    /// The file in which digests of weights are remembered from one start to the next, beside a directory with packed ones; in none when `None`.
    pub digests: Option<PathBuf>,
    /// The same of what was found out and packed when models were brought ([`prepared`](crate::prepared)), which is believed; only what is untrue is taken out.
    pub prepared: Option<PathBuf>,
    /// Whether files that were written just now are remembered, too, by their writer, who knows that nobody else writes to them and believes nothing.
    pub is_fresh: bool,
    /// What they compute on.
    pub machine: Machine,
    /// The most bytes of memory that all models together may take, with their weights and generators' keys and values; without
    /// bound when `None`.
    pub memory: Option<u64>,
}

/// A model in one version.
type Key = (ModelName, Version);

/// The models of this process; cheap to clone.
#[derive(Clone)]
pub struct Models(Arc<Shared>);

struct Shared {
    config: Config,
    /// Locked for as long as a look takes: looks take turns.
    seen: Mutex<Seen>,
    /// Locked for moments.
    loaded: RwLock<BTreeMap<Key, Loaded>>,
}

struct Loaded {
    model: Model,
    /// Memory that its weights take, and what it keeps while it runs.
    bytes: u64,
    is_retired: bool,
    /// Whether the model's name alone means it.
    is_default: bool,
    /// What is left to do for it while it is served.
    due: Due,
}

/// A model that can be served from now on.
enum Ready {
    /// It is loaded already.
    Loaded(Key),
    /// It takes so many bytes of memory.
    New(Model, u64, Due),
}

/// Why a directory was not loaded.
struct NotLoaded {
    fault: LoadError,
    /// Bytes of memory that there was no room for, if that is why.
    lacks: Option<u64>,
}

impl From<LoadError> for NotLoaded {
    fn from(fault: LoadError) -> Self {
        Self { fault, lacks: None }
    }
}

impl Models {
    /// Finds, checks, maps, loads and warms every model; slow, blocking: call it off the async threads. What has not been touched since
    /// an earlier start is taken for what it was then, until looks have verified it.
    ///
    /// # Errors
    /// When any model cannot be loaded, when one of `only` is not there, and when there is none at all.
    pub fn load(config: &Config) -> Result<Self, LoadError> {
        let shared = Shared { config: config.clone(), seen: Mutex::default(), loaded: RwLock::default() };
        let models = Self(Arc::new(shared));
        let mut seen = models.seen();
        if let Some(models_dir) = &config.models_dir {
            places::warn_of_misplaced(models_dir);
        }
        let (places, declared) = places::places(config)?;
        if let Some(fault) = declared.values().find_map(|label| label.as_ref().err()) {
            return Err(fault.clone());
        }
        seen.declared = declared;
        let remembered = Remembered::read(config);
        for place in places {
            let signature = Signature::of(&place.dir);
            let ready = models.ready(&place, &remembered).map_err(|not_loaded| not_loaded.fault)?;
            let key = models.serve(ready);
            let known = Known {
                name: place.name,
                label: place.label,
                signature: Some(signature.clone()),
                acted_on: Some(signature),
                holds: Some(key),
                ..Known::default()
            };
            seen.places.insert(place.dir, known);
        }
        if config.enable_echo {
            let model = echo::load()?;
            models.serve(Ready::New(model, 0, Due::default()));
        }
        seen.warn_of_absent_defaults();
        models.settle(&seen, &mut Changes::default());
        drop(seen);
        if models.loaded().is_empty() {
            let dir = config.models_dir.as_deref().unwrap_or(Path::new("models"));
            return Err(LoadError::new(dir, "no model here, and none named elsewhere"));
        }
        Ok(models)
    }

    /// What is served, by name: what is to be published.
    #[must_use]
    pub fn offers(&self) -> Vec<Offer> {
        let loaded = self.loaded();
        let served = loaded.values().filter(|loaded| !loaded.is_retired);
        served.map(|loaded| Offer { spec: loaded.model.spec().clone(), is_default: loaded.is_default }).collect()
    }

    /// What each of these is.
    #[must_use]
    pub fn specs(&self) -> Vec<ModelSpec> {
        self.offers().into_iter().map(|offer| offer.spec).collect()
    }

    /// What can be run, by name: what is served, and what is retired and not unloaded yet.
    #[must_use]
    pub fn runnable(&self) -> Vec<(ModelName, Version)> {
        self.loaded().keys().cloned().collect()
    }

    /// What is no longer served and not unloaded yet.
    #[must_use]
    pub fn retired(&self) -> Vec<(ModelName, Version)> {
        self.loaded().iter().filter(|(_, loaded)| loaded.is_retired).map(|(key, _)| key.clone()).collect()
    }

    /// The model of this version, if it is loaded.
    #[must_use]
    pub fn get(&self, name: &ModelName, version: &Version) -> Option<Model> {
        self.loaded().get(&(name.clone(), version.clone())).map(|loaded| loaded.model.clone())
    }

    /// Looks at the directories and serves what they hold now, one more model at most; slow when there is something to load,
    /// blocking: call it off the async threads. Faults are logged, and leave what runs as it is.
    pub fn look(&self, look: Look) -> Changes {
        let (mut changes, mut seen) = (Changes::default(), self.seen());
        self.do_what_is_due(&mut seen, &mut changes);
        let (found, declared) = match self.places(&seen) {
            Ok(found) => found,
            Err(fault) => {
                if seen.fault.as_ref() != Some(&fault) {
                    report(&fault);
                    changes.faults.push(fault.clone());
                    seen.fault = Some(fault);
                }
                return changes;
            }
        };
        seen.fault = None;
        changes.faults.extend(seen.declare(declared, look));
        for place in &found {
            let known = seen.places.entry(place.dir.clone()).or_default();
            (known.name, known.label) = (place.name.clone(), place.label.clone());
        }
        for place in found {
            let known = seen.places.entry(place.dir.clone()).or_default();
            self.look_at(&place, known, look, &mut changes);
            if !changes.served.is_empty() {
                // It need not wait for what is left.
                break;
            }
        }
        // One that is being replaced may be gone for a moment.
        seen.places.retain(|dir, known| !is_gone(dir) || !known.has_settled(&Signature::of(dir), look));
        seen.warn_of_absent_defaults();
        self.settle(&seen, &mut changes);
        changes
    }

    /// Retires what no directory holds any more, and says which versions are the defaults of their models.
    fn settle(&self, seen: &Seen, changes: &mut Changes) {
        let held: BTreeSet<&Key> = seen.places.values().filter_map(|known| known.holds.as_ref()).collect();
        let echo = self.0.config.enable_echo.then(echo::spec).map(|spec| (spec.name, spec.version));
        let meanings = seen.meanings(&self.0.config.model_dirs);
        for (key, loaded) in self.loaded_mut().iter_mut() {
            let (name, version) = (&key.0, key.1.short());
            if !loaded.is_retired && !held.contains(key) && echo.as_ref() != Some(key) {
                tracing::info!(model = %name, version, "retired: what was accepted for it is finished first");
                loaded.is_retired = true;
                changes.retired.push(key.clone());
            }
            let is_default = match meanings.get(name) {
                Some(Meaning::Version(meant)) => *meant == key,
                Some(Meaning::AsBefore) => loaded.is_default,
                None => echo.as_ref() == Some(key),
            };
            if is_default != loaded.is_default {
                loaded.is_default = is_default;
                changes.defaults.insert(name.clone());
                if is_default {
                    tracing::info!(model = %name, version, "the default version from now on");
                }
            }
        }
    }

    /// Forgets a retired version. Runs of it that have begun end; its memory is free when the last one has. Changes nothing
    /// when the version is served.
    pub fn unload(&self, name: &ModelName, version: &Version) {
        let key = (name.clone(), version.clone());
        let mut loaded = self.loaded_mut();
        if loaded.get(&key).is_some_and(|loaded| loaded.is_retired) {
            loaded.remove(&key);
            tracing::info!(model = %name, version = version.short(), "unloaded");
        }
    }

    /// Where models are now, and where they were and something still is.
    fn places(&self, seen: &Seen) -> Result<(Vec<Place>, Declared), LoadError> {
        let config = &self.0.config;
        if let Some(models_dir) = &config.models_dir
            && !models_dir.is_dir()
            && seen.places.keys().any(|dir| dir.starts_with(models_dir))
        {
            return Err(LoadError::new(models_dir, "the directory of models is gone"));
        }
        let (mut places, declared) = places::places(config)?;
        // A named directory that is gone is no fault by now: its model is removed.
        places.retain(|place| !is_gone(&place.dir));
        for (dir, known) in &seen.places {
            // What is left there is broken, and shall be reported as such.
            if !is_gone(dir) && !places.iter().any(|place| place.dir == *dir) {
                let (name, label) = (known.name.clone(), known.label.clone());
                places.push(Place { name, label, ..Place::of(dir.clone()) });
            }
        }
        Ok((places, declared))
    }

    /// Looks at one directory; loads what it holds when that has changed.
    fn look_at(&self, place: &Place, known: &mut Known, look: Look, changes: &mut Changes) {
        let signature = Signature::of(&place.dir);
        let has_settled = known.has_settled(&signature, look);
        // What was wrong may not be of the files.
        let is_asked_again = look == Look::AtOnce && known.is_faulty;
        let may_be_loaded_now = is_asked_again || known.lacks.is_some_and(|bytes| self.has_room(bytes));
        if (known.acted_on.as_ref() == Some(&signature) && !may_be_loaded_now) || !has_settled {
            return;
        }
        (known.is_faulty, known.lacks) = (false, None);
        match self.load_from(place, &signature) {
            Ok(Some(key)) => {
                known.acted_on = Some(signature);
                if known.holds.as_ref() != Some(&key) {
                    tracing::info!(model = %key.0, version = key.1.short(), "served from now on");
                    changes.served.push(key.clone());
                    known.holds = Some(key);
                }
            }
            Ok(None) => {}
            Err(NotLoaded { fault, lacks }) => {
                (known.acted_on, known.is_faulty, known.lacks) = (Some(signature), true, lacks);
                report(&fault);
                changes.faults.push(fault);
            }
        }
    }

    /// Serves what a directory holds; nothing when it changed meanwhile.
    fn load_from(&self, place: &Place, signature: &Signature) -> Result<Option<Key>, NotLoaded> {
        let ready = catch_unwind(AssertUnwindSafe(|| self.ready(place, &Remembered::default())))
            .unwrap_or_else(|_| Err(LoadError::new(&place.dir, "loading it panicked").into()));
        // What it would be called may not be what was loaded.
        if Signature::of(&place.dir) != *signature {
            return Ok(None);
        }
        Ok(Some(self.serve(ready?)))
    }

    /// Loads the model of a directory, if it is not loaded already and there is room.
    fn ready(&self, place: &Place, remembered: &Remembered) -> Result<Ready, NotLoaded> {
        let opened = place.describe()?.open()?;
        let name = opened.found.described.name.clone();
        // Where a version of the model is loaded it may be this one, which only the digests tell; else they can be taken meanwhile.
        let may_be_loaded = self.loaded().keys().any(|(loaded, _)| *loaded == name);
        let believed = opened.believed(remembered);
        let digests = (may_be_loaded && believed.is_none()).then(|| opened.digests()).transpose()?;
        let version = believed.as_ref().map(|believed| believed.version.clone());
        let version = version.or_else(|| digests.as_ref().map(digest::version));
        if let Some(version) = version
            && let key = (name, version)
            && self.loaded().contains_key(&key)
        {
            return Ok(Ready::Loaded(key));
        }
        let (weights, working) = (opened.bytes(), opened.working_bytes()?);
        let bytes = weights.saturating_add(working);
        if self.has_room(bytes) {
            let machine = self.0.config.machine;
            let (model, packing) = match &believed {
                Some(believed) => opened.load_again(machine, believed, remembered)?,
                None => opened.load(machine, digests, remembered)?,
            };
            return Ok(Ready::New(model, bytes, Due { believed, packing, failures: 0 }));
        }
        let (most, taken) = (self.0.config.memory.unwrap_or(u64::MAX), self.taken());
        let beside = if working > 0 { format!(" and its keys and values up to {working}") } else { String::new() };
        let reason = format!(
            "its weights take {weights} bytes of memory{beside}, but models may take {most} in all (--models-memory), and those that are \
             loaded take {taken}"
        );
        Err(NotLoaded { fault: LoadError::new(&place.dir, reason), lacks: Some(bytes) })
    }

    fn serve(&self, ready: Ready) -> Key {
        let mut loaded = self.loaded_mut();
        match ready {
            Ready::Loaded(key) => {
                loaded.entry(key.clone()).and_modify(|loaded| loaded.is_retired = false);
                key
            }
            Ready::New(model, bytes, due) => {
                let key = (model.spec().name.clone(), model.spec().version.clone());
                loaded.insert(key.clone(), Loaded { model, bytes, is_retired: false, is_default: false, due });
                key
            }
        }
    }

    fn has_room(&self, bytes: u64) -> bool {
        self.0.config.memory.is_none_or(|most| self.taken().saturating_add(bytes) <= most)
    }

    /// Bytes of memory that all that is loaded takes.
    fn taken(&self) -> u64 {
        self.loaded().values().map(|loaded| loaded.bytes).sum()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn loaded(&self) -> RwLockReadGuard<'_, BTreeMap<Key, Loaded>> {
        self.0.loaded.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn loaded_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<Key, Loaded>> {
        self.0.loaded.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn report(fault: &LoadError) {
    tracing::error!(path = %fault.path.display(), reason = fault.reason, "a model cannot be loaded; what ran before goes on");
}
