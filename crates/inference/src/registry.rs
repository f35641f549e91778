//! From a directory to a model: described, checked, then [loaded and warmed](Opened).

mod opened;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use kernels::Precision;
use serde_json::Value;

use self::opened::Mapped;
pub(crate) use self::opened::Opened;
use crate::{
    LoadError,
    architecture::Described,
    digest, generate,
    gguf::Gguf,
    manifest::{self, Kind, MANIFEST, Manifest},
    map::Weights,
    mlp,
    origin::Origin,
    plain::{self, Plain, WEIGHTS},
    remembered::Noted,
    text::{self, Task},
    versions,
    vision::{self, Family},
};

/// A model directory, described but not loaded.
pub(crate) struct Found {
    dir: PathBuf,
    pub(crate) described: Described,
    pinned: BTreeMap<PathBuf, String>,
    runs: Runs,
}

/// What runs a found model.
enum Runs {
    Mlp(mlp::Settings),
    Text(Task, Precision),
    Image(Family),
    /// From the GGUF file of this name.
    Generator(PathBuf),
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

/// Says so when the only weights are pickles.
fn hint_at_pickles(dir: &Path) -> Result<(), LoadError> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files = entries.map(|entry| PathBuf::from(entry.file_name()));
    if dir.join(WEIGHTS).exists() { Ok(()) } else { files.try_for_each(|file| manifest::refuse_pickle(dir, &file)) }
}
