//! Products with weights in blocks, as GGUF files have them: of one row, which reads each weight once, beside plain reading of as many
//! bytes; and of several, beside the most that the core multiplies of bytes.

use std::hint::black_box;

use kernels::{Activation, BlockForm, BlockRow, Cpu, Epilogue, PackedMatrix, Precision, Rows, RowsMut, Scratch};

use crate::{columns, numbers, peak, time};

/// A matrix of a model with 1.1 thousand million weights, too large for the caches of one core.
const OUTPUTS: usize = 2048;
const INPUTS: usize = 5632;

/// Weights that share a step in the newer kinds.
const LARGE: usize = 256;

const KINDS: [(&str, BlockForm); 4] = [
    ("Q8_0", older(false, 128)),
    ("Q4_0", older(true, 8)),
    ("Q4_K", newer(32, true, 0)),
    ("Q6_K", newer(16, false, 32)),
];

const fn older(is_narrow: bool, zero: u8) -> BlockForm {
    BlockForm { block: 32, blocks: 1, is_narrow, zero, has_fine: false, has_lows: false }
}

const fn newer(block: usize, is_narrow: bool, zero: u8) -> BlockForm {
    BlockForm { block, blocks: LARGE / block, is_narrow, zero, has_fine: true, has_lows: is_narrow }
}

/// Measures all kinds and prints them.
pub(crate) fn measure(cpu: Cpu) {
    println!("\n== blocks, {}, one core, {OUTPUTS} × {INPUTS}", cpu.isa());
    let title = |rate: &str, share: &str| format!("{:>9} {rate:>9} {share:>7}", "µs");
    let (read, multiplied) = (title("GB/s", "of reads"), title("GFLOP/s", "of peak"));
    println!("{:20} {:^27}   {:^27}", "", "median", "best");
    println!("{:20} {read}   {read}", "1 row");
    let matrices = KINDS.map(|(name, form)| (name, matrix(cpu, form)));
    for (name, matrix) in &matrices {
        let (bytes, words) = (matrix.bytes() as f64, vec![1_u64; matrix.bytes() / size_of::<u64>()]);
        let times = time(&mut [&mut product(matrix, 1), &mut || {
            black_box(black_box(&words).iter().fold(0_u64, |sum, word| sum.wrapping_add(*word)));
        }]);
        println!("{name:20} {}", columns(&times, bytes, bytes));
    }
    println!("{:20} {multiplied}   {multiplied}", "more");
    let fastest = peak::fastest(cpu, Precision::Int8);
    for (name, matrix) in &matrices {
        for rows in [8, 64] {
            let times = time(&mut [&mut product(matrix, rows), &mut || peak::run(fastest)]);
            let flop = 2.0 * (rows * OUTPUTS * INPUTS) as f64;
            println!("{:20} {}", format!("{name}, {rows} rows"), columns(&times, flop, peak::operations(fastest)));
        }
    }
}

fn matrix(cpu: Cpu, form: BlockForm) -> PackedMatrix {
    let (blocks, steps) = (INPUTS / form.block, INPUTS / (form.block * form.blocks));
    let has = |is: bool, count: usize| if is { count } else { 0 };
    let most = if form.is_narrow { 16 } else { 256 };
    let row = BlockRow {
        levels: (0..INPUTS).map(|index| (index * 7919 % most) as u8).collect(),
        steps: vec![0.01; steps],
        fine: vec![3; has(form.has_fine, blocks)],
        lows: vec![0.02; has(form.has_lows, steps)],
        fine_lows: vec![5; has(form.has_fine && form.has_lows, blocks)],
    };
    PackedMatrix::of_blocks(cpu, form, (OUTPUTS, INPUTS), None, |_, to| to.clone_from(&row))
}

fn product(matrix: &PackedMatrix, rows: usize) -> impl FnMut() {
    let (x, mut y, mut scratch) = (numbers(rows * INPUTS), vec![0.0; rows * OUTPUTS], Scratch::default());
    move || {
        let x = Rows::new(black_box(&x), rows, INPUTS, INPUTS);
        let y = RowsMut::new(&mut y, rows, OUTPUTS, OUTPUTS);
        matrix.multiply(x, 0..OUTPUTS, Epilogue { activation: Activation::None, residual: None }, y, &mut scratch);
    }
}
