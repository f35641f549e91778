//! Matrices of narrow numbers in panels of groups: packing weights and rows, and the product of both.

use std::{iter, ops::Range};

use crate::{
    Cpu, Rows, Scratch,
    cpu::NarrowWork,
    dots::{Dots, GROUP_BYTES, PackedRows, across, product, summed},
    finish::{Block, Target},
    lanes::Lanes,
    matrix::{LEFT_BYTES, OnLines, SUMS, width},
    product::Sums,
    quantise::{Grid, SPAN, WeightGrids},
    scratch::{LINE_BYTES, Lines},
    source::Source,
};

/// What a narrow number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A whole one of 8 bits.
    Int8,
    /// A bf16.
    Bf16,
}

/// Packed weights.
#[derive(Clone)]
pub(crate) struct Packed {
    class: Class,
    panels: Lines,
    /// Empty where numbers are not whole.
    grids: WeightGrids,
}

impl Packed {
    /// For the instructions that multiply this class on this machine. `None` where what was kept is not as much.
    pub(crate) fn new(cpu: Cpu, class: Class, source: &mut Source<'_>) -> Option<Self> {
        let mut packed = None;
        let work = Pack { class, source, packed: &mut packed };
        match class {
            Class::Int8 => cpu.run_int8(work),
            Class::Bf16 => cpu.run_bf16(work),
        }
        packed
    }

    /// Its memory, in the order in which it was taken.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &Lines> {
        let grids = (self.class == Class::Int8).then(|| self.grids.lines());
        iter::once(&self.panels).chain(grids.into_iter().flatten())
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
    let work = Multiply { packed, bias, x, outputs, target, scratch };
    match packed.class {
        Class::Int8 => cpu.run_int8(work),
        Class::Bf16 => cpu.run_bf16(work),
    }
}

struct Pack<'a, 'b> {
    class: Class,
    source: &'a mut Source<'b>,
    packed: &'a mut Option<Packed>,
}

impl NarrowWork for Pack<'_, '_> {
    #[inline(always)]
    unsafe fn run<D: Dots>(self) {
        *self.packed = pack::<D>(self.source).map(|(panels, grids)| Packed { class: self.class, panels, grids });
    }
}

/// Panels and grids of weights.
#[inline(always)]
fn pack<D: Dots>(source: &mut Source<'_>) -> Option<(Lines, WeightGrids)> {
    let ((outputs, inputs), width) = (source.shape(), width::<D::Floats>());
    let groups = groups::<D>(inputs);
    let mut panels = source.take(length::<D>(outputs, inputs))?;
    let place = |output: usize, group: usize| {
        let group = (output / width * groups + group) * width + output % width;
        group * D::WEIGHT_BYTES..(group + 1) * D::WEIGHT_BYTES
    };
    if D::IS_WHOLE {
        const { assert!(SPAN.is_multiple_of(D::GROUP) && (!D::IS_WHOLE || D::GROUP == D::WEIGHT_BYTES)) };
        let grids = WeightGrids::new(source, width, |output, first, weights| {
            let bytes = panels.as_mut_bytes();
            for (group, weights) in (first / D::GROUP..).zip(weights.chunks(D::GROUP)) {
                let to = bytes[place(output, group)].iter_mut();
                to.zip(weights).for_each(|(to, weight)| *to = weight.cast_unsigned());
            }
        })?;
        return Some((panels, grids));
    }
    if let Some(weights) = source.rows() {
        let bytes = panels.as_mut_bytes();
        for output in 0..outputs {
            for (group, weights) in weights.row(output).chunks(D::GROUP).enumerate() {
                let (bytes, _) = bytes[place(output, group)].as_chunks_mut();
                bytes.iter_mut().zip(weights).for_each(|(to, weight)| *to = nearest_bf16(*weight).to_ne_bytes());
            }
        }
    }
    Some((panels, WeightGrids::default()))
}

/// Numbers, of 32 bits, that have room for the panels of a matrix.
fn length<D: Dots>(outputs: usize, inputs: usize) -> usize {
    let padded = outputs.next_multiple_of(width::<D::Floats>());
    (padded * groups::<D>(inputs) * D::WEIGHT_BYTES).div_ceil(size_of::<f32>())
}

/// Groups of so many inputs; at least one, of zeros.
fn groups<D: Dots>(inputs: usize) -> usize {
    inputs.div_ceil(D::GROUP).max(1)
}

struct Multiply<'a> {
    packed: &'a Packed,
    bias: &'a Lines,
    x: Rows<'a>,
    outputs: Range<usize>,
    target: Target<'a>,
    scratch: &'a mut Scratch,
}

impl NarrowWork for Multiply<'_> {
    #[inline(always)]
    unsafe fn run<D: Dots>(mut self) {
        let (all, block) = (self.x.rows(), D::Floats::BLOCK_ROWS);
        let groups = groups::<D>(self.x.columns());
        // Whole lines, because numbers are packed by whole registers, which are shorter.
        let stride = (groups * GROUP_BYTES).next_multiple_of(LINE_BYTES);
        let most = (LEFT_BYTES / stride).max(block);
        // As in the product of f32: parts as equal as can be, of whole blocks.
        let most = all.div_ceil(all.div_ceil(most)).next_multiple_of(block);
        for first in (0..all).step_by(most) {
            let rows = first..all.min(first + most);
            // SAFETY: the caller's promise.
            unsafe {
                let packed = self.pack::<D>(rows.clone(), groups, stride);
                match D::Floats::BLOCK_VECTORS {
                    3 => self.panels::<D, 3>(first, packed),
                    2 => self.panels::<D, 2>(first, packed),
                    _ => self.panels::<D, 1>(first, packed),
                }
            }
        }
    }
}

impl Multiply<'_> {
    /// Packs some rows.
    #[inline(always)]
    unsafe fn pack<D: Dots>(&mut self, rows: Range<usize>, groups: usize, stride: usize) -> PackedRows {
        let count = rows.len();
        self.scratch.left.reserve(count * stride / size_of::<f32>());
        let data = self.scratch.left.as_mut_ptr().cast::<u8>();
        // SAFETY: the caller promises the instructions; a line has room for whole registers of packed numbers, and rows are whole
        // lines.
        unsafe {
            pack_rows::<D>(self.x.rows_in(rows), &mut self.scratch.grids, |row, column| {
                data.wrapping_add(row * stride + column * GROUP_BYTES / D::GROUP)
            });
        }
        PackedRows { data, stride, rows: count, groups, grids: self.scratch.grids.as_ptr() }
    }

    /// The product of packed rows, which are those from `first` on, with all panels.
    #[inline(always)]
    unsafe fn panels<D: Dots, const VECTORS: usize>(&mut self, first: usize, left: PackedRows) {
        const { assert!(D::Floats::BLOCK_ROWS * D::Floats::BLOCK_VECTORS * D::Floats::WIDTH <= SUMS) };
        let (width, block) = (VECTORS * D::Floats::WIDTH, D::Floats::BLOCK_ROWS);
        let panel_bytes = across::<D>(VECTORS) * left.groups;
        let spans = left.groups.div_ceil(summed::<D>(left.groups));
        let mut sums = OnLines([0.0; SUMS]);
        for column in (0..self.outputs.len()).step_by(width) {
            let output = self.outputs.start + column;
            for row in (0..left.rows).step_by(block) {
                let count = block.min(left.rows - row);
                // SAFETY: `multiply` of the matrix checked the shapes; a panel begins every `width` outputs and is padded, as are
                // the bias and what is known of outputs; those rows were packed.
                unsafe {
                    debug_assert!((output / width + 1) * panel_bytes <= self.packed.panels.bytes());
                    debug_assert!(output + width <= self.bias.len());
                    debug_assert!(!D::IS_WHOLE || (output + width) * spans <= self.packed.grids.len());
                    let panel = self.packed.panels.as_ptr().cast::<u8>().add(output / width * panel_bytes);
                    let data = left.data.add(row * left.stride);
                    let rows = PackedRows { data, rows: count, grids: left.grids.add(row * spans), ..left };
                    let columns = self.packed.grids.columns(output * spans);
                    let to = Sums { data: sums.0.as_mut_ptr(), stride: width };
                    product::<D, VECTORS>(rows, panel, columns, to);
                    self.target.take::<D::Floats>(Block {
                        sums: sums.0.as_ptr(),
                        stride: width,
                        row: first + row,
                        rows: count,
                        column,
                        columns: width.min(self.outputs.len() - column),
                        bias: self.bias.as_ptr().add(output),
                    });
                }
            }
        }
    }
}

/// Packs rows, each span on a grid of its own where numbers are whole. `at` says where the numbers of a row from a column on go.
///
/// # Safety
/// The machine has the instructions of `D`. `at` is for whole registers of packed numbers, also where there are fewer, or none.
#[inline(always)]
pub(crate) unsafe fn pack_rows<D: Dots>(rows: Rows<'_>, grids: &mut Vec<Grid>, at: impl Fn(usize, usize) -> *mut u8) {
    let (columns, width) = (rows.columns(), D::Floats::WIDTH);
    let most = if D::IS_WHOLE { SPAN } else { columns.max(1) };
    let spans = columns.div_ceil(most).max(1);
    grids.clear();
    grids.resize(rows.rows() * spans, Grid::default());
    for (index, grid) in grids.iter_mut().enumerate() {
        let (row, span) = (index / spans, index % spans);
        let inputs = span * most..columns.min((span + 1) * most);
        // SAFETY: the caller's promise; the row exists and has `columns` numbers.
        unsafe {
            let from = rows.as_ptr().wrapping_add(row * rows.stride());
            if D::IS_WHOLE {
                *grid = Grid::of::<D::Floats>(from.add(inputs.start), inputs.len());
            }
            let whole = inputs.start + inputs.len() / width * width;
            for column in (inputs.start..whole).step_by(width) {
                D::put(D::Floats::load(from.add(column)), *grid, at(row, column));
            }
            // Without inputs, too, there is a group to fill.
            if whole < inputs.end || columns == 0 {
                D::put(D::Floats::load_some(from.add(whole), inputs.end - whole), *grid, at(row, whole));
            }
        }
    }
}

/// The bits of the nearest bf16, the even one of two.
pub(crate) fn nearest_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    // NaN must not become an infinity by losing its lowest bits.
    let rounded = if x.is_nan() { bits | 1 << 22 } else { bits + 0x7fff + (bits >> 16 & 1) };
    (rounded >> 16) as u16
}
