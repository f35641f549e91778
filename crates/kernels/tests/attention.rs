//! Attention against a plain reference: sequences and heads of all lengths, strides and alignments, with a bias and without, parts
//! against the whole, and what is not finite.

#![allow(clippy::print_stderr)]

mod reference;

use kernels::{Attention, Cpu, Isa, Precision, Scratch, attention};
use reference::{Random, Spread, variants};

/// Operands of some sequences.
struct Case {
    query: Spread,
    key: Spread,
    value: Spread,
    offsets: Vec<usize>,
    head_width: usize,
    scale: f32,
    /// A row for each head, where there is one.
    bias: Option<Spread>,
}

impl Case {
    fn new(random: &mut Random, lengths: &[usize], heads: usize, head_width: usize) -> Self {
        let mut offsets = vec![random.below(50)];
        for length in lengths {
            offsets.push(offsets[offsets.len() - 1] + length);
        }
        // There may be rows of no sequence.
        let rows = lengths.iter().sum::<usize>() + random.below(3);
        let mut operand = || Spread::new(random, rows, heads * head_width);
        let (query, key, value) = (operand(), operand(), operand());
        let scale = random.of(&[1.0, -1.0, 0.0, 0.5]) / (head_width as f32).sqrt();
        Self { query, key, value, offsets, head_width, scale, bias: None }
    }

    /// The same with a bias that reaches as far as the longest sequence, or some further.
    fn biased(mut self, random: &mut Random) -> Self {
        let longest = self.offsets.windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or_default();
        let reach = (longest + random.of(&[0, 0, 1, 5, 40])).max(1);
        self.bias = Some(Spread::new(random, self.query.columns / self.head_width, 2 * reach - 1));
        self
    }

    fn input(&self) -> Attention<'_> {
        Attention {
            query: self.query.view(),
            key: self.key.view(),
            value: self.value.view(),
            offsets: &self.offsets,
            head_width: self.head_width,
            scale: self.scale,
            bias: self.bias.as_ref().map(Spread::view),
        }
    }

    fn run(&self, cpu: Cpu, precision: Precision, random: &mut Random, scratch: &mut Scratch) -> Spread {
        let mut y = Spread::new(random, self.query.rows, self.query.columns);
        for row in 0..y.rows {
            (0..y.columns).for_each(|column| *y.at_mut(row, column) = 7.0);
        }
        attention(cpu, precision, &self.input(), y.view_mut(), scratch);
        y.assert_gaps_untouched();
        let used = self.offsets[self.offsets.len() - 1] - self.offsets[0];
        for row in used..y.rows {
            (0..y.columns).for_each(|column| assert_eq!(y.at(row, column), 7.0, "row {row} is of no sequence"));
        }
        y
    }

    /// The largest error, by the largest value of its column.
    fn worst(&self, y: &Spread) -> Error {
        let mut worst = Error { of_value: 0.0, of_products: 0.0 };
        for ends in self.offsets.windows(2) {
            let rows = ends[0] - self.offsets[0]..ends[1] - self.offsets[0];
            for head in (0..self.query.columns).step_by(self.head_width) {
                let columns = head..head + self.head_width;
                for row in rows.clone() {
                    let products = |key: usize| {
                        let pair = move |column| [self.query.at(row, column), self.key.at(key, column)].map(f64::from);
                        let pairs = columns.clone().map(pair);
                        pairs.map(|[query, key]| query * key * f64::from(self.scale))
                    };
                    let bias = |key: usize| {
                        let far = |bias: &Spread| bias.at(head / self.head_width, bias.columns / 2 + key - row);
                        self.bias.as_ref().map_or(0.0, |bias| f64::from(far(bias)))
                    };
                    let score = |key: usize| products(key).sum::<f64>() + bias(key);
                    let weights = reference::softmax(&rows.clone().map(score).collect::<Vec<_>>());
                    let magnitude = |key: usize| products(key).map(f64::abs).sum::<f64>();
                    let seen: f64 = rows.clone().zip(&weights).map(|(key, weight)| magnitude(key) * weight).sum();
                    for column in columns.clone() {
                        let values = || rows.clone().map(|row| f64::from(self.value.at(row, column)));
                        let expected: f64 = values().zip(&weights).map(|(value, weight)| value * weight).sum();
                        let largest = values().map(f64::abs).fold(1e-3, f64::max);
                        let of_value = (f64::from(y.at(row, column)) - expected).abs() / largest;
                        worst = worst.max(Error { of_value, of_products: of_value / (1.0 + seen) });
                    }
                }
            }
        }
        worst
    }
}

/// How far a result is from the reference.
#[derive(Clone, Copy)]
struct Error {
    /// By the largest value.
    of_value: f64,
    /// That, by 1 and the sum of the magnitudes of what scores are sums of, each as far as its key has a weight: errors of scores
    /// become errors of weights, and each is as large as its products are.
    of_products: f64,
}

impl Error {
    fn max(self, other: Self) -> Self {
        // Once NaN, always NaN: `f64::max` alone would forget it.
        let max = |one: f64, other: f64| if one.is_nan() || other.is_nan() { f64::NAN } else { one.max(other) };
        Self { of_value: max(self.of_value, other.of_value), of_products: max(self.of_products, other.of_products) }
    }
}

/// The largest error allowed, by products: twice that of a product, which has two rounded operands, for weights that are off and their
/// sum that is, and that of weights and of values.
fn bound(cpu: Cpu, precision: Precision) -> f64 {
    let of_product = match (cpu.isa(), precision) {
        (Isa::Amx, Precision::F32) => 2_f64.powi(-15),
        (_, Precision::F32) => 1e-6,
        _ if cpu.precision(Precision::Bf16) == Precision::Bf16 => 2_f64.powi(-8),
        _ => 1e-6,
    };
    3.0 * of_product
}

#[test]
fn attention_is_that_of_the_reference() {
    let mut random = Random::new();
    let mut scratch = Scratch::default();
    for cpu in variants() {
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let mut worst = Error { of_value: 0.0, of_products: 0.0 };
            for turn in 0..60 {
                let lengths: Vec<usize> = (0..random.below(5))
                    .map(|_| random.of(&[0, 1, 2, 7, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 65, 100]))
                    .collect();
                let head_width = random.of(&[1, 2, 8, 15, 16, 17, 31, 32, 33, 48, 64, 80]);
                let heads = 1 + random.below(3);
                let mut case = Case::new(&mut random, &lengths, heads, head_width);
                if turn % 3 == 0 {
                    case = case.biased(&mut random);
                }
                let y = case.run(cpu, precision, &mut random, &mut scratch);
                let error = case.worst(&y);
                let biased = if case.bias.is_some() { " biased" } else { "" };
                assert!(
                    error.of_products <= bound(cpu, precision),
                    "{} {precision:?} {lengths:?} × {head_width}{biased}: {}",
                    cpu.isa(),
                    error.of_products
                );
                worst = worst.max(error);
            }
            let Error { of_value, of_products } = worst;
            let isa = cpu.isa();
            eprintln!(
                "{isa} {precision:?}: error at most {of_value:.1e} of the largest value, {of_products:.1e} by products"
            );
        }
    }
}

#[test]
fn long_sequences_are_those_of_the_reference() {
    let mut random = Random::new();
    for cpu in variants() {
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let plain = Case::new(&mut random, &[513, 301], 2, 32);
            let biased = Case::new(&mut random, &[513, 301], 2, 32).biased(&mut random);
            for case in [plain, biased] {
                let y = case.run(cpu, precision, &mut random, &mut Scratch::default());
                let error = case.worst(&y);
                let error = error.of_products;
                assert!(error <= bound(cpu, precision), "{} {precision:?}: {error}", cpu.isa());
            }
        }
    }
}

#[test]
fn sequences_and_heads_of_several_threads_make_the_whole() {
    let mut random = Random::new();
    for cpu in variants() {
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let case = Case::new(&mut random, &[40, 3, 0, 33], 3, 32).biased(&mut random);
            let whole = case.run(cpu, precision, &mut random, &mut Scratch::default());
            let mut y = Spread::new(&mut random, whole.rows, whole.columns);
            let (rows, columns) = (whole.rows, whole.columns);
            std::thread::scope(|scope| {
                let (top, bottom) = y.view_mut().split_rows(43);
                for (y, sequences, rows) in [(top, 0..3, 0..43), (bottom, 2..5, 43..rows)] {
                    let (left, right) = y.split_columns(32);
                    for (y, columns) in [(left, 0..32), (right, 32..columns)] {
                        let (case, sequences, rows) = (&case, sequences.clone(), rows.clone());
                        scope.spawn(move || {
                            let all = case.input();
                            let part = Attention {
                                query: all.query.rows_in(rows.clone()).columns_in(columns.clone()),
                                key: all.key.rows_in(rows.clone()).columns_in(columns.clone()),
                                value: all.value.rows_in(rows).columns_in(columns.clone()),
                                offsets: &all.offsets[sequences],
                                bias: all.bias.map(|bias| bias.rows_in(columns.start / 32..columns.end / 32)),
                                ..all
                            };
                            attention(cpu, precision, &part, y, &mut Scratch::default());
                        });
                    }
                }
            });
            for row in 0..76 {
                for column in 0..columns {
                    assert_eq!(y.at(row, column).to_bits(), whole.at(row, column).to_bits(), "{}", cpu.isa());
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_its_head_and_sequence() {
    let mut random = Random::new();
    let mut scratch = Scratch::default();
    for cpu in variants() {
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut case = Case::new(&mut random, &[20, 37, 5], 3, 24);
                case.scale = 0.2;
                let clean = case.run(cpu, precision, &mut random, &mut scratch);
                // Of the second sequence and the second head.
                let (row, column) = (20 + random.below(37), 24 + random.below(24));
                for operand in ["query", "key", "value"] {
                    let spread = match operand {
                        "query" => &mut case.query,
                        "key" => &mut case.key,
                        _ => &mut case.value,
                    };
                    let kept = spread.at(row, column);
                    *spread.at_mut(row, column) = poison;
                    let y = case.run(cpu, precision, &mut random, &mut scratch);
                    let spread = match operand {
                        "query" => &mut case.query,
                        "key" => &mut case.key,
                        _ => &mut case.value,
                    };
                    *spread.at_mut(row, column) = kept;
                    for other in 0..62 {
                        for at in 0..72 {
                            let what = format!("{} {precision:?} {poison} in {operand}, at {other}, {at}", cpu.isa());
                            let reached = (20..57).contains(&other) && (24..48).contains(&at);
                            let touched = match operand {
                                "query" => other == row,
                                // An infinite key may get no weight at all, or all of it.
                                "key" => poison.is_nan(),
                                _ => at == column,
                            };
                            if reached && touched {
                                assert!(!y.at(other, at).is_finite(), "{what}");
                            } else if !reached {
                                assert_eq!(y.at(other, at).to_bits(), clean.at(other, at).to_bits(), "{what}");
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_bias_that_is_not_finite_stays_in_its_head_and_distance() {
    let mut random = Random::new();
    let mut scratch = Scratch::default();
    for cpu in variants() {
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut case = Case::new(&mut random, &[20, 37, 5], 3, 24).biased(&mut random);
                let clean = case.run(cpu, precision, &mut random, &mut scratch);
                // Of the second head: for keys so far behind their queries, which all rows of the second sequence but the last have.
                let bias = case.bias.as_mut().expect("a bias");
                let middle = bias.columns / 2;
                *bias.at_mut(1, middle + 1) = poison;
                let y = case.run(cpu, precision, &mut random, &mut scratch);
                for row in 0..62 {
                    for at in 0..72 {
                        let what = format!("{} {precision:?} {poison} at {row}, {at}", cpu.isa());
                        if !(24..48).contains(&at) || [19, 56, 61].contains(&row) {
                            assert_eq!(y.at(row, at).to_bits(), clean.at(row, at).to_bits(), "{what}");
                        } else {
                            assert_eq!(y.at(row, at).is_finite(), poison == f32::NEG_INFINITY, "{what}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_key_whose_bias_is_least_has_no_weight() {
    let mut random = Random::new();
    for cpu in variants() {
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            // Every query sees its own key alone: its value is the result.
            let mut case = Case::new(&mut random, &[33, 70], 2, 32).biased(&mut random);
            let bias = case.bias.as_mut().expect("a bias");
            let middle = bias.columns / 2;
            for column in (0..bias.columns).filter(|column| *column != middle) {
                (0..2).for_each(|head| *bias.at_mut(head, column) = f32::NEG_INFINITY);
            }
            let y = case.run(cpu, precision, &mut random, &mut Scratch::default());
            for (row, column) in (0..103).flat_map(|row| (0..64).map(move |column| (row, column))) {
                let (ours, value) = (y.at(row, column), case.value.at(row, column));
                assert!((ours - value).abs() <= 0.01 * value.abs(), "{} {precision:?}: {ours}, {value}", cpu.isa());
            }
        }
    }
}
