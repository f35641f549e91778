//! The order in which packed rows meet packed panels, whatever numbers they are of.

use std::ops::Range;

use super::{
    PANEL,
    tiles::{Begin, Operands, Product, multiply},
};
use crate::scratch::LINE_BYTES;

/// Bytes of a panel's part that stays near while all rows pass by: in the first-level cache (48 KiB) those of a model's width in bf16. More
/// come from the second-level one, which takes less time than to put sums away between two parts.
const NEAR_BYTES: usize = 96 << 10;

/// Bytes of packed rows that stay in the second-level cache (2 MiB) while all panels pass by.
pub(crate) const LEFT_BYTES: usize = 1 << 20;

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
    /// Of how many panels sums are kept after the pass; where of none, those of two blocks take turns, or where panels have several parts, those
    /// of all blocks of one panel have places.
    pub(super) kept: usize,
    /// What sums of the first panel begin with, those of others so many numbers of a bias later; zeros where each span is summed by itself.
    pub(super) begin: Begin,
    pub(super) bias_stride: usize,
}

/// A row of sums of one panel.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) sums: *const f32,
    pub(super) panel: usize,
    pub(super) row: usize,
    /// Which span they are of, where each is summed by itself.
    pub(super) span: usize,
    /// Whether the panel ends here.
    pub(super) is_last: bool,
}

impl Found {
    /// So many rows after it.
    fn after(self, rows: usize) -> Self {
        Self { sums: self.sums.wrapping_add(rows * PANEL), row: self.row + rows, ..self }
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

    /// Has `finish` take all sums, of whole panels or of each span, row by row while the next ones are computed: the units of tiles and
    /// of registers work at the same time, and what is stored has the time of a few products to find its line of the cache.
    ///
    /// # Safety
    /// The machine has AVX-512, tiles, and leave to use them, and there is a `Tiles`; operands and sums are as large as the pass says,
    /// and the sums are initialised if it begins with them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) unsafe fn run<N: Operands>(&self, mut finish: impl FnMut(Found)) {
        let (step, blocks, near) = (N::STEP_BYTES, self.rows.div_ceil(PANEL), self.near::<N>());
        // Those of all blocks together ask for the next weights, or for as many as keep up with what is multiplied meanwhile.
        let ahead_lines = (step / LINE_BYTES).div_ceil(blocks).min(8);
        let kept = if N::SPAN.is_none() && near < self.steps { self.kept.max(1) } else { self.kept };
        // The first of the rows that wait to be finished, and how many they are.
        let (mut waiting, mut waiting_rows) = (Found { sums: self.sums, panel: 0, row: 0, span: 0, is_last: false }, 0);
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
                        let place = if kept == 0 { turn % 2 } else { panel % kept * blocks + block };
                        turn += 1;
                        // SAFETY: the caller's promise.
                        let sums = unsafe {
                            let sums = self.sums.add(place * SUMS);
                            let share = depth * ahead_lines * LINE_BYTES;
                            let ahead_lines = if (block + 1) * share <= depth * step { ahead_lines } else { 0 };
                            let product = Product {
                                left: self.left.add((block * self.steps + first) * step),
                                right: self.right.add(panel * self.panel_bytes + first * step),
                                depth,
                                sums,
                                sums_stride: PANEL * size_of::<f32>(),
                                rows,
                                begin: match self.begin {
                                    _ if N::SPAN.is_none() && first > 0 => Begin::Sums,
                                    Begin::Bias(bias) => Begin::Bias(bias.add(panel * self.bias_stride)),
                                    begin => begin,
                                },
                                ahead: next.wrapping_add((first - begin) * step + block * share),
                                ahead_lines,
                            };
                            let pieces = product.pieces::<N>();
                            let (mut row, mut due) = (0, 0);
                            multiply::<N>(&product, &mut || {
                                due += waiting_rows;
                                while due >= pieces {
                                    finish(waiting.after(row));
                                    (row, due) = (row + 1, due - pieces);
                                }
                            });
                            sums
                        };
                        let span = first / N::SPAN.unwrap_or(self.steps);
                        waiting = Found { sums, panel, row: block * PANEL, span, is_last };
                        waiting_rows = if is_last || N::SPAN.is_some() { rows } else { 0 };
                    }
                }
            }
        }
        (0..waiting_rows).for_each(|row| finish(waiting.after(row)));
    }
}
