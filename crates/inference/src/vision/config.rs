//! What `config.json` says of any classifier of images: its family, its class, its labels.

use std::path::{Path, PathBuf};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::processor::{Kind, PREPROCESSOR, Processor};
use crate::{
    LoadError,
    labels::{Function, Labelling},
    plain::{CONFIG, WEIGHTS, read_json},
};

/// A family, as `config.json` calls it in `model_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Family {
    #[serde(rename = "vit")]
    Vit,
    #[serde(rename = "resnet")]
    ResNet,
    #[serde(rename = "mobilenet_v2")]
    MobileNetV2,
}

/// Everything that the directory's configuration says, but for the network's sizes.
pub(crate) struct Settings {
    pub(super) family: Family,
    pub(super) labels: Vec<String>,
    /// What makes scores of outputs.
    pub(super) function: Function,
    pub(super) processor: Processor,
    /// What the model lacks, in sentences, if it was pruned.
    pub(super) lacks: Option<String>,
    /// The files that the model comes from, relative to the directory.
    pub(super) files: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct Config {
    model_type: Family,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default = "three")]
    num_channels: usize,
    auto_map: Option<Value>,
    quantization_config: Option<Value>,
    /// [`words::IN_CONFIG`](crate::prune::words::IN_CONFIG).
    augur_lacks: Option<String>,
    #[serde(flatten)]
    labelling: Labelling,
}

const fn three() -> usize {
    3
}

/// The words for all families.
pub(crate) fn model_types() -> impl Iterator<Item = &'static str> {
    Family::ALL.into_iter().map(Family::word)
}

impl Family {
    const ALL: [Self; 3] = [Self::Vit, Self::ResNet, Self::MobileNetV2];

    /// The one that `model_type` calls so.
    pub(crate) fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.word() == word)
    }

    /// What `model_type` calls it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Vit => "vit",
            Self::ResNet => "resnet",
            Self::MobileNetV2 => "mobilenet_v2",
        }
    }

    /// Whether a tensor holds filters of a block that see all channels, and so are a matrix; a vision transformer has none.
    pub(crate) fn is_filter(self, tensor: &str) -> bool {
        match self {
            Self::Vit => false,
            Self::ResNet => tensor.starts_with("resnet.encoder.") && tensor.ends_with(".convolution.weight"),
            Self::MobileNetV2 => {
                tensor.starts_with("mobilenet_v2.layer.") && tensor.ends_with("_1x1.convolution.weight")
            }
        }
    }

    /// Transformers' class that classifies with it.
    fn class(self) -> &'static str {
        match self {
            Self::Vit => "ViTForImageClassification",
            Self::ResNet => "ResNetForImageClassification",
            Self::MobileNetV2 => "MobileNetV2ForImageClassification",
        }
    }

    /// Whose image processor its models come with.
    fn processor(self) -> Kind {
        match self {
            Self::Vit => Kind::Vit,
            Self::ResNet => Kind::ConvNext,
            Self::MobileNetV2 => Kind::MobileNetV2,
        }
    }
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// Names the file that is missing, or says what is not done here.
    pub(super) fn read(dir: &Path) -> Result<Self, LoadError> {
        if !dir.join(WEIGHTS).is_file() {
            return Err(LoadError::new(&dir.join(WEIGHTS), "is missing"));
        }
        let Config {
            model_type: family,
            architectures,
            num_channels,
            auto_map,
            quantization_config,
            augur_lacks: lacks,
            labelling,
        } = network_config(dir)?;
        let wrong = |reason: String| LoadError::new(&dir.join(CONFIG), reason);
        if architectures.iter().all(|class| class != family.class()) || architectures.len() != 1 {
            return Err(wrong(format!("architectures {architectures:?} are not run here; {} is", family.class())));
        }
        if auto_map.is_some() {
            return Err(wrong("auto_map says that code of its own runs the model, which is not done here".into()));
        }
        if quantization_config.is_some() {
            return Err(wrong("quantization_config is not supported; weights are floats".into()));
        }
        if num_channels != 3 {
            return Err(wrong(format!("num_channels {num_channels}; images have 3")));
        }
        let labels = labelling.labels().map_err(wrong)?;
        let function = labelling.function(labels.len(), None).map_err(wrong)?;
        let processor = Processor::read(dir, family.processor())?;
        let files = [WEIGHTS, CONFIG, PREPROCESSOR].map(PathBuf::from).to_vec();
        Ok(Self { family, labels, function, processor, lacks, files })
    }
}

/// What a network reads of `config.json`.
///
/// # Errors
/// Names the field that is missing or wrong.
pub(super) fn network_config<C: DeserializeOwned>(dir: &Path) -> Result<C, LoadError> {
    let path = dir.join(CONFIG);
    read_json(&path)?.ok_or_else(|| LoadError::new(&path, "is missing"))
}
