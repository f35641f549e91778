//! Weights of `f32` in panels, each of as many outputs as a block of a product has: one row for each input, with zeros after the last
//! output.

use std::ops::Range;

use super::{panel_width_in_registers, width};
use crate::{Cpu, Rows, cpu::Work, lanes::Lanes, scratch::Lines, source::Source};

/// Inputs of a panel that are packed at a time, so that what is written stays in the first-level cache.
const INPUTS: usize = 32;

/// Those that the processor's products read. `None` where what was kept is not as long.
pub(super) fn panels(cpu: Cpu, source: &mut Source<'_>) -> Option<Lines> {
    let (outputs, inputs) = source.shape();
    let mut panels = source.take(outputs.next_multiple_of(panel_width_in_registers(cpu)) * inputs)?;
    if let Some(weights) = source.rows() {
        cpu.run(Pack { weights, panels: panels.as_mut_slice() });
    }
    Some(panels)
}

struct Pack<'a> {
    weights: Rows<'a>,
    panels: &'a mut [f32],
}

impl Work for Pack<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let (outputs, inputs) = (self.weights.rows(), self.weights.columns());
        let panels = self.panels.chunks_exact_mut((width::<V>() * inputs).max(1));
        for (panel, first) in panels.zip((0..outputs).step_by(width::<V>())) {
            for begin in (0..inputs).step_by(INPUTS) {
                let some = begin..inputs.min(begin + INPUTS);
                let rows = &mut panel[some.start * width::<V>()..some.end * width::<V>()];
                for place in (0..width::<V>()).step_by(V::WIDTH) {
                    let output = first + place;
                    // SAFETY: the caller's promise.
                    unsafe { register::<V>(self.weights, output..outputs.min(output + V::WIDTH), &some, rows, place) };
                }
            }
        }
    }
}

/// Packs some inputs of the outputs of one register, which is at `place` of each of the `rows` of its panel.
///
/// # Safety
/// The machine has the instructions of `V`.
#[inline(always)]
unsafe fn register<V: Lanes>(
    weights: Rows<'_>,
    outputs: Range<usize>,
    inputs: &Range<usize>,
    rows: &mut [f32],
    place: usize,
) {
    let squares = if outputs.len() == V::WIDTH { inputs.len() / V::WIDTH } else { 0 };
    for input in (0..squares).map(|square| square * V::WIDTH) {
        let from = weights.as_ptr().wrapping_add(outputs.start * weights.stride() + inputs.start + input);
        let to = &mut rows[input * width::<V>() + place..][..(V::WIDTH - 1) * width::<V>() + V::WIDTH];
        // SAFETY: the caller's promise; so many outputs have so many more inputs, and so many rows are there from `place` on.
        unsafe { V::transpose(from, weights.stride(), to.as_mut_ptr(), width::<V>()) };
    }
    for (output, place) in outputs.zip(place..) {
        let numbers = weights.row(output)[inputs.clone()].iter().enumerate().skip(squares * V::WIDTH);
        numbers.for_each(|(input, weight)| rows[input * width::<V>() + place] = *weight);
    }
}
