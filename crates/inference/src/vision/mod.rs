//! `image-classification`: labels of an image, with scores, by networks of plain Hugging Face directories, as transformers'
//! pipeline runs them.

mod config;
mod conv;
mod head;
mod importance;
mod mobilenet;
mod processor;
mod resnet;
#[cfg(test)]
mod tests;
mod vit;

use std::path::Path;

use prediction::{Failure, Limits};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use self::{
    config::Settings,
    processor::{Levels, Processor},
};
use crate::{
    Abandon, LoadError, Machine,
    architecture::{Architecture, Described},
    card,
    contract::{Contract, answer, check_numbers, parse, too_large},
    engine,
    image::{self, BOUNDS, Image},
    labels::{self, Function},
    map::Weights,
    prune::words,
    transformer::{Anatomy, UNDER_WAY},
    turn::Turn,
};

pub(crate) use self::{
    config::{Family, model_types},
    importance::Study,
    mobilenet::MobileNetV2,
    resnet::ResNet,
    vit::Vit,
};

/// The task's word.
pub(crate) const TASK: &str = "image-classification";

/// The most bytes of an input: as many as the API takes of a body when it is told nothing else.
const LONGEST_INPUT: usize = 2 << 20;

/// The longest image, in characters of base64, about 1.5 MiB of file; leaves room for the rest of a body.
const LONGEST_IMAGE: usize = LONGEST_INPUT - (4 << 10);

/// How many labels are answered when the input does not say.
const TOP_K: usize = 5;

/// What models are warmed with: a PNG of 4 × 3 pixels.
const EXAMPLE: &str = "data:image/png;base64,\
    iVBORw0KGgoAAAANSUhEUgAAAAQAAAADCAIAAAA7ljmRAAAAMklEQVR42gEnANj/AAAA/1AA16AAr/AAhwAAeOtQeMOgeJvweHMA\
    APDXUPCvoPCH8PBfSVATda1pTl0AAAAASUVORK5CYII=";

/// A network that gives a number for each label.
pub(crate) trait Network: Sized + Send + Sync + 'static {
    /// Reads the network of a directory.
    ///
    /// # Errors
    /// When `config.json` asks for what is not done here, or a tensor is missing or of another shape.
    fn load(dir: &Path, settings: &Settings, weights: &Weights, machine: Machine) -> Result<Self, LoadError>;

    /// What `finish` makes of the outputs for each image, on the thread that computed them; it is told the image's place. `None`
    /// when `stop` said so between two steps. Images are as large as the processor makes them. The turn is passed once a thread would
    /// have nothing to do.
    fn run<T: Send>(
        &self,
        images: &[&Image],
        levels: &Levels,
        turn: &mut Turn<'_>,
        stop: impl Fn() -> bool + Sync,
        finish: impl Fn(usize, Vec<f32>) -> T + Sync,
    ) -> Option<Vec<T>>;
}

/// A loaded classifier.
pub(crate) struct ImageClassifier<N> {
    labels: Vec<String>,
    function: Function,
    processor: Processor,
    network: N,
}

/// An input, read.
pub(crate) struct Item {
    image: Image,
    /// How many labels are answered.
    most: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    image: String,
    top_k: Option<usize>,
}

/// Whether a file of this name says more about a model than `config.json` does.
pub(crate) fn is_setting(name: &str) -> bool {
    name == processor::PREPROCESSOR
}

/// What a directory's files say of its model, and what runs it.
///
/// # Errors
/// When a file is missing or cannot be read, and when the model needs what this server does not do.
pub(crate) fn describe(dir: &Path) -> Result<(Described, Family), LoadError> {
    let settings = Settings::read(dir)?;
    let Contract { description, input_schema, output_schema, example } = contract(&settings);
    let described = Described {
        name: card::name(dir)?,
        task: TASK.into(),
        description: words::with_sentences(&description, settings.lacks.as_deref()),
        license: card::license(dir),
        source: None,
        input_schema,
        output_schema,
        limits: Limits { max_input_bytes: LONGEST_INPUT, ..Limits::default() },
        files: settings.files,
        example,
    };
    Ok((described, settings.family))
}

/// The layers of a directory's vision transformer, as its files have them.
///
/// # Errors
/// When a file is missing or cannot be read, or the weights are not what the configuration says.
pub(crate) fn anatomy(dir: &Path, weights: &Weights) -> Result<Anatomy, LoadError> {
    vit::anatomy(dir, &Settings::read(dir)?, weights)
}

fn contract(settings: &Settings) -> Contract {
    let Settings { labels, function, processor, .. } = settings;
    let (count, width, height) = (labels.len(), processor.width, processor.height);
    let pixels = BOUNDS.pixels >> 20;
    Contract {
        description: format!("Tells which of {count} labels fit an image; sees {width} × {height} pixels."),
        input_schema: json!({
            "type": "object",
            "properties": {
                "image": {
                    "type": "string",
                    "maxLength": LONGEST_IMAGE,
                    "description": format!("A PNG or JPEG in base64, alone or as a data: URL; up to {pixels} Mi pixels and {} a side.", BOUNDS.side),
                },
                "top_k": {
                    "type": "integer",
                    "minimum": 1,
                    "default": TOP_K,
                    "description": "How many labels are answered, the likeliest.",
                },
            },
            "required": ["image"],
            "additionalProperties": false,
        }),
        output_schema: labels::schema(labels, &format!("What the label scores: {}.", function.words())),
        example: json!({"image": EXAMPLE}),
    }
}

impl<N: Network> ImageClassifier<N> {
    /// Reads what [`describe`] found.
    ///
    /// # Errors
    /// When a file cannot be read, the files do not fit each other, or a tensor is missing or of another shape.
    pub(crate) fn load(dir: &Path, weights: &Weights, machine: Machine) -> Result<Self, LoadError> {
        let settings = Settings::read(dir)?;
        let network = N::load(dir, &settings, weights, machine)?;
        let Settings { labels, function, processor, .. } = settings;
        Ok(Self { labels, function, processor, network })
    }
}

impl<N: Network> Architecture for ImageClassifier<N> {
    type Item = Item;

    fn prepare(&self, input: &RawValue) -> Result<Item, Failure> {
        let Input { image, top_k } = parse(input)?;
        if image.len() > LONGEST_IMAGE {
            return Err(too_large(format!("the image has more than {LONGEST_IMAGE} characters")));
        }
        let (image, _room) = image::read(&image, BOUNDS)?;
        let image = self.processor.apply(&image);
        Ok(Item { image, most: top_k.unwrap_or(TOP_K) })
    }

    /// Few bytes may be many pixels.
    fn inline_bytes(&self) -> usize {
        0
    }

    fn cost(&self, _: &Item) -> usize {
        1
    }

    fn under_way(&self) -> usize {
        UNDER_WAY
    }

    fn run(
        &self,
        batch: &[(Item, Abandon)],
        turn: &mut Turn<'_>,
    ) -> Result<Vec<Result<Box<RawValue>, Failure>>, Failure> {
        let images: Vec<&Image> = batch.iter().map(|(item, _)| &item.image).collect();
        let unwanted = || batch.iter().all(|(_, abandon)| abandon.is_abandoned());
        let finish = |image: usize, outputs: Vec<f32>| {
            check_numbers(&outputs)?;
            answer(&labels::best(&self.labels, &self.function.of(&outputs), batch[image].0.most))
        };
        let answers = self.network.run(&images, self.processor.levels(), turn, unwanted, finish);
        Ok(answers.unwrap_or_else(|| batch.iter().map(|_| Err(engine::canceled())).collect()))
    }
}
