//! The order in which packed rows meet packed panels, whatever numbers they are of.

use std::ops::Range;

use super::{
    PANEL,
    tiles::{AHEAD_LINES, Operands, Product},
};
use crate::{finish::Block, scratch::LINE_BYTES};

/// Bytes of a panel's part that stays in the first-level cache (48 KiB) while all rows pass by.
const NEAR_BYTES: usize = 24 << 10;

/// Bytes of packed rows that stay in the second-level cache (2 MiB) while all panels pass by.
const LEFT_BYTES: usize = 1 << 20;

/// Sums of one block and panel.
pub(super) const SUMS: usize = 32 * PANEL;

/// Rows in parts whose packed blocks, of so many bytes each, stay in the second-level cache: parts as equal as can be, so that none is
/// so small that the weights are read for little.
pub(super) fn parts_of(rows: usize, block_bytes: usize) -> impl Iterator<Item = Range<usize>> {
    let all = rows.div_ceil(PANEL);
    let parts = all.div_ceil((LEFT_BYTES / block_bytes).max(1)).max(1);
    let most = all.div_ceil(parts).max(1) * PANEL;
    (0..rows).step_by(most).map(move |first| first..rows.min(first + most))
}

/// The product of packed rows with some panels, over steps that follow each other in both.
pub(super) struct Pass {
    /// Blocks of so many steps.
    pub(super) left: *const u8,
    pub(super) rows: usize,
    /// The first step of the first panel.
    pub(super) right: *const u8,
    pub(super) panels: usize,
    /// From one panel to the next.
    pub(super) panel_bytes: usize,
    pub(super) steps: usize,
    pub(super) sums: *mut f32,
    /// The weights that are read after these.
    pub(super) then: *const u8,
    /// Where all steps are summed: of how many panels sums are kept, of one more than those that are multiplied, if a panel has one
    /// block. Not read where each span is summed by itself: those of two blocks are kept then.
    pub(super) kept: usize,
    /// Whether to add to the sums that are there; not where each span is summed by itself.
    pub(super) accumulates: bool,
}

/// Sums of one block and panel.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) sums: *const f32,
    pub(super) panel: usize,
    pub(super) row: usize,
    pub(super) rows: usize,
    /// Which span they are of, where each is summed by itself.
    pub(super) span: usize,
    /// Whether the panel ends here.
    pub(super) is_last: bool,
}

impl Found {
    /// Where they go in a result of so many outputs, whose biases begin at `bias`; `first` is the result's row of the pass's first one.
    pub(super) fn block(self, first: usize, outputs: usize, bias: *const f32) -> Block {
        let column = self.panel * PANEL;
        Block {
            sums: self.sums,
            stride: PANEL,
            row: first + self.row,
            rows: self.rows,
            column,
            columns: PANEL.min(outputs - column),
            bias: bias.wrapping_add(column),
        }
    }
}

impl Pass {
    /// Steps of a panel that meet all rows before the next ones do, of whole spans.
    pub(super) fn near<N: Operands>(&self) -> usize {
        // With one block nothing is read twice, so nothing needs to stay near.
        if self.rows <= PANEL {
            return self.steps;
        }
        let span = N::SPAN.unwrap_or(1);
        let (spans, most) = (self.steps.div_ceil(span), NEAR_BYTES / (span * N::STEP_BYTES));
        spans.div_ceil(spans.div_ceil(most)) * span
    }

    /// Has `finish` take all sums, of whole panels or of each span, while the next ones are computed: tiles that were just stored
    /// cannot be read at once, and the units of tiles and of registers work at the same time.
    ///
    /// # Safety
    /// The machine has AVX-512, tiles, and leave to use them, and there is a `Tiles`; operands and sums are as large as the pass says,
    /// and the sums are initialised if it accumulates.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) unsafe fn run<N: Operands>(&self, mut finish: impl FnMut(Found)) {
        let (step, blocks, near) = (N::STEP_BYTES, self.rows.div_ceil(PANEL), self.near::<N>());
        let mut waiting: Option<Found> = None;
        let mut turn = 0;
        for panel in 0..self.panels {
            for begin in (0..self.steps).step_by(near) {
                let end = self.steps.min(begin + near);
                let next = match (end == self.steps, panel + 1 == self.panels) {
                    (true, true) => self.then,
                    (true, false) => self.right.wrapping_add((panel + 1) * self.panel_bytes),
                    (false, _) => self.right.wrapping_add(panel * self.panel_bytes + end * step),
                };
                for block in 0..blocks {
                    let rows = PANEL.min(self.rows - block * PANEL);
                    for first in (begin..end).step_by(N::SPAN.unwrap_or(near)) {
                        let depth = N::SPAN.unwrap_or(near).min(end - first);
                        let is_last = first + depth == self.steps;
                        let place = if N::SPAN.is_some() { turn % 2 } else { panel % self.kept * blocks + block };
                        turn += 1;
                        // SAFETY: the caller's promise.
                        unsafe {
                            let sums = self.sums.add(place * SUMS);
                            let (ahead, ahead_stride) =
                                ahead(next.wrapping_add((first - begin) * step), depth, step, block);
                            N::multiply(&Product {
                                left: self.left.add((block * self.steps + first) * step),
                                right: self.right.add(panel * self.panel_bytes + first * step),
                                depth,
                                sums,
                                sums_stride: PANEL * size_of::<f32>(),
                                rows,
                                accumulates: N::SPAN.is_none() && (self.accumulates || first > 0),
                                ahead,
                                ahead_stride,
                            });
                            if let Some(found) = waiting.take() {
                                finish(found);
                            }
                            if is_last || N::SPAN.is_some() {
                                let span = first / N::SPAN.unwrap_or(self.steps);
                                waiting = Some(Found { sums, panel, row: block * PANEL, rows, span, is_last });
                            }
                        }
                    }
                }
            }
        }
        if let Some(found) = waiting {
            finish(found);
        }
    }
}

/// What the product with this block asks for ahead of its use: its share of the next `depth` steps of weights.
fn ahead(next: *const u8, depth: usize, step: usize, block: usize) -> (*const u8, usize) {
    let share = depth * AHEAD_LINES * LINE_BYTES;
    if (block + 1) * share <= depth * step { (next.wrapping_add(block * share), LINE_BYTES) } else { (next, 0) }
}
