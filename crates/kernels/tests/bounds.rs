//! No safe call reaches memory that is not its own: operands that end, and begin, at pages that cannot be touched, and
//! refusals of shapes that do not fit. A kernel that reads or writes too far ends this program with SIGSEGV.
#![allow(unsafe_code, clippy::print_stderr)]

mod reference;

use std::panic::{AssertUnwindSafe, catch_unwind};

use kernels::{
    Activation, Attention, BlockForm, Both, Cpu, Epilogue, Isa, IsaError, LayerNorm, PackedMatrix, Precision, Rows,
    RowsMut, Scratch, SelfAttention, activate, attention, layer_norm, softmax,
};
use reference::{Random, cpus, variants};

/// Numbers between two pages that cannot be touched, right behind the first or right before the second.
struct Guarded {
    mapping: *mut u8,
    bytes: usize,
    begin: usize,
    count: usize,
}

impl Guarded {
    fn new(random: &mut Random, count: usize) -> Self {
        const PAGE: usize = 4096;
        let needed = count * size_of::<f32>();
        let inner = needed.next_multiple_of(PAGE).max(PAGE);
        let bytes = inner + 2 * PAGE;
        // SAFETY: a new mapping of its own, and guards at both its ends.
        let mapping = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let mapping = libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert!(mapping != libc::MAP_FAILED, "memory for a test");
            let mapping = mapping.cast::<u8>();
            for guard in [mapping, mapping.add(PAGE + inner)] {
                assert_eq!(libc::mprotect(guard.cast(), PAGE, libc::PROT_NONE), 0, "a guard page");
            }
            mapping
        };
        let begin = PAGE + random.of(&[0, inner - needed]);
        let mut guarded = Self { mapping, bytes, begin, count };
        guarded.numbers_mut().iter_mut().for_each(|number| *number = random.number());
        guarded
    }

    fn numbers(&self) -> &[f32] {
        // SAFETY: so many numbers from here on are within the mapping, and initialised: it began as zeros.
        unsafe { std::slice::from_raw_parts(self.mapping.add(self.begin).cast(), self.count) }
    }

    fn numbers_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.add(self.begin).cast(), self.count) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrows it any more.
        unsafe { libc::munmap(self.mapping.cast(), self.bytes) };
    }
}

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

#[test]
fn products_stay_within_their_operands() {
    let mut random = Random::new();
    let mut scratch = Scratch::default();
    for cpu in variants() {
        for precision in PRECISIONS {
            for _ in 0..200 {
                let (rows, outputs, inputs) = (1 + random.below(40), 1 + random.below(100), 1 + random.below(100));
                let (stride, y_stride) = (inputs + random.below(3), outputs + random.below(3));
                let x = Guarded::new(&mut random, (rows - 1) * stride + inputs);
                let weights = Guarded::new(&mut random, outputs * inputs);
                let bias = Guarded::new(&mut random, outputs);
                let residual = Guarded::new(&mut random, rows * outputs);
                let mut y = Guarded::new(&mut random, (rows - 1) * y_stride + outputs);
                let weights = Rows::new(weights.numbers(), outputs, inputs, inputs);
                let matrix = PackedMatrix::new(cpu, precision, weights, Some(bias.numbers()));
                let residual = Some(Rows::new(residual.numbers(), rows, outputs, outputs));
                matrix.multiply(
                    Rows::new(x.numbers(), rows, inputs, stride),
                    0..outputs,
                    Epilogue { activation: random.of(&[Activation::GeluErf, Activation::GeluTanh]), residual },
                    RowsMut::new(y.numbers_mut(), rows, outputs, y_stride),
                    &mut scratch,
                );
            }
        }
    }
}

#[test]
fn products_with_blocks_stay_within_their_operands() {
    let mut random = Random::new();
    let mut scratch = Scratch::default();
    for cpu in variants() {
        for _ in 0..100 {
            let (rows, outputs, blocks) = (1 + random.below(40), 1 + random.below(100), 1 + random.below(8));
            let (inputs, is_narrow) = (32 * blocks, random.below(2) == 0);
            let form = BlockForm { block: 32, blocks: 1, is_narrow, zero: 8, has_fine: false, has_lows: true };
            let matrix = PackedMatrix::of_blocks(cpu, form, (outputs, inputs), None, |_, row| {
                row.levels.resize(inputs, 7);
                row.steps.resize(blocks, 0.5);
                row.lows.resize(blocks, 0.5);
            });
            let x = Guarded::new(&mut random, rows * inputs);
            let mut y = Guarded::new(&mut random, rows * outputs);
            let (x, epilogue) = (x.numbers(), Epilogue { activation: Activation::Silu, residual: None });
            let y = RowsMut::new(y.numbers_mut(), rows, outputs, outputs);
            matrix.multiply(Rows::new(x, rows, inputs, inputs), 0..outputs, epilogue, y, &mut scratch);
        }
    }
}

#[test]
fn both_products_stay_within_their_operands() {
    let mut random = Random::new();
    let mut scratch = Scratch::default();
    for cpu in variants() {
        for precision in PRECISIONS {
            for _ in 0..60 {
                let (rows, inputs, between, outputs) =
                    (1 + random.below(70), 1 + random.below(100), 1 + random.below(500), 1 + random.below(70));
                let mut matrix = |outputs: usize, inputs: usize| {
                    let (weights, bias) =
                        (Guarded::new(&mut random, outputs * inputs), Guarded::new(&mut random, outputs));
                    let weights = Rows::new(weights.numbers(), outputs, inputs, inputs);
                    PackedMatrix::new(cpu, precision, weights, Some(bias.numbers()))
                };
                let (up, down) = (matrix(between, inputs), matrix(outputs, between));
                let (x, residual) =
                    (Guarded::new(&mut random, rows * inputs), Guarded::new(&mut random, rows * outputs));
                let mut y = Guarded::new(&mut random, rows * outputs);
                Both { up: &up, activation: Activation::GeluErf, down: &down }.multiply(
                    Rows::new(x.numbers(), rows, inputs, inputs),
                    Some(Rows::new(residual.numbers(), rows, outputs, outputs)),
                    RowsMut::new(y.numbers_mut(), rows, outputs, outputs),
                    &mut scratch,
                );
            }
        }
    }
}

#[test]
fn attention_stays_within_its_operands() {
    let mut random = Random::new();
    let mut scratch = Scratch::default();
    for cpu in cpus() {
        for precision in PRECISIONS {
            for _ in 0..200 {
                let (length, heads, head_width) = (1 + random.below(80), 1 + random.below(3), 1 + random.below(70));
                let columns = heads * head_width;
                let operands: Vec<_> = (0..3).map(|_| Guarded::new(&mut random, length * columns)).collect();
                let [query, key, value] =
                    [0, 1, 2].map(|operand: usize| Rows::new(operands[operand].numbers(), length, columns, columns));
                let mut y = Guarded::new(&mut random, length * columns);
                let offsets = [0, length / 2, length];
                // As far as the longer half reaches.
                let reach = 2 * length.div_ceil(2) - 1;
                let bias = Guarded::new(&mut random, heads * reach);
                let bias = random.of(&[None, Some(Rows::new(bias.numbers(), heads, reach, reach))]);
                let input = Attention { query, key, value, offsets: &offsets, head_width, scale: 0.3, bias };
                let y = RowsMut::new(y.numbers_mut(), length, columns, columns);
                attention(cpu, precision, &input, y, &mut scratch);
            }
        }
    }
}

#[test]
fn self_attention_stays_within_its_operands() {
    let (mut random, mut scratch) = (Random::new(), Scratch::default());
    for cpu in variants() {
        for precision in PRECISIONS {
            for _ in 0..40 {
                let (length, heads, inputs) = (1 + random.below(80), 1 + random.below(3), 1 + random.below(100));
                let (head_width, outputs) = (random.of(&[32, 64, 20]), 1 + random.below(70));
                let inner = heads * head_width;
                let mut matrix = |outputs: usize, inputs: usize| {
                    let weights = Guarded::new(&mut random, outputs * inputs);
                    PackedMatrix::new(cpu, precision, Rows::new(weights.numbers(), outputs, inputs, inputs), None)
                };
                let (query_key_value, attended) = (matrix(3 * inner, inputs), matrix(outputs, inner));
                let offsets = [0, length / 2, length];
                let reach = 2 * length.div_ceil(2) - 1;
                let bias = Guarded::new(&mut random, heads * reach);
                let bias = random.of(&[None, Some(Rows::new(bias.numbers(), heads, reach, reach))]);
                let (query_key_value, attended) = (&query_key_value, &attended);
                let layer = SelfAttention {
                    query_key_value,
                    attended,
                    offsets: &offsets,
                    head_width,
                    scale: 0.3,
                    bias,
                    precision,
                };
                let x = Guarded::new(&mut random, length * inputs);
                let x = Rows::new(x.numbers(), length, inputs, inputs);
                let mut y = Guarded::new(&mut random, length * outputs);
                layer.multiply(x, None, RowsMut::new(y.numbers_mut(), length, outputs, outputs), &mut scratch);
                if layer.is_fused(length) {
                    let mut y = Guarded::new(&mut random, length * inner);
                    layer.gather(0..heads, x, RowsMut::new(y.numbers_mut(), length, inner, inner), &mut scratch);
                }
            }
        }
    }
}

#[test]
fn functions_of_rows_stay_within_them() {
    let mut random = Random::new();
    for cpu in cpus() {
        for _ in 0..200 {
            let (rows, columns) = (1 + random.below(5), 1 + random.below(100));
            let mut y = Guarded::new(&mut random, rows * columns);
            softmax(cpu, RowsMut::new(y.numbers_mut(), rows, columns, columns));
            activate(cpu, Activation::GeluErf, RowsMut::new(y.numbers_mut(), rows, columns, columns));
            let (x, residual) = (Guarded::new(&mut random, rows * columns), Guarded::new(&mut random, rows * columns));
            let (weight, bias) = (Guarded::new(&mut random, columns), Guarded::new(&mut random, columns));
            let norm = LayerNorm { weight: weight.numbers(), bias: bias.numbers(), epsilon: 1e-5 };
            let x = Rows::new(x.numbers(), rows, columns, columns);
            let residual = Rows::new(residual.numbers(), rows, columns, columns);
            layer_norm(cpu, norm, x, Some(residual), RowsMut::new(y.numbers_mut(), rows, columns, columns));
        }
    }
}

/// The message of the panic that `f` ends with.
fn refusal<T>(f: impl FnOnce() -> T) -> String {
    let payload = catch_unwind(AssertUnwindSafe(f)).err().expect("it is refused");
    payload
        .downcast_ref::<String>()
        .cloned()
        .unwrap_or_else(|| payload.downcast_ref::<&str>().map_or_else(String::new, ToString::to_string))
}

#[test]
fn views_that_do_not_fit_are_refused() {
    let data = [0.0; 20];
    let mut out = [0.0; 20];
    let refused = [
        (refusal(|| Rows::new(&data, 3, 5, 8)), "20 numbers are too few for 3 rows of 5 columns that begin every 8"),
        (refusal(|| Rows::new(&data, 2, 5, 4)), "rows of 5 columns cannot begin every 4 numbers"),
        (refusal(|| Rows::new(&data, usize::MAX, 5, usize::MAX)), "20 numbers are too few"),
        (refusal(|| RowsMut::new(&mut out, 5, 5, 5)), "20 numbers are too few for 5 rows"),
        (refusal(|| Rows::new(&data, 4, 5, 5).row(4)), "row 4 of 4"),
        (refusal(|| Rows::new(&data, 4, 5, 5).columns_in(2..6)), "columns 2..6 of 5"),
        (refusal(|| Rows::new(&data, 4, 5, 5).rows_in(2..5)), "rows 2..5 of 4"),
        (refusal(|| RowsMut::new(&mut out, 4, 5, 5).split_rows(5)), "row 5 of 4"),
        (refusal(|| RowsMut::new(&mut out, 4, 5, 5).split_columns(6)), "column 6 of 5"),
    ];
    for (message, expected) in refused {
        assert!(message.contains(expected), "{message:?} and not {expected:?}");
    }
    // What just fits is fine, and so is nothing at all.
    assert_eq!(Rows::new(&data, 3, 4, 8).row(2).len(), 4);
    assert_eq!(Rows::new(&[], 0, 5, 5).columns_in(1..5).rows_in(0..0).rows(), 0);
    assert!(Rows::new(&[], 7, 0, 9).columns_in(0..0).rows_in(3..7).row(3).is_empty());
    let (top, bottom) = RowsMut::new(&mut [], 0, 5, 5).split_columns(3).1.split_rows(0);
    assert_eq!((top.rows(), bottom.columns()), (0, 2));
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    for cpu in cpus() {
        let data = vec![0.0; 6400];
        let rows = |rows: usize, columns: usize| Rows::new(&data, rows, columns, columns);
        let matrix = PackedMatrix::new(cpu, Precision::F32, rows(100, 10), None);
        let epilogue = Epilogue { activation: Activation::None, residual: None };
        let multiply = |x, outputs, epilogue, (y_rows, y_columns): (usize, usize)| {
            let mut y = vec![0.0; y_rows * y_columns];
            let y = RowsMut::new(&mut y, y_rows, y_columns, y_columns);
            matrix.multiply(x, outputs, epilogue, y, &mut Scratch::default());
        };
        let residual = Epilogue { residual: Some(rows(4, 99)), ..epilogue };
        let down = PackedMatrix::new(cpu, Precision::F32, rows(7, 100), None);
        let both = |up, x, residual, (y_rows, y_columns): (usize, usize)| {
            let mut y = vec![0.0; y_rows * y_columns];
            let y = RowsMut::new(&mut y, y_rows, y_columns, y_columns);
            Both { up, activation: Activation::None, down: &down }.multiply(x, residual, y, &mut Scratch::default());
        };
        let attend_biased = |offsets: &[usize], head_width, value, bias| {
            let (query, key) = (rows(5, 12), rows(5, 12));
            let input = Attention { query, key, value, offsets, head_width, scale: 1.0, bias };
            let mut y = vec![0.0; 60];
            attention(cpu, Precision::F32, &input, RowsMut::new(&mut y, 5, 12, 12), &mut Scratch::default());
        };
        let attend = |offsets: &[usize], head_width, value| attend_biased(offsets, head_width, value, None);
        let biased = |offsets: &[usize], bias| attend_biased(offsets, 4, rows(5, 12), Some(bias));
        let wide = PackedMatrix::new(cpu, Precision::F32, rows(3 * 32, 10), None);
        let attended = PackedMatrix::new(cpu, Precision::F32, rows(7, 32), None);
        let whole = |offsets: &[usize], attended, x, (y_rows, y_columns): (usize, usize)| {
            let layer = SelfAttention {
                query_key_value: &wide,
                attended,
                offsets,
                head_width: 32,
                scale: 1.0,
                bias: None,
                precision: Precision::F32,
            };
            let mut y = vec![0.0; y_rows * y_columns];
            let y = RowsMut::new(&mut y, y_rows, y_columns, y_columns);
            layer.multiply(x, None, y, &mut Scratch::default());
        };
        let norm = |weight: &[f32], bias: &[f32], x, residual| {
            let norm = LayerNorm { weight, bias, epsilon: 0.1 };
            layer_norm(cpu, norm, x, residual, RowsMut::new(&mut [0.0; 30], 3, 10, 10));
        };
        let refused = [
            (refusal(|| PackedMatrix::new(cpu, Precision::F32, rows(3, 3), Some(&[1.0]))), "a bias of 1 for 3 outputs"),
            (refusal(|| multiply(rows(4, 11), 0..100, epilogue, (4, 100))), "rows of 11 for a matrix of 10 inputs"),
            (refusal(|| multiply(rows(4, 10), 0..101, epilogue, (4, 101))), "outputs 0..101 of 100"),
            (refusal(|| multiply(rows(4, 10), 0..100, epilogue, (3, 100))), "a result of 3 × 100 for 4 × 100"),
            (refusal(|| multiply(rows(4, 10), 0..100, epilogue, (4, 99))), "a result of 4 × 99 for 4 × 100"),
            (refusal(|| multiply(rows(4, 10), 0..100, residual, (4, 100))), "a residual of 4 × 99"),
            (refusal(|| multiply(rows(4, 10), 5..100, epilogue, (4, 95))), "output 5 is within a panel of"),
            (refusal(|| both(&down, rows(4, 100), None, (4, 7))), "7 outputs for a matrix of 100 inputs"),
            (refusal(|| both(&matrix, rows(4, 9), None, (4, 7))), "rows of 9 for a matrix of 10 inputs"),
            (refusal(|| both(&matrix, rows(4, 10), None, (5, 7))), "a result of 5 × 7 for 4 × 7"),
            (refusal(|| both(&matrix, rows(4, 10), None, (4, 8))), "a result of 4 × 8 for 4 × 7"),
            (refusal(|| both(&matrix, rows(4, 10), Some(rows(3, 7)), (4, 7))), "a residual of 3 × 7"),
            (refusal(|| attend(&[0, 6], 4, rows(5, 12))), "sequences of 6 rows in 5"),
            (refusal(|| attend(&[0, 3, 2], 4, rows(5, 12))), "offsets decrease"),
            (refusal(|| attend(&[0, 5], 5, rows(5, 12))), "12 columns are not whole heads of 5"),
            (refusal(|| attend(&[0, 5], 0, rows(5, 12))), "not whole heads of 0"),
            (refusal(|| attend(&[0, 5], 4, rows(4, 12))), "values of 4 × 12 for a result of 5 × 12"),
            (refusal(|| biased(&[0, 5], rows(2, 9))), "a bias of 2 heads for 3"),
            (refusal(|| biased(&[0, 5], rows(3, 10))), "a bias of 10 numbers has none in its middle"),
            (refusal(|| biased(&[0, 5], rows(3, 0))), "a bias of 0 numbers has none in its middle"),
            (refusal(|| biased(&[0, 1, 5], rows(3, 5))), "a bias that reaches 3 rows for a sequence of 4"),
            (refusal(|| whole(&[0, 4], &attended, rows(5, 10), (5, 7))), "sequences of 4 rows in 5"),
            (refusal(|| whole(&[0, 5, 4], &attended, rows(5, 10), (5, 7))), "offsets decrease"),
            (refusal(|| whole(&[0, 5], &attended, rows(5, 9), (5, 7))), "rows of 9 for a matrix of 10 inputs"),
            (refusal(|| whole(&[0, 5], &attended, rows(5, 10), (5, 8))), "a result of 5 × 8 for 5 × 7"),
            (
                refusal(|| whole(&[0, 5], &matrix, rows(5, 10), (5, 7))),
                "96 queries, keys and values for a matrix of 10",
            ),
            (
                refusal(|| norm(&[1.0; 9], &[1.0; 10], rows(3, 10), None)),
                "a weight of 9 and a bias of 10 for 10 columns",
            ),
            (refusal(|| norm(&[1.0; 10], &[1.0; 10], rows(2, 10), None)), "rows of 2 × 10 for a result of 3 × 10"),
            (refusal(|| norm(&[1.0; 10], &[1.0; 10], rows(3, 10), Some(rows(3, 9)))), "a residual of 3 × 9"),
        ];
        for (message, expected) in refused {
            assert!(message.contains(expected), "{}: {message:?} and not {expected:?}", cpu.isa());
        }
        // Nothing to do is done.
        attend(&[], 4, rows(5, 12));
        attend(&[3], 4, rows(5, 12));
        whole(&[3], &attended, rows(0, 10), (0, 7));
        biased(&[], rows(3, 1));
        biased(&[0, 2, 5], rows(3, 5));
        multiply(rows(0, 10), 0..100, epilogue, (0, 100));
        multiply(rows(4, 10), 96..96, epilogue, (4, 0));
    }
}

#[test]
fn instructions_have_names_and_are_had_only_where_they_are() {
    let place = |isa: Isa| Isa::ALL.into_iter().position(|other| other == isa);
    for isa in Isa::ALL {
        assert_eq!(isa.to_string().parse(), Ok(isa));
        let cpu = Cpu::with(isa);
        let of_this_architecture = match isa {
            Isa::Portable => true,
            Isa::Neon => cfg!(target_arch = "aarch64"),
            Isa::Avx2 | Isa::Avx512 | Isa::Amx => cfg!(target_arch = "x86_64"),
        };
        // Of those, all up to the best.
        assert_eq!(cpu.is_ok(), of_this_architecture && place(isa) <= place(Cpu::best().isa()));
        match cpu {
            Ok(cpu) => {
                assert_eq!(cpu.isa(), isa);
                // Tiles need no extension, nor do whole numbers.
                let older = cpu.without_extensions();
                let bf16 = if isa == Isa::Amx { Precision::Bf16 } else { Precision::F32 };
                assert_eq!((older.isa(), older.precision(Precision::Bf16)), (isa, bf16));
                assert_eq!(older.precision(Precision::Int8), Precision::Int8);
                assert_eq!(cpu.precision(Precision::F32), Precision::F32);
            }
            Err(error) => assert_eq!(error.to_string(), format!("this machine has no {isa}")),
        }
    }
    let unknown = "sse".parse::<Isa>();
    assert_eq!(unknown, Err(IsaError::Unknown("sse".to_owned())));
    assert!(unknown.is_err_and(|error| error.to_string().contains("portable, neon, avx2, avx512 or amx")));
}
