//! Weights in the order in which a product reads them.

use std::ops::Range;

use crate::{
    Cpu, Epilogue, Precision, Rows, RowsMut, Scratch,
    cpu::Work,
    finish::{Block, Target},
    lanes::{Lanes, Portable},
    product::{Left, Sums, product},
    scratch::Lines,
};
#[cfg(target_arch = "x86_64")]
use crate::{
    Isa, amx,
    lanes::{Avx2, Avx512},
};

/// The matrix and bias of a linear layer, packed once for the instructions that will multiply with it.
#[derive(Clone)]
pub struct PackedMatrix {
    cpu: Cpu,
    layout: Layout,
    outputs: usize,
    inputs: usize,
    weights: Lines,
    /// Zeros after the last output, to whole registers.
    bias: Lines,
}

/// How weights lie in memory; `docs/kernels.md` draws both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// Panels of `f32`, one row for each input.
    Panels,
    /// Tiles of bf16.
    #[cfg(target_arch = "x86_64")]
    Tiles(amx::Parts),
}

impl PackedMatrix {
    /// Packs a matrix of one row for each output, as linear layers are stored.
    ///
    /// # Panics
    /// When the bias has another length than there are outputs.
    #[must_use]
    pub fn new(cpu: Cpu, precision: Precision, weights: Rows<'_>, bias: Option<&[f32]>) -> Self {
        let (outputs, inputs) = (weights.rows(), weights.columns());
        if let Some(bias) = bias {
            assert!(bias.len() == outputs, "a bias of {} for {outputs} outputs", bias.len());
        }
        let layout = layout(cpu, precision);
        let width = panel_width(cpu, layout);
        let mut padded = Lines::zeroed(outputs.next_multiple_of(width));
        padded.as_mut_slice()[..outputs].copy_from_slice(bias.unwrap_or(&vec![0.0; outputs]));
        let packed = match layout {
            Layout::Panels => pack(weights, width),
            #[cfg(target_arch = "x86_64")]
            Layout::Tiles(parts) => amx::pack(weights, parts),
        };
        Self { cpu, layout, outputs, inputs, weights: packed, bias: padded }
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
        self.weights.bytes() + self.bias.bytes()
    }

    /// The outputs of part `part` of `parts`, as equal as panels allow: what one of several threads computes.
    ///
    /// # Panics
    /// When there is no such part.
    #[must_use]
    pub fn share(&self, part: usize, parts: usize) -> Range<usize> {
        assert!(part < parts, "part {part} of {parts}");
        let width = panel_width(self.cpu, self.layout);
        let panels = self.outputs.div_ceil(width);
        let begin = |part: usize| (panels * part / parts * width).min(self.outputs);
        begin(part)..begin(part + 1)
    }

    /// Writes the outputs `outputs` of `epilogue(x · Wᵀ + bias)` to `y`, whose columns they are; for all of them `outputs` is
    /// `0..self.outputs()`.
    ///
    /// # Panics
    /// When shapes do not fit each other, or `outputs` begins elsewhere than [`share`](Self::share) would.
    pub fn multiply(
        &self,
        x: Rows<'_>,
        outputs: Range<usize>,
        epilogue: Epilogue<'_>,
        y: RowsMut<'_>,
        scratch: &mut Scratch,
    ) {
        assert!(x.columns() == self.inputs, "rows of {} for a matrix of {} inputs", x.columns(), self.inputs);
        assert!(outputs.start <= outputs.end && outputs.end <= self.outputs, "outputs {outputs:?} of {}", self.outputs);
        assert!(
            y.rows() == x.rows() && y.columns() == outputs.len(),
            "a result of {} × {} for {} × {}",
            y.rows(),
            y.columns(),
            x.rows(),
            outputs.len()
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
        let width = panel_width(self.cpu, self.layout);
        assert!(outputs.start.is_multiple_of(width), "output {} is within a panel of {width}", outputs.start);
        if y.rows() == 0 || outputs.is_empty() {
            return;
        }
        let target = Target { epilogue, result: y };
        match self.layout {
            Layout::Panels => self.cpu.run(Multiply { matrix: self, x, outputs, target }),
            #[cfg(target_arch = "x86_64")]
            Layout::Tiles(parts) => {
                let packed = amx::Packed { weights: &self.weights, bias: &self.bias, inputs: self.inputs };
                amx::multiply(parts, packed, x, outputs, target, scratch);
            }
        }
        // Panels of f32 need none.
        let _ = scratch;
    }
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedMatrix")
            .field("cpu", &self.cpu)
            .field("layout", &self.layout)
            .field("outputs", &self.outputs)
            .field("inputs", &self.inputs)
            .finish_non_exhaustive()
    }
}

#[cfg(target_arch = "x86_64")]
fn layout(cpu: Cpu, precision: Precision) -> Layout {
    if cpu.isa() == Isa::Amx { Layout::Tiles(precision.into()) } else { Layout::Panels }
}

#[cfg(not(target_arch = "x86_64"))]
fn layout(_cpu: Cpu, _precision: Precision) -> Layout {
    Layout::Panels
}

/// Outputs in one panel.
fn panel_width(cpu: Cpu, layout: Layout) -> usize {
    match layout {
        Layout::Panels => match cpu.isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => width::<Avx2>(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => width::<Avx512>(),
            _ => width::<Portable>(),
        },
        #[cfg(target_arch = "x86_64")]
        Layout::Tiles(_) => amx::PANEL,
    }
}

const fn width<V: Lanes>() -> usize {
    V::BLOCK_VECTORS * V::WIDTH
}

/// Panels of `width` outputs: within a panel one row for each input; zeros after the last output.
fn pack(weights: Rows<'_>, width: usize) -> Lines {
    let inputs = weights.columns();
    let mut packed = Lines::zeroed(weights.rows().next_multiple_of(width) * inputs);
    let numbers = packed.as_mut_slice();
    for output in 0..weights.rows() {
        let panel = output / width * width * inputs + output % width;
        for (input, weight) in weights.row(output).iter().enumerate() {
            numbers[panel + input * width] = *weight;
        }
    }
    packed
}

/// The most sums a block has, of all instructions: eight rows of three registers of sixteen.
const SUMS: usize = 8 * 48;

/// Bytes of rows that stay in the second-level cache (1 or 2 MiB on servers) while all panels pass by.
const LEFT_BYTES: usize = 512 << 10;

#[repr(align(64))]
struct OnLines([f32; SUMS]);

struct Multiply<'a> {
    matrix: &'a PackedMatrix,
    x: Rows<'a>,
    outputs: Range<usize>,
    target: Target<'a>,
}

impl Work for Multiply<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(mut self) {
        let all = self.x.rows();
        let most = (LEFT_BYTES / size_of::<f32>() / self.matrix.inputs.max(1)).max(V::BLOCK_ROWS);
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
        let (width, depth, stride) = (VECTORS * V::WIDTH, self.matrix.inputs, self.x.stride());
        let mut sums = OnLines([0.0; SUMS]);
        for column in (0..self.outputs.len()).step_by(width) {
            let output = self.outputs.start + column;
            for row in rows.clone().step_by(V::BLOCK_ROWS) {
                let count = V::BLOCK_ROWS.min(rows.end - row);
                // SAFETY: `multiply` checked the shapes; a panel begins every `width` outputs and is padded, as is the bias.
                unsafe {
                    let left = Left { data: self.x.as_ptr().add(row * stride), stride, rows: count, depth };
                    debug_assert!((output + width) * depth <= self.matrix.weights.len());
                    debug_assert!(output + width <= self.matrix.bias.len());
                    let panel = self.matrix.weights.as_ptr().add(output * depth);
                    product::<V, VECTORS>(left, panel, Sums { data: sums.0.as_mut_ptr(), stride: width });
                    self.target.take::<V>(Block {
                        sums: sums.0.as_ptr(),
                        stride: width,
                        row,
                        rows: count,
                        column,
                        columns: width.min(self.outputs.len() - column),
                        bias: self.matrix.bias.as_ptr().add(output),
                    });
                }
            }
        }
    }
}
