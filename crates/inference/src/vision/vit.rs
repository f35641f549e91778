//! Vision transformers: an image as a sequence of patches.
//!
//! After Dosovitskiy et al., "An Image is Worth 16x16 Words" (2020, arXiv 2010.11929), as transformers'
//! `ViTForImageClassification` computes it: layer norm before attention and before the dense parts, labels from the row of the
//! class token.

use std::{iter, path::Path};

use kernels::{Activation, Cpu, PackedMatrix, Precision, Rows, RowsMut, Scratch};
use serde::Deserialize;

use super::{
    Network,
    config::{Settings, network_config},
    processor::Levels,
};
use crate::{
    LoadError, Machine,
    image::Image,
    map::Weights,
    plain::CONFIG,
    transformer::{
        self, Anatomy, Crew, Hidden, Layer, LayerNames, Norm, Order, PrunedHeads, Room, Shape, States, Tensors,
        room_for, view, view_mut,
    },
    turn::Turn,
};

/// Red, green, blue.
const CHANNELS: usize = 3;

/// What the names of the network's tensors begin with, and those of its layers after that.
const PREFIX: &str = "vit.";
const LAYERS: &str = "encoder.layer";

const NAMES: LayerNames = LayerNames {
    query_key_value: ["attention.attention.query", "attention.attention.key", "attention.attention.value"],
    attended: "attention.output.dense",
    attended_norm: "layernorm_before",
    up: "intermediate.dense",
    down: "output.dense",
    norm: "layernorm_after",
};

/// A loaded network.
pub(crate) struct Vit {
    cpu: Cpu,
    patch: Sides,
    /// Patches in a row, and rows of them.
    grid: Sides,
    /// An embedding of each patch.
    patches: PackedMatrix,
    /// The class token's row, its position's embedding included.
    class: Vec<f32>,
    /// Embeddings of the positions of patches, row by row.
    positions: Vec<f32>,
    shape: Shape,
    layers: Vec<Layer>,
    norm: Norm,
    classifier: PackedMatrix,
    room: Room<States>,
}

/// Sizes in `config.json`; absent ones are as transformers has them.
#[derive(Deserialize)]
#[serde(default)]
struct Config {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    pruned_heads: PrunedHeads,
    intermediate_size: usize,
    hidden_act: transformer::Activation,
    layer_norm_eps: f64,
    image_size: Sides,
    patch_size: Sides,
    qkv_bias: bool,
}

/// Height and width: two numbers, or one for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "OneOrTwo")]
struct Sides {
    height: usize,
    width: usize,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrTwo {
    One(usize),
    Two(usize, usize),
}

impl From<OneOrTwo> for Sides {
    fn from(sides: OneOrTwo) -> Self {
        match sides {
            OneOrTwo::One(side) => Self { height: side, width: side },
            OneOrTwo::Two(height, width) => Self { height, width },
        }
    }
}

impl Sides {
    fn area(self) -> usize {
        self.height * self.width
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            pruned_heads: PrunedHeads::default(),
            intermediate_size: 3072,
            hidden_act: transformer::Activation::Gelu,
            layer_norm_eps: 1e-12,
            image_size: Sides { height: 224, width: 224 },
            patch_size: Sides { height: 16, width: 16 },
            qkv_bias: true,
        }
    }
}

impl Config {
    /// Reads and checks it, for images of the size that the processor makes.
    ///
    /// # Errors
    /// Names the field that is missing or wrong.
    fn read(dir: &Path, settings: &Settings) -> Result<Self, LoadError> {
        let config: Self = network_config(dir)?;
        let seen = Sides { height: settings.processor.height, width: settings.processor.width };
        config.check(seen).map_err(|reason| LoadError::new(&dir.join(CONFIG), reason))?;
        Ok(config)
    }

    /// What is wrong with it for images of this size, if anything.
    fn check(&self, seen: Sides) -> Result<(), String> {
        let Self { hidden_size, num_attention_heads, layer_norm_eps, image_size, patch_size, .. } = *self;
        let sizes = [
            ("hidden_size", hidden_size),
            ("num_attention_heads", num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("image_size", image_size.height.min(image_size.width)),
            ("patch_size", patch_size.height.min(patch_size.width)),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(format!("{name} is 0"));
        }
        if !hidden_size.is_multiple_of(num_attention_heads) {
            return Err(format!(
                "hidden_size {hidden_size} is no multiple of num_attention_heads {num_attention_heads}"
            ));
        }
        if self.num_hidden_layers == 0 {
            return Err("num_hidden_layers is 0".into());
        }
        self.pruned_heads.check(self.num_hidden_layers, num_attention_heads)?;
        if !(layer_norm_eps > 0.0 && layer_norm_eps < 1.0) {
            return Err(format!("layer_norm_eps {layer_norm_eps} is not a small positive number"));
        }
        if !self.qkv_bias {
            return Err("qkv_bias false is not supported".into());
        }
        if seen != image_size {
            let (Sides { height, width }, Sides { height: high, width: wide }) = (image_size, seen);
            return Err(format!(
                "image_size {height} × {width} (high × wide), but the processor makes {high} × {wide}"
            ));
        }
        if patch_size.height > seen.height || patch_size.width > seen.width {
            return Err("patch_size is larger than image_size".into());
        }
        Ok(())
    }
}

impl Network for Vit {
    fn load(dir: &Path, settings: &Settings, weights: &Weights, machine: Machine) -> Result<Self, LoadError> {
        let config = Config::read(dir, settings)?;
        let (seen, patch, width) = (config.image_size, config.patch_size, config.hidden_size);
        let grid = Sides { height: seen.height / patch.height, width: seen.width / patch.width };
        let shape = Shape {
            order: Order::NormFirst,
            width,
            between: config.intermediate_size,
            head_width: width / config.num_attention_heads,
            activation: config.hidden_act.into(),
        };
        let precision = Precision::F32;
        let epsilon = config.layer_norm_eps as f32;
        let tensors = Tensors { weights, prefix: PREFIX, cpu: machine.cpu, precision, epsilon };
        let projection = "embeddings.patch_embeddings.projection";
        let kernels = tensors.tensor(&format!("{projection}.weight"), &[width, CHANNELS, patch.height, patch.width])?;
        let bias = tensors.numbers(&format!("{projection}.bias"), &[width])?;
        let patches = tensors.matrix(projection, CHANNELS * patch.area(), &bias, || {
            tensors.weights.at_desk(kernels.count(), |weights| {
                kernels.read(0, weights)?;
                Ok(tensors.packed(weights, &bias))
            })
        })?;
        let mut class = tensors.numbers("embeddings.cls_token", &[1, 1, width])?;
        let mut positions = tensors.numbers("embeddings.position_embeddings", &[1, grid.area() + 1, width])?;
        class.iter_mut().zip(positions.drain(..width)).for_each(|(number, position)| *number += position);
        let layer = |index: usize| {
            let heads = config.num_attention_heads - config.pruned_heads.of(index);
            Layer::load(&tensors, &format!("{LAYERS}.{index}"), &NAMES, &shape, heads, None)
        };
        let room = Room::new(machine, precision)
            .map_err(|error| LoadError::new(weights.path(), format!("no threads to run it: {error}")))?;
        Ok(Self {
            cpu: machine.cpu,
            patch,
            grid,
            patches,
            class,
            positions,
            shape,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_, _>>()?,
            norm: tensors.norm("layernorm", width)?,
            classifier: Tensors { prefix: "", ..tensors }.dense(
                &["classifier".to_owned()],
                settings.labels.len(),
                width,
            )?,
            room,
        })
    }

    fn run<T: Send>(
        &self,
        images: &[&Image],
        levels: &Levels,
        turn: &mut Turn<'_>,
        stop: impl Fn() -> bool + Sync,
        finish: impl Fn(usize, Vec<f32>) -> T + Sync,
    ) -> Option<Vec<T>> {
        let lengths = vec![self.rows(); images.len()];
        self.room.run(&lengths, turn, |group, crew, states| {
            let mut hidden = self.begin(group.iter().map(|image| images[*image]), levels, crew, states);
            let is_done = Layer::pass_all(&self.layers, &self.shape, crew, states, &mut hidden, &stop);
            let classifier = |hidden: &mut Vec<f32>| self.outputs(hidden, crew, states);
            let outputs = is_done.then(|| hidden.apply("classifier", classifier));
            states.end(hidden);
            Some(group.iter().zip(outputs?).map(|(image, outputs)| finish(*image, outputs)).collect())
        })
    }
}

/// The layers of a directory's network, as its files have them.
///
/// # Errors
/// When `config.json` cannot be read, or the weights are not what it says.
pub(super) fn anatomy(dir: &Path, settings: &Settings, weights: &Weights) -> Result<Anatomy, LoadError> {
    let config = Config::read(dir, settings)?;
    let heads = (config.num_attention_heads, config.hidden_size / config.num_attention_heads);
    Anatomy::new(weights, (format!("{PREFIX}{LAYERS}"), NAMES), config.num_hidden_layers, heads, &config.pruned_heads)
}

impl Vit {
    /// Rows of hidden states for each image: of the class token and of patches.
    pub(super) fn rows(&self) -> usize {
        self.grid.area() + 1
    }

    /// The layers, first to last: whoever asks what one is worth runs the others.
    pub(super) fn layers_mut(&mut self) -> &mut Vec<Layer> {
        &mut self.layers
    }

    /// Takes image after image through all layers, and shows of each layer what its heads gathered, side by side.
    pub(super) fn observe(&self, images: &[Image], levels: &Levels, mut see: impl FnMut(usize, Rows<'_>)) {
        let mut scratch = [Scratch::default()];
        let mut crew = Crew::seen(self.cpu, &mut scratch);
        let mut states = States::default();
        for image in images {
            let mut hidden = self.begin(iter::once(image), levels, &mut crew, &mut states);
            for (index, layer) in self.layers.iter().enumerate() {
                layer.pass(&self.shape, &mut crew, &mut states, &mut hidden);
                see(index, view(&states.context, self.rows(), layer.context_width()));
            }
            states.end(hidden);
        }
    }

    /// Hidden states before the first layer: of each image the class token, then its patches.
    fn begin<'a>(
        &self,
        images: impl ExactSizeIterator<Item = &'a Image>,
        levels: &Levels,
        crew: &mut Crew<'_>,
        states: &mut States,
    ) -> Hidden {
        let (width, patches, inputs) = (self.shape.width, self.grid.area(), self.patches.inputs());
        let mut hidden = states.begin(iter::repeat_n(patches + 1, images.len()), width);
        let between = &mut states.between;
        hidden.apply("patch-embeddings", |hidden| {
            for (image, hidden) in images.zip(hidden.chunks_exact_mut((patches + 1) * width)) {
                self.cut(image, levels, room_for(between, patches * inputs));
                let (class, hidden) = hidden.split_at_mut(width);
                class.copy_from_slice(&self.class);
                let positions = view(&self.positions, patches, width);
                let to = RowsMut::new(hidden, patches, width, width);
                crew.multiply(&self.patches, Activation::None, view(between, patches, inputs), Some(positions), to);
            }
        });
        hidden
    }

    /// Writes a row for each patch: channel by channel the numbers of its pixels. What is left over at the right and at the
    /// bottom belongs to none.
    fn cut(&self, image: &Image, levels: &Levels, rows: &mut [f32]) {
        let (patch, grid) = (self.patch, self.grid);
        for (index, row) in rows.chunks_exact_mut(CHANNELS * patch.area()).enumerate() {
            let (top, left) = (index / grid.width * patch.height, index % grid.width * patch.width);
            for (line, numbers) in row.chunks_exact_mut(patch.width).enumerate() {
                let (channel, down) = (line / patch.height, line % patch.height);
                let begin = ((top + down) * image.width + left) * CHANNELS;
                let pixels = image.pixels[begin..].chunks_exact(CHANNELS);
                for (number, pixel) in numbers.iter_mut().zip(pixels) {
                    *number = levels.of(channel, pixel[channel]);
                }
            }
        }
    }

    /// The classifier's outputs for each image; overwrites what is between two steps.
    fn outputs(&self, hidden: &[f32], crew: &mut Crew<'_>, states: &mut States) -> Vec<Vec<f32>> {
        let (width, labels) = (self.shape.width, self.classifier.outputs());
        let States { offsets, sum, context, between, .. } = states;
        let count = offsets.len() - 1;
        let classes = room_for(sum, count * width);
        for (row, begin) in classes.chunks_exact_mut(width).zip(&*offsets) {
            row.copy_from_slice(&hidden[begin * width..][..width]);
        }
        crew.norm(self.norm.parameters(), view(sum, count, width), view_mut(context, count, width));
        let to = view_mut(between, count, labels);
        crew.multiply(&self.classifier, Activation::None, view(context, count, width), None, to);
        between[..count * labels].chunks_exact(labels).map(<[f32]>::to_vec).collect()
    }
}
