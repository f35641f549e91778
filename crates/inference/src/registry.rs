//! From a directory to a model: described, checked, loaded and warmed.

use std::{
    collections::BTreeMap,
    fs,
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
};

use kernels::Precision;
use prediction::Version;
use serde_json::Value;

use crate::{
    LoadError, Machine, Model,
    architecture::Described,
    digest,
    generate::{self, Generator},
    gguf::Gguf,
    manifest::{self, Kind, MANIFEST, Manifest},
    map::Weights,
    mlp::{self, Mlp},
    origin::Origin,
    plain::{self, Plain, WEIGHTS},
    remembered::{Believed, Noted, Remembered},
    text::{self, Classifier, Embedder, Tagger, Task, TextModel, ZeroShot},
    versions,
    vision::{self, Family, ImageClassifier, MobileNetV2, ResNet, Vit},
    warm::{Schemas, Warm, Warmer},
};

/// Bytes that a parameter takes in memory, at most: weights are packed as 32-bit floats, as bf16 in one part or two, or as bytes.
const PARAMETER_BYTES: u64 = 4;

/// A model directory, described but not loaded.
pub(crate) struct Found {
    dir: PathBuf,
    pub(crate) described: Described,
    pinned: BTreeMap<PathBuf, String>,
    runs: Runs,
}

/// One whose weights are mapped and have a sound header. What its files hold besides has not been looked at.
pub(crate) struct Opened {
    pub(crate) found: Found,
    weights: Mapped,
    /// The file of the weights as it was before anything was read of it.
    noted: Option<Noted>,
}

/// What runs a found model.
enum Runs {
    Mlp(mlp::Settings),
    Text(Task, Precision),
    Image(Family),
    /// From the GGUF file of this name.
    Generator(PathBuf),
}

/// Weights whose file is sound.
enum Mapped {
    Safetensors(Weights),
    Gguf(Gguf),
}

/// Reads what a directory says about its model.
pub(crate) fn describe(dir: &Path) -> Result<Found, LoadError> {
    if !dir.join(MANIFEST).exists() {
        let (mut described, runs) = describe_as_it_is(dir)?;
        let origin = Origin::read(dir)?;
        described.source = origin.as_ref().map(|origin| origin.source.clone()).or(described.source);
        let pinned = origin.map(|origin| origin.files).unwrap_or_default();
        return Ok(Found { dir: dir.to_owned(), described, pinned, runs });
    }
    let mut manifest = Manifest::read(dir)?;
    let wrong = |reason: String| LoadError::new(&dir.join(MANIFEST), reason);
    let pinned = manifest.pinned(dir)?;
    if !pinned.contains_key(Path::new(WEIGHTS)) {
        return Err(wrong(format!("files lack {WEIGHTS}")));
    }
    let precision = manifest.precision.map(Precision::from);
    let (runs, base) = match (manifest.architecture, manifest.mlp.take()) {
        (Kind::Mlp, Some(_)) if precision.is_some() => {
            return Err(wrong("precision is for another architecture".into()));
        }
        (Kind::Mlp, Some(settings)) => (Runs::Mlp(settings), None),
        (Kind::Encoder, None) => {
            let (described, task) = text::describe(dir, Some(&manifest.task))?;
            (Runs::Text(task, precision.unwrap_or(Precision::F32)), Some(described))
        }
        (Kind::Mlp, None) => return Err(wrong("[mlp] is missing".into())),
        (Kind::Encoder, Some(_)) => return Err(wrong("[mlp] is for another architecture".into())),
    };
    if let Some(file) = base.iter().flat_map(|base| &base.files).find(|file| !pinned.contains_key(*file)) {
        return Err(wrong(format!("files lack {}, which the model reads", file.display())));
    }
    let stated = |stated: Option<Value>, of_base: fn(&Described) -> &Value, what: &str| {
        stated
            .or_else(|| base.as_ref().map(|base| of_base(base).clone()))
            .ok_or_else(|| wrong(format!("{what} is missing")))
    };
    let schemas = [&manifest.input_schema, &manifest.output_schema];
    let own = [PathBuf::from(MANIFEST)].into_iter().chain(schemas.into_iter().flatten().cloned());
    let files = own.chain(pinned.keys().cloned()).collect();
    let read = |file: &Option<PathBuf>| file.as_ref().map(|file| manifest::read_json(dir, file)).transpose();
    let described = Described {
        name: manifest
            .name
            .clone()
            .or_else(|| Some(versions::called(dir)?.0))
            .ok_or_else(|| wrong("name is missing".into()))?,
        input_schema: stated(read(&manifest.input_schema)?, |base| &base.input_schema, "input_schema")?,
        output_schema: stated(read(&manifest.output_schema)?, |base| &base.output_schema, "output_schema")?,
        example: stated(manifest.example.take(), |base| &base.example, "example")?,
        task: manifest.task,
        description: manifest.description,
        license: manifest.license,
        source: manifest.source,
        limits: manifest.limits,
        files,
    };
    if let Some(training) = manifest.training {
        tracing::info!(
            model = %described.name,
            command = training.command,
            seed = training.seed,
            rows = training.rows,
            held_out_rows = training.held_out_rows,
            held_out_accuracy = training.held_out_accuracy,
            "trained by us"
        );
    }
    Ok(Found { dir: dir.to_owned(), described, pinned, runs })
}

/// Reads what a directory without a manifest says about its model.
fn describe_as_it_is(dir: &Path) -> Result<(Described, Runs), LoadError> {
    let Some(plain) = Plain::of(dir) else {
        let file = generate::file(dir)?.ok_or_else(|| LoadError::new(dir, plain::why_not(dir)))?;
        return Ok((generate::describe(dir, &file)?, Runs::Generator(file)));
    };
    hint_at_pickles(dir)?;
    Ok(match plain {
        Plain::Text => {
            let (described, task) = text::describe(dir, None)?;
            (described, Runs::Text(task, Precision::F32))
        }
        Plain::Image => {
            let (described, family) = vision::describe(dir)?;
            (described, Runs::Image(family))
        }
    })
}

impl Found {
    /// Maps the weights.
    ///
    /// # Errors
    /// Names the file that is missing, not as it was, or no sound weights.
    pub(crate) fn open(self) -> Result<Opened, LoadError> {
        let file = match &self.runs {
            Runs::Generator(file) => self.dir.join(file),
            Runs::Mlp(_) | Runs::Text(..) | Runs::Image(_) => self.dir.join(WEIGHTS),
        };
        let noted = Noted::of(&file);
        let weights = match &self.runs {
            Runs::Generator(_) => Gguf::open(&file).map(Mapped::Gguf),
            Runs::Mlp(_) | Runs::Text(..) | Runs::Image(_) => Weights::open(&file).map(Mapped::Safetensors),
        };
        match weights {
            Ok(weights) => Ok(Opened { found: self, weights, noted }),
            // That a file is not what it was says more than what is wrong with what it is now.
            Err(fault) => Err(self.digests(digest::of_file).err().unwrap_or(fault)),
        }
    }

    /// The digest of every file that makes the version, by `of_file`; those that are pinned must be as they were.
    fn digests(
        &self,
        of_file: impl Fn(&Path) -> Result<String, LoadError>,
    ) -> Result<BTreeMap<PathBuf, String>, LoadError> {
        let Self { dir, described, pinned, .. } = self;
        let mut digests = BTreeMap::new();
        for file in &described.files {
            manifest::refuse_pickle(dir, file)?;
            let path = dir.join(file);
            let digest = of_file(&path)?;
            if let Some(expected) = pinned.get(file)
                && *expected != digest
            {
                return Err(LoadError::new(&path, format!("sha256 is {digest}, but the manifest says {expected}")));
            }
            digests.insert(file.clone(), digest);
        }
        Ok(digests)
    }

    /// What runs it: as a manifest names it, and for images the family.
    pub(crate) fn architecture(&self) -> &'static str {
        match self.runs {
            Runs::Mlp(_) => "mlp",
            Runs::Text(..) => "encoder",
            Runs::Image(family) => family.word(),
            Runs::Generator(_) => "decoder",
        }
    }

    /// How exact its products are, as a manifest says it; `None` where that cannot be chosen.
    pub(crate) fn precision(&self) -> Option<&'static str> {
        match self.runs {
            Runs::Mlp(_) | Runs::Image(_) | Runs::Generator(_) => None,
            Runs::Text(_, Precision::F32) => Some("f32"),
            Runs::Text(_, Precision::Bf16) => Some("bf16"),
            Runs::Text(_, Precision::Int8) => Some("int8"),
        }
    }
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
    ) -> Result<Model, LoadError> {
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
        let model = self.start(machine, warm, version.clone())?;
        if let (Some(noted), Some(digest)) = (noted, weights) {
            remembered.keep(noted, digest, version);
        }
        Ok(model)
    }

    /// The same of a version that an earlier start loaded, in less time: what that has checked is not checked again, and what is not needed
    /// at once is left for [`Model::complete`].
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) fn load_again(mut self, machine: Machine, version: Version) -> Result<Model, LoadError> {
        if let Mapped::Safetensors(weights) = &mut self.weights {
            weights.trust();
        }
        let warm = self.warm(machine)?;
        self.start(machine, warm, version)
    }

    fn start(self, machine: Machine, warm: Warm, version: Version) -> Result<Model, LoadError> {
        let model = warm.start(self.found.described.spec(version))?;
        if model.device() != machine.device {
            tracing::warn!(model = %model.spec().name, device = %machine.device, "has no path on the device, and runs on the processor");
        }
        Ok(model)
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

/// Says so when the only weights are pickles.
fn hint_at_pickles(dir: &Path) -> Result<(), LoadError> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files = entries.map(|entry| PathBuf::from(entry.file_name()));
    if dir.join(WEIGHTS).exists() { Ok(()) } else { files.try_for_each(|file| manifest::refuse_pickle(dir, &file)) }
}
