//! The models of this process: what is served, and how that follows the directories while others run.
//!
//! A directory that is new, or holds another version, is loaded and warmed beside what runs, and only then served. A version that
//! no directory holds any more is retired: it is no longer to be published, but runs what was accepted for it until
//! [`Models::unload`]. A directory that became unreadable or broken changes nothing but the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use prediction::{ModelName, ModelSpec, Version};

use crate::{
    LoadError, Machine, Model,
    echo::{self, Echo},
    registry::{self, Place},
    signature::Signature,
    warm,
};

/// Which models to load.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Directory of `<owner>/<name>/` model directories; absent is no error when `model_dirs` names others, or echo is on.
    pub models_dir: Option<PathBuf>,
    /// Further model directories: ours with a manifest, or plain Hugging Face ones.
    pub model_dirs: Vec<PathBuf>,
    /// Only these of `models_dir` (all when empty).
    pub only: Vec<ModelName>,
    /// Whether `augur/echo`, a toy for tests and benchmarks, is served.
    pub enable_echo: bool,
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
}

/// What is known of the directories.
#[derive(Default)]
struct Seen {
    places: BTreeMap<PathBuf, Known>,
    /// Why they could not be listed the last time.
    fault: Option<LoadError>,
}

/// What is known of one directory.
#[derive(Default)]
struct Known {
    name: Option<ModelName>,
    /// As of the last look.
    signature: Option<Signature>,
    /// The last that was acted on, whatever came of it.
    acted_on: Option<Signature>,
    /// What was loaded from it last; a directory that is broken now may have been whole before.
    holds: Option<Key>,
    /// Whether nothing could be loaded when it was acted on.
    is_faulty: bool,
    /// Bytes of memory that there was no room for then.
    lacks: Option<u64>,
}

/// How far a look trusts what it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// What has changed since the last look may be half written, and is left until it stays as it is from one look to the next.
    Settled,
    /// Somebody says that all is in place.
    AtOnce,
}

/// What a look changed.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// What is served now and was not before.
    pub served: Vec<(ModelName, Version)>,
    /// What is no longer to be published.
    pub retired: Vec<(ModelName, Version)>,
    /// What could not be loaded; told once, and again when somebody says that all is in place.
    pub faults: Vec<LoadError>,
}

/// A model that can be served from now on.
enum Ready {
    /// It is loaded already.
    Loaded(Key),
    /// It takes so many bytes of memory.
    New(Model, u64),
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

impl Known {
    /// Whether the directory looks as it did at the last look, or is to be trusted at once; remembers how it looks now.
    fn has_settled(&mut self, now: &Signature, look: Look) -> bool {
        let before = self.signature.replace(now.clone());
        look == Look::AtOnce || before.as_ref() == Some(now)
    }
}

impl Models {
    /// Finds, checks, maps, loads and warms every model; slow, blocking: call it off the async threads.
    ///
    /// # Errors
    /// When any model cannot be loaded, when one of `only` is not there, and when there is none at all.
    pub fn load(config: &Config) -> Result<Self, LoadError> {
        let models =
            Self(Arc::new(Shared { config: config.clone(), seen: Mutex::default(), loaded: RwLock::default() }));
        let mut seen = models.seen();
        if let Some(models_dir) = &config.models_dir {
            registry::warn_of_misplaced(models_dir);
        }
        for place in registry::places(config)? {
            let signature = Signature::of(&place.dir);
            let key = models.serve(models.ready(&place).map_err(|not_loaded| not_loaded.fault)?);
            let known = Known {
                name: place.name,
                signature: Some(signature.clone()),
                acted_on: Some(signature),
                holds: Some(key),
                is_faulty: false,
                lacks: None,
            };
            seen.places.insert(place.dir, known);
        }
        drop(seen);
        if config.enable_echo {
            let model = warm::start(Path::new("augur/echo"), echo::spec(), Echo, &echo::example())?;
            models.serve(Ready::New(model, 0));
        }
        if models.loaded().is_empty() {
            let dir = config.models_dir.as_deref().unwrap_or(Path::new("models"));
            return Err(LoadError::new(dir, "no model here, and none named elsewhere"));
        }
        Ok(models)
    }

    /// What is served, by name: what is to be published.
    #[must_use]
    pub fn specs(&self) -> Vec<ModelSpec> {
        let loaded = self.loaded();
        loaded.values().filter(|loaded| !loaded.is_retired).map(|loaded| loaded.model.spec().clone()).collect()
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
        let found = match self.places(&seen) {
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
        for place in found {
            let known = seen.places.entry(place.dir.clone()).or_default();
            known.name.clone_from(&place.name);
            self.look_at(&place, known, look, &mut changes);
            if !changes.served.is_empty() {
                // It need not wait for what is left.
                break;
            }
        }
        // One that is being replaced may be gone for a moment.
        seen.places.retain(|dir, known| !is_gone(dir) || !known.has_settled(&Signature::of(dir), look));
        let held: BTreeSet<&Key> = seen.places.values().filter_map(|known| known.holds.as_ref()).collect();
        let echo = self.0.config.enable_echo.then(echo::spec).map(|spec| (spec.name, spec.version));
        for (key, loaded) in self.loaded_mut().iter_mut() {
            if !loaded.is_retired && !held.contains(key) && echo.as_ref() != Some(key) {
                tracing::info!(model = %key.0, version = key.1.short(), "retired: what was accepted for it is finished first");
                loaded.is_retired = true;
                changes.retired.push(key.clone());
            }
        }
        changes
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
    fn places(&self, seen: &Seen) -> Result<Vec<Place>, LoadError> {
        let config = &self.0.config;
        if let Some(models_dir) = &config.models_dir
            && !models_dir.is_dir()
            && seen.places.keys().any(|dir| dir.starts_with(models_dir))
        {
            return Err(LoadError::new(models_dir, "the directory of models is gone"));
        }
        let mut places = registry::places(config)?;
        // A named directory that is gone is no fault by now: its model is removed.
        places.retain(|place| !is_gone(&place.dir));
        for (dir, known) in &seen.places {
            // What is left there is broken, and shall be reported as such.
            if !is_gone(dir) && !places.iter().any(|place| place.dir == *dir) {
                places.push(Place { dir: dir.clone(), name: known.name.clone() });
            }
        }
        Ok(places)
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
        let ready = catch_unwind(AssertUnwindSafe(|| self.ready(place)))
            .unwrap_or_else(|_| Err(LoadError::new(&place.dir, "loading it panicked").into()));
        // What it would be called may not be what was loaded.
        if Signature::of(&place.dir) != *signature {
            return Ok(None);
        }
        Ok(Some(self.serve(ready?)))
    }

    /// Loads the model of a directory, if it is not loaded already and there is room.
    fn ready(&self, place: &Place) -> Result<Ready, NotLoaded> {
        let checked = place.describe()?.check()?;
        let key = (checked.found.described.name.clone(), checked.version.clone());
        if self.loaded().contains_key(&key) {
            return Ok(Ready::Loaded(key));
        }
        let (weights, working) = (checked.bytes(), checked.working_bytes()?);
        let bytes = weights.saturating_add(working);
        if self.has_room(bytes) {
            return Ok(Ready::New(checked.load(self.0.config.machine)?, bytes));
        }
        let (most, taken) = (self.0.config.memory.unwrap_or(u64::MAX), self.taken());
        let beside = match working {
            0 => String::new(),
            _ => format!(" and its keys and values up to {working}"),
        };
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
            Ready::New(model, bytes) => {
                let key = (model.spec().name.clone(), model.spec().version.clone());
                loaded.insert(key.clone(), Loaded { model, bytes, is_retired: false });
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

impl Changes {
    /// Whether there may be more to load: a look ends with the first model that it serves.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.served.is_empty()
    }

    /// Whether something else is served than before.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.served.is_empty() && self.retired.is_empty()
    }
}

/// Whether there is no such directory any more; one that cannot be looked at is still there.
fn is_gone(dir: &Path) -> bool {
    fs::metadata(dir).is_err_and(|error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory))
}

fn report(fault: &LoadError) {
    tracing::error!(path = %fault.path.display(), reason = fault.reason, "a model cannot be loaded; what ran before goes on");
}
