//! Trains the bundled models from the data beside them: `cargo run --release -p inference --example train -- digits|iris`.
//! Writes `model.safetensors`, and the digest and the accuracy on held-out rows into `model.toml`. Everything random comes
//! from one seed, so the same machine and toolchain give the same file bit for bit.
#![allow(clippy::print_stdout)]

use std::{
    collections::HashMap,
    error::Error,
    f64::consts::PI,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::{AdamW, Linear, Module, Optimizer, ParamsAdamW, loss::cross_entropy, ops::softmax};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use sha2::{Digest, Sha256};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Of initial weights, order and augmentation.
const SEED: u64 = 20_260_101;

/// One row in so many is held out: the last of each group.
const HELD_OUT_EVERY: usize = 5;

/// Rows of each step.
const BATCH: usize = 32;

/// Cells a side of a digit.
const SIDE: usize = 8;

/// Inputs and the label of one row.
type Row = (Vec<f32>, u32);

/// How one model is trained.
struct Recipe {
    name: &'static str,
    rows: Vec<Row>,
    classes: usize,
    hidden: &'static [usize],
    epochs: usize,
    learning_rate: f64,
    weight_decay: f64,
    /// `(x - offset) * scale` goes into the first layer.
    offset: Vec<f32>,
    scale: Vec<f32>,
    /// Makes another row of the same label.
    vary: fn(&[f32], &mut StdRng) -> Vec<f32>,
}

fn main() -> Result<()> {
    let recipe = match std::env::args().nth(1).as_deref() {
        Some("digits") => digits()?,
        Some("iris") => iris()?,
        _ => return Err("say which: digits or iris".into()),
    };
    let held_out = |index: usize| index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1;
    let (held, kept): (Vec<_>, Vec<_>) =
        recipe.rows.iter().cloned().enumerate().partition(|(index, _)| held_out(*index));
    let strip = |rows: Vec<(usize, Row)>| rows.into_iter().map(|(_, row)| row).collect::<Vec<_>>();
    let (held, kept) = (strip(held), strip(kept));

    let network = train(&recipe, &kept)?;
    let accuracy = network.accuracy(&held)?;
    println!(
        "trained on {} rows: {:.4} right, held out {}: {accuracy:.4} right",
        kept.len(),
        network.accuracy(&kept)?,
        held.len()
    );

    let dir = directory(recipe.name);
    let weights = dir.join("model.safetensors");
    let bytes = safetensors::serialize(network.tensors(), None)?;
    fs::write(&weights, &bytes)?;
    let digest = hex::encode(Sha256::digest(&bytes));
    let manifest = dir.join("model.toml");
    let mut text = fs::read_to_string(&manifest)?;
    for (key, value) in [
        ("sha256", format!("{digest:?}")),
        ("seed", SEED.to_string()),
        ("rows", kept.len().to_string()),
        ("held_out_rows", held.len().to_string()),
        ("held_out_accuracy", format!("{accuracy:.4}")),
    ] {
        text = set(&text, key, &value)?;
    }
    fs::write(manifest, text)?;
    println!("wrote {}, sha256 {digest}", weights.display());
    Ok(())
}

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/augur").join(name)
}

/// Replaces the value of a key that stands on exactly one line of its own.
fn set(text: &str, key: &str, value: &str) -> Result<String> {
    let start = format!("{key} = ");
    if text.lines().filter(|line| line.starts_with(&start)).count() != 1 {
        return Err(format!("model.toml does not have exactly one line {start}…").into());
    }
    let lines = text
        .lines()
        .map(|line| if line.starts_with(&start) { format!("{start}{value}\n") } else { format!("{line}\n") });
    Ok(lines.collect())
}

/// Comma-separated rows, the label last.
fn read(path: &Path, header_lines: usize) -> Result<Vec<Row>> {
    let text = fs::read_to_string(path)?;
    let rows = text.lines().skip(header_lines).map(|line| {
        let mut numbers = line.split(',').map(str::parse::<f32>).collect::<std::result::Result<Vec<_>, _>>()?;
        let label = numbers.pop().ok_or("an empty line")?;
        Ok((numbers, label as u32))
    });
    rows.collect()
}

fn digits() -> Result<Recipe> {
    let inputs = SIDE * SIDE;
    Ok(Recipe {
        name: "digits",
        rows: read(&directory("digits").join("data/digits.csv"), 0)?,
        classes: 10,
        hidden: &[128, 64],
        epochs: 120,
        learning_rate: 2e-3,
        weight_decay: 1e-2,
        offset: vec![0.0; inputs],
        scale: vec![1.0 / 16.0; inputs],
        vary: nudge,
    })
}

fn iris() -> Result<Recipe> {
    let rows = read(&directory("iris").join("data/iris.csv"), 1)?;
    // Means and spreads of the rows that are trained on alone.
    let kept: Vec<_> = rows.iter().enumerate().filter(|(i, _)| i % HELD_OUT_EVERY != HELD_OUT_EVERY - 1).collect();
    let column = |column: usize| kept.iter().map(move |(_, row)| row.0[column]);
    let count = kept.len() as f32;
    let offset: Vec<f32> = (0..4).map(|index| column(index).sum::<f32>() / count).collect();
    let spread = |index: usize| (column(index).map(|x| (x - offset[index]).powi(2)).sum::<f32>() / count).sqrt();
    let scale = (0..4).map(|index| 1.0 / spread(index)).collect();
    Ok(Recipe {
        name: "iris",
        rows,
        classes: 3,
        hidden: &[16],
        epochs: 150,
        learning_rate: 5e-3,
        weight_decay: 1e-2,
        offset,
        scale,
        vary: |row, _| row.to_vec(),
    })
}

/// Moves a digit by up to half a cell each way: a mix of the picture and its neighbours.
fn nudge(cells: &[f32], random: &mut StdRng) -> Vec<f32> {
    let (dx, dy): (f32, f32) = (random.random_range(-0.5..=0.5), random.random_range(-0.5..=0.5));
    let at = |x: isize, y: isize| {
        let inside = (0..SIDE as isize).contains(&x) && (0..SIDE as isize).contains(&y);
        if inside { cells[y as usize * SIDE + x as usize] } else { 0.0 }
    };
    let cell = |index: usize| {
        let (x, y) = ((index % SIDE) as isize, (index / SIDE) as isize);
        let (next_x, next_y) = (x + dx.signum() as isize, y + dy.signum() as isize);
        let (a, b) = (dx.abs(), dy.abs());
        (1.0 - a) * (1.0 - b) * at(x, y)
            + a * (1.0 - b) * at(next_x, y)
            + (1.0 - a) * b * at(x, next_y)
            + a * b * at(next_x, next_y)
    };
    (0..SIDE * SIDE).map(cell).collect()
}

/// A network under training.
struct Network {
    offset: Tensor,
    scale: Tensor,
    layers: Vec<(Var, Var)>,
}

impl Network {
    /// He's initialisation: uniform within √(6 / inputs), which keeps the spread of ReLU layers (He et al., 2015).
    fn new(recipe: &Recipe, random: &mut StdRng) -> Result<Self> {
        let inputs = recipe.offset.len();
        let mut layers = Vec::new();
        let mut width = inputs;
        for &outputs in recipe.hidden.iter().chain([&recipe.classes]) {
            let bound = (6.0 / width as f32).sqrt();
            let weights: Vec<f32> = (0..outputs * width).map(|_| random.random_range(-bound..bound)).collect();
            let weight = Var::from_tensor(&Tensor::from_vec(weights, (outputs, width), &Device::Cpu)?)?;
            let bias = Var::from_tensor(&Tensor::zeros(outputs, DType::F32, &Device::Cpu)?)?;
            layers.push((weight, bias));
            width = outputs;
        }
        let vector = |values: &[f32]| Tensor::from_slice(values, inputs, &Device::Cpu);
        Ok(Self { offset: vector(&recipe.offset)?, scale: vector(&recipe.scale)?, layers })
    }

    fn forward(&self, rows: &[Vec<f32>]) -> Result<Tensor> {
        let width = self.offset.dims1()?;
        let rows = Tensor::from_vec(rows.concat(), (rows.len(), width), &Device::Cpu)?;
        let mut values = rows.broadcast_sub(&self.offset)?.broadcast_mul(&self.scale)?;
        for (index, (weight, bias)) in self.layers.iter().enumerate() {
            let layer = Linear::new(weight.as_tensor().clone(), Some(bias.as_tensor().clone()));
            values = if index == 0 { layer.forward(&values)? } else { layer.forward(&values.relu()?)? };
        }
        Ok(values)
    }

    fn accuracy(&self, rows: &[Row]) -> Result<f64> {
        let (inputs, labels): (Vec<_>, Vec<_>) = rows.iter().cloned().unzip();
        let found = softmax(&self.forward(&inputs)?, D::Minus1)?.argmax(D::Minus1)?.to_vec1::<u32>()?;
        let right = found.iter().zip(&labels).filter(|(found, label)| found == label).count();
        Ok(right as f64 / rows.len() as f64)
    }

    /// Named as the `mlp` architecture reads them.
    fn tensors(&self) -> HashMap<String, Tensor> {
        let mut tensors =
            HashMap::from([("input.offset".into(), self.offset.clone()), ("input.scale".into(), self.scale.clone())]);
        for (index, (weight, bias)) in self.layers.iter().enumerate() {
            tensors.insert(format!("layers.{index}.weight"), weight.as_tensor().clone());
            tensors.insert(format!("layers.{index}.bias"), bias.as_tensor().clone());
        }
        tensors
    }
}

/// AdamW, with a learning rate that falls to nothing along half a cosine.
fn train(recipe: &Recipe, rows: &[Row]) -> Result<Network> {
    let mut random = StdRng::seed_from_u64(SEED);
    let network = Network::new(recipe, &mut random)?;
    let variables = network.layers.iter().flat_map(|(weight, bias)| [weight.clone(), bias.clone()]).collect();
    let params = ParamsAdamW { lr: recipe.learning_rate, weight_decay: recipe.weight_decay, ..ParamsAdamW::default() };
    let mut optimiser = AdamW::new(variables, params)?;
    let mut order: Vec<_> = (0..rows.len()).collect();
    for epoch in 0..recipe.epochs {
        let done = epoch as f64 / recipe.epochs as f64;
        optimiser.set_learning_rate(recipe.learning_rate * (1.0 + (PI * done).cos()) / 2.0);
        order.shuffle(&mut random);
        let mut total = 0.0;
        for batch in order.chunks(BATCH) {
            let inputs: Vec<_> = batch.iter().map(|&index| (recipe.vary)(&rows[index].0, &mut random)).collect();
            let labels: Vec<_> = batch.iter().map(|&index| rows[index].1).collect();
            let labels = Tensor::from_vec(labels, batch.len(), &Device::Cpu)?;
            let loss = cross_entropy(&network.forward(&inputs)?, &labels)?;
            optimiser.backward_step(&loss)?;
            total += f64::from(loss.to_scalar::<f32>()?) * batch.len() as f64;
        }
        if (epoch + 1) % 10 == 0 {
            println!("epoch {:>3}: loss {:.5}", epoch + 1, total / rows.len() as f64);
        }
    }
    Ok(network)
}
