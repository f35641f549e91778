//! Matrices of whole numbers in blocks of a few inputs, each with a step of its own, as files of quantized models have them: packing
//! them, and the product of rows with them. What a row gives does not depend on the rows beside it, nor on the instructions, but for
//! whether they round a product before it is added.

mod panel;
mod product;
mod rows;

use std::ops::Range;

use crate::{Cpu, Rows, Scratch, bytes::IN_LANE, finish::Target, scratch::Lines};

use rows::ROW_BLOCK;

pub(crate) use rows::Beside;

/// Outputs of a panel, at most.
const WIDEST: usize = 48;

/// What a matrix in blocks says of each weight: `steps · fine · (level - zero) + lows · fine_lows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockForm {
    /// Inputs that share a fine step, 16 or 32. All inputs are a whole number of 32 and of those that share a step.
    pub block: usize,
    /// Blocks that share a step; without fine ones it is 1.
    pub blocks: usize,
    /// Whether all levels are below 16, so that two take a byte.
    pub is_narrow: bool,
    /// The level of 0, in front of lows.
    pub zero: u8,
    /// Whether blocks have fine steps; without them all are 1.
    pub has_fine: bool,
    /// Whether there are lows, and fine ones where steps have such.
    pub has_lows: bool,
}

impl BlockForm {
    /// The most bytes of memory that a matrix takes, whatever the instructions.
    #[must_use]
    pub fn most_bytes(&self, outputs: u64, inputs: u64) -> u64 {
        // Of what has no whole number of these no matrix can be.
        let shared = inputs.div_ceil((self.block * self.blocks).max(1) as u64);
        let padded = outputs.next_multiple_of(WIDEST as u64);
        padded.saturating_mul(shared.saturating_mul(self.shared_bytes() as u64).saturating_add(size_of::<f32>() as u64))
    }

    /// Bytes of the weights of one output that share a step.
    fn shared_bytes(&self) -> usize {
        let kinds = 1 + usize::from(self.has_lows);
        let own = if self.has_fine { kinds } else { 0 } + self.level_bytes();
        kinds * size_of::<f32>() + self.blocks * own
    }

    /// Bytes of the levels of one output's block.
    fn level_bytes(&self) -> usize {
        if self.is_narrow { self.block / 2 } else { self.block }
    }
}

/// The weights of one output, in the order of inputs; what its form lacks stays empty.
#[derive(Clone, Debug, Default)]
pub struct BlockRow {
    /// One for each input.
    pub levels: Vec<u8>,
    /// One for [`BlockForm::blocks`] blocks.
    pub steps: Vec<f32>,
    /// One for each block.
    pub fine: Vec<i8>,
    /// As many as steps.
    pub lows: Vec<f32>,
    /// As many as fine steps.
    pub fine_lows: Vec<i8>,
}

impl BlockRow {
    /// The same row without anything in it.
    pub fn clear(&mut self) {
        let Self { levels, steps, fine, lows, fine_lows } = self;
        levels.clear();
        steps.clear();
        fine.clear();
        lows.clear();
        fine_lows.clear();
    }

    fn check(&self, form: &BlockForm, inputs: usize) {
        let (steps, blocks) = (inputs / (form.block * form.blocks), inputs / form.block);
        let lengths = [self.levels.len(), self.steps.len(), self.fine.len(), self.lows.len(), self.fine_lows.len()];
        let has = |is: bool, length: usize| if is { length } else { 0 };
        let BlockForm { has_fine, has_lows, .. } = *form;
        let needed = [inputs, steps, has(has_fine, blocks), has(has_lows, steps), has(has_fine && has_lows, blocks)];
        let is_sound = !form.is_narrow || self.levels.iter().all(|level| *level < 16);
        assert!(is_sound, "a level is above 15 where two are to take a byte");
        assert!(lengths == needed, "a row of blocks has {lengths:?} numbers of each kind; its form needs {needed:?}");
    }
}

/// Packed weights: panels of as many outputs as a block of sums is wide. In a panel follow, for the inputs that share steps, the steps and
/// the lows of its outputs, then for each block the fine ones and the levels.
#[derive(Clone)]
pub(crate) struct Packed {
    form: BlockForm,
    /// Outputs of a panel.
    width: usize,
    panels: Lines,
}

impl Packed {
    /// Packs what `read` gives for each output, which is called in their order.
    ///
    /// # Panics
    /// When the form is none, or rows are not of it.
    pub(crate) fn new(
        form: BlockForm,
        width: usize,
        (outputs, inputs): (usize, usize),
        mut read: impl FnMut(usize, &mut BlockRow),
    ) -> Self {
        let BlockForm { block, blocks, .. } = form;
        assert!(matches!(block, 16 | 32) && blocks > 0, "blocks of {block} inputs, {blocks} to a step");
        assert!(form.has_fine || blocks == 1, "{blocks} blocks that share a step, without fine ones");
        assert!(inputs == 0 || blocks <= inputs, "{blocks} blocks of {inputs} inputs");
        let is_whole = [ROW_BLOCK, block * blocks].into_iter().all(|part| inputs.is_multiple_of(part));
        assert!(is_whole, "{inputs} inputs in {blocks} blocks of {block} each, and of {ROW_BLOCK}");
        assert!(width <= WIDEST, "panels of {width} outputs");
        let mut packed = Self { form, width, panels: Lines::default() };
        let bytes = packed.panel_bytes(inputs) * outputs.div_ceil(width);
        packed.panels = Lines::zeroed(bytes / size_of::<f32>());
        let mut row = BlockRow::default();
        for output in 0..outputs {
            row.clear();
            read(output, &mut row);
            row.check(&form, inputs);
            packed.put(output, &row, inputs);
        }
        packed
    }

    fn put(&mut self, output: usize, row: &BlockRow, inputs: usize) {
        let Self { form: BlockForm { block, blocks, is_narrow, .. }, width, .. } = *self;
        let (mut at, place) = (output / width * self.panel_bytes(inputs), output % width);
        let level_bytes = width * self.form.level_bytes();
        let bytes = self.panels.as_mut_bytes();
        let levels = row.levels.chunks_exact(block);
        for (index, levels) in levels.enumerate() {
            if index.is_multiple_of(blocks) {
                for steps in [&row.steps, &row.lows].into_iter().filter(|steps| !steps.is_empty()) {
                    let to = at + place * size_of::<f32>();
                    bytes[to..to + size_of::<f32>()].copy_from_slice(&steps[index / blocks].to_ne_bytes());
                    at += width * size_of::<f32>();
                }
            }
            for fine in [&row.fine, &row.fine_lows].into_iter().filter(|fine| !fine.is_empty()) {
                bytes[at + place] = fine[index].cast_unsigned();
                at += width;
            }
            let (groups, _) = levels.as_chunks::<IN_LANE>();
            let to = bytes[at + place * IN_LANE..].chunks_mut(width * IN_LANE);
            if is_narrow {
                let (lower, upper) = groups.split_at(groups.len() / 2);
                for (to, (lower, upper)) in to.zip(lower.iter().zip(upper)) {
                    for (byte, (lower, upper)) in to.iter_mut().zip(lower.iter().zip(upper)) {
                        *byte = lower & 15 | upper << 4;
                    }
                }
            } else {
                to.zip(groups).for_each(|(to, group)| to[..IN_LANE].copy_from_slice(group));
            }
            at += level_bytes;
        }
    }

    /// Bytes of a panel, of so many inputs.
    fn panel_bytes(&self, inputs: usize) -> usize {
        let BlockForm { block, blocks, .. } = self.form;
        inputs / (block * blocks) * self.width * self.form.shared_bytes()
    }

    /// The panel that begins with an output, of so many inputs.
    fn panel(&self, output: usize, inputs: usize) -> *const u8 {
        let panel_bytes = self.panel_bytes(inputs);
        debug_assert!((output / self.width + 1) * panel_bytes <= self.panels.bytes());
        self.panels.as_ptr().cast::<u8>().wrapping_add(output / self.width * panel_bytes)
    }

    /// Their memory.
    pub(crate) fn lines(&self) -> &Lines {
        &self.panels
    }
}

/// Writes the product of rows with some outputs.
pub(crate) fn multiply(
    cpu: Cpu,
    packed: &Packed,
    bias: &Lines,
    x: Rows<'_>,
    outputs: Range<usize>,
    target: Target<'_>,
    scratch: &mut Scratch,
) {
    cpu.run_bytes(product::Multiply { packed, bias, x, outputs, target, scratch });
}
