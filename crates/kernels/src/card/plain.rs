//! The steps of a card on the processor: each as it reads, on numbers that are rounded as a card would keep them.

use super::{
    CardIndices, CardNorm, CardRows, Finish, Result,
    memory::Memory,
    steps::{Attend, Means, Steps, Term},
};
use crate::{
    Activation, Cpu, Epilogue, LayerNorm, PackedMatrix, Precision, Rows, RowsMut, Scratch, activate, layer_norm,
    narrow::nearest_bf16, softmax,
};

/// No card.
pub(super) struct Plain;

/// The best instructions that multiply in f32: AMX's multiply parts of numbers, and are nearly as exact, but a card is to be compared with
/// what is as exact as it is.
fn cpu() -> Cpu {
    Cpu::best().in_registers()
}

impl CardRows {
    fn numbers(&self) -> &[f32] {
        &self.memory.plain()[..self.count * self.columns]
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.numbers()[row * self.columns..][..self.columns]
    }

    fn view(&self) -> Rows<'_> {
        Rows::new(self.numbers(), self.count, self.columns, self.columns)
    }

    /// Writes what `numbers` makes of each row's place, rounded.
    fn fill(&mut self, numbers: impl Fn(usize, &mut [f32])) {
        let (count, columns, precision) = (self.count, self.columns, self.precision);
        let rows = self.memory.plain_mut(count * columns);
        for (place, row) in rows.chunks_exact_mut(columns.max(1)).enumerate() {
            numbers(place, row);
            if precision == Precision::Bf16 {
                row.iter_mut().for_each(|number| *number = f32::from_bits(u32::from(nearest_bf16(*number)) << 16));
            }
        }
    }
}

impl Steps for Plain {
    fn has_bf16(&self) -> bool {
        true
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn reserve(&self, memory: &mut Memory, bytes: usize, _: usize) -> Result<()> {
        // Numbers have at least two.
        memory.plain_mut(bytes.div_ceil(2));
        Ok(())
    }

    fn write(&self, numbers: &[f32], to: &mut CardRows) -> Result<()> {
        let columns = to.columns;
        to.fill(|place, row| row.copy_from_slice(&numbers[place * columns..][..columns]));
        Ok(())
    }

    fn write_indices(&self, _: &mut CardIndices) -> Result<()> {
        Ok(())
    }

    fn read(&self, rows: &CardRows) -> Result<Vec<f32>> {
        Ok(rows.numbers().to_vec())
    }

    fn multiply(&self, x: &CardRows, weights: &CardRows, y: &mut CardRows) -> Result<()> {
        let (count, outputs) = (x.count, weights.count);
        let matrix = PackedMatrix::new(cpu(), Precision::F32, weights.view(), None);
        let mut product = vec![0.0; count * outputs];
        let epilogue = Epilogue { activation: Activation::None, residual: None };
        let to = RowsMut::new(&mut product, count, outputs, outputs);
        matrix.multiply(x.view(), 0..outputs, epilogue, to, &mut Scratch::default());
        y.fill(|place, row| row.copy_from_slice(&product[place * outputs..][..outputs]));
        Ok(())
    }

    fn finish(&self, y: &mut CardRows, bias: &CardRows, finish: Finish) -> Result<()> {
        y.fill(|_, row| {
            row.iter_mut().zip(bias.row(0)).for_each(|(number, bias)| *number += bias);
            match finish {
                Finish::By(activation) => {
                    let columns = row.len();
                    activate(cpu(), activation, RowsMut::new(row, 1, columns, columns));
                }
                Finish::Tanh => row.iter_mut().for_each(|number| *number = number.tanh()),
            }
        });
        Ok(())
    }

    fn norm(&self, sum: [Option<Term<'_>>; 3], norm: &CardNorm, y: &mut CardRows) -> Result<()> {
        let columns = y.columns;
        let parameters = LayerNorm { weight: norm.weight.row(0), bias: norm.bias.row(0), epsilon: norm.epsilon };
        y.fill(|place, row| {
            let mut total = vec![0.0; columns];
            for term in sum.iter().flatten() {
                let term = match term {
                    Term::Each(rows) => rows.row(place),
                    Term::Chosen(rows, chosen) => rows.row(chosen.numbers()[place] as usize),
                    Term::One(rows) => rows.row(0),
                };
                total.iter_mut().zip(term).for_each(|(total, number)| *total += number);
            }
            let total = Rows::new(&total, 1, columns, columns);
            layer_norm(cpu(), parameters, total, None, RowsMut::new(row, 1, columns, columns));
        });
        Ok(())
    }

    fn means(&self, x: &CardRows, means: Means<'_>, y: &mut CardRows) -> Result<()> {
        y.fill(|place, row| {
            let rows = match means {
                Means::OfTexts(begins) => begins.numbers()[place] as usize..begins.numbers()[place + 1] as usize,
                Means::Firsts(begins) => begins.numbers()[place] as usize..begins.numbers()[place] as usize + 1,
                Means::Each => place..place + 1,
            };
            let share = 1.0 / rows.len() as f32;
            row.fill(0.0);
            for each in rows {
                row.iter_mut().zip(x.row(each)).for_each(|(sum, number)| *sum += number);
            }
            row.iter_mut().for_each(|sum| *sum *= share);
        });
        Ok(())
    }

    fn attention(&self, Attend { states, bias, begins, heads, width, .. }: Attend<'_>, y: &mut CardRows) -> Result<()> {
        let inner = heads.count * width;
        let scale = 1.0 / (width as f32).sqrt();
        let mut result = vec![0.0; y.count * inner];
        for ends in begins.numbers().windows(2) {
            let rows = ends[0] as usize..ends[1] as usize;
            for head in 0..heads.count {
                // Queries, keys or values of the head, with their bias: a row for each token.
                let part = |part: usize| -> Vec<f32> {
                    let columns = part * inner + head * width..part * inner + (head + 1) * width;
                    let bias = &bias.row(0)[columns.clone()];
                    let of_row =
                        |row: usize| states.row(row)[columns.clone()].iter().zip(bias).map(|(x, bias)| x + bias);
                    rows.clone().flat_map(of_row).collect()
                };
                let [queries, keys, values] = [0, 1, 2].map(part);
                for (query, row) in queries.chunks_exact(width).zip(rows.clone()) {
                    let score = |(place, key): (usize, &[f32])| {
                        let product: f32 = query.iter().zip(key).map(|(query, key)| query * key).sum();
                        let distance = |by: &CardRows| by.row(head)[by.columns / 2 + place - (row - rows.start)];
                        product * scale + heads.by_distance.map_or(0.0, distance)
                    };
                    let mut shares: Vec<f32> = keys.chunks_exact(width).enumerate().map(score).collect();
                    let length = shares.len();
                    softmax(cpu(), RowsMut::new(&mut shares, 1, length, length));
                    let to = &mut result[row * inner + head * width..][..width];
                    for (share, value) in shares.iter().zip(values.chunks_exact(width)) {
                        to.iter_mut().zip(value).for_each(|(sum, value)| *sum += share * value);
                    }
                }
            }
        }
        y.fill(|place, row| row.copy_from_slice(&result[place * inner..][..inner]));
        Ok(())
    }

    fn repeat(&self, steps: &mut dyn FnMut() -> Result<bool>) -> Result<bool> {
        steps()
    }
}
