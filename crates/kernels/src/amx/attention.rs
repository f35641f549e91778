//! Attention in tiles: scores are a product of queries with packed keys, results one of packed weights with values.

mod pack;
mod place;
mod whole;

use std::{f32::consts::LOG2_E, ops::Range};

use super::{
    PANEL, Parts,
    pack::pack_rows,
    tiles::{Bf16, Operands, Tiles},
};
use crate::{Attention, RowsMut, Scratch, attention::Bias};

use pack::{pack_keys, pack_values};
use place::{Place, Room};
pub(crate) use whole::{Heads, gather, whole};

/// Blocks that are under way at once: packed, multiplied with keys, softened, multiplied with values. What one step stores the next one reads
/// when others have done theirs in between, because tiles that were just stored cannot be read at once.
const UNDER_WAY: usize = 4;

/// As [`crate::attention()`], which checked everything, on a machine with tiles, for sequences of at least `shortest` tokens.
pub(crate) fn attention(parts: Parts, input: &Attention<'_>, shortest: usize, y: RowsMut<'_>, scratch: &mut Scratch) {
    let Some(longest) = input.sequences(shortest..=usize::MAX).map(|rows| rows.len()).max() else { return };
    let job = Job { input, shortest, longest, y };
    // SAFETY: the caller has a `Cpu` with tiles.
    unsafe {
        match (parts, input.bias.is_some()) {
            (Parts::One, false) => job.run::<false, false>(scratch),
            (Parts::One, true) => job.run::<false, true>(scratch),
            (Parts::Two, false) => job.run::<true, false>(scratch),
            (Parts::Two, true) => job.run::<true, true>(scratch),
        }
    }
}

struct Job<'a> {
    input: &'a Attention<'a>,
    shortest: usize,
    /// Tokens of the longest sequence.
    longest: usize,
    y: RowsMut<'a>,
}

/// Up to 32 queries of one head of one sequence.
#[derive(Clone, Copy)]
struct Block {
    /// The sequence's first row.
    begin: usize,
    /// Its tokens.
    length: usize,
    /// The place of the first query in it.
    place: usize,
    /// The head's first column.
    column: usize,
}

impl Block {
    fn queries(self) -> usize {
        PANEL.min(self.length - self.place)
    }

    fn rows(self) -> Range<usize> {
        self.begin + self.place..self.begin + self.place + self.queries()
    }
}

impl Job<'_> {
    fn blocks(&self) -> impl Iterator<Item = Block> {
        let sequences = self.input.sequences(self.shortest..=usize::MAX);
        sequences.flat_map(|rows| self.input.heads().flat_map(move |column| blocks(rows.clone(), column)))
    }

    /// # Safety
    /// The machine has AVX-512, tiles, and leave to use them.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn run<const TWO: bool, const BIASED: bool>(mut self, scratch: &mut Scratch)
    where
        Bf16<TWO>: Operands,
    {
        let Attention { query, key, value, head_width, scale, .. } = *self.input;
        // SAFETY: the caller's promise; nothing below configures tiles again.
        let _tiles = unsafe { Tiles::configure() };
        let room = Room::new::<TWO>(self.longest, head_width, scratch);
        let (to, to_stride) = (self.y.as_mut_ptr(), self.y.stride());
        // SAFETY: the caller's promise; the room is for sequences as long as the longest, and these rows and columns exist.
        unsafe {
            let begin = |block: Block, place: &mut Place| {
                let columns = block.column..block.column + head_width;
                if block.place == 0 {
                    let rows = block.begin..block.begin + block.length;
                    pack_keys::<TWO>(key.rows_in(rows.clone()).columns_in(columns.clone()), place.keys);
                    pack_values::<TWO>(value.rows_in(rows).columns_in(columns.clone()), place.values);
                }
                let queries = query.rows_in(block.rows()).columns_in(columns);
                pack_rows::<TWO>(queries, Some(scale * LOG2_E), place.queries);
            };
            let end = |block: Block, place: &Place| {
                let to = to.add((block.begin + block.place) * to_stride + block.column);
                place.divide(block.queries(), head_width, to, to_stride);
            };
            in_turn::<TWO, BIASED>(self.blocks(), &room, |column| self.input.bias_of(column), begin, end);
        }
    }
}

/// Blocks of the queries of one head of one sequence.
fn blocks(rows: Range<usize>, column: usize) -> impl Iterator<Item = Block> {
    let (begin, length) = (rows.start, rows.len());
    (0..length).step_by(PANEL).map(move |place| Block { begin, length, place, column })
}

/// Takes blocks through their steps, those of one head of one sequence one after the other. `begin` packs keys and values with a head's first
/// block, and each block's queries; `end` takes its results.
///
/// # Safety
/// The machine has AVX-512, tiles, and leave to use them, and there is a `Tiles`; the room is for such heads, and sequences as long as the
/// longest; `begin` packs all there is; where there is a bias, it reaches as far.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn in_turn<const TWO: bool, const BIASED: bool>(
    mut blocks: impl Iterator<Item = Block>,
    room: &Room,
    bias_of: impl Fn(usize) -> Bias,
    mut begin: impl FnMut(Block, &mut Place),
    mut end: impl FnMut(Block, &Place),
) where
    Bf16<TWO>: Operands,
{
    let (mut heads, mut turn) = (0, 0);
    // Where each block is that is under way, the last one first.
    let [mut packed, mut scored, mut softened, mut collected] = [const { None::<(Block, Place)> }; UNDER_WAY];
    loop {
        let next = blocks.next().map(|block| {
            heads += usize::from(block.place == 0);
            turn += 1;
            let mut place = room.place(block.length, heads, turn);
            begin(block, &mut place);
            (block, place)
        });
        // SAFETY: the caller's promise.
        unsafe {
            if let Some((block, place)) = &packed {
                place.score::<Bf16<TWO>>(block.queries());
            }
            if let Some((block, place)) = &softened {
                place.collect::<Bf16<TWO>>(block.queries());
            }
            // Before the sums of its weights make room for those of the next block but one.
            if let Some((block, place)) = &collected {
                end(*block, place);
            }
            if let Some((block, place)) = &scored {
                let bias = bias_of(block.column);
                for row in 0..block.queries() {
                    place.soften::<TWO, BIASED>(row, bias.of(block.place + row));
                }
            }
        }
        (collected, softened, scored, packed) = (softened, scored, packed, next);
        if packed.is_none() && scored.is_none() && softened.is_none() && collected.is_none() {
            return;
        }
    }
}
