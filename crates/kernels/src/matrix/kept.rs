//! Packed weights from one start to the next: where a matrix has them in its arena, and a matrix of what was there.

use std::ops::Range;

use super::{Weights, panel_width_in_registers, panels_length};
use crate::{Arena, Cpu, Kept, PackedMatrix, Precision, narrow, scratch::Lines};
#[cfg(target_arch = "x86_64")]
use crate::{Isa, amx};

impl PackedMatrix {
    /// Where its weights lie in the arena, in lines of 64 bytes; `None` where that is not in one.
    #[must_use]
    pub fn places(&self, arena: &Arena) -> Option<Vec<Range<usize>>> {
        self.weights.lines().into_iter().map(|lines| lines.place(arena)).collect()
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
        let (shape, mut places) = ((bias.len(), inputs), places.iter());
        let mut take = |length: usize| {
            let part = places.next().filter(|place| place.len() == Lines::of(length))?;
            kept.part(part.clone()).map(Lines::from)
        };
        let weights = weights(cpu, cpu.precision(precision), shape, &mut take)?;
        Some(Self::of(cpu, shape, weights, Some(bias)))
    }
}

/// As they are packed, of what `take` gives for so many numbers.
fn weights(
    cpu: Cpu,
    precision: Precision,
    (outputs, inputs): (usize, usize),
    take: &mut impl FnMut(usize) -> Option<Lines>,
) -> Option<Weights> {
    let shape = (outputs, inputs);
    #[cfg(target_arch = "x86_64")]
    if cpu.isa() == Isa::Amx {
        return match precision {
            Precision::Int8 => amx::Int8Matrix::kept(shape, take).map(Weights::Int8Tiles),
            Precision::F32 | Precision::Bf16 => {
                let parts = precision.into();
                take(amx::length(outputs, inputs, parts)).map(|tiles| Weights::Tiles(parts, tiles))
            }
        };
    }
    match precision {
        Precision::Int8 => narrow::Packed::kept(cpu, narrow::Class::Int8, shape, take).map(Weights::Groups),
        Precision::Bf16 => narrow::Packed::kept(cpu, narrow::Class::Bf16, shape, take).map(Weights::Groups),
        Precision::F32 => take(panels_length(outputs, inputs, panel_width_in_registers(cpu))).map(Weights::Panels),
    }
}
