//! Products of whole numbers against a plain loop, bit for bit on every set of instructions; how far they are from those of the
//! numbers that were put on grids; extremes, and what is not finite.
#![allow(clippy::print_stderr)]

mod reference;

use kernels::{Activation, Cpu, Epilogue, Isa, PackedMatrix, Precision, Rows, RowsMut, Scratch};
use reference::{Random, Spread, variants};

/// Inputs that share a grid.
const SPAN: usize = 192;

/// The levels of a span of a row: the step of its grid, the level of 0, and the numbers.
struct Levels {
    scale: f32,
    zero: i64,
    numbers: Vec<i64>,
}

fn levels(row: &[f32]) -> Levels {
    let least = row.iter().copied().fold(0.0, f32::min);
    let largest = row.iter().copied().fold(0.0, f32::max);
    let scale = largest * (1.0 / 255.0) - least * (1.0 / 255.0);
    let inverse = if scale < 1e-36 { 0.0 } else { 1.0 / scale };
    let zero = (-least * inverse).round_ties_even();
    let level = |number: &f32| (number * inverse + zero).round_ties_even().clamp(0.0, 255.0) as i64;
    Levels { scale, zero: zero as i64, numbers: row.iter().map(level).collect() }
}

/// The weights of a span of an output in steps, and what a step is.
fn steps(weights: &[f32]) -> (f32, Vec<i64>) {
    let scale = weights.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs())) / 127.0;
    let inverse = if scale < 1e-36 { 0.0 } else { 1.0 / scale };
    let step = |weight: &f32| (weight * inverse).round_ties_even().clamp(-127.0, 127.0) as i64;
    (scale, weights.iter().map(step).collect())
}

/// What a number of the result is, in the order of operations of the kernels.
fn expected(row: &[f32], weights: &[f32], bias: f32, residual: f32) -> f32 {
    let spans = row.chunks(SPAN).zip(weights.chunks(SPAN)).map(|(row, weights)| {
        let (levels, (scale, steps)) = (levels(row), steps(weights));
        let sum: i64 = levels.numbers.iter().zip(steps).map(|(level, step)| (level - levels.zero) * step).sum();
        sum as f32 * scale * levels.scale
    });
    // From the first, because -0.0 + 0.0 is another zero.
    spans.reduce(|sum, span| sum + span).unwrap_or(0.0) + bias + residual
}

/// The product on this machine, whose rows may be of any numbers.
fn multiply(cpu: Cpu, x: Rows<'_>, weights: Rows<'_>, bias: Option<&[f32]>, residual: Option<Rows<'_>>) -> Vec<f32> {
    finished(cpu, x, weights, bias, Epilogue { activation: Activation::None, residual })
}

fn finished(cpu: Cpu, x: Rows<'_>, weights: Rows<'_>, bias: Option<&[f32]>, epilogue: Epilogue<'_>) -> Vec<f32> {
    let matrix = PackedMatrix::new(cpu, Precision::Int8, weights, bias);
    let outputs = matrix.outputs();
    let mut y = vec![0.0; x.rows() * outputs];
    let to = RowsMut::new(&mut y, x.rows(), outputs, outputs);
    matrix.multiply(x, 0..outputs, epilogue, to, &mut Scratch::default());
    y
}

#[test]
fn every_set_of_instructions_gives_the_integers_of_a_plain_loop() {
    let mut random = Random::new();
    for case in 0..120 {
        let rows = random.of(&[0, 1, 2, 3, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 49, 70]);
        let outputs = random.of(&[0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 47, 48, 49, 97]);
        let inputs = random.of(&[0, 1, 2, 3, 4, 5, 15, 17, 33, 63, 65, 100, 128, 191, 192, 193, 384, 801]);
        let (mut x, weights) = (Spread::new(&mut random, rows, inputs), Spread::new(&mut random, outputs, inputs));
        if case % 4 == 0 {
            // As after GELU, whose grids lie to one side of 0.
            for at in 0..rows * inputs {
                let number = x.at_mut(at / inputs, at % inputs);
                *number = number.max(-0.17);
            }
        }
        let (bias, residual) = (random.numbers(outputs), Spread::new(&mut random, rows, outputs));
        for cpu in variants() {
            let y = multiply(cpu, x.view(), weights.view(), Some(&bias), Some(residual.view()));
            for (at, y) in y.into_iter().enumerate() {
                let (row, output) = (at / outputs, at % outputs);
                let (x, weights) = (x.view().row(row), weights.view().row(output));
                let expected = expected(x, weights, bias[output], residual.at(row, output));
                let what = format!("{cpu:?}: row {row} of {rows}, output {output} of {outputs}, {inputs} inputs");
                assert!(y.to_bits() == expected.to_bits(), "{what}: {y} instead of {expected}");
            }
        }
    }
}

#[test]
fn tiles_give_what_registers_give_whatever_is_done_with_sums() {
    let [registers, tiles] = match [Isa::Avx512, Isa::Amx].map(Cpu::with) {
        [Ok(registers), Ok(tiles)] => [registers, tiles],
        _ => return eprintln!("NOT TESTED: this machine has no {}", Isa::Amx),
    };
    let mut random = Random::new();
    let shapes = [
        // One block of rows, whole and not, of one span or more; then panels in two parts, of whole spans and not.
        (1, 1, 1),
        (16, 32, 64),
        (17, 33, 193),
        (32, 50, 1000),
        (33, 47, 768),
        (70, 95, 769),
        (65, 31, 1000),
        (49, 20, 2305),
        // More packed rows than are kept in the cache at once.
        (70, 33, 17_000),
    ];
    for (rows, outputs, inputs) in shapes {
        let (x, weights) = (Spread::new(&mut random, rows, inputs), Spread::new(&mut random, outputs, inputs));
        let (bias, residual) = (random.numbers(outputs), Spread::new(&mut random, rows, outputs));
        for activation in [Activation::GeluErf, Activation::GeluTanh, Activation::Relu, Activation::Silu] {
            let epilogue = Epilogue { activation, residual: Some(residual.view()) };
            let [in_tiles, in_registers] = [tiles, registers].map(|cpu| {
                let y = finished(cpu, x.view(), weights.view(), Some(&bias), epilogue);
                y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            });
            assert!(in_tiles == in_registers, "{rows} × {outputs} of {inputs} inputs, {activation:?}");
        }
    }
}

#[test]
fn products_are_as_near_as_steps_of_grids() {
    let mut random = Random::new();
    let mut worst: f64 = 0.0;
    for inputs in [1, 17, 384, 1536] {
        let (rows, outputs) = (9, 50);
        let (x, weights) = (Spread::new(&mut random, rows, inputs), Spread::new(&mut random, outputs, inputs));
        let y = multiply(Cpu::best(), x.view(), weights.view(), None, None);
        for (at, y) in y.into_iter().enumerate() {
            let (x, weights) = (x.view().row(at / outputs), weights.view().row(at % outputs));
            let product = |(x, weight): (&f32, &f32)| f64::from(*x) * f64::from(*weight);
            let exact: f64 = x.iter().zip(weights).map(product).sum();
            // Half a step of every number, times the other operand, which is itself half a step larger at most; numbers at
            // the ends of a row's grid may be a whole step off, where both ends round outwards.
            let bounds = x.chunks(SPAN).zip(weights.chunks(SPAN)).map(|(x, weights)| {
                let (x_step, weight_step) = (f64::from(levels(x).scale), f64::from(steps(weights).0));
                let of_x: f64 = x.iter().map(|x| f64::from(x.abs()) + x_step).sum::<f64>() * weight_step / 2.0;
                of_x + weights.iter().map(|weight| f64::from(weight.abs())).sum::<f64>() * x_step
            });
            let error = (f64::from(y) - exact).abs() / bounds.sum::<f64>();
            assert!(error <= 1.0, "{inputs} inputs: {y} instead of {exact}");
            worst = worst.max(error);
        }
    }
    eprintln!("error at most {worst:.2} of the bound by steps");
}

#[test]
fn nothing_saturates() {
    // The largest products there are, all of one sign, and in pairs and fours of alternating ones.
    for inputs in [2, 64, 192, 1537, 70_000] {
        let signs: [fn(usize) -> f32; 4] =
            [|_| 1.0, |at| if at % 2 == 0 { 1.0 } else { -1.0 }, |at| if at % 4 < 2 { 1.0 } else { -1.0 }, |_| -1.0];
        let rows: Vec<f32> = signs.iter().flat_map(|sign| (0..inputs).map(|at| 255.0 * sign(at))).collect();
        let weights: Vec<f32> = signs.iter().flat_map(|sign| (0..inputs).map(|at| 127.0 * sign(at))).collect();
        let (x, matrix) = (Rows::new(&rows, 4, inputs, inputs), Rows::new(&weights, 4, inputs, inputs));
        for cpu in variants() {
            for (at, y) in multiply(cpu, x, matrix, None, None).into_iter().enumerate() {
                let expected = expected(x.row(at / 4), matrix.row(at % 4), 0.0, 0.0);
                assert!(y == expected, "{cpu:?}: {inputs} inputs, row {}, output {}: {y}, {expected}", at / 4, at % 4);
            }
        }
    }
}

#[test]
fn extreme_rows_are_numbers_and_right() {
    let rows: [&[f32]; 8] = [
        &[0.0; 5],
        &[-0.0, 0.0, -0.0, 0.0, -0.0],
        &[f32::MAX, f32::MIN, 0.0, 1.0, f32::MAX],
        &[1e-45, -1e-45, 1e-38, 0.0, 2e-40],
        &[7.0; 5],
        &[-7.0; 5],
        &[1e-30, 2e-30, -3e-30, 0.0, 4e-30],
        &[0.5, -0.5, 0.25, 127.5, -127.5],
    ];
    let x = rows.concat();
    // None so large that the exact result is infinite in f32.
    let weights =
        [[0.1, -0.1, 0.05, 0.025, -0.0125], [1e-20, -1e-20, 5e-21, 0.0, 1e-20], [0.0; 5], [1e-45, 0.0, 0.0, 0.0, 0.0]];
    let weights = weights.concat();
    let (x, weights) = (Rows::new(&x, rows.len(), 5, 5), Rows::new(&weights, 4, 5, 5));
    for cpu in variants() {
        for (at, y) in multiply(cpu, x, weights, None, None).into_iter().enumerate() {
            let (row, output) = (at / 4, at % 4);
            let exact: f64 =
                x.row(row).iter().zip(weights.row(output)).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            let largest = x.row(row).iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            let largest_weight = weights.row(output).iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
            let bound = 5.0 * f64::from(largest) * f64::from(largest_weight) / 60.0
                // What is so small is taken for 0.
                + 5.0 * f64::from(largest + largest_weight) * 3e-34
                + 1e-44;
            assert!((f64::from(y) - exact).abs() <= bound, "{cpu:?}: row {row}, output {output}: {y}, {exact}");
        }
    }
}

#[test]
fn a_row_that_is_not_finite_gives_no_number() {
    let mut random = Random::new();
    for cpu in variants() {
        for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (mut x, weights) = (Spread::new(&mut random, 11, 37), Spread::new(&mut random, 50, 37));
            let (row, input) = (random.below(11), random.below(37));
            *x.at_mut(row, input) = poison;
            let y = multiply(cpu, x.view(), weights.view(), None, None);
            assert!(y.chunks(50).enumerate().all(|(at, y)| y.iter().all(|y| y.is_nan() == (at == row))), "{cpu:?}");
        }
    }
}
