//! A model whose directory was described and whose weights are mapped: its digests, and how it is loaded and warmed, the first time and
//! again.

use std::{
    collections::BTreeMap,
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
};

use prediction::Version;

use super::{Found, Runs};
use crate::{
    LoadError, Machine, Model, digest,
    generate::{self, Generator},
    gguf::Gguf,
    kept::{Packing, Shelf},
    map::Weights,
    mlp::Mlp,
    remembered::{Believed, Noted, Remembered},
    text::{Classifier, Embedder, Tagger, Task, TextModel, ZeroShot},
    vision::{Family, ImageClassifier, MobileNetV2, ResNet, Vit},
    warm::{Schemas, Warm, Warmer},
};

/// Bytes that a parameter takes in memory, at most: weights are packed as 32-bit floats, as bf16 in one part or two, or as bytes.
const PARAMETER_BYTES: u64 = 4;

/// One whose weights are mapped and have a sound header. What its files hold besides has not been looked at.
pub(crate) struct Opened {
    pub(crate) found: Found,
    pub(super) weights: Mapped,
    /// The file of the weights as it was before anything was read of it.
    pub(super) noted: Option<Noted>,
}

/// Weights whose file is sound.
pub(super) enum Mapped {
    Safetensors(Weights),
    Gguf(Gguf),
}

impl Opened {
    /// Reads the files and says what they are: the SHA-256 by file, of those that make the version.
    ///
    /// # Errors
    /// Names the file that is missing or not as it was.
    pub(crate) fn digests(&self) -> Result<BTreeMap<PathBuf, String>, LoadError> {
        self.found.digests(digest::of_file)
    }

    /// What an earlier start loaded from these files, if it made the same version of them and they have not been touched since.
    pub(crate) fn believed(&self, remembered: &Remembered) -> Option<Believed> {
        let (believed, weights) = (remembered.believe(self.noted.as_ref()?)?, self.path());
        let of_file = |path: &Path| if path == weights { Ok(believed.sha256.clone()) } else { digest::of_file(path) };
        // What is wrong with them is found when all digests are taken.
        let digests = self.found.digests(of_file).ok()?;
        (digest::version(&digests) == believed.version).then_some(believed)
    }

    /// The file of the weights.
    fn path(&self) -> &Path {
        match &self.weights {
            Mapped::Safetensors(weights) => weights.path(),
            Mapped::Gguf(gguf) => gguf.path(),
        }
    }

    /// How many numbers the weights are.
    pub(crate) fn parameters(&self) -> u64 {
        match &self.weights {
            Mapped::Safetensors(weights) => weights.parameters(),
            Mapped::Gguf(gguf) => gguf.parameters(),
        }
    }

    /// The most bytes of memory that the weights take when they are loaded.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.weights {
            Mapped::Safetensors(weights) => weights.parameters() * PARAMETER_BYTES,
            Mapped::Gguf(gguf) => gguf.weight_bytes(),
        }
    }

    /// The most bytes of memory that it takes beside them, for what it keeps while it runs.
    ///
    /// # Errors
    /// When the file says what is not known here.
    pub(crate) fn working_bytes(&self) -> Result<u64, LoadError> {
        match &self.weights {
            Mapped::Safetensors(_) => Ok(0),
            Mapped::Gguf(gguf) => generate::cache_bytes(gguf),
        }
    }

    /// Loads the weights and warms the model. Where nobody has taken the digests of its files yet, another thread does so meanwhile, since
    /// either takes as long; there is no model until they are as they should be. They are remembered then.
    ///
    /// # Errors
    /// When a file cannot be read or is not as it was, a tensor is not what the architecture needs, a schema is none, or the example does
    /// not run.
    pub(crate) fn load(
        mut self,
        machine: Machine,
        digests: Option<BTreeMap<PathBuf, String>>,
        remembered: &Remembered,
    ) -> Result<(Model, Option<Packing>), LoadError> {
        let (digests, warm) = match digests {
            Some(digests) => (Ok(digests), self.warm(machine)),
            None => thread::scope(|scope| {
                let digests = scope.spawn(|| self.digests());
                let warm = self.warm(machine);
                (digests.join().unwrap_or_else(|panic| resume_unwind(panic)), warm)
            }),
        };
        // That a file is not what it was says more than what came of reading it.
        let (mut digests, warm) = (digests?, warm?);
        let version = digest::version(&digests);
        let weights = self.path().strip_prefix(&self.found.dir).ok().and_then(|weights| digests.remove(weights));
        let noted = self.noted.take();
        let shelf = remembered.shelf(version.clone(), machine.cpu, None);
        let started = self.start(machine, warm, version.clone(), shelf)?;
        if let (Some(noted), Some(digest)) = (noted, weights) {
            remembered.keep(noted, digest, version);
        }
        Ok(started)
    }

    /// The same of a version that an earlier start loaded, in less time: what that has checked is not checked again, and what is not needed
    /// at once is left for [`Model::complete`], and what was kept of packed weights is not packed again.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) fn load_again(
        mut self,
        machine: Machine,
        believed: &Believed,
        remembered: &Remembered,
    ) -> Result<(Model, Option<Packing>), LoadError> {
        let version = believed.version.clone();
        let shelf = remembered.shelf(version.clone(), machine.cpu, Some(believed));
        if let Mapped::Safetensors(weights) = &mut self.weights {
            weights.trust(shelf.as_ref().and_then(Shelf::open));
        }
        let warm = self.warm(machine)?;
        self.start(machine, warm, version, shelf)
    }

    /// Starts the model, and says what became of its packed weights.
    fn start(
        self,
        machine: Machine,
        warm: Warm,
        version: Version,
        shelf: Option<Shelf>,
    ) -> Result<(Model, Option<Packing>), LoadError> {
        let model = warm.start(self.found.described.spec(version))?;
        if model.device() != machine.device {
            tracing::warn!(model = %model.spec().name, device = %machine.device, "has no path on the device, and runs on the processor");
        }
        let packing = match self.weights {
            Mapped::Safetensors(weights) => shelf.and_then(|shelf| weights.packing(shelf)),
            Mapped::Gguf(_) => None,
        };
        Ok((model, packing))
    }

    /// Loads the weights, while another thread compiles the schemas, and runs the example.
    fn warm(&self, machine: Machine) -> Result<Warm, LoadError> {
        let Found { dir, described, .. } = &self.found;
        thread::scope(|scope| {
            let compile = || Schemas::of(dir, described);
            let schemas = thread::Builder::new().spawn_scoped(scope, compile);
            let schemas = schemas.map_err(|error| LoadError::new(dir, format!("no thread: {error}")))?;
            let schemas = || schemas.join().unwrap_or_else(|panic| resume_unwind(panic));
            self.warm_by(Warmer { dir, described, schemas }, machine)
        })
    }

    fn warm_by(
        &self,
        warmer: Warmer<'_, impl FnOnce() -> Result<Schemas, LoadError>>,
        machine: Machine,
    ) -> Result<Warm, LoadError> {
        let Self { found: Found { dir, runs, .. }, weights, .. } = self;
        match (runs, weights) {
            (Runs::Mlp(settings), Mapped::Safetensors(weights)) => {
                warmer.warm(Mlp::load(settings.clone(), weights, machine)?)
            }
            (Runs::Text(task, precision), Mapped::Safetensors(weights)) => {
                let (task, precision) = (*task, *precision);
                match task {
                    Task::FeatureExtraction => {
                        warmer.warm(TextModel::<Embedder>::load(dir, task, weights, machine, precision)?)
                    }
                    Task::TextClassification => {
                        warmer.warm(TextModel::<Classifier>::load(dir, task, weights, machine, precision)?)
                    }
                    Task::TokenClassification => {
                        warmer.warm(TextModel::<Tagger>::load(dir, task, weights, machine, precision)?)
                    }
                    Task::ZeroShotClassification => {
                        warmer.warm(TextModel::<ZeroShot>::load(dir, task, weights, machine, precision)?)
                    }
                }
            }
            (Runs::Image(family), Mapped::Safetensors(weights)) => match family {
                Family::Vit => warmer.warm(ImageClassifier::<Vit>::load(dir, weights, machine)?),
                Family::ResNet => warmer.warm(ImageClassifier::<ResNet>::load(dir, weights, machine)?),
                Family::MobileNetV2 => warmer.warm(ImageClassifier::<MobileNetV2>::load(dir, weights, machine)?),
            },
            (Runs::Generator(_), Mapped::Gguf(gguf)) => warmer.warm(Generator::load(gguf, machine)?),
            (_, Mapped::Safetensors(weights)) => Err(LoadError::new(weights.path(), "not what runs this model")),
            (_, Mapped::Gguf(gguf)) => Err(gguf.wrong("not what runs this model")),
        }
    }
}
