//! Products with whole numbers in blocks against a plain loop, bit for bit on every set of instructions; that no row depends on its
//! company, nor an output on which others are computed; what is not finite, and forms that are none.
#![allow(clippy::print_stderr)]

mod reference;

use std::panic::{AssertUnwindSafe, catch_unwind};

use kernels::{Activation, BlockForm, BlockRow, Cpu, Epilogue, Isa, PackedMatrix, Rows, RowsMut, Scratch};
use reference::{Random, Spread, variants};

/// Inputs of a row of x that share a step.
const ROW_BLOCK: usize = 32;

/// A matrix before it is packed.
struct Matrix {
    form: BlockForm,
    inputs: usize,
    rows: Vec<BlockRow>,
}

impl Matrix {
    fn new(random: &mut Random, form: BlockForm, outputs: usize, inputs: usize) -> Self {
        let (blocks, steps) = (inputs / form.block, inputs / (form.block * form.blocks));
        let most = if form.is_narrow { 16 } else { 256 };
        let row = |random: &mut Random| {
            let has = |is: bool, count: usize| 0..if is { count } else { 0 };
            let small = |random: &mut Random| (random.below(256) as u8).cast_signed();
            BlockRow {
                levels: (0..inputs).map(|_| random.below(most) as u8).collect(),
                steps: random.numbers(steps),
                fine: has(form.has_fine, blocks).map(|_| small(random)).collect(),
                lows: has(form.has_lows, steps).map(|_| random.number()).collect(),
                fine_lows: has(form.has_fine && form.has_lows, blocks).map(|_| small(random)).collect(),
            }
        };
        Self { form, inputs, rows: (0..outputs).map(|_| row(random)).collect() }
    }

    fn packed(&self, cpu: Cpu, bias: Option<&[f32]>) -> PackedMatrix {
        PackedMatrix::of_blocks(cpu, self.form, (self.rows.len(), self.inputs), bias, |output, row| {
            row.clone_from(&self.rows[output]);
        })
    }

    /// A number of the product, in the kernels' order of operations.
    fn expected(&self, cpu: Cpu, x: &[f32], output: usize) -> f32 {
        let add = |factor: f32, other: f32, sum: f32| match cpu.isa() {
            Isa::Portable => factor * other + sum,
            _ => factor.mul_add(other, sum),
        };
        let (BlockForm { block, blocks, zero, has_fine, has_lows, .. }, row) = (self.form, &self.rows[output]);
        let scaled = |shared: &[f32], fine: &[i8], index: usize| {
            let shared = shared[index / blocks];
            if has_fine { shared * f32::from(fine[index]) } else { shared }
        };
        let mut sum = 0.0;
        for (index, (levels, x_block)) in row.levels.chunks(block).zip(x.chunks(block)).enumerate() {
            let all = &x[index * block / ROW_BLOCK * ROW_BLOCK..][..ROW_BLOCK];
            let step = all.iter().fold(0.0_f32, |largest, number| largest.max(number.abs())) / 127.0;
            let inverse = if step < 1e-36 { 0.0 } else { 1.0 / step };
            let in_steps = x_block.iter().map(|number| (number * inverse).round_ties_even() as i64);
            let products = levels.iter().zip(in_steps.clone());
            let whole: i64 = products.map(|(level, x)| (i64::from(*level) - i64::from(zero)) * x).sum();
            sum = add(whole as f32, scaled(&row.steps, &row.fine, index) * step, sum);
            if has_lows {
                let total = in_steps.sum::<i64>() as f32;
                sum = add(scaled(&row.lows, &row.fine_lows, index), step * total, sum);
            }
        }
        sum
    }
}

fn multiply(matrix: &PackedMatrix, x: Rows<'_>) -> Vec<f32> {
    let outputs = matrix.outputs();
    let mut y = vec![0.0; x.rows() * outputs];
    let epilogue = Epilogue { activation: Activation::None, residual: None };
    let to = RowsMut::new(&mut y, x.rows(), outputs, outputs);
    matrix.multiply(x, 0..outputs, epilogue, to, &mut Scratch::default());
    y
}

/// Forms of all kinds, those of files among them.
fn form(random: &mut Random) -> BlockForm {
    let has_fine = random.below(2) == 0;
    let block = random.of(&[16, 32]);
    let blocks = if has_fine { random.of(&[1, 2, 8, 256 / block]) } else { 1 };
    let is_narrow = random.below(2) == 0;
    let zero = random.of(&[0, 4, 8, 16, 32, 128]);
    BlockForm { block, blocks, is_narrow, zero, has_fine, has_lows: random.below(2) == 0 }
}

#[test]
fn every_set_of_instructions_gives_the_numbers_of_a_plain_loop() {
    let mut random = Random::new();
    for _ in 0..150 {
        let form = form(&mut random);
        let rows = random.of(&[0, 1, 2, 3, 5, 6, 7, 8, 9, 15, 16, 17, 31, 33, 40]);
        let outputs = random.of(&[0, 1, 7, 8, 15, 16, 17, 33, 47, 48, 49, 97]);
        let inputs = (form.block * form.blocks).max(ROW_BLOCK) * random.of(&[1, 2, 3, 5]);
        let matrix = Matrix::new(&mut random, form, outputs, inputs);
        let mut x = Spread::new(&mut random, rows, inputs);
        for at in (0..rows * inputs).step_by(7 * ROW_BLOCK) {
            // A block of nothing, whose step is 0.
            (at..at + ROW_BLOCK).for_each(|at| *x.at_mut(at / inputs, at % inputs) = 0.0);
        }
        let bias = random.numbers(outputs);
        for cpu in variants() {
            let y = multiply(&matrix.packed(cpu, Some(&bias)), x.view());
            for (at, y) in y.into_iter().enumerate() {
                let (row, output) = (at / outputs, at % outputs);
                let expected = matrix.expected(cpu, x.view().row(row), output) + bias[output];
                let what =
                    format!("{cpu:?}: row {row} of {rows}, output {output} of {outputs}, {inputs} inputs, {form:?}");
                assert!(y.to_bits() == expected.to_bits(), "{what}: {y} instead of {expected}");
            }
        }
    }
}

#[test]
fn neither_other_rows_nor_other_outputs_change_a_number() {
    let mut random = Random::new();
    for _ in 0..30 {
        let form = form(&mut random);
        let (rows, outputs) = (1 + random.below(70), 1 + random.below(150));
        let inputs = (form.block * form.blocks).max(ROW_BLOCK) * random.of(&[1, 2, 4]);
        let matrix = Matrix::new(&mut random, form, outputs, inputs);
        let x = Spread::new(&mut random, rows, inputs);
        for cpu in variants() {
            let packed = matrix.packed(cpu, None);
            let all = multiply(&packed, x.view());
            let row = random.below(rows);
            let alone = multiply(&packed, x.view().rows_in(row..row + 1));
            assert_eq!(alone, all[row * outputs..(row + 1) * outputs], "{cpu:?}, {form:?}: row {row} of {rows}");
            let first = random.below(outputs.div_ceil(packed.panel())) * packed.panel();
            let some = first..first + 1 + random.below(outputs - first);
            let mut part = vec![0.0; rows * some.len()];
            let to = RowsMut::new(&mut part, rows, some.len(), some.len());
            let epilogue = Epilogue { activation: Activation::None, residual: None };
            packed.multiply(x.view(), some.clone(), epilogue, to, &mut Scratch::default());
            for (part, all) in part.chunks(some.len()).zip(all.chunks(outputs)) {
                assert_eq!(part, &all[some.clone()], "{cpu:?}, {form:?}: outputs {some:?} of {outputs}");
            }
        }
    }
}

#[test]
fn many_rows_and_memory_that_others_used_change_no_number() {
    let mut random = Random::new();
    let forms: Vec<BlockForm> = (0..4).map(|_| form(&mut random)).collect();
    for cpu in variants() {
        let mut scratch = Scratch::default();
        for form in &forms {
            // More packed rows than stay in the cache, so that they are packed in parts.
            let (rows, outputs, inputs) = (270, 5, 2304);
            let inputs = inputs - inputs % (form.block * form.blocks).max(ROW_BLOCK);
            let packed = Matrix::new(&mut random, *form, outputs, inputs).packed(cpu, None);
            let numbers = random.numbers(rows * inputs);
            let mut all = vec![0.0; rows * outputs];
            for rows in [rows, 3] {
                let (x, y) = (&numbers[..rows * inputs], &mut all[..rows * outputs]);
                let epilogue = Epilogue { activation: Activation::None, residual: None };
                let (x, y) = (Rows::new(x, rows, inputs, inputs), RowsMut::new(y, rows, outputs, outputs));
                packed.multiply(x, 0..outputs, epilogue, y, &mut scratch);
            }
            for row in [0, 2, 3, 135, 269] {
                let alone = multiply(&packed, Rows::new(&numbers[row * inputs..], 1, inputs, inputs));
                assert_eq!(alone, all[row * outputs..][..outputs], "{cpu:?}, {form:?}: row {row}");
            }
        }
        let nothing = BlockForm { block: 32, blocks: 1, is_narrow: true, zero: 8, has_fine: false, has_lows: false };
        let packed = PackedMatrix::of_blocks(cpu, nothing, (2, 0), Some(&[1.0, 2.0]), |_, _| ());
        assert_eq!(multiply(&packed, Rows::new(&[], 2, 0, 0)), [1.0, 2.0, 1.0, 2.0], "{cpu:?}: no inputs");
    }
}

#[test]
fn a_number_that_is_none_spoils_its_row_and_no_other() {
    let mut random = Random::new();
    let form = BlockForm { block: 32, blocks: 1, is_narrow: true, zero: 8, has_fine: false, has_lows: false };
    let matrix = Matrix::new(&mut random, form, 50, 96);
    let numbers = random.numbers(20 * 96);
    for cpu in variants() {
        let packed = matrix.packed(cpu, None);
        let sound = multiply(&packed, Rows::new(&numbers, 20, 96, 96));
        for nothing in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut spoilt = numbers.clone();
            spoilt[5 * 96 + 70] = nothing;
            let y = multiply(&packed, Rows::new(&spoilt, 20, 96, 96));
            assert!(y[5 * 50..6 * 50].iter().all(|number| number.is_nan()), "{cpu:?}: {nothing} makes numbers");
            assert_eq!(
                (&y[..5 * 50], &y[6 * 50..]),
                (&sound[..5 * 50], &sound[6 * 50..]),
                "{cpu:?}: others are spoilt"
            );
        }
    }
}

#[test]
fn what_is_no_form_and_rows_of_another_are_refused() {
    let sound = BlockForm { block: 32, blocks: 8, is_narrow: true, zero: 0, has_fine: true, has_lows: true };
    let pack = |form: BlockForm, inputs: usize, row: BlockRow| {
        let packed = || PackedMatrix::of_blocks(Cpu::best(), form, (1, inputs), None, |_, to| to.clone_from(&row));
        catch_unwind(AssertUnwindSafe(packed)).is_ok()
    };
    let row = |inputs: usize| BlockRow {
        levels: vec![3; inputs],
        steps: vec![1.0; inputs / 256],
        fine: vec![1; inputs / 32],
        lows: vec![1.0; inputs / 256],
        fine_lows: vec![1; inputs / 32],
    };
    assert!(pack(sound, 512, row(512)));
    for form in [
        BlockForm { block: 0, ..sound },
        BlockForm { block: 64, blocks: 4, ..sound },
        BlockForm { blocks: 0, ..sound },
        BlockForm { has_fine: false, ..sound },
        BlockForm { has_lows: false, ..sound },
        BlockForm { block: 32, blocks: 1 << 59, ..sound },
    ] {
        assert!(!pack(form, 512, row(512)), "{form:?}");
    }
    let odd = BlockForm { block: 16, blocks: 3, has_lows: false, ..sound };
    let row_of_odd = BlockRow { levels: vec![3; 48], steps: vec![1.0], fine: vec![1; 3], ..BlockRow::default() };
    assert!(!pack(odd, 48, row_of_odd), "half a block of rows");
    assert!(!pack(sound, 512, BlockRow { levels: vec![16; 512], ..row(512) }), "levels of five bits");
    assert!(!pack(sound, 500, row(500)) && !pack(sound, 256, row(512)) && !pack(sound, 512, row(256)));
}
