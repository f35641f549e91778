//! Where packed weights come from: rows that are packed here, or what an earlier start packed and kept.

use std::{ops::Range, slice};

use crate::{Arena, Kept, Rows, scratch::Lines};

/// The weights of one matrix.
pub(crate) enum Source<'a> {
    /// A row for each output, to be packed in memory of the arena, if there is one.
    Rows(Rows<'a>, Option<&'a Arena>),
    /// What is kept of a matrix of so many outputs and inputs, and where there its parts lie, in the order in which they were taken.
    Kept(&'a Kept, slice::Iter<'a, Range<usize>>, (usize, usize)),
}

impl<'a> Source<'a> {
    /// Outputs and inputs.
    pub(crate) fn shape(&self) -> (usize, usize) {
        match self {
            Self::Rows(rows, _) => (rows.rows(), rows.columns()),
            Self::Kept(_, _, shape) => *shape,
        }
    }

    /// Memory for so many numbers: zeros, where there are rows to be packed, or the next part of what is kept; `None` where that is
    /// not as long.
    pub(crate) fn take(&mut self, length: usize) -> Option<Lines> {
        match self {
            Self::Rows(_, arena) => Some(Lines::zeroed_in(*arena, length)),
            Self::Kept(kept, places, _) => {
                let place = places.next().filter(|place| place.len() == Lines::of(length))?;
                kept.part(place.clone()).map(Lines::from)
            }
        }
    }

    /// What is to be packed, if anything is.
    pub(crate) fn rows(&self) -> Option<Rows<'a>> {
        match self {
            Self::Rows(rows, _) => Some(*rows),
            Self::Kept(..) => None,
        }
    }
}
