//! Self-attention against the products and the attention it is made of, bit for bit; parts against the whole; and what is not finite.

#![allow(clippy::print_stderr)]

mod reference;

use kernels::{
    Activation, Attention, Cpu, Epilogue, Isa, PackedMatrix, Precision, Rows, RowsMut, Scratch, SelfAttention,
    attention,
};
use reference::{Random, Spread, variants};

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

/// A layer's matrices and rows.
struct Case {
    precision: Precision,
    lengths: Vec<usize>,
    offsets: Vec<usize>,
    heads: usize,
    head_width: usize,
    query_key_value: PackedMatrix,
    attended: PackedMatrix,
    x: Spread,
    residual: Option<Spread>,
    bias: Option<Spread>,
}

impl Case {
    fn new(cpu: Cpu, precision: Precision, random: &mut Random, lengths: &[usize], head_width: usize) -> Self {
        let (heads, inputs, outputs) = (1 + random.below(4), 1 + random.below(150), 1 + random.below(100));
        let mut offsets = vec![random.below(50)];
        for length in lengths {
            offsets.push(offsets[offsets.len() - 1] + length);
        }
        let (rows, inner) = (lengths.iter().sum(), heads * head_width);
        let mut matrix = |outputs: usize, inputs: usize| {
            let weights: Vec<f32> = random.numbers(outputs * inputs).iter().map(|weight| weight * 0.1).collect();
            let (bias, rows) = (random.numbers(outputs), Rows::new(&weights, outputs, inputs, inputs));
            PackedMatrix::new(cpu, precision, rows, Some(&bias))
        };
        let (query_key_value, attended) = (matrix(3 * inner, inputs), matrix(outputs, inner));
        let longest = lengths.iter().copied().max().unwrap_or_default();
        let reach = longest.max(1) + random.of(&[0, 3]);
        Self {
            precision,
            lengths: lengths.to_vec(),
            offsets,
            heads,
            head_width,
            query_key_value,
            attended,
            x: Spread::new(random, rows, inputs),
            residual: random.of(&[true, false]).then(|| Spread::new(random, rows, outputs)),
            bias: random.of(&[true, false]).then(|| Spread::new(random, heads, 2 * reach - 1)),
        }
    }

    fn layer(&self) -> SelfAttention<'_> {
        SelfAttention {
            query_key_value: &self.query_key_value,
            attended: &self.attended,
            offsets: &self.offsets,
            head_width: self.head_width,
            scale: 1.0 / (self.head_width as f32).sqrt(),
            bias: self.bias.as_ref().map(Spread::view),
            precision: self.precision,
        }
    }

    fn run(&self, random: &mut Random, scratch: &mut Scratch) -> Spread {
        let mut y = Spread::new(random, self.x.rows, self.attended.outputs());
        self.layer().multiply(self.x.view(), self.residual.as_ref().map(Spread::view), y.view_mut(), scratch);
        y.assert_gaps_untouched();
        y
    }

    /// What heads gather, step by step.
    fn gathered(&self, cpu: Cpu, scratch: &mut Scratch) -> Steps {
        let (rows, inner) = (self.x.rows, self.attended.inputs());
        let plain = Epilogue { activation: Activation::None, residual: None };
        let mut all = vec![0.0; rows * 3 * inner];
        let y = RowsMut::new(&mut all, rows, 3 * inner, 3 * inner);
        self.query_key_value.multiply(self.x.view(), 0..3 * inner, plain, y, scratch);
        let all = Rows::new(&all, rows, 3 * inner, 3 * inner);
        let [query, key, value] = [0, 1, 2].map(|part| all.columns_in(part * inner..(part + 1) * inner));
        let SelfAttention { offsets, head_width, scale, bias, precision, .. } = self.layer();
        let input = Attention { query, key, value, offsets, head_width, scale, bias };
        let mut numbers = vec![0.0; rows * inner];
        attention(cpu, precision, &input, RowsMut::new(&mut numbers, rows, inner, inner), scratch);
        Steps { numbers, columns: inner }
    }

    /// The result, step by step.
    fn expected(&self, cpu: Cpu, scratch: &mut Scratch) -> Steps {
        let (rows, inner, outputs) = (self.x.rows, self.attended.inputs(), self.attended.outputs());
        let gathered = self.gathered(cpu, scratch);
        let last = Epilogue { activation: Activation::None, residual: self.residual.as_ref().map(Spread::view) };
        let mut numbers = vec![0.0; rows * outputs];
        let to = RowsMut::new(&mut numbers, rows, outputs, outputs);
        self.attended.multiply(Rows::new(&gathered.numbers, rows, inner, inner), 0..outputs, last, to, scratch);
        Steps { numbers, columns: outputs }
    }
}

/// What is found step by step.
struct Steps {
    numbers: Vec<f32>,
    columns: usize,
}

impl Steps {
    fn check(&self, what: &str, found: impl Fn(usize, usize) -> f32) {
        for (at, number) in self.numbers.iter().enumerate() {
            let (row, column) = (at / self.columns, at % self.columns);
            let found = found(row, column);
            let is_same = number.is_finite() && found.to_bits() == number.to_bits();
            assert!(is_same, "{what}, row {row}, column {column}: {found}, {number}");
        }
    }
}

/// No sequences, empty ones, short ones, those that fill blocks and those that do not.
fn lengths(random: &mut Random) -> Vec<usize> {
    let choices: [&[usize]; 9] =
        [&[], &[0], &[1], &[17], &[20, 32, 0, 45], &[64], &[33, 100, 31], &[5, 16, 3, 40], &[16; 5]];
    random.of(&choices).to_vec()
}

#[test]
fn self_attention_is_that_of_its_steps() {
    let (mut random, mut scratch) = (Random::new(), Scratch::default());
    for cpu in variants() {
        for precision in PRECISIONS {
            for _ in 0..60 {
                let (lengths, head_width) = (lengths(&mut random), random.of(&[32, 32, 64, 96, 1, 20, 48]));
                let case = Case::new(cpu, precision, &mut random, &lengths, head_width);
                let expected = case.expected(cpu, &mut Scratch::default());
                let y = case.run(&mut random, &mut scratch);
                let fused = case.layer().is_fused(case.x.rows);
                let wanted = cpu.isa() == Isa::Amx && precision != Precision::Int8 && head_width % 32 == 0;
                assert_eq!(fused, wanted, "{cpu:?}, {precision:?}, {head_width}");
                let what = format!("whole, {cpu:?}, {precision:?}, {:?}", case.lengths);
                expected.check(&what, |row, column| y.at(row, column));
            }
        }
    }
}

#[test]
fn what_each_thread_gathers_makes_the_whole() {
    let (mut random, mut scratch) = (Random::new(), Scratch::default());
    for cpu in variants() {
        for precision in PRECISIONS {
            for _ in 0..20 {
                let (lengths, head_width) = (lengths(&mut random), random.of(&[32, 64]));
                let case = Case::new(cpu, precision, &mut random, &lengths, head_width);
                let (rows, inner) = (case.x.rows, case.attended.inputs());
                if !case.layer().is_fused(rows) {
                    continue;
                }
                let expected = case.gathered(cpu, &mut Scratch::default());
                let mut y = Spread::new(&mut random, rows, inner);
                let heads = random.below(case.heads + 1);
                let (first, second) = y.view_mut().split_columns(heads * head_width);
                case.layer().gather(heads..case.heads, case.x.view(), second, &mut scratch);
                case.layer().gather(0..heads, case.x.view(), first, &mut scratch);
                y.assert_gaps_untouched();
                let what = format!("gathered, {cpu:?}, {precision:?}, {:?}", case.lengths);
                expected.check(&what, |row, column| y.at(row, column));
            }
        }
    }
}

#[test]
fn many_rows_of_many_sequences_are_those_of_their_steps_and_of_each_alone() {
    let (mut random, mut scratch) = (Random::new(), Scratch::default());
    for (cpu, precision) in variants().into_iter().flat_map(|cpu| PRECISIONS.map(|precision| (cpu, precision))) {
        // Of a head as wide as a panel, and of one that is not.
        for head_width in [32, 20] {
            many(cpu, precision, head_width, &mut random, &mut scratch);
        }
    }
}

fn many(cpu: Cpu, precision: Precision, head_width: usize, random: &mut Random, scratch: &mut Scratch) {
    let inner = 2 * head_width;
    let weights = random.numbers(3 * inner * 400);
    let matrix = |outputs: usize, inputs: usize| {
        let weights = Rows::new(&weights, outputs, inputs, inputs);
        PackedMatrix::new(cpu, precision, weights, None)
    };
    let mut case = Case::new(cpu, precision, random, &[300, 10, 290, 300], head_width);
    (case.query_key_value, case.attended, case.heads) = (matrix(3 * inner, 400), matrix(400, inner), 2);
    (case.x, case.bias, case.residual) = (Spread::new(random, 900, 400), None, None);
    // More than stay in a core's cache, and of one sequence as many.
    for lengths in [vec![300, 10, 290, 300], vec![900]] {
        case.offsets = lengths.iter().fold(vec![0], |mut ends, length| {
            ends.push(ends[ends.len() - 1] + length);
            ends
        });
        case.lengths = lengths;
        let fused = case.layer().is_fused(900);
        let may = cpu.isa() == Isa::Amx && precision != Precision::Int8 && head_width == 32;
        assert_eq!(fused, may && case.lengths.len() == 1, "{cpu:?}");
        let what = format!("many, {cpu:?}, {precision:?}, {head_width}, {:?}", case.lengths);
        let expected = case.expected(cpu, &mut Scratch::default());
        let y = case.run(random, scratch);
        expected.check(&what, |row, column| y.at(row, column));
        for ends in case.offsets.windows(2) {
            let (rows, offsets) = (ends[0]..ends[1], [0, ends[1] - ends[0]]);
            let mut alone = Spread::new(random, rows.len(), 400);
            let layer = SelfAttention { offsets: &offsets, ..case.layer() };
            layer.multiply(case.x.view().rows_in(rows.clone()), None, alone.view_mut(), scratch);
            for (place, row) in rows.enumerate() {
                for column in 0..400 {
                    let (alone, among) = (alone.at(place, column), y.at(row, column));
                    assert_eq!(alone.to_bits(), among.to_bits(), "{what}, alone, row {row}, column {column}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_its_sequence() {
    let (mut random, mut scratch) = (Random::new(), Scratch::default());
    for cpu in variants() {
        for precision in PRECISIONS {
            for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut case = Case::new(cpu, precision, &mut random, &[20, 33, 7, 40], 32);
                let before = case.run(&mut random, &mut scratch);
                let (row, column) = (20 + random.below(33), random.below(case.x.columns));
                *case.x.at_mut(row, column) = number;
                let after = case.run(&mut random, &mut scratch);
                for row in 0..case.x.rows {
                    for column in 0..before.columns {
                        let (before, after) = (before.at(row, column), after.at(row, column));
                        if (20..53).contains(&row) {
                            assert!(!after.is_finite(), "{cpu:?}, {number}: {after} in row {row}");
                        } else {
                            assert_eq!(before.to_bits(), after.to_bits(), "{cpu:?}, {number}: row {row}");
                        }
                    }
                }
            }
        }
    }
}
