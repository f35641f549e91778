//! How fast each kernel is on one core, beside the most that core does in registers: `cargo bench -p kernels`, or
//! `cargo bench -p kernels -- avx512 "avx512 int8" "avx512 blocks"` for one set of instructions, each with a precision, in f32, or with
//! weights in blocks. Shapes are those of MiniLM-L6 (384 columns, 1536 between, 12 heads of 32), but for blocks. Machines are shared and noisy: times are those of the thread on its processor, and what shares its core can still make
//! it several times slower. So each figure comes twice, as the median of many short repetitions and as the best of them, and so
//! does the peak, which is measured between them.
#![allow(unsafe_code, clippy::print_stdout)]

mod blocks;
mod encoder;
mod peak;

use std::{hint::black_box, time::Duration};

use kernels::{
    Activation, Attention, Cpu, Epilogue, Isa, LayerNorm, PackedMatrix, Precision, Rows, RowsMut, Scratch, activate,
    attention, layer_norm, softmax,
};

const HIDDEN: usize = 384;
const INTERMEDIATE: usize = 1536;
const HEAD: usize = 32;
const LAYERS: usize = 6;

/// Repetitions of each figure, at most and at least.
const REPETITIONS: usize = 201;
const FEWEST: usize = 7;

/// What one repetition lasts, at least.
const REPETITION: Duration = Duration::from_micros(300);

/// What all repetitions of a figure may last before they are the fewest.
const FIGURE: Duration = Duration::from_millis(400);

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for isa in Isa::ALL {
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let name = match precision {
                Precision::F32 => isa.to_string(),
                Precision::Bf16 => format!("{isa} bf16"),
                Precision::Int8 => format!("{isa} int8"),
            };
            if !wanted.is_empty() && !wanted.contains(&name) {
                continue;
            }
            on(isa, |cpu| {
                // Else it is f32 that was measured.
                if cpu.precision(precision) == precision {
                    measure(&name, cpu, precision);
                }
            });
        }
        // Which tiles have no part in.
        if isa != Isa::Amx && (wanted.is_empty() || wanted.contains(&format!("{isa} blocks"))) {
            on(isa, blocks::measure);
        }
    }
}

/// Measures with these instructions, or says that they are not to be had.
fn on(isa: Isa, measure: impl FnOnce(Cpu)) {
    match Cpu::with(isa) {
        Ok(cpu) => measure(cpu),
        Err(error) => println!("\n{error}"),
    }
}

/// The time this thread has had on a processor; waiting for others does not count.
fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a time of ours.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert!(status == 0, "the system tells a thread's time");
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Seconds of one run of a job.
struct Seconds {
    median: f64,
    best: f64,
}

/// Times jobs that take turns, so that noise meets them alike.
fn time(jobs: &mut [&mut dyn FnMut()]) -> Vec<Seconds> {
    let counts: Vec<u32> = jobs
        .iter_mut()
        .map(|job| {
            // The first run touches memory and makes room.
            job();
            let (begun, mut count) = (now(), 0);
            while count == 0 || now() - begun < REPETITION {
                job();
                count += 1;
            }
            count
        })
        .collect();
    let mut seconds = vec![Vec::with_capacity(REPETITIONS); jobs.len()];
    let first = now();
    for repetition in 0..REPETITIONS {
        if repetition >= FEWEST && now() - first > FIGURE {
            break;
        }
        for ((job, count), seconds) in jobs.iter_mut().zip(&counts).zip(&mut seconds) {
            let begun = now();
            (0..*count).for_each(|_| job());
            seconds.push((now() - begun).as_secs_f64() / f64::from(*count));
        }
    }
    seconds
        .into_iter()
        .map(|mut seconds| {
            seconds.sort_by(f64::total_cmp);
            Seconds { median: seconds[seconds.len() / 2], best: seconds[0] }
        })
        .collect()
}

/// The first of two jobs, which did so much `work`, beside the second, which did the `most`: its median and its best.
fn columns(times: &[Seconds], work: f64, most: f64) -> String {
    let column = |ours: f64, theirs: f64| {
        let (rate, most) = (work / ours, most / theirs);
        format!("{:9.1} {:9.1} {:6.0}%", ours * 1e6, rate / 1e9, rate / most * 100.0)
    };
    format!("{}   {}", column(times[0].median, times[1].median), column(times[0].best, times[1].best))
}

/// Numbers that are neither all alike nor so small that they slow the processor down.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|index| ((index * 7919 % 2003) as f32 - 1001.0) / 1001.0).collect()
}

fn measure(name: &str, cpu: Cpu, precision: Precision) {
    println!("\n== {name}, one core, up to {REPETITIONS} repetitions");
    println!("{:34} {:^27}   {:^27}", "", "median", "best");
    println!("{:34} {:>9} {:>9} {:>7}   {:>9} {:>9} {:>7}", "", "µs", "GFLOP/s", "of peak", "µs", "GFLOP/s", "of peak");
    let report = |name: &str, (fastest, products): (peak::Loop, f64), flop: f64, job: &mut dyn FnMut()| {
        let peak_flop = peak::operations(fastest);
        let times = time(&mut [job, &mut || peak::run(fastest)]);
        println!("{name:34} {}", columns(&times, flop, peak_flop / products));
        peak_flop / times[1].best
    };
    for (name, outputs, inputs, activation, has_residual) in [
        ("query, key, value", 3 * HIDDEN, HIDDEN, Activation::None, false),
        ("projection + residual", HIDDEN, HIDDEN, Activation::None, true),
        ("up + GELU", INTERMEDIATE, HIDDEN, Activation::GeluErf, false),
        ("down + residual", HIDDEN, INTERMEDIATE, Activation::None, true),
    ] {
        // As many as a model has layers, so that weights come from where they come from in a model.
        let matrices: Vec<_> = (0..LAYERS)
            .map(|_| {
                let weights = numbers(outputs * inputs);
                PackedMatrix::new(cpu, precision, Rows::new(&weights, outputs, inputs, inputs), Some(&numbers(outputs)))
            })
            .collect();
        for rows in [16, 64, 256, 2048] {
            let (x, residual, mut y) = (numbers(rows * inputs), numbers(rows * outputs), vec![0.0; rows * outputs]);
            let (mut scratch, mut turn) = (Scratch::default(), 0);
            let residual = has_residual.then(|| Rows::new(&residual, rows, outputs, outputs));
            report(
                &format!("{name}, {rows} rows"),
                products_of(cpu, precision),
                2.0 * (rows * outputs * inputs) as f64,
                &mut || {
                    let y = RowsMut::new(&mut y, rows, outputs, outputs);
                    let x = Rows::new(black_box(&x), rows, inputs, inputs);
                    turn = (turn + 1) % LAYERS;
                    matrices[turn].multiply(x, 0..outputs, Epilogue { activation, residual }, y, &mut scratch);
                },
            );
        }
    }
    for (length, is_biased) in [16, 64, 256, 512].into_iter().flat_map(|length| [(length, false), (length, true)]) {
        let sequences = (512 / length).max(1);
        let rows = sequences * length;
        let offsets: Vec<usize> = (0..=sequences).map(|sequence| sequence * length).collect();
        let (data, mut y, mut scratch) = (numbers(rows * 3 * HIDDEN), vec![0.0; rows * HIDDEN], Scratch::default());
        let all = Rows::new(&data, rows, 3 * HIDDEN, 3 * HIDDEN);
        let part = |part: usize| all.columns_in(part * HIDDEN..(part + 1) * HIDDEN);
        let (query, key, value) = (part(0), part(1), part(2));
        let (reach, heads) = (2 * length - 1, HIDDEN / HEAD);
        let bias = numbers(heads * reach);
        let bias = is_biased.then(|| Rows::new(&bias, heads, reach, reach));
        let input = Attention { query, key, value, offsets: &offsets, head_width: HEAD, scale: 0.17, bias };
        let flop = 4.0 * (sequences * length * length * HIDDEN) as f64;
        let kind = if is_biased { "biased attention" } else { "attention" };
        let products = products_of_attention(cpu, precision);
        report(&format!("{kind}, {sequences} × {length} tokens"), products, flop, &mut || {
            attention(cpu, precision, black_box(&input), RowsMut::new(&mut y, rows, HIDDEN, HIDDEN), &mut scratch);
        });
    }
    for (sequences, length) in [(1, 16), (1, 64), (1, 256), (4, 64), (8, 64), (32, 64)] {
        let mut encoder = encoder::Encoder::new(cpu, precision, sequences, length);
        let flop = encoder.flop();
        let name = format!("all layers, {sequences} × {length} tokens");
        let peak = report(&name, products_of(cpu, precision), flop, &mut || encoder.run());
        if sequences == 32 {
            println!("{:34} {:27}   {:9} {:9.1}", "peak", "", "", peak / 1e9);
        }
    }
    pointwise(cpu);
}

/// The loop that products with matrices are judged by, and how many of its products one takes.
fn products_of(cpu: Cpu, precision: Precision) -> (peak::Loop, f64) {
    // Every number in two parts takes three products.
    let products = if cpu.isa() == Isa::Amx && precision == Precision::F32 { 3.0 } else { 1.0 };
    (peak::fastest(cpu, precision), products)
}

/// The same of attention: in f32, but for tiles and for AVX-512 with an instruction for bf16, where f32 is not asked for.
fn products_of_attention(cpu: Cpu, precision: Precision) -> (peak::Loop, f64) {
    match (cpu.isa(), precision) {
        (Isa::Amx | Isa::Avx512, Precision::Bf16 | Precision::Int8) => products_of(cpu, cpu.precision(Precision::Bf16)),
        _ => products_of(cpu, Precision::F32),
    }
}

/// Kernels that do little with each number: beside copying as many. What works in place copies its input first, lest it be done again with
/// what it gave, until numbers are too small to be normal.
fn pointwise(cpu: Cpu) {
    const ROWS: usize = 64;
    println!(
        "{:34} {:>9} {:>9} {:>7}   {:>9} {:>9} {:>7}",
        "", "µs", "ns/number", "of copy", "µs", "ns/number", "of copy"
    );
    let (weight, bias) = (numbers(HIDDEN), numbers(HIDDEN));
    let count = ROWS * HIDDEN;
    let (x, residual) = (numbers(count), numbers(count));
    let view = |data| Rows::new(data, ROWS, HIDDEN, HIDDEN);
    let norm = LayerNorm { weight: &weight, bias: &bias, epsilon: 1e-12 };
    for name in ["layer norm + residual", "softmax", "GELU", "GELU by tanh", "SiLU", "ReLU"] {
        let (mut y, mut copy) = (x.clone(), x.clone());
        let times = time(&mut [
            &mut || {
                if !name.starts_with("layer norm") {
                    y.copy_from_slice(black_box(&x));
                }
                let y = RowsMut::new(&mut y, ROWS, HIDDEN, HIDDEN);
                match name {
                    "softmax" => softmax(cpu, y),
                    "GELU" => activate(cpu, Activation::GeluErf, y),
                    "GELU by tanh" => activate(cpu, Activation::GeluTanh, y),
                    "SiLU" => activate(cpu, Activation::Silu, y),
                    "ReLU" => activate(cpu, Activation::Relu, y),
                    _ => layer_norm(cpu, norm, view(&x), Some(view(&residual)), y),
                }
            },
            &mut || black_box(&mut copy).copy_from_slice(black_box(&x)),
        ]);
        let name = format!("{name}, {ROWS} × {HIDDEN}");
        let column = |seconds: f64, copy: f64| {
            format!("{:9.1} {:9.3} {:6.0}%", seconds * 1e6, seconds * 1e9 / count as f64, copy / seconds * 100.0)
        };
        let median = column(times[0].median, times[1].median);
        println!("{name:34} {median}   {}", column(times[0].best, times[1].best));
    }
}
