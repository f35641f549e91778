//! What becomes of an image before a network sees it, as `preprocessor_config.json` says and transformers' image processors do it
//! with Pillow: resized and cropped as eight-bit samples, then rescaled and normalised. What they would do and this does not is
//! refused, and so is what their versions do differently.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    LoadError,
    image::{Filter, Image, Target, resize},
    plain::read_json,
};

/// The configuration, relative to the directory.
pub(super) const PREPROCESSOR: &str = "preprocessor_config.json";

/// The longest side of what a network sees.
const LONGEST_SIDE: usize = 4096;

/// From this side on ConvNeXT's processor crops nothing.
const UNCROPPED: usize = 384;

/// What is written into configurations and changes nothing here: names, and what concerns other inputs than images.
const IGNORED: [&str; 5] =
    ["processor_class", "_processor_class", "_valid_processor_keys", "disable_grouping", "do_reduce_labels"];

/// Whose processor it is: they read the same words differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Vit,
    ConvNext,
    MobileNetV2,
}

/// Makes of any image what a network sees.
#[derive(Clone, Debug)]
pub(super) struct Processor {
    resizing: Resizing,
    filter: Filter,
    pub(super) width: usize,
    pub(super) height: usize,
    levels: Levels,
}

/// The number that stands for each sample, by channel.
#[derive(Clone, Debug)]
pub(crate) struct Levels(Box<[[f32; 256]; 3]>);

/// How large an image becomes before its middle is cut out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resizing {
    /// So large, whatever its shape.
    Exact { width: usize, height: usize },
    /// Its shorter side so long, in its own shape.
    Shortest(usize),
}

/// The configuration as written.
#[derive(Deserialize)]
struct Config {
    image_processor_type: Option<String>,
    /// What older versions called it.
    feature_extractor_type: Option<String>,
    do_resize: Option<bool>,
    size: Option<Value>,
    /// What a `size` of one number is; by default what the processor takes it for.
    default_to_square: Option<bool>,
    resample: Option<u32>,
    do_center_crop: Option<bool>,
    crop_size: Option<Value>,
    crop_pct: Option<f64>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
    image_mean: Option<[f64; 3]>,
    image_std: Option<[f64; 3]>,
    /// Images are that already.
    #[serde(rename = "do_convert_rgb")]
    _do_convert_rgb: Option<bool>,
    data_format: Option<String>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// `size` or `crop_size`, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Sides { width: usize, height: usize },
    Shortest(usize),
}

impl Kind {
    /// By a class of transformers; those for tensors differ from those for Pillow by rounding.
    fn of(class: &str) -> Option<Self> {
        match class.strip_suffix("Fast").unwrap_or(class) {
            "ViTImageProcessor" | "ViTFeatureExtractor" => Some(Self::Vit),
            "ConvNextImageProcessor" | "ConvNextFeatureExtractor" => Some(Self::ConvNext),
            "MobileNetV2ImageProcessor" | "MobileNetV2FeatureExtractor" => Some(Self::MobileNetV2),
            _ => None,
        }
    }
}

impl Processor {
    /// Reads the directory's configuration. `usual` is the kind of the model's family, for files that name none.
    ///
    /// # Errors
    /// When the file is missing or cannot be read, and when it asks for what is not done here.
    pub(super) fn read(dir: &Path, usual: Kind) -> Result<Self, LoadError> {
        let path = dir.join(PREPROCESSOR);
        let wrong = |reason: String| LoadError::new(&path, reason);
        let config: Config = read_json(&path)?.ok_or_else(|| wrong("is missing".into()))?;
        Self::new(config, usual).map_err(wrong)
    }

    fn new(config: Config, usual: Kind) -> Result<Self, String> {
        config.check()?;
        let class = config.image_processor_type.as_ref().or(config.feature_extractor_type.as_ref());
        let kind = match class {
            Some(class) => Kind::of(class).ok_or_else(|| {
                format!("processor {class:?} is not supported; those of ViT, ConvNext and MobileNetV2 are")
            })?,
            None => usual,
        };
        let is_square = config.default_to_square.unwrap_or(kind == Kind::Vit);
        let size = size("size", config.size.as_ref(), is_square)?;
        let crops = config.do_center_crop.unwrap_or(kind == Kind::MobileNetV2);
        if crops && kind != Kind::MobileNetV2 {
            return Err("do_center_crop is not supported; versions of this processor differ in it".into());
        }
        let (resizing, (width, height)) = match (kind, size) {
            (Kind::Vit, Size::Sides { width, height }) => (Resizing::Exact { width, height }, (width, height)),
            (Kind::ConvNext, Size::Shortest(side)) if side < UNCROPPED => {
                let share = config.crop_pct.unwrap_or(224.0 / 256.0);
                if !(share > 0.0 && share <= 1.0) {
                    return Err(format!("crop_pct {share} is no share of a side"));
                }
                (Resizing::Shortest((side as f64 / share) as usize), (side, side))
            }
            (Kind::ConvNext, Size::Shortest(side)) => (Resizing::Exact { width: side, height: side }, (side, side)),
            (Kind::MobileNetV2, Size::Shortest(_)) if !crops => {
                return Err("without do_center_crop a shortest_edge makes images of many sizes".into());
            }
            (Kind::MobileNetV2, size) => {
                let resizing = match size {
                    Size::Sides { width, height } => Resizing::Exact { width, height },
                    Size::Shortest(side) => Resizing::Shortest(side),
                };
                let crop = if crops { self::size("crop_size", config.crop_size.as_ref(), true)? } else { size };
                match crop {
                    Size::Sides { width, height } => (resizing, (width, height)),
                    Size::Shortest(_) => return Err("crop_size has no height and width".into()),
                }
            }
            (Kind::Vit, Size::Shortest(_)) => return Err("size has no height and width".into()),
            (Kind::ConvNext, Size::Sides { .. }) => return Err("size has no shortest_edge".into()),
        };
        let (least_width, least_height) = match resizing {
            Resizing::Exact { width, height } => (width, height),
            Resizing::Shortest(side) => (side, side),
        };
        if width > least_width || height > least_height {
            return Err(format!("a crop of {width} × {height} is larger than what it is cut from"));
        }
        if least_width.max(least_height) > LONGEST_SIDE {
            return Err(format!("images of {least_width} × {least_height}; at most {LONGEST_SIDE} a side are made"));
        }
        let filter = match config.resample {
            Some(1) => Filter::Lanczos,
            Some(2) => Filter::Bilinear,
            Some(3) => Filter::Bicubic,
            Some(other) => {
                return Err(format!(
                    "resample {other} is not supported; 1 (Lanczos), 2 (bilinear) and 3 (bicubic) are"
                ));
            }
            None => return Err("resample is missing; versions of processors differ in what it is then".into()),
        };
        Ok(Self { resizing, filter, width, height, levels: config.levels()? })
    }

    /// What the network sees of an image: resized, and its middle cut out.
    pub(super) fn apply(&self, image: &Image) -> Image {
        let (width, height) = match self.resizing {
            Resizing::Exact { width, height } => (width, height),
            Resizing::Shortest(side) if image.width <= image.height => (side, side * image.height / image.width),
            Resizing::Shortest(side) => (side * image.width / image.height, side),
        };
        let (left, top) = ((width - self.width) / 2, (height - self.height) / 2);
        let (columns, rows) = (left..left + self.width, top..top + self.height);
        resize(image, &Target { width, height, columns, rows }, self.filter)
    }

    /// The numbers of samples.
    pub(super) fn levels(&self) -> &Levels {
        &self.levels
    }
}

impl Levels {
    /// The number of a sample of this channel: 0 is red, 1 green, 2 blue.
    pub(crate) fn of(&self, channel: usize, sample: u8) -> f32 {
        self.0[channel][usize::from(sample)]
    }
}

impl Config {
    /// Refuses what is not known, unless it says that nothing is done.
    fn check(&self) -> Result<(), String> {
        if self.do_resize == Some(false) {
            return Err("do_resize is false, which makes images of many sizes".into());
        }
        if let Some(format) = self.data_format.as_ref().filter(|format| *format != "channels_first") {
            return Err(format!("data_format {format:?} is not supported"));
        }
        let does_nothing = |key: &str, value: &Value| {
            value.is_null() || IGNORED.contains(&key) || (key.starts_with("do_") && *value == false)
        };
        match self.others.iter().find(|(key, value)| !does_nothing(key, value)) {
            Some((key, value)) => Err(format!("{key} {value} is not known here")),
            None => Ok(()),
        }
    }

    /// In 32-bit floats where transformers computes in them.
    fn levels(&self) -> Result<Levels, String> {
        let factor = self.do_rescale.unwrap_or(true).then(|| self.rescale_factor.unwrap_or(1.0 / 255.0));
        let normal = match (self.do_normalize.unwrap_or(true), self.image_mean, self.image_std) {
            (false, ..) => ([0.0; 3], [1.0; 3]),
            (true, Some(mean), Some(deviation)) => (mean, deviation),
            (true, ..) => return Err("image_mean or image_std is missing".into()),
        };
        let level = |channel: usize, sample: usize| {
            let rescaled = factor.map_or(sample as f32, |factor| (sample as f64 * factor) as f32);
            (rescaled - normal.0[channel] as f32) / normal.1[channel] as f32
        };
        let levels = Box::new(std::array::from_fn(|channel| std::array::from_fn(|sample| level(channel, sample))));
        if levels.as_flattened().iter().all(|level: &f32| level.is_finite()) {
            Ok(Levels(levels))
        } else {
            Err("rescale_factor, image_mean and image_std make what is no number".into())
        }
    }
}

/// A size as a number, or as an object of `height` and `width` or of `shortest_edge`.
fn size(name: &str, value: Option<&Value>, is_square: bool) -> Result<Size, String> {
    let value = value.ok_or_else(|| format!("{name} is missing"))?;
    let unknown = || format!("{name} {value} is not supported");
    let side = |value: &Value| {
        let side = value.as_u64().and_then(|side| usize::try_from(side).ok());
        side.filter(|side| *side > 0).ok_or_else(unknown)
    };
    let Some(object) = value.as_object() else {
        let side = side(value)?;
        return Ok(if is_square { Size::Sides { width: side, height: side } } else { Size::Shortest(side) });
    };
    match (object.get("height"), object.get("width"), object.get("shortest_edge"), object.len()) {
        (Some(height), Some(width), None, 2) => Ok(Size::Sides { width: side(width)?, height: side(height)? }),
        (None, None, Some(shortest), 1) => Ok(Size::Shortest(side(shortest)?)),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn processor(kind: Kind, change: &[(&str, Value)]) -> Result<Processor, String> {
        let mut config =
            json!({"size": 224, "resample": 3, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2]});
        for (key, value) in change {
            config[key] = value.clone();
        }
        Processor::new(serde_json::from_value(config).map_err(|error| error.to_string())?, kind)
    }

    fn made(kind: Kind, change: &[(&str, Value)]) -> (Resizing, usize, usize) {
        let processor = processor(kind, change).expect("a sound configuration");
        (processor.resizing, processor.width, processor.height)
    }

    #[test]
    fn one_number_is_what_each_processor_takes_it_for() {
        let exact = |side: usize| (Resizing::Exact { width: side, height: side }, side, side);
        assert_eq!(made(Kind::Vit, &[]), exact(224));
        assert_eq!(made(Kind::ConvNext, &[("crop_pct", json!(0.875))]), (Resizing::Shortest(256), 224, 224));
        assert_eq!(made(Kind::ConvNext, &[("crop_pct", json!(0.9))]), (Resizing::Shortest(248), 224, 224));
        assert_eq!(made(Kind::ConvNext, &[("size", json!({"shortest_edge": 384}))]), exact(384));
        let crop = [("size", json!(256)), ("crop_size", json!({"height": 200, "width": 224}))];
        assert_eq!(made(Kind::MobileNetV2, &crop), (Resizing::Shortest(256), 224, 200));
        let named = [("feature_extractor_type", json!("ConvNextFeatureExtractor"))];
        assert_eq!(made(Kind::Vit, &named), (Resizing::Shortest(256), 224, 224));
        let named = [("image_processor_type", json!("ViTImageProcessorFast"))];
        assert_eq!(made(Kind::ConvNext, &named), exact(224));
    }

    #[test]
    fn what_says_that_nothing_is_done_is_taken() {
        let change = [
            ("do_pad", json!(false)),
            ("device", json!(null)),
            ("processor_class", json!("ViTProcessor")),
            ("data_format", json!("channels_first")),
            ("do_convert_rgb", json!(true)),
            ("do_center_crop", json!(false)),
        ];
        assert_eq!(made(Kind::Vit, &change), made(Kind::Vit, &[]));
    }

    #[test]
    fn what_is_not_done_here_is_refused_by_name() {
        let cases = [
            (Kind::Vit, "image_processor_type", json!("CLIPImageProcessor"), "CLIPImageProcessor"),
            (Kind::Vit, "do_resize", json!(false), "do_resize"),
            (Kind::Vit, "do_center_crop", json!(true), "do_center_crop"),
            (Kind::Vit, "do_flip_channel_order", json!(true), "do_flip_channel_order true"),
            (Kind::Vit, "auto_map", json!({}), "auto_map"),
            (Kind::Vit, "data_format", json!("channels_last"), "channels_last"),
            (Kind::Vit, "resample", json!(0), "resample 0"),
            (Kind::Vit, "resample", json!(null), "resample is missing"),
            (Kind::Vit, "size", json!(null), "size is missing"),
            (Kind::Vit, "size", json!(0), "size 0"),
            (Kind::Vit, "size", json!(-1), "size -1"),
            (Kind::Vit, "size", json!([224, 224]), "size [224,224]"),
            (Kind::Vit, "size", json!({"shortest_edge": 224}), "no height and width"),
            (Kind::Vit, "size", json!({"shortest_edge": 224, "longest_edge": 300}), "longest_edge"),
            (Kind::Vit, "size", json!(100_000), "at most 4096"),
            (Kind::Vit, "image_std", json!([1.0, 0.0, 1.0]), "no number"),
            (Kind::Vit, "image_mean", json!([0.5]), "invalid length 1"),
            (Kind::Vit, "image_mean", json!(null), "image_mean or image_std is missing"),
            (Kind::ConvNext, "size", json!({"height": 224, "width": 224}), "no shortest_edge"),
            (Kind::ConvNext, "crop_pct", json!(0), "crop_pct 0"),
            (Kind::ConvNext, "crop_pct", json!(1.5), "crop_pct 1.5"),
            (Kind::ConvNext, "crop_pct", json!(1e-9), "at most 4096"),
            (Kind::MobileNetV2, "crop_size", json!(null), "crop_size is missing"),
            (Kind::MobileNetV2, "crop_size", json!(256), "larger than what it is cut from"),
            (Kind::MobileNetV2, "do_center_crop", json!(false), "many sizes"),
        ];
        for (kind, key, value, part) in cases {
            let error = processor(kind, &[(key, value.clone())]).expect_err(key);
            assert!(error.contains(part), "{key} {value}: {error}");
        }
    }

    #[test]
    fn narrow_images_cost_no_more_than_others() {
        let processor = processor(Kind::ConvNext, &[]).expect("a sound configuration");
        for (width, height) in [(1, 1 << 14), (1 << 14, 1), (1, 1), (3, 2)] {
            let image = Image { width, height, pixels: vec![7; width * height * 3] };
            let seen = processor.apply(&image);
            assert_eq!((seen.width, seen.height), (224, 224));
            assert!(seen.pixels.iter().all(|sample| *sample == 7) && seen.pixels.len() == 224 * 224 * 3);
        }
    }
}
