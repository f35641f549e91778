//! Weights in the order in which a product reads them.

mod panels;

use std::ops::Range;

use panels::panels;

#[cfg(target_arch = "aarch64")]
use crate::lanes::Neon;
use crate::{
    Arena, BlockForm, BlockRow, Cpu, Epilogue, Isa, Kept, Precision, Rows, RowsMut, Scratch, blocks,
    cpu::Work,
    finish::{Block, Target},
    lanes::{Lanes, Portable},
    narrow,
    product::{Left, Sums, product},
    scratch::Lines,
    source::Source,
};
#[cfg(target_arch = "x86_64")]
use crate::{
    amx,
    lanes::{Avx2, Avx512},
};

/// The matrix and bias of a linear layer, packed once for the instructions that will multiply with it.
#[derive(Clone)]
pub struct PackedMatrix {
    cpu: Cpu,
    outputs: usize,
    inputs: usize,
    weights: Weights,
    /// Zeros after the last output, to whole registers.
    bias: Lines,
}

/// How weights lie in memory; `docs/kernels.md` draws all of them.
#[derive(Clone)]
enum Weights {
    /// Panels of `f32`, one row for each input.
    Panels(Lines),
    /// Panels of narrow numbers, one row for each group of inputs.
    Groups(narrow::Packed),
    /// Panels of blocks.
    Blocks(blocks::Packed),
    /// Tiles of bf16.
    #[cfg(target_arch = "x86_64")]
    Tiles(amx::Parts, Lines),
    /// Tiles of whole numbers.
    #[cfg(target_arch = "x86_64")]
    Int8Tiles(amx::Int8Matrix),
}

impl PackedMatrix {
    /// Packs a matrix of one row for each output, as linear layers are stored.
    ///
    /// # Panics
    /// When the bias has another length than there are outputs.
    #[must_use]
    pub fn new(cpu: Cpu, precision: Precision, weights: Rows<'_>, bias: Option<&[f32]>) -> Self {
        Self::new_in(None, cpu, precision, weights, bias)
    }

    /// The same, with its weights in memory that it shares.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    #[must_use]
    pub fn new_in(
        arena: Option<&Arena>,
        cpu: Cpu,
        precision: Precision,
        weights: Rows<'_>,
        bias: Option<&[f32]>,
    ) -> Self {
        let (outputs, inputs) = (weights.rows(), weights.columns());
        let packed =
            Weights::of(cpu, precision, Source::Rows(weights, arena)).expect("memory for as many as there are");
        Self::of(cpu, (outputs, inputs), packed, bias)
    }

    /// Packs a matrix whose weights are whole numbers in blocks; `read` gives those of each output, which are asked for in order.
    ///
    /// # Panics
    /// When the bias has another length than there are outputs, and when the form is none, does not go into the inputs, or
    /// is not that of the rows.
    #[must_use]
    pub fn of_blocks(
        cpu: Cpu,
        form: BlockForm,
        (outputs, inputs): (usize, usize),
        bias: Option<&[f32]>,
        read: impl FnMut(usize, &mut BlockRow),
    ) -> Self {
        let packed = blocks::Packed::new(form, panel_width_in_registers(cpu), (outputs, inputs), read);
        Self::of(cpu, (outputs, inputs), Weights::Blocks(packed), bias)
    }

    /// The matrix whose weights an arena had at these [`places`](Self::places) and `kept` has now, of as many outputs as the bias
    /// and of so many inputs. `None` where there is not as much there as such a matrix takes. Whether it is that of such a matrix, packed
    /// for such a processor by the same program, is for the caller to know: if not, products are of other numbers.
    #[must_use]
    pub fn kept(
        kept: &Kept,
        places: &[Range<usize>],
        cpu: Cpu,
        precision: Precision,
        inputs: usize,
        bias: &[f32],
    ) -> Option<Self> {
        let shape = (bias.len(), inputs);
        let weights = Weights::of(cpu, precision, Source::Kept(kept, places.iter(), shape))?;
        Some(Self::of(cpu, shape, weights, Some(bias)))
    }

    /// Where its weights lie in the arena, in lines of 64 bytes; `None` where that is not in one.
    #[must_use]
    pub fn places(&self, arena: &Arena) -> Option<Vec<Range<usize>>> {
        self.weights.lines().into_iter().map(|lines| lines.place(arena)).collect()
    }

    fn of(cpu: Cpu, (outputs, inputs): (usize, usize), weights: Weights, bias: Option<&[f32]>) -> Self {
        if let Some(bias) = bias {
            assert!(bias.len() == outputs, "a bias of {} for {outputs} outputs", bias.len());
        }
        let width = panel_width(cpu, &weights);
        let mut padded = Lines::zeroed(outputs.next_multiple_of(width));
        padded.as_mut_slice()[..outputs].copy_from_slice(bias.unwrap_or(&vec![0.0; outputs]));
        Self { cpu, outputs, inputs, weights, bias: padded }
    }

    /// How many numbers a row of the result has.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// How many numbers a row of the operand has.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Bytes of memory the packed weights and the bias take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.weights.lines().into_iter().chain([&self.bias]).map(Lines::bytes).sum()
    }

    /// Outputs that are computed together: those of one of several threads begin at a multiple of it.
    #[must_use]
    pub fn panel(&self) -> usize {
        panel_width(self.cpu, &self.weights)
    }

    pub(crate) fn cpu(&self) -> Cpu {
        self.cpu
    }

    /// What tiles of bf16 are multiplied with, if it is packed for them.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn tiles(&self) -> Option<(amx::Parts, amx::Packed<'_>)> {
        let Weights::Tiles(parts, weights) = &self.weights else { return None };
        Some((*parts, amx::Packed { weights, bias: &self.bias, inputs: self.inputs }))
    }

    pub(crate) fn check(&self, x: Rows<'_>) {
        assert!(x.columns() == self.inputs, "rows of {} for a matrix of {} inputs", x.columns(), self.inputs);
    }

    /// Writes the outputs `outputs` of `epilogue(x · Wᵀ + bias)` to `y`, whose columns they are; for all of them `outputs` is
    /// `0..self.outputs()`.
    ///
    /// # Panics
    /// When shapes do not fit each other, or `outputs` begins within a [panel](Self::panel).
    pub fn multiply(
        &self,
        x: Rows<'_>,
        outputs: Range<usize>,
        epilogue: Epilogue<'_>,
        y: RowsMut<'_>,
        scratch: &mut Scratch,
    ) {
        self.check(x);
        assert!(outputs.start <= outputs.end && outputs.end <= self.outputs, "outputs {outputs:?} of {}", self.outputs);
        check_result(x.rows(), outputs.len(), epilogue, &y);
        let width = self.panel();
        assert!(outputs.start.is_multiple_of(width), "output {} is within a panel of {width}", outputs.start);
        if y.rows() == 0 || outputs.is_empty() {
            return;
        }
        let target = Target { epilogue, result: y };
        match &self.weights {
            Weights::Panels(panels) => {
                self.cpu.run(Multiply { panels, bias: &self.bias, x, outputs, target });
            }
            Weights::Groups(packed) => narrow::multiply(self.cpu, packed, &self.bias, x, outputs, target, scratch),
            Weights::Blocks(packed) => blocks::multiply(self.cpu, packed, &self.bias, x, outputs, target, scratch),
            #[cfg(target_arch = "x86_64")]
            Weights::Tiles(parts, weights) => {
                let packed = amx::Packed { weights, bias: &self.bias, inputs: self.inputs };
                amx::multiply(*parts, packed, x, outputs, target, scratch);
            }
            #[cfg(target_arch = "x86_64")]
            Weights::Int8Tiles(packed) => packed.multiply(&self.bias, x, outputs, target, scratch),
        }
    }
}

/// Panics unless the result, and the residual if there is one, is so large.
pub(crate) fn check_result(rows: usize, outputs: usize, epilogue: Epilogue<'_>, y: &RowsMut<'_>) {
    assert!(
        y.rows() == rows && y.columns() == outputs,
        "a result of {} × {} for {rows} × {outputs}",
        y.rows(),
        y.columns()
    );
    if let Some(residual) = epilogue.residual {
        assert!(
            residual.rows() == y.rows() && residual.columns() == y.columns(),
            "a residual of {} × {} for a result of {} × {}",
            residual.rows(),
            residual.columns(),
            y.rows(),
            y.columns()
        );
    }
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedMatrix")
            .field("cpu", &self.cpu)
            .field("outputs", &self.outputs)
            .field("inputs", &self.inputs)
            .finish_non_exhaustive()
    }
}

impl Weights {
    /// For what is fastest of that precision. `None` where what was kept is not as much as that takes.
    fn of(cpu: Cpu, precision: Precision, mut source: Source<'_>) -> Option<Self> {
        let (precision, source) = (cpu.precision(precision), &mut source);
        #[cfg(target_arch = "x86_64")]
        if cpu.isa() == Isa::Amx {
            return match precision {
                Precision::Int8 => amx::Int8Matrix::new(source).map(Self::Int8Tiles),
                Precision::F32 | Precision::Bf16 => {
                    let parts = precision.into();
                    amx::pack(source, parts).map(|tiles| Self::Tiles(parts, tiles))
                }
            };
        }
        match precision {
            Precision::Int8 => narrow::Packed::new(cpu, narrow::Class::Int8, source).map(Self::Groups),
            Precision::Bf16 => narrow::Packed::new(cpu, narrow::Class::Bf16, source).map(Self::Groups),
            Precision::F32 => panels(cpu, source).map(Self::Panels),
        }
    }

    /// Their memory, in the order in which it was taken.
    fn lines(&self) -> Vec<&Lines> {
        match self {
            Self::Panels(panels) => vec![panels],
            Self::Groups(packed) => packed.lines().collect(),
            Self::Blocks(packed) => vec![packed.lines()],
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(_, tiles) => vec![tiles],
            #[cfg(target_arch = "x86_64")]
            Self::Int8Tiles(packed) => packed.lines().collect(),
        }
    }
}

/// Outputs in one panel.
fn panel_width(cpu: Cpu, weights: &Weights) -> usize {
    match weights {
        Weights::Panels(_) | Weights::Groups(_) | Weights::Blocks(_) => panel_width_in_registers(cpu),
        #[cfg(target_arch = "x86_64")]
        Weights::Tiles(..) | Weights::Int8Tiles(_) => amx::PANEL,
    }
}

/// Outputs in one panel where there are no tiles.
fn panel_width_in_registers(cpu: Cpu) -> usize {
    match cpu.isa() {
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => width::<Neon>(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => width::<Avx2>(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => width::<Avx512>(),
        _ => width::<Portable>(),
    }
}

/// Outputs in one panel for these registers.
pub(crate) const fn width<V: Lanes>() -> usize {
    V::BLOCK_VECTORS * V::WIDTH
}

/// The most sums a block has, of all instructions: eight rows of three registers of sixteen.
pub(crate) const SUMS: usize = 8 * 48;

/// Bytes of rows that stay in the second-level cache (1 or 2 MiB on servers) while all panels pass by.
pub(crate) const LEFT_BYTES: usize = 512 << 10;

#[repr(align(64))]
pub(crate) struct OnLines(pub(crate) [f32; SUMS]);

struct Multiply<'a> {
    panels: &'a Lines,
    bias: &'a Lines,
    x: Rows<'a>,
    outputs: Range<usize>,
    target: Target<'a>,
}

impl Work for Multiply<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(mut self) {
        let all = self.x.rows();
        let most = (LEFT_BYTES / size_of::<f32>() / self.x.columns().max(1)).max(V::BLOCK_ROWS);
        // Parts as equal as can be, so that none is so small that the weights are read for little; whole blocks.
        let most = all.div_ceil(all.div_ceil(most)).next_multiple_of(V::BLOCK_ROWS);
        for first in (0..all).step_by(most) {
            let rows = first..all.min(first + most);
            // SAFETY: the caller's promise.
            unsafe {
                match V::BLOCK_VECTORS {
                    3 => self.panels::<V, 3>(rows),
                    2 => self.panels::<V, 2>(rows),
                    _ => self.panels::<V, 1>(rows),
                }
            }
        }
    }
}

impl Multiply<'_> {
    /// The product of some rows with all panels.
    #[inline(always)]
    unsafe fn panels<V: Lanes, const VECTORS: usize>(&mut self, rows: Range<usize>) {
        const { assert!(V::BLOCK_ROWS * V::BLOCK_VECTORS * V::WIDTH <= SUMS) };
        let (width, depth, stride) = (VECTORS * V::WIDTH, self.x.columns(), self.x.stride());
        let mut sums = OnLines([0.0; SUMS]);
        for column in (0..self.outputs.len()).step_by(width) {
            let output = self.outputs.start + column;
            for row in rows.clone().step_by(V::BLOCK_ROWS) {
                let count = V::BLOCK_ROWS.min(rows.end - row);
                // SAFETY: `multiply` checked the shapes; a panel begins every `width` outputs and is padded, as is the bias.
                unsafe {
                    let left = Left { data: self.x.as_ptr().wrapping_add(row * stride), stride, rows: count, depth };
                    debug_assert!((output + width) * depth <= self.panels.len());
                    debug_assert!(output + width <= self.bias.len());
                    let panel = self.panels.as_ptr().add(output * depth);
                    product::<V, VECTORS>(left, panel, Sums { data: sums.0.as_mut_ptr(), stride: width });
                    self.target.take::<V>(Block {
                        sums: sums.0.as_ptr(),
                        stride: width,
                        row,
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
