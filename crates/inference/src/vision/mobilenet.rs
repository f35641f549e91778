//! MobileNetV2: narrow maps, widened for filters of one channel each and narrowed again.
//!
//! After Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018, arXiv 1801.04381), as transformers'
//! `MobileNetV2ForImageClassification` computes it.

use std::{mem, path::Path};

use serde::Deserialize;

use super::{
    Network,
    config::{Settings, network_config},
    conv::{After, Convolution, Depthwise, Maps, Padding, Window},
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

/// Channels before and after each block, at full width.
const CHANNELS: [usize; 17] = [16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320];

/// How far each block's filters move.
const STRIDES: [usize; 16] = [2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1];

/// Channels of the first convolution and of the last one, at full width.
const FIRST: usize = 32;
const LAST: usize = 1280;

/// A loaded network.
pub(crate) struct MobileNetV2 {
    first: Convolution,
    /// The first is the stem's, which adds nothing in the end.
    blocks: Vec<Block>,
    last: Convolution,
    head: Head,
}

struct Block {
    widen: Option<Convolution>,
    filter: Depthwise,
    narrow: Convolution,
    /// Whether what it begins with is added in the end.
    adds: bool,
}

/// Sizes in `config.json`; absent ones are as transformers has them.
#[derive(Deserialize)]
#[serde(default)]
struct Config {
    depth_multiplier: f64,
    depth_divisible_by: usize,
    min_depth: usize,
    expand_ratio: f64,
    output_stride: usize,
    first_layer_is_expansion: bool,
    finegrained_output: bool,
    hidden_act: String,
    tf_padding: bool,
    layer_norm_eps: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            depth_multiplier: 1.0,
            depth_divisible_by: 8,
            min_depth: 8,
            expand_ratio: 6.0,
            output_stride: 32,
            first_layer_is_expansion: true,
            finegrained_output: true,
            hidden_act: "relu6".into(),
            tf_padding: true,
            layer_norm_eps: 0.001,
        }
    }
}

impl Config {
    /// What is wrong with it, if anything.
    fn check(&self) -> Result<(), String> {
        let is_factor = |factor: f64| factor > 0.0 && factor <= 100.0;
        if !is_factor(self.depth_multiplier) || !is_factor(self.expand_ratio) {
            return Err("depth_multiplier or expand_ratio is no factor between 0 and 100".into());
        }
        if self.depth_divisible_by == 0 || self.min_depth == 0 || self.depth_divisible_by.max(self.min_depth) > 1024 {
            return Err("depth_divisible_by or min_depth is not between 1 and 1024".into());
        }
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps < 1.0) {
            return Err(format!("layer_norm_eps {} is not a small positive number", self.layer_norm_eps));
        }
        if ![8, 16, 32].contains(&self.output_stride) {
            return Err(format!("output_stride {} is not 8, 16 or 32", self.output_stride));
        }
        Ok(())
    }

    /// So many times the channels, to whole multiples, and no less than nine tenths of what they would be.
    fn divisible(&self, channels: usize, factor: f64) -> usize {
        let (wanted, multiple) = ((channels as f64 * factor).round_ties_even(), self.depth_divisible_by);
        let rounded = (wanted + multiple as f64 / 2.0) as usize / multiple * multiple;
        let rounded = rounded.max(self.min_depth);
        if (rounded as f64) < 0.9 * wanted { rounded + multiple } else { rounded }
    }

    fn window(&self, side: usize, stride: usize, dilation: usize) -> Window {
        let padding = if self.tf_padding { Padding::Least } else { Padding::Even };
        Window { side, stride, dilation, padding }
    }
}

impl Network for MobileNetV2 {
    fn load(dir: &Path, settings: &Settings, weights: &Weights, machine: Machine) -> Result<Self, LoadError> {
        let config: Config = network_config(dir)?;
        let wrong = |reason: String| LoadError::new(&dir.join(CONFIG), reason);
        config.check().map_err(wrong)?;
        let after = After::of(&config.hidden_act).map_err(wrong)?;
        // Its many layers of few channels add up what tiles round, to more than 1e-5 in a score.
        let machine = Machine { cpu: machine.cpu.in_registers(), ..machine };
        let tensors = tensors(weights, "mobilenet_v2.", machine, config.layer_norm_eps as f32);
        let scaled = |channels: usize| config.divisible(channels, config.depth_multiplier);
        let (begin, channels) = (scaled(FIRST), CHANNELS.map(scaled));
        let first = Convolution::load(&tensors, "conv_stem.first_conv", [3, begin], config.window(3, 2, 1), after)?;
        let widens = !config.first_layer_is_expansion;
        let stem =
            Block::load(&tensors, "conv_stem", [begin, begin, channels[0]], config.window(3, 1, 1), after, widens)?;
        let mut blocks = vec![Block { adds: false, ..stem }];
        let (mut stride, mut dilation) = (2, 1);
        for (index, ends) in channels.windows(2).enumerate() {
            // When maps are as small as they may be, filters reach further instead of moving further.
            let (own_stride, own_dilation) = if stride == config.output_stride {
                let own = (1, dilation);
                dilation *= STRIDES[index];
                own
            } else {
                stride *= STRIDES[index];
                (STRIDES[index], 1)
            };
            let wide = config.divisible(ends[0], config.expand_ratio);
            let window = config.window(3, own_stride, own_dilation);
            let name = format!("layer.{index}");
            blocks.push(Block::load(&tensors, &name, [ends[0], wide, ends[1]], window, after, true)?);
        }
        let is_full = config.finegrained_output && config.depth_multiplier < 1.0;
        let outputs = if is_full { LAST } else { scaled(LAST) };
        let last = Convolution::load(&tensors, "conv_1x1", [channels[16], outputs], Window::POINT, after)?;
        let head = Head::load(tensors, "classifier", [outputs, settings.labels.len()], machine)?;
        Ok(Self { first, blocks, last, head })
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
            self.first.run(crew, &maps.x, None, &mut maps.y, &mut maps.seen);
            mem::swap(&mut maps.x, &mut maps.y);
            for block in &self.blocks {
                if stop() {
                    return None;
                }
                block.run(crew, maps);
            }
            self.last.run(crew, &maps.x, None, &mut maps.y, &mut maps.seen);
            mem::swap(&mut maps.x, &mut maps.y);
            Some(())
        };
        self.head.run(images, levels, turn, forward, finish)
    }
}

impl Block {
    fn load(
        tensors: &Tensors<'_>,
        name: &str,
        [inputs, wide, outputs]: [usize; 3],
        window: Window,
        after: After,
        widens: bool,
    ) -> Result<Self, LoadError> {
        let part = |part: &str| format!("{name}.{part}");
        let widen = || Convolution::load(tensors, &part("expand_1x1"), [inputs, wide], Window::POINT, after);
        Ok(Self {
            widen: widens.then(widen).transpose()?,
            filter: Depthwise::load(tensors, &part("conv_3x3"), wide, window, after)?,
            narrow: Convolution::load(tensors, &part("reduce_1x1"), [wide, outputs], Window::POINT, After::NOTHING)?,
            adds: window.stride == 1 && inputs == outputs,
        })
    }

    /// Takes `x` through the block.
    fn run(&self, crew: &mut Crew<'_>, maps: &mut Maps) {
        let Maps { x, y, z, seen, .. } = maps;
        match &self.widen {
            Some(widen) => {
                widen.run(crew, x, None, y, seen);
                self.filter.run(crew, y, z, seen);
            }
            None => self.filter.run(crew, x, z, seen),
        }
        self.narrow.run(crew, z, self.adds.then_some(&*x), y, seen);
        mem::swap(x, y);
    }
}
