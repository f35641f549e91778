//! Products of whole numbers: the sums of a span are exact in their tiles, and become f32 while those of the next one are computed.

use std::{arch::x86_64::_mm512_load_si512, iter, ops::Range};

use super::{
    INT8_STEP, PANEL,
    pack::{int8_steps, line_of_row, pack_int8},
    pass::{Found, Pass, SUMS, parts_of},
    results::Results,
    tiles::{Begin, Int8, Operands, Tiles},
};
use crate::{
    Epilogue, Rows, Scratch,
    dots::{Avx512Vnni, Columns, Grids, finish},
    finish::{Target, with_function},
    lanes::{Avx512, Lanes},
    narrow::pack_rows,
    product::Sums,
    quantise::{SPAN, WeightGrids, spans},
    scratch::{LINE, Lines},
    source::Source,
};

/// Packed weights.
#[derive(Clone)]
pub(crate) struct Int8Matrix {
    tiles: Lines,
    grids: WeightGrids,
}

impl Int8Matrix {
    /// For tiles of whole numbers. `None` where what was kept is not as much.
    pub(crate) fn new(source: &mut Source<'_>) -> Option<Self> {
        pack_int8(source).map(|(tiles, grids)| Self { tiles, grids })
    }

    /// Its memory, in the order in which it was taken.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &Lines> {
        iter::once(&self.tiles).chain(self.grids.lines())
    }

    /// Writes the product of rows with some outputs.
    pub(crate) fn multiply(
        &self,
        bias: &Lines,
        x: Rows<'_>,
        outputs: Range<usize>,
        target: Target<'_>,
        scratch: &mut Scratch,
    ) {
        // SAFETY: weights in tiles are packed only for a `Cpu` that has them.
        unsafe { Job { packed: self, bias, x, outputs, target }.run(scratch) }
    }
}

struct Job<'a> {
    packed: &'a Int8Matrix,
    bias: &'a Lines,
    x: Rows<'a>,
    outputs: Range<usize>,
    target: Target<'a>,
}

impl Job<'_> {
    /// # Safety
    /// The machine has AVX-512 and its VNNI, tiles, and leave to use them.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn run(mut self, scratch: &mut Scratch) {
        // Spans begin with a step, and panels are as wide as what is finished at once.
        const { assert!(SPAN.is_multiple_of(INT8_STEP) && PANEL == 2 * LINE) };
        let (steps, spans) = (int8_steps(self.x.columns()), spans(self.x.columns()));
        let (panels, first_panel) = (self.outputs.len().div_ceil(PANEL), self.outputs.start / PANEL);
        let panel_bytes = steps * Int8::STEP_BYTES;
        debug_assert!((first_panel + panels) * panel_bytes <= self.packed.tiles.bytes());
        debug_assert!((first_panel + panels) * spans * PANEL <= self.packed.grids.len());
        debug_assert!((first_panel + panels) * PANEL <= self.bias.len());
        // SAFETY: the caller's promise; nothing below configures tiles again.
        let _tiles = unsafe { Tiles::configure() };
        for rows in parts_of(self.x.rows(), panel_bytes) {
            let blocks = rows.len().div_ceil(PANEL);
            scratch.left.reserve(blocks * panel_bytes / size_of::<f32>());
            // Integers of two blocks, and what they stand for of all.
            scratch.sums.reserve((2 + blocks) * SUMS);
            // SAFETY: the caller's promise; the rows exist, and the scratch has room for so many blocks; packed weights are as
            // large as panels and steps say, because `multiply` of the matrix checked the shapes.
            unsafe {
                let left = scratch.left.as_mut_ptr().cast::<u8>();
                pack_rows::<Avx512Vnni>(self.x.rows_in(rows.clone()), &mut scratch.grids, |row, column| {
                    line_of_row(left, steps, row, column / INT8_STEP, false).wrapping_add(column % INT8_STEP)
                });
                let pass = Pass {
                    left,
                    rows: rows.len(),
                    right: self.packed.tiles.as_ptr().cast::<u8>().add(first_panel * panel_bytes),
                    panels,
                    panel_bytes,
                    steps,
                    then: self.packed.tiles.as_ptr().cast(),
                    sums: scratch.sums.as_mut_ptr(),
                    kept: 0,
                    begin: Begin::Zeros,
                    bias_stride: 0,
                };
                let row_grids = scratch.grids.as_ptr();
                let bias = self.bias.as_ptr().add(self.outputs.start);
                let floats = pass.sums.add(2 * SUMS);
                // One block after the other has the same place, which stays near, unless the rest of its panel comes later.
                let apart = if pass.near::<Int8>() < steps { SUMS } else { 0 };
                let Epilogue { activation, residual } = self.target.epilogue;
                let results = Results::new(&mut self.target, rows.start);
                let sums = |found: Found| {
                    let place = found.row / PANEL * apart + found.row % PANEL * PANEL;
                    let to = Sums { data: floats.add(place), stride: PANEL };
                    let grids = Grids { first: row_grids.add(found.row * spans + found.span), stride: spans };
                    let columns = self.packed.grids.columns(((first_panel + found.panel) * spans + found.span) * PANEL);
                    if found.span == 0 {
                        add::<true>(found, grids, columns, to);
                    } else {
                        add::<false>(found, grids, columns, to);
                    }
                    if found.is_last {
                        let bias = bias.add(found.panel * PANEL);
                        for at in [0, LINE] {
                            (Avx512::load(to.data.add(at)) + Avx512::load(bias.add(at))).store(to.data.add(at));
                        }
                    }
                    Found { sums: to.data, ..found }
                };
                with_function!(activation, false, F => pass.run::<Int8>(|found| {
                    let sums = sums(found);
                    match (found.is_last, residual) {
                        (false, _) => (),
                        (true, Some(_)) => results.take::<F, true>(sums),
                        (true, None) => results.take::<F, false>(sums),
                    }
                }));
            }
        }
    }
}

/// Writes what the integers of a row's first span stand for, or adds that of another one.
///
/// # Safety
/// As for `Job::run`; the row has integers, grids and columns, and room.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn add<const IS_FIRST: bool>(found: Found, grids: Grids, columns: Columns, to: Sums) {
    // SAFETY: the caller's promise; of the instructions of VNNI none is needed.
    unsafe {
        let integers = found.sums;
        let integers = [_mm512_load_si512(integers.cast()), _mm512_load_si512(integers.add(LINE).cast())];
        finish::<Avx512Vnni, 1, 2, IS_FIRST>([integers], grids, columns, to);
    }
}
