//! Convolutions as products: what a filter sees at a place is a row, its weights are a matrix. Batch norms are folded into them.
//!
//! Feature maps are rows of channels, a row for each place (NHWC), so that filters of one place need no rows of their own.

use kernels::{Activation, Cpu, Epilogue, PackedMatrix, Rows, RowsMut, activate};

use super::processor::Levels;
use crate::{
    LoadError,
    image::Image,
    map::Numbers,
    transformer::{Activation as Word, Crew, Tensors, room_for},
};

/// A feature map.
#[derive(Default)]
pub(super) struct Map {
    height: usize,
    width: usize,
    channels: usize,
    /// As many as ever were wanted at once.
    numbers: Vec<f32>,
}

/// What is between two steps.
#[derive(Default)]
pub(super) struct Maps {
    /// What a block begins with, and gives in the end.
    pub(super) x: Map,
    pub(super) y: Map,
    pub(super) z: Map,
    /// What a block adds in the end, when that is not what it begins with.
    pub(super) shortcut: Map,
    /// Of each member: what filters see at some places.
    pub(super) seen: Vec<Vec<f32>>,
}

/// What becomes of a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Kernel(Activation),
    /// No less than 0 and no more than 6.
    Relu6,
}

impl After {
    pub(super) const NOTHING: Self = Self::Kernel(Activation::None);
    pub(super) const RELU: Self = Self::Kernel(Activation::Relu);

    /// By the word in `hidden_act`.
    ///
    /// # Errors
    /// When it is not known.
    pub(super) fn of(word: &str) -> Result<Self, String> {
        if word == "relu6" {
            return Ok(Self::Relu6);
        }
        let known: Result<Word, _> = serde_json::from_value(word.into());
        known.map(|word| Self::Kernel(word.into())).map_err(|error| format!("hidden_act: {error}"))
    }

    /// Does it to rows of so many numbers.
    fn apply(self, cpu: Cpu, rows: &mut [f32], columns: usize) {
        match self {
            Self::Kernel(Activation::None) => {}
            Self::Kernel(activation) => {
                activate(cpu, activation, RowsMut::new(rows, rows.len() / columns, columns, columns));
            }
            Self::Relu6 => rows.iter_mut().for_each(|number| *number = number.clamp(0.0, 6.0)),
        }
    }
}

/// The zeros around a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Padding {
    /// As many on all sides as half the filter is wide.
    Even,
    /// As few as make each place of the result whole, one more at the end than at the beginning where they are odd (TensorFlow's
    /// `SAME`).
    Least,
}

/// How a filter moves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// Places on each side.
    pub(super) side: usize,
    pub(super) stride: usize,
    /// How far apart the filter's places are.
    pub(super) dilation: usize,
    pub(super) padding: Padding,
}

impl Window {
    /// One place, moved by one.
    pub(super) const POINT: Self = Self { side: 1, stride: 1, dilation: 1, padding: Padding::Even };

    /// Zeros before a side of a map, and how long that of the result is.
    fn along(self, length: usize) -> (usize, usize) {
        let Self { side, stride, dilation, padding } = self;
        let (before, after) = match padding {
            Padding::Even => (side / 2 * dilation, side / 2 * dilation),
            Padding::Least => {
                let rest = if length.is_multiple_of(stride) { stride } else { length % stride };
                let all = side.saturating_sub(rest);
                (all / 2 * dilation, (all - all / 2) * dilation)
            }
        };
        (before, (length + before + after).saturating_sub(dilation * (side - 1) + 1) / stride + 1)
    }

    /// Where a filter's places are in a map when the filter is at this row of the result; `None` for zeros around the map.
    fn places(self, x: &Map, row: usize) -> impl Iterator<Item = Option<usize>> {
        let ((above, _), (left, columns)) = (self.along(x.height), self.along(x.width));
        let (top, begin) = (row / columns * self.stride, row % columns * self.stride);
        let (height, width) = (x.height, x.width);
        (0..self.side * self.side).map(move |place| {
            let down = (top + place / self.side * self.dilation).checked_sub(above).filter(|down| *down < height)?;
            let across =
                (begin + place % self.side * self.dilation).checked_sub(left).filter(|across| *across < width)?;
            Some(down * width + across)
        })
    }
}

impl Map {
    /// Makes it the numbers of an image.
    pub(super) fn show(&mut self, image: &Image, levels: &Levels) {
        let numbers = self.reshape(image.height, image.width, 3);
        for (index, (number, sample)) in numbers.iter_mut().zip(&image.pixels).enumerate() {
            *number = levels.of(index % 3, *sample);
        }
    }

    /// Gives it another shape; what the numbers are then means nothing.
    fn reshape(&mut self, height: usize, width: usize, channels: usize) -> &mut [f32] {
        (self.height, self.width, self.channels) = (height, width, channels);
        room_for(&mut self.numbers, height * width * channels)
    }

    fn numbers(&self) -> &[f32] {
        &self.numbers[..self.height * self.width * self.channels]
    }

    /// The channels of a place.
    fn at(&self, place: usize) -> &[f32] {
        &self.numbers[place * self.channels..][..self.channels]
    }

    /// The mean of each channel.
    pub(super) fn means(&self) -> Vec<f32> {
        let places = self.height * self.width;
        let mut sums = vec![0.0; self.channels];
        for place in 0..places {
            sums.iter_mut().zip(self.at(place)).for_each(|(sum, number)| *sum += number);
        }
        sums.iter_mut().for_each(|sum| *sum /= places as f32);
        sums
    }

    /// Writes to `y` the largest number of each channel that a window sees.
    pub(super) fn largest(&self, window: Window, crew: &mut Crew<'_>, y: &mut Self, seen: &mut [Vec<f32>]) {
        let ((_, height), (_, width)) = (window.along(self.height), window.along(self.width));
        let y = y.reshape(height, width, self.channels);
        crew.write_rows(seen, y, self.channels, |_, _, first, rows| {
            for (row, numbers) in rows.chunks_exact_mut(self.channels).enumerate() {
                numbers.fill(f32::NEG_INFINITY);
                for place in window.places(self, first + row).flatten() {
                    numbers.iter_mut().zip(self.at(place)).for_each(|(most, number)| *most = most.max(*number));
                }
            }
        });
    }
}

/// Filters that see all channels.
pub(super) struct Convolution {
    window: Window,
    after: After,
    matrix: PackedMatrix,
}

/// Filters that see one channel each.
pub(super) struct Depthwise {
    window: Window,
    after: After,
    /// Of each place of the filters, a number for each channel.
    weights: Vec<f32>,
    bias: Vec<f32>,
}

/// What a batch norm makes of the filters before it: a factor for each, and a bias.
struct Folded {
    factors: Vec<f64>,
    bias: Vec<f32>,
}

impl Folded {
    fn load(tensors: &Tensors<'_>, name: &str, outputs: usize) -> Result<Self, LoadError> {
        let norm = |part: &str| tensors.numbers(&format!("{name}.normalization.{part}"), &[outputs]);
        let (scale, mut bias, mean, variance) =
            (norm("weight")?, norm("bias")?, norm("running_mean")?, norm("running_var")?);
        let factor = |(scale, variance): (&f32, &f32)| {
            f64::from(*scale) / (f64::from(*variance) + f64::from(tensors.epsilon)).sqrt()
        };
        let factors: Vec<f64> = scale.iter().zip(&variance).map(factor).collect();
        for (bias, (mean, factor)) in bias.iter_mut().zip(mean.iter().zip(&factors)) {
            *bias = (f64::from(*bias) - f64::from(*mean) * factor) as f32;
        }
        finite(tensors, name, &bias)?;
        Ok(Self { factors, bias })
    }

    /// The weights of the filters.
    fn weights(&self, tensors: &Tensors<'_>, name: &str, filters: &Numbers) -> Result<Vec<f32>, LoadError> {
        let mut weights = filters.all()?;
        for (filter, factor) in weights.chunks_exact_mut(filters.count() / self.factors.len()).zip(&self.factors) {
            filter.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * factor) as f32);
        }
        finite(tensors, name, &weights)?;
        Ok(weights)
    }
}

/// Where filters are in the file.
fn filters(tensors: &Tensors<'_>, name: &str, [outputs, inputs, side]: [usize; 3]) -> Result<Numbers, LoadError> {
    tensors.tensor(&format!("{name}.convolution.weight"), &[outputs, inputs, side, side])
}

/// Refuses what is not finite after its batch norm.
fn finite(tensors: &Tensors<'_>, name: &str, numbers: &[f32]) -> Result<(), LoadError> {
    if numbers.iter().all(|number| number.is_finite()) {
        Ok(())
    } else {
        Err(LoadError::new(tensors.weights.path(), format!("{name}.normalization makes what is no number")))
    }
}

impl Convolution {
    /// Reads filters from `inputs` to `outputs` channels.
    ///
    /// # Errors
    /// When a tensor is missing or of another shape.
    pub(super) fn load(
        tensors: &Tensors<'_>,
        name: &str,
        [inputs, outputs]: [usize; 2],
        window: Window,
        after: After,
    ) -> Result<Self, LoadError> {
        // Also where they are kept: a file without them is not that of this network.
        let filters = filters(tensors, name, [outputs, inputs, window.side])?;
        let folded = Folded::load(tensors, name, outputs)?;
        let places = window.side * window.side;
        let with = format!("{name} with {}", tensors.epsilon);
        let matrix = tensors.matrix(&with, inputs * places, &folded.bias, || {
            let weights = folded.weights(tensors, name, &filters)?;
            // From channel by channel to place by place, as maps are.
            let by_place: Vec<f32> = weights
                .chunks_exact(inputs * places)
                .flat_map(|filter| (0..places).flat_map(move |place| filter.iter().skip(place).step_by(places)))
                .copied()
                .collect();
            Ok(tensors.packed(&by_place, &folded.bias))
        })?;
        Ok(Self { window, after, matrix })
    }

    /// Writes `after(x * filters + residual)` to `y`.
    pub(super) fn run(&self, crew: &mut Crew<'_>, x: &Map, residual: Option<&Map>, y: &mut Map, seen: &mut [Vec<f32>]) {
        let window = self.window;
        let (inputs, outputs) = (self.matrix.inputs(), self.matrix.outputs());
        let ((_, height), (_, width)) = (window.along(x.height), window.along(x.width));
        let (cpu, is_point) = (crew.cpu, window.side == 1 && window.stride == 1);
        let y = y.reshape(height, width, outputs);
        crew.write_rows(seen, y, outputs, |scratch, seen, first, rows| {
            let count = rows.len() / outputs;
            let from = if is_point {
                &x.numbers()[first * inputs..][..count * inputs]
            } else {
                see(window, x, first, room_for(seen, count * inputs));
                &seen[..count * inputs]
            };
            let residual = residual.map(|map| &map.numbers()[first * outputs..][..count * outputs]);
            let residual = residual.map(|residual| Rows::new(residual, count, outputs, outputs));
            let (fused, last) = match self.after {
                // What comes after the sum with the residual comes after all.
                After::Kernel(activation) if residual.is_none() => (activation, After::NOTHING),
                after => (Activation::None, after),
            };
            let to = RowsMut::new(rows, count, outputs, outputs);
            let epilogue = Epilogue { activation: fused, residual };
            self.matrix.multiply(Rows::new(from, count, inputs, inputs), 0..outputs, epilogue, to, scratch);
            last.apply(cpu, rows, outputs);
        });
    }
}

/// Writes what a filter sees from this row of the result on.
fn see(window: Window, x: &Map, first: usize, rows: &mut [f32]) {
    let places = window.side * window.side;
    for (row, numbers) in rows.chunks_exact_mut(places * x.channels).enumerate() {
        for (place, numbers) in window.places(x, first + row).zip(numbers.chunks_exact_mut(x.channels)) {
            match place {
                Some(place) => numbers.copy_from_slice(x.at(place)),
                None => numbers.fill(0.0),
            }
        }
    }
}

impl Depthwise {
    /// Reads a filter for each channel.
    ///
    /// # Errors
    /// When a tensor is missing or of another shape.
    pub(super) fn load(
        tensors: &Tensors<'_>,
        name: &str,
        channels: usize,
        window: Window,
        after: After,
    ) -> Result<Self, LoadError> {
        let filters = filters(tensors, name, [channels, 1, window.side])?;
        let folded = Folded::load(tensors, name, channels)?;
        let by_channel = folded.weights(tensors, name, &filters)?;
        let places = window.side * window.side;
        let weights = (0..places).flat_map(|place| by_channel.iter().skip(place).step_by(places)).copied().collect();
        Ok(Self { window, after, weights, bias: folded.bias })
    }

    /// Writes `after(x * filters)` to `y`.
    pub(super) fn run(&self, crew: &mut Crew<'_>, x: &Map, y: &mut Map, seen: &mut [Vec<f32>]) {
        let ((_, height), (_, width)) = (self.window.along(x.height), self.window.along(x.width));
        let (cpu, channels) = (crew.cpu, x.channels);
        let y = y.reshape(height, width, channels);
        crew.write_rows(seen, y, channels, |_, _, first, rows| {
            for (row, numbers) in rows.chunks_exact_mut(channels).enumerate() {
                numbers.copy_from_slice(&self.bias);
                let weights = self.weights.chunks_exact(channels);
                for (place, weights) in self.window.places(x, first + row).zip(weights) {
                    let Some(place) = place else { continue };
                    let products = x.at(place).iter().zip(weights).map(|(number, weight)| number * weight);
                    numbers.iter_mut().zip(products).for_each(|(sum, product)| *sum += product);
                }
            }
            self.after.apply(cpu, rows, channels);
        });
    }
}
