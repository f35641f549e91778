//! Attention against a plain reference: sequences and heads of all lengths, strides and alignments, parts against the whole,
//! and what is not finite.

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
        Self { query, key, value, offsets, head_width, scale }
    }

    fn input(&self) -> Attention<'_> {
        Attention {
            query: self.query.view(),
            key: self.key.view(),
            value: self.value.view(),
            offsets: &self.offsets,
            head_width: self.head_width,
            scale: self.scale,
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

    /// The largest error, by the largest value that has a weight.
    fn worst(&self, y: &Spread) -> f64 {
        let mut worst: f64 = 0.0;
        for ends in self.offsets.windows(2) {
            let rows = ends[0] - self.offsets[0]..ends[1] - self.offsets[0];
            for head in (0..self.query.columns).step_by(self.head_width) {
                let columns = head..head + self.head_width;
                for row in rows.clone() {
                    let product = |key: usize| -> f64 {
                        columns.clone().map(|c| f64::from(self.query.at(row, c)) * f64::from(self.key.at(key, c))).sum()
                    };
                    let scores: Vec<f64> = rows.clone().map(|key| product(key) * f64::from(self.scale)).collect();
                    let weights = reference::softmax(&scores);
                    for column in columns.clone() {
                        let values = || rows.clone().map(|row| f64::from(self.value.at(row, column)));
                        let expected: f64 = values().zip(&weights).map(|(value, weight)| value * weight).sum();
                        let largest = values().map(f64::abs).fold(1e-3, f64::max);
                        let error = (f64::from(y.at(row, column)) - expected).abs() / largest;
                        // Once NaN, always NaN: `max` alone would forget it.
                        worst = if worst.is_nan() || error.is_nan() { f64::NAN } else { worst.max(error) };
                    }
                }
            }
        }
        worst
    }
}

/// The largest error allowed, by the largest value: that of scores, which becomes one of weights, and that of weights.
fn bound(cpu: Cpu, precision: Precision) -> f64 {
    match (cpu.isa(), precision) {
        (Isa::Amx, Precision::F32) => 3e-4,
        (_, Precision::F32) => 1e-5,
        _ if cpu.precision(Precision::Bf16) == Precision::Bf16 => 0.05,
        _ => 1e-5,
    }
}

#[test]
fn attention_is_that_of_the_reference() {
    let mut random = Random::new();
    let mut scratch = Scratch::default();
    for cpu in variants() {
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let mut worst: f64 = 0.0;
            for _ in 0..60 {
                let lengths: Vec<usize> = (0..random.below(5))
                    .map(|_| random.of(&[0, 1, 2, 7, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 65, 100]))
                    .collect();
                let head_width = random.of(&[1, 2, 8, 15, 16, 17, 31, 32, 33, 48, 64, 80]);
                let heads = 1 + random.below(3);
                let case = Case::new(&mut random, &lengths, heads, head_width);
                let y = case.run(cpu, precision, &mut random, &mut scratch);
                let error = case.worst(&y);
                assert!(
                    error <= bound(cpu, precision),
                    "{} {precision:?} {lengths:?} × {head_width}: {error}",
                    cpu.isa()
                );
                worst = worst.max(error);
            }
            eprintln!("{} {precision:?}: error at most {worst:.1e} of the largest value", cpu.isa());
        }
    }
}

#[test]
fn long_sequences_are_those_of_the_reference() {
    let mut random = Random::new();
    for cpu in variants() {
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let case = Case::new(&mut random, &[513, 301], 2, 32);
            let y = case.run(cpu, precision, &mut random, &mut Scratch::default());
            let error = case.worst(&y);
            assert!(error <= bound(cpu, precision), "{} {precision:?}: {error}", cpu.isa());
        }
    }
}

#[test]
fn sequences_and_heads_of_several_threads_make_the_whole() {
    let mut random = Random::new();
    for cpu in variants() {
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let case = Case::new(&mut random, &[40, 3, 0, 33], 3, 32);
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
                                value: all.value.rows_in(rows).columns_in(columns),
                                offsets: &all.offsets[sequences],
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
