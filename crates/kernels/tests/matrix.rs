//! Products with packed matrices against a plain reference: random shapes, strides and alignments, every tail, what is not
//! finite, and parts against the whole.

#![allow(clippy::print_stderr)]

mod reference;

use kernels::{Activation, Both, Cpu, Epilogue, Isa, PackedMatrix, Precision, Rows, RowsMut, Scratch};
use reference::{Random, Spread, variants};

const ACTIVATIONS: [Activation; 5] =
    [Activation::None, Activation::GeluErf, Activation::GeluTanh, Activation::Relu, Activation::Silu];
/// Those whose errors are bounded by the products alone; `int8.rs` has the bounds of the other.
const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];
const ALL: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

/// A linear layer with its operands.
struct Case {
    x: Spread,
    weights: Spread,
    bias: Option<Vec<f32>>,
    activation: Activation,
    residual: Option<Spread>,
}

impl Case {
    fn new(random: &mut Random, rows: usize, outputs: usize, inputs: usize) -> Self {
        let has = random.below(4);
        Self {
            x: Spread::new(random, rows, inputs),
            weights: Spread::new(random, outputs, inputs),
            bias: (has & 1 == 1).then(|| random.numbers(outputs)),
            activation: random.of(&ACTIVATIONS),
            residual: (has & 2 == 2).then(|| Spread::new(random, rows, outputs)),
        }
    }

    fn pack(&self, cpu: Cpu, precision: Precision) -> PackedMatrix {
        PackedMatrix::new(cpu, precision, self.weights.view(), self.bias.as_deref())
    }

    fn epilogue(&self) -> Epilogue<'_> {
        Epilogue { activation: self.activation, residual: self.residual.as_ref().map(Spread::view) }
    }

    /// The kernel's result.
    fn run(&self, cpu: Cpu, precision: Precision, random: &mut Random, scratch: &mut Scratch) -> Spread {
        let mut y = Spread::new(random, self.x.rows, self.weights.rows);
        let matrix = self.pack(cpu, precision);
        matrix.multiply(self.x.view(), 0..matrix.outputs(), self.epilogue(), y.view_mut(), scratch);
        y.assert_gaps_untouched();
        y
    }

    /// What a number of the result should be, and the sum of the absolute products, which bounds its error.
    fn expected(&self, row: usize, output: usize) -> (f64, f64) {
        let bias = self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[output]));
        let products = (0..self.weights.columns)
            .map(|input| f64::from(self.x.at(row, input)) * f64::from(self.weights.at(output, input)));
        let (sum, absolute) =
            products.fold((bias, bias.abs()), |(sum, absolute), product| (sum + product, absolute + product.abs()));
        let residual = self.residual.as_ref().map_or(0.0, |residual| f64::from(residual.at(row, output)));
        (reference::activation(self.activation, sum) + residual, absolute + residual.abs())
    }

    /// Compares all numbers; the largest error by the sum of absolute products.
    fn check(&self, y: &Spread, bound: f64, what: &str) -> f64 {
        let mut worst: f64 = 0.0;
        for row in 0..y.rows {
            for output in 0..y.columns {
                let (expected, absolute) = self.expected(row, output);
                let error = (f64::from(y.at(row, output)) - expected).abs();
                assert!(
                    error <= bound * absolute + 1e-6,
                    "{what}: row {row} of {}, output {output} of {}, {} inputs, {:?}: {} instead of {expected}",
                    y.rows,
                    y.columns,
                    self.weights.columns,
                    self.activation,
                    y.at(row, output)
                );
                worst = worst.max(error / (absolute + 1e-6));
            }
        }
        worst
    }
}

/// The largest error allowed, by the sum of absolute products, of which bf16 rounds both operands to 2⁻⁸ of themselves. GELU's slope is at
/// most 1.13.
fn bound(cpu: Cpu, precision: Precision) -> f64 {
    match (cpu.isa(), cpu.precision(precision)) {
        (_, Precision::Bf16) => 1.15 / 128.0,
        (Isa::Amx, Precision::F32) => 1.0 / 32768.0,
        _ => 4e-6,
    }
}

#[test]
fn products_are_those_of_the_reference() {
    let mut random = Random::new();
    let mut scratch = Scratch::default();
    for cpu in variants() {
        for precision in PRECISIONS {
            let mut worst: f64 = 0.0;
            for _ in 0..150 {
                let rows = random.of(&[0, 1, 2, 3, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 65, 97]);
                let outputs = random.of(&[0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 95, 97, 130]);
                let inputs = random.of(&[0, 1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 192, 200, 384]);
                let case = Case::new(&mut random, rows, outputs, inputs);
                let y = case.run(cpu, precision, &mut random, &mut scratch);
                worst = worst.max(case.check(&y, bound(cpu, precision), &format!("{} {precision:?}", cpu.isa())));
            }
            eprintln!("{} {precision:?}: error at most {worst:.1e} of the sum of absolute products", cpu.isa());
        }
    }
}

#[test]
fn many_rows_and_inputs_are_those_of_the_reference() {
    let mut random = Random::new();
    let mut scratch = Scratch::default();
    for cpu in variants() {
        for precision in PRECISIONS {
            // More packed rows than are kept in the cache at once, and more inputs than are summed at once.
            for (rows, outputs, inputs) in [(1381, 33, 800), (401, 35, 3080)] {
                let case = Case::new(&mut random, rows, outputs, inputs);
                let y = case.run(cpu, precision, &mut random, &mut scratch);
                case.check(&y, bound(cpu, precision), &format!("{} {precision:?}", cpu.isa()));
            }
        }
    }
}

#[test]
fn operands_that_are_bf16_lose_nothing() {
    let mut random = Random::new();
    let mut scratch = Scratch::default();
    for cpu in variants() {
        let mut worst: f64 = 0.0;
        for _ in 0..40 {
            let (rows, outputs, inputs) = (1 + random.below(20), 1 + random.below(60), 1 + random.below(400));
            let mut case = Case::new(&mut random, rows, outputs, inputs);
            for number in case.x.data.iter_mut().chain(&mut case.weights.data) {
                *number = f32::from_bits(number.to_bits() & 0xffff_0000);
            }
            // Tiles' GELU is no more exact than bf16, which the next test is about.
            if cpu.isa() == Isa::Amx && case.activation == Activation::GeluErf {
                case.activation = Activation::None;
            }
            let y = case.run(cpu, Precision::Bf16, &mut random, &mut scratch);
            worst = worst.max(case.check(&y, 4e-6, &format!("{}", cpu.isa())));
        }
        eprintln!("{} bf16 of bf16: error at most {worst:.1e} of the sum of absolute products", cpu.isa());
    }
}

/// GELU of bf16 in tiles, of numbers that are bf16 themselves: from a little to a lot, in rows of several lengths.
#[test]
fn gelu_of_tiles_in_bf16_is_as_exact_as_that() {
    let Ok(cpu) = Cpu::with(Isa::Amx) else {
        eprintln!("NOT TESTED: this machine has no tiles");
        return;
    };
    let one = [1.0];
    let epilogue = Epilogue { activation: Activation::GeluErf, residual: None };
    let mut worst: f64 = 0.0;
    let mut gelu = |x: &[f32]| {
        // Of one input, the number itself, whose product with 1 is exact.
        let weights = PackedMatrix::new(cpu, Precision::Bf16, Rows::new(x, x.len(), 1, 1), None);
        let mut y = vec![0.0; x.len()];
        let to = RowsMut::new(&mut y, 1, x.len(), x.len());
        weights.multiply(Rows::new(&one, 1, 1, 1), 0..x.len(), epilogue, to, &mut Scratch::default());
        for (x, y) in x.iter().zip(&y) {
            let expected = reference::activation(Activation::GeluErf, f64::from(*x));
            let error = (f64::from(*y) - expected).abs() / f64::from(x.abs()).max(1.0);
            assert!(error <= 2e-4, "GELU({x}) = {y} instead of {expected}");
            worst = worst.max(error);
        }
        y
    };
    let numbers: Vec<f32> = (0..=u16::MAX).map(|bits| f32::from_bits(u32::from(bits) << 16)).collect();
    let near: Vec<f32> = numbers.into_iter().filter(|x| x.abs() < 1e30 && x.abs() > 1e-30).collect();
    near.chunks(999).for_each(|x| drop(gelu(x)));
    // Far from 0 nothing is left of the approximation.
    assert_eq!(gelu(&[20.0, -20.0, 1024.0, -1024.0]), [20.0, 0.0, 1024.0, 0.0]);
    eprintln!("amx bf16 GELU: error at most {worst:.1e} · max(1, |x|)");
}

#[test]
fn parts_make_the_whole() {
    let mut random = Random::new();
    let mut scratch = Scratch::default();
    for cpu in variants() {
        for precision in ALL {
            for _ in 0..30 {
                let (rows, outputs, inputs) = (1 + random.below(70), random.below(300), random.below(100));
                let case = Case::new(&mut random, rows, outputs, inputs);
                let whole = case.run(cpu, precision, &mut random, &mut scratch);
                let (matrix, parts) = (case.pack(cpu, precision), 1 + random.below(4));
                let panels = outputs.div_ceil(matrix.panel());
                let begin = |part: usize| (panels * part / parts * matrix.panel()).min(outputs);
                let shares: Vec<_> = (0..parts).map(|part| begin(part)..begin(part + 1)).collect();
                let mut y = Spread::new(&mut random, rows, outputs);
                // As threads would: each with a part of the columns and half of the rows.
                std::thread::scope(|scope| {
                    let mut rest = y.view_mut();
                    for share in shares {
                        let (columns, others) = rest.split_columns(share.len());
                        rest = others;
                        let (top, bottom) = columns.split_rows(rows / 2);
                        for (y, rows) in [(top, 0..rows / 2), (bottom, rows / 2..rows)] {
                            let (case, matrix, share) = (&case, &matrix, share.clone());
                            scope.spawn(move || {
                                let x = case.x.view().rows_in(rows.clone());
                                let residual = case.residual.as_ref().map(Spread::view);
                                let residual = residual.map(|all| all.rows_in(rows.clone()).columns_in(share.clone()));
                                let epilogue = Epilogue { residual, ..case.epilogue() };
                                matrix.multiply(x, share, epilogue, y, &mut Scratch::default());
                            });
                        }
                    }
                });
                y.assert_gaps_untouched();
                for row in 0..rows {
                    for output in 0..outputs {
                        let (part, whole) = (y.at(row, output), whole.at(row, output));
                        assert_eq!(part.to_bits(), whole.to_bits(), "{}: row {row}, output {output}", cpu.isa());
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_so_and_stays_in_its_row_or_column() {
    let mut random = Random::new();
    let mut scratch = Scratch::default();
    for cpu in variants() {
        for precision in ALL {
            for poison in
                [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0x7fff_ffff), f32::from_bits(0x7f80_0001)]
            {
                let mut case = Case::new(&mut random, 37, 50, 70);
                case.activation = Activation::None;
                let (row, output, input) = (random.below(37), random.below(50), random.below(70));
                let clean = case.run(cpu, precision, &mut random, &mut scratch);
                *case.x.at_mut(row, input) = poison;
                let x_poisoned = case.run(cpu, precision, &mut random, &mut scratch);
                *case.x.at_mut(row, input) = 1.0;
                let unit = case.run(cpu, precision, &mut random, &mut scratch);
                *case.weights.at_mut(output, input) = poison;
                let weight_poisoned = case.run(cpu, precision, &mut random, &mut scratch);
                for y in 0..37 {
                    for x in 0..50 {
                        let what = format!("{} {precision:?} {poison} in row {row}, at {y}, {x}", cpu.isa());
                        if y == row {
                            assert!(!x_poisoned.at(y, x).is_finite(), "{what}");
                        } else {
                            assert_eq!(x_poisoned.at(y, x).to_bits(), clean.at(y, x).to_bits(), "{what}");
                        }
                        if x == output {
                            assert!(!weight_poisoned.at(y, x).is_finite(), "{what} of weights");
                        } else {
                            assert_eq!(
                                weight_poisoned.at(y, x).to_bits(),
                                unit.at(y, x).to_bits(),
                                "{what} of weights"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn columns_after_the_last_input_do_not_matter() {
    // NaN lies between the rows of every operand already; here it lies right behind the last column of a narrower view.
    let mut random = Random::new();
    for cpu in variants() {
        for precision in PRECISIONS {
            let wide = Case::new(&mut random, 19, 21, 45);
            let case = Case { x: narrow(&wide.x), weights: narrow(&wide.weights), ..wide };
            let y = case.run(cpu, precision, &mut random, &mut Scratch::default());
            case.check(&y, bound(cpu, precision), "narrow");
        }
    }
}

/// The same without its last column, which becomes NaN.
fn narrow(wide: &Spread) -> Spread {
    let mut narrow = Spread { data: wide.data.clone(), columns: wide.columns - 1, ..*wide };
    for row in 0..wide.rows {
        *narrow.at_mut(row, wide.columns - 1) = f32::NAN;
    }
    narrow
}

/// Two products in one, against one after the other, in these precisions.
fn check_both(
    cpu: Cpu,
    precisions: [Precision; 2],
    [rows, inputs, between, outputs]: [usize; 4],
    random: &mut Random,
    scratch: &mut Scratch,
) {
    let (up, down) = (Case::new(random, rows, between, inputs), Case::new(random, rows, outputs, between));
    let (first, second) = (up.pack(cpu, precisions[0]), down.pack(cpu, precisions[1]));

    let mut middle = vec![0.0; rows * between];
    let activated = Epilogue { activation: up.activation, residual: None };
    let view = RowsMut::new(&mut middle, rows, between, between);
    first.multiply(up.x.view(), 0..between, activated, view, scratch);
    let residual = down.residual.as_ref().map(Spread::view);
    let added = Epilogue { activation: Activation::None, residual };
    let mut apart = Spread::new(random, rows, outputs);
    second.multiply(Rows::new(&middle, rows, between, between), 0..outputs, added, apart.view_mut(), scratch);

    let mut together = Spread::new(random, rows, outputs);
    let both = Both { up: &first, activation: up.activation, down: &second };
    both.multiply(up.x.view(), residual, together.view_mut(), scratch);
    together.assert_gaps_untouched();
    for row in 0..rows {
        for output in 0..outputs {
            let [apart, together] = [&apart, &together].map(|result| result.at(row, output).to_bits());
            let shape = format!("{rows} × {inputs} × {between} × {outputs}");
            assert_eq!(apart, together, "{} {precisions:?} {shape}: row {row}, output {output}", cpu.isa());
        }
    }
}

#[test]
fn both_products_are_those_of_one_after_the_other() {
    let mut random = Random::new();
    let mut scratch = Scratch::default();
    for cpu in variants() {
        for precision in ALL {
            for _ in 0..25 {
                let shape = [
                    random.of(&[0, 1, 2, 16, 17, 31, 32, 33, 64, 70, 100]),
                    random.of(&[1, 16, 31, 32, 33, 64, 100]),
                    random.of(&[0, 1, 31, 32, 33, 96, 383, 384, 385, 500, 800]),
                    random.of(&[0, 1, 15, 32, 33, 65, 100]),
                ];
                check_both(cpu, [precision; 2], shape, &mut random, &mut scratch);
            }
        }
        check_both(cpu, [Precision::F32, Precision::Bf16], [40, 50, 60, 70], &mut random, &mut scratch);
        check_both(cpu, [Precision::Int8, Precision::F32], [40, 50, 60, 70], &mut random, &mut scratch);
    }
}

#[test]
fn both_products_of_many_rows_and_of_a_models_width_are_so_too() {
    let mut random = Random::new();
    let mut scratch = Scratch::default();
    for cpu in variants() {
        for precision in [Precision::F32, Precision::Bf16] {
            // As an encoder has them; and more rows than are packed at a time.
            for shape in [[300, 384, 768, 384], [2100, 100, 40, 33], [4200, 100, 8, 9]] {
                check_both(cpu, [precision; 2], shape, &mut random, &mut scratch);
            }
        }
    }
}
