//! All layers of an encoder of MiniLM's shape, without embeddings and pooling: what the kernels are for, put together as a
//! caller would.

use kernels::{
    Activation, Arena, Both, Cpu, LayerNorm, PackedMatrix, Precision, Rows, RowsMut, Scratch, SelfAttention, layer_norm,
};

use crate::{HEAD, HIDDEN, INTERMEDIATE, LAYERS, numbers};

struct Layer {
    query_key_value: PackedMatrix,
    attended: PackedMatrix,
    up: PackedMatrix,
    down: PackedMatrix,
}

/// Weights and activations.
pub(crate) struct Encoder {
    cpu: Cpu,
    precision: Precision,
    layers: Vec<Layer>,
    offsets: Vec<usize>,
    ones: Vec<f32>,
    zeros: Vec<f32>,
    x: Vec<f32>,
    y: Vec<f32>,
    scratch: Scratch,
}

impl Encoder {
    pub(crate) fn new(cpu: Cpu, precision: Precision, sequences: usize, length: usize) -> Self {
        // As a model's weights lie.
        let arena = Arena::new(2 * LAYERS * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INTERMEDIATE) * size_of::<f32>());
        let matrix = |outputs: usize, inputs: usize| {
            let weights: Vec<f32> = numbers(outputs * inputs).iter().map(|number| number * 0.05).collect();
            let weights = Rows::new(&weights, outputs, inputs, inputs);
            PackedMatrix::new_in(Some(&arena), cpu, precision, weights, Some(&numbers(outputs)))
        };
        let layer = || Layer {
            query_key_value: matrix(3 * HIDDEN, HIDDEN),
            attended: matrix(HIDDEN, HIDDEN),
            up: matrix(INTERMEDIATE, HIDDEN),
            down: matrix(HIDDEN, INTERMEDIATE),
        };
        let rows = sequences * length;
        Self {
            cpu,
            precision,
            layers: (0..LAYERS).map(|_| layer()).collect(),
            offsets: (0..=sequences).map(|sequence| sequence * length).collect(),
            ones: vec![1.0; HIDDEN],
            zeros: vec![0.0; HIDDEN],
            x: numbers(rows * HIDDEN),
            y: vec![0.0; rows * HIDDEN],
            scratch: Scratch::default(),
        }
    }

    /// Floating-point operations of one run, without those of norms, softmax and GELU.
    pub(crate) fn flop(&self) -> f64 {
        let weights = 4 * HIDDEN * HIDDEN + 2 * HIDDEN * INTERMEDIATE;
        let squares: usize = self.offsets.windows(2).map(|ends| (ends[1] - ends[0]).pow(2)).sum();
        let rows = self.x.len() / HIDDEN;
        (LAYERS * (2 * rows * weights + 4 * squares * HIDDEN)) as f64
    }

    pub(crate) fn run(&mut self) {
        let (cpu, rows) = (self.cpu, self.x.len() / HIDDEN);
        let norm = LayerNorm { weight: &self.ones, bias: &self.zeros, epsilon: 1e-12 };
        let scratch = &mut self.scratch;
        for layer in &self.layers {
            let x = Rows::new(&self.x, rows, HIDDEN, HIDDEN);
            let attention = SelfAttention {
                query_key_value: &layer.query_key_value,
                attended: &layer.attended,
                offsets: &self.offsets,
                head_width: HEAD,
                scale: 0.177,
                bias: None,
                precision: self.precision,
            };
            let y = RowsMut::new(&mut self.y, rows, HIDDEN, HIDDEN);
            attention.multiply(x, Some(x), y, scratch);
            let y = Rows::new(&self.y, rows, HIDDEN, HIDDEN);
            layer_norm(cpu, norm, y, None, RowsMut::new(&mut self.x, rows, HIDDEN, HIDDEN));

            let x = Rows::new(&self.x, rows, HIDDEN, HIDDEN);
            let both = Both { up: &layer.up, activation: Activation::GeluErf, down: &layer.down };
            both.multiply(x, Some(x), RowsMut::new(&mut self.y, rows, HIDDEN, HIDDEN), scratch);
            let y = Rows::new(&self.y, rows, HIDDEN, HIDDEN);
            layer_norm(cpu, norm, y, None, RowsMut::new(&mut self.x, rows, HIDDEN, HIDDEN));
        }
    }
}
