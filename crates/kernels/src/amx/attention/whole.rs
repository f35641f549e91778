//! Attention with the products around it: queries, keys and values of one head after another come from the same packed rows, so that what
//! there is of a head stays in the caches next to the core, and none of it is written in f32.

use std::{f32::consts::LOG2_E, ops::Range};

use super::{
    super::{
        PANEL, Parts, STEP,
        pack::{line_of_row, pack_rows, steps, store},
        pass::{Found, Pass, SUMS},
        product::Packed,
        results::Results,
        step_bytes,
        tiles::{Begin, Bf16, Operands, Tiles},
    },
    Block, blocks, in_turn,
    pack::{PackedRows, pack_keys, pack_values},
    place::{Place, Room},
};
use crate::{
    Rows, RowsMut, Scratch,
    attention::{Bias, sequences},
    convert::{Pair, halves},
    finish::{Same, Target},
    lanes::{Avx512, Lanes},
    scratch::LINE,
};

/// Queries, keys and values.
const OPERANDS: usize = 3;

/// Heads of some sequences, which are all rows.
#[derive(Clone, Copy)]
pub(crate) struct Heads<'a> {
    /// Queries of all heads side by side, keys, and values.
    pub(crate) query_key_value: Packed<'a>,
    /// Columns of all heads.
    pub(crate) columns: usize,
    /// Columns of one, which are whole steps.
    pub(crate) width: usize,
    pub(crate) offsets: &'a [usize],
    pub(crate) scale: f32,
    pub(crate) bias: Option<Rows<'a>>,
    pub(crate) x: Rows<'a>,
}

/// Writes what some heads gather to `y`, whose columns they are.
pub(crate) fn gather(parts: Parts, all: &Heads<'_>, heads: Range<usize>, y: RowsMut<'_>, scratch: &mut Scratch) {
    // SAFETY: weights in tiles are packed only for a `Cpu` that has them.
    unsafe {
        match (parts, all.bias.is_some()) {
            (Parts::One, false) => all.gather::<false, false>(heads, y, scratch),
            (Parts::One, true) => all.gather::<false, true>(heads, y, scratch),
            (Parts::Two, false) => all.gather::<true, false>(heads, y, scratch),
            (Parts::Two, true) => all.gather::<true, true>(heads, y, scratch),
        }
    }
}

/// Multiplies what all heads gather with other weights. The target has no activation.
pub(crate) fn whole(parts: Parts, all: &Heads<'_>, attended: Packed<'_>, target: Target<'_>, scratch: &mut Scratch) {
    // SAFETY: weights in tiles are packed only for a `Cpu` that has them.
    unsafe {
        match (parts, all.bias.is_some()) {
            (Parts::One, false) => all.whole::<false, false>(attended, target, scratch),
            (Parts::One, true) => all.whole::<false, true>(attended, target, scratch),
            (Parts::Two, false) => all.whole::<true, false>(attended, target, scratch),
            (Parts::Two, true) => all.whole::<true, true>(attended, target, scratch),
        }
    }
}

impl Heads<'_> {
    /// # Safety
    /// The machine has AVX-512, tiles, and leave to use them.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn gather<const TWO: bool, const BIASED: bool>(
        &self,
        heads: Range<usize>,
        mut y: RowsMut<'_>,
        scratch: &mut Scratch,
    ) where
        Bf16<TWO>: Operands,
    {
        let row_bytes = steps(self.x.columns()) * step_bytes(TWO);
        scratch.left.reserve(self.x.rows().div_ceil(PANEL) * row_bytes / size_of::<f32>());
        let x = scratch.left.as_mut_ptr().cast::<u8>();
        let (to, to_stride, first) = (y.as_mut_ptr(), y.stride(), heads.start * self.width);
        // SAFETY: the caller's promise; nothing below configures tiles again; rows are packed where there is room for them; the result has
        // these rows and columns.
        unsafe {
            let _tiles = Tiles::configure();
            pack_rows::<TWO>(self.x, None, x);
            self.run::<TWO, BIASED>(heads, x, scratch, |block, place| {
                let to = to.add((block.begin + block.place) * to_stride + block.column - first);
                place.divide(block.queries(), self.width, to, to_stride);
            });
        }
    }

    /// # Safety
    /// The machine has AVX-512, tiles, and leave to use them.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn whole<const TWO: bool, const BIASED: bool>(
        &self,
        attended: Packed<'_>,
        mut target: Target<'_>,
        scratch: &mut Scratch,
    ) where
        Bf16<TWO>: Operands,
    {
        let (row_blocks, step, width) = (self.x.rows().div_ceil(PANEL), step_bytes(TWO), self.columns / STEP);
        let x_bytes = row_blocks * steps(self.x.columns()) * step;
        scratch.left.reserve((x_bytes + row_blocks * width * step) / size_of::<f32>());
        let x = scratch.left.as_mut_ptr().cast::<u8>();
        let gathered = x.wrapping_add(x_bytes);
        // SAFETY: as for `gather`, and there is room for packed rows of what heads gather; `run` reserves sums for all blocks of a panel.
        unsafe {
            let _tiles = Tiles::configure();
            pack_rows::<TWO>(self.x, None, x);
            self.run::<TWO, BIASED>(0..self.columns / self.width, x, scratch, |block, place| {
                let row = block.begin + block.place;
                place.divide_packed::<TWO>(block.queries(), gathered, row, block.column / STEP, width);
            });
            let pass = Pass {
                left: gathered,
                rows: self.x.rows(),
                right: attended.weights.as_ptr().cast(),
                panels: target.result.columns().div_ceil(PANEL),
                panel_bytes: width * step,
                steps: width,
                then: self.query_key_value.weights.as_ptr().cast(),
                sums: scratch.sums.as_mut_ptr(),
                kept: 0,
                begin: Begin::Bias(attended.bias.as_ptr()),
                bias_stride: PANEL,
            };
            let results = Results::new(&mut target, 0);
            match target.epilogue.residual {
                Some(_) => pass.run::<Bf16<TWO>>(|found| results.take::<Same, true>(found)),
                None => pass.run::<Bf16<TWO>>(|found| results.take::<Same, false>(found)),
            }
        }
    }

    /// Has `end` take what some heads gather, block after block. `x` is packed.
    ///
    /// # Safety
    /// As for `gather`, and there is a `Tiles`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn run<const TWO: bool, const BIASED: bool>(
        &self,
        heads: Range<usize>,
        x: *const u8,
        scratch: &mut Scratch,
        end: impl FnMut(Block, &Place),
    ) where
        Bf16<TWO>: Operands,
    {
        let width = self.width / STEP;
        let blocks_of_all = places(self.offsets, &mut scratch.places);
        let longest = sequences(self.offsets).map(|rows| rows.len()).max().unwrap_or_default();
        let operand_bytes = blocks_of_all * width * step_bytes(TWO);
        // Of two heads, because the last blocks of one are under way while the next one is computed.
        scratch.right.reserve(2 * OPERANDS * operand_bytes / size_of::<f32>());
        scratch.sums.reserve(self.x.rows().div_ceil(PANEL).max(2) * SUMS);
        let room = Room::new::<TWO>(longest, self.width, scratch);
        let (operands, sums) = (scratch.right.as_mut_ptr().cast::<u8>(), scratch.sums.as_mut_ptr());
        let places = scratch.places.as_ptr();
        let of_head = |head: usize| Operand {
            packed: operands.wrapping_add(head % 2 * OPERANDS * operand_bytes),
            bytes: operand_bytes,
            steps: width,
            places,
        };
        let all = heads.flat_map(|head| sequences(self.offsets).flat_map(move |rows| blocks(rows, head * self.width)));
        let mut last = None;
        // SAFETY: the caller's promise; the scratch has room, as just reserved.
        unsafe {
            let begin = |block: Block, place: &mut Place| {
                let head = block.column / self.width;
                let operand = of_head(head);
                if last.replace(head) != Some(head) {
                    self.multiply::<TWO>(head, x, sums, operand);
                }
                if block.place == 0 {
                    pack_keys::<TWO>(operand.rows(1, block), place.keys);
                    pack_values::<TWO>(operand.rows(2, block), place.values);
                }
                place.queries = line_of_row(operand.packed, width, *places.add(block.begin) + block.place, 0, TWO);
            };
            in_turn::<TWO, BIASED>(all, &room, |column| Bias::new(self.bias, column / self.width), begin, end);
        }
    }

    /// Computes the queries, keys and values of one head.
    ///
    /// # Safety
    /// As for `run`; there is room for sums and the operand.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn multiply<const TWO: bool>(&self, head: usize, x: *const u8, sums: *mut f32, to: Operand)
    where
        Bf16<TWO>: Operands,
    {
        let Packed { weights, bias, inputs } = self.query_key_value;
        let panel_bytes = steps(inputs) * step_bytes(TWO);
        debug_assert!(OPERANDS * self.columns / PANEL * panel_bytes <= weights.bytes());
        debug_assert!(OPERANDS * self.columns <= bias.len());
        for step in 0..to.steps {
            let panel = head * to.steps + step;
            // SAFETY: the caller's promise; packed weights are as large as heads and steps say, because `SelfAttention` checked the shapes.
            unsafe {
                let right = weights.as_ptr().cast::<u8>().add(panel * panel_bytes);
                let pass = Pass {
                    left: x,
                    rows: self.x.rows(),
                    right,
                    panels: OPERANDS,
                    panel_bytes: self.columns / PANEL * panel_bytes,
                    steps: steps(inputs),
                    then: right.wrapping_add(panel_bytes),
                    sums,
                    kept: 0,
                    begin: Begin::Bias(bias.as_ptr().add(panel * PANEL)),
                    bias_stride: self.columns,
                };
                let scale = self.scale * LOG2_E;
                pass.run::<Bf16<TWO>>(|found| to.take::<TWO>(found, step, if found.panel == 0 { scale } else { 1.0 }));
            }
        }
    }
}

/// Where each row lies among packed rows of which each sequence has blocks of its own; how many blocks.
fn places(offsets: &[usize], places: &mut Vec<usize>) -> usize {
    places.clear();
    let mut blocks = 0;
    for rows in sequences(offsets) {
        places.extend((0..rows.len()).map(|row| blocks * PANEL + row));
        blocks += rows.len().div_ceil(PANEL);
    }
    blocks
}

/// Where the queries of one head are packed, and after them its keys and its values.
#[derive(Clone, Copy)]
struct Operand {
    packed: *mut u8,
    /// Of queries, of keys, and of values.
    bytes: usize,
    /// Of a row.
    steps: usize,
    /// Of each row.
    places: *const usize,
}

impl Operand {
    /// Keys (1) or values (2) of a block's sequence.
    ///
    /// # Safety
    /// There is such a sequence.
    unsafe fn rows(self, which: usize, block: Block) -> PackedRows {
        // SAFETY: the caller's promise.
        let first = unsafe { *self.places.add(block.begin) };
        let packed = self.packed.wrapping_add(which * self.bytes);
        PackedRows { packed, first, rows: block.length, steps: self.steps }
    }

    /// Packs a row's step: its sums times a factor.
    ///
    /// # Safety
    /// The machine has AVX-512 and its bf16; these sums, their row and its step exist.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn take<const TWO: bool>(self, found: Found, step: usize, factor: f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let factor = Avx512::splat(factor);
            let [first, second] = [0, LINE].map(|at| Avx512::load(found.sums.add(at)) * factor);
            let packed = self.packed.wrapping_add(found.panel * self.bytes);
            let to = line_of_row(packed, self.steps, *self.places.add(found.row), step, TWO);
            store::<TWO>(to, halves::<TWO>(Pair(first.0, second.0)));
        }
    }
}
