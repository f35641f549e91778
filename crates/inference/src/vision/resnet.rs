//! Residual networks: blocks of convolutions, each added to what it began with.
//!
//! After He et al., "Deep Residual Learning for Image Recognition" (2015, arXiv 1512.03385), as transformers'
//! `ResNetForImageClassification` computes it.

use std::{mem, path::Path};

use serde::Deserialize;

use super::{
    Network,
    config::{Settings, network_config},
    conv::{After, Convolution, Maps, Window},
    head::{Head, tensors},
    processor::Levels,
};
use crate::{
    LoadError, Machine,
    image::Image,
    map::Weights,
    plain::CONFIG,
    transformer::{Crew, Tensors},
    turn::Turn,
};

/// Added to variances, as torch does where nothing is said.
const EPSILON: f32 = 1e-5;

/// How many times narrower a bottleneck is.
const REDUCTION: usize = 4;

/// A loaded network.
pub(crate) struct ResNet {
    stem: Convolution,
    blocks: Vec<Block>,
    head: Head,
}

/// Convolutions, and what brings the block's beginning to the shape of its end.
struct Block {
    shortcut: Option<Convolution>,
    first: Convolution,
    /// In a bottleneck.
    middle: Option<Convolution>,
    last: Convolution,
}

/// Sizes in `config.json`; absent ones are as transformers has them.
#[derive(Deserialize)]
#[serde(default)]
struct Config {
    embedding_size: usize,
    hidden_sizes: Vec<usize>,
    depths: Vec<usize>,
    layer_type: Kind,
    hidden_act: String,
    downsample_in_first_stage: bool,
    downsample_in_bottleneck: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Basic,
    Bottleneck,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            embedding_size: 64,
            hidden_sizes: vec![256, 512, 1024, 2048],
            depths: vec![3, 4, 6, 3],
            layer_type: Kind::Bottleneck,
            hidden_act: "relu".into(),
            downsample_in_first_stage: false,
            downsample_in_bottleneck: false,
        }
    }
}

impl Config {
    /// What is wrong with it, if anything.
    fn check(&self) -> Result<(), String> {
        let (sizes, depths) = (&self.hidden_sizes, &self.depths);
        if sizes.is_empty() || sizes.len() != depths.len() {
            return Err(format!("{} hidden_sizes and {} depths", sizes.len(), depths.len()));
        }
        if self.embedding_size == 0 || sizes.contains(&0) || depths.contains(&0) {
            return Err("embedding_size, or one of hidden_sizes or depths, is 0".into());
        }
        match sizes.iter().find(|size| self.layer_type == Kind::Bottleneck && **size < REDUCTION) {
            Some(size) => Err(format!("hidden size {size} is too small for a bottleneck")),
            None => Ok(()),
        }
    }
}

/// A filter so wide, moved so far.
fn window(side: usize, stride: usize) -> Window {
    Window { side, stride, ..Window::POINT }
}

impl Network for ResNet {
    fn load(dir: &Path, settings: &Settings, weights: &Weights, machine: Machine) -> Result<Self, LoadError> {
        let config: Config = network_config(dir)?;
        let wrong = |reason: String| LoadError::new(&dir.join(CONFIG), reason);
        config.check().map_err(wrong)?;
        let after = After::of(&config.hidden_act).map_err(wrong)?;
        let tensors = tensors(weights, "resnet.", machine, EPSILON);
        let mut width = config.embedding_size;
        let stem = Convolution::load(&tensors, "embedder.embedder", [3, width], window(7, 2), after)?;
        let mut blocks = Vec::new();
        for (stage, (size, depth)) in config.hidden_sizes.iter().zip(&config.depths).enumerate() {
            for index in 0..*depth {
                let shrinks = index == 0 && (stage > 0 || config.downsample_in_first_stage);
                let name = format!("encoder.stages.{stage}.layers.{index}");
                let stride = if shrinks { 2 } else { 1 };
                blocks.push(Block::load(&tensors, &name, [width, *size], stride, &config, after)?);
                width = *size;
            }
        }
        let head = Head::load(tensors, "classifier.1", [width, settings.labels.len()], machine)?;
        Ok(Self { stem, blocks, head })
    }

    fn run<T: Send>(
        &self,
        images: &[&Image],
        levels: &Levels,
        turn: &mut Turn<'_>,
        stop: impl Fn() -> bool + Sync,
        finish: impl Fn(usize, Vec<f32>) -> T + Sync,
    ) -> Option<Vec<T>> {
        let forward = |crew: &mut Crew<'_>, maps: &mut Maps| {
            let Maps { x, y, seen, .. } = maps;
            self.stem.run(crew, x, None, y, seen);
            y.largest(window(3, 2), crew, x, seen);
            for block in &self.blocks {
                if stop() {
                    return None;
                }
                block.run(crew, maps);
            }
            Some(())
        };
        self.head.run(images, levels, turn, forward, finish)
    }
}

impl Block {
    fn load(
        tensors: &Tensors<'_>,
        name: &str,
        [inputs, outputs]: [usize; 2],
        stride: usize,
        config: &Config,
        after: After,
    ) -> Result<Self, LoadError> {
        let layer = |index: usize, channels: [usize; 2], window: Window, after: After| {
            Convolution::load(tensors, &format!("{name}.layer.{index}"), channels, window, after)
        };
        // Whatever hidden_act says, within a block it is this.
        let within = After::RELU;
        let (first, middle, last) = match config.layer_type {
            Kind::Basic => {
                let first = layer(0, [inputs, outputs], window(3, stride), within)?;
                (first, None, layer(1, [outputs, outputs], window(3, 1), after)?)
            }
            Kind::Bottleneck => {
                let narrow = outputs / REDUCTION;
                let strides = if config.downsample_in_bottleneck { [stride, 1] } else { [1, stride] };
                let first = layer(0, [inputs, narrow], window(1, strides[0]), within)?;
                let middle = layer(1, [narrow, narrow], window(3, strides[1]), within)?;
                (first, Some(middle), layer(2, [narrow, outputs], Window::POINT, after)?)
            }
        };
        let shortcut = || {
            let name = format!("{name}.shortcut");
            Convolution::load(tensors, &name, [inputs, outputs], window(1, stride), After::NOTHING)
        };
        let shortcut = (inputs != outputs || stride != 1).then(shortcut).transpose()?;
        Ok(Self { shortcut, first, middle, last })
    }

    /// Takes `x` through the block.
    fn run(&self, crew: &mut Crew<'_>, maps: &mut Maps) {
        let Maps { x, y, z, shortcut, seen } = maps;
        self.first.run(crew, x, None, y, seen);
        if let Some(middle) = &self.middle {
            middle.run(crew, y, None, z, seen);
            mem::swap(y, z);
        }
        let residual = match &self.shortcut {
            Some(convolution) => {
                convolution.run(crew, x, None, shortcut, seen);
                &*shortcut
            }
            None => &*x,
        };
        self.last.run(crew, y, Some(residual), z, seen);
        mem::swap(x, z);
    }
}
