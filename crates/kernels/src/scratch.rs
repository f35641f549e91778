//! Memory in lines of the cache: for packed data, and for what a kernel needs only while it runs.

use std::ops::Range;

use crate::{
    arena::{Arena, Part, advise},
    blocks::Beside,
    kept::KeptPart,
    quantise::Grid,
};

/// Bytes of one line of the cache, which is one row of a tile and one AVX-512 register.
pub(crate) const LINE_BYTES: usize = 64;

/// Numbers in one line.
pub(crate) const LINE: usize = LINE_BYTES / size_of::<f32>();

/// What fills a line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line([f32; LINE]);

/// A buffer of `f32` that begins on a line of the cache; all zeros at first.
pub(crate) struct Lines(Memory);

enum Memory {
    Own(Vec<Line>),
    Shared(Part),
    Kept(KeptPart),
}

impl Lines {
    /// How many lines have room for so many numbers.
    pub(crate) fn of(length: usize) -> usize {
        length.div_ceil(LINE)
    }

    /// At least so many zeros, in the arena if there is one and it has room.
    pub(crate) fn zeroed_in(arena: Option<&Arena>, length: usize) -> Self {
        let lines = Self::of(length);
        let part = arena.and_then(|arena| arena.take(lines));
        part.map_or_else(|| Self::zeroed(length), |part| Self(Memory::Shared(part)))
    }

    /// At least so many zeros.
    pub(crate) fn zeroed(length: usize) -> Self {
        let lines = Self::of(length);
        let mut own: Vec<Line> = Vec::with_capacity(lines);
        advise(own.as_mut_ptr().cast(), lines * LINE_BYTES);
        own.resize(lines, Line([0.0; LINE]));
        Self(Memory::Own(own))
    }

    /// Grows to at least so many numbers; keeps what was there, whatever it means.
    pub(crate) fn reserve(&mut self, length: usize) {
        let lines = Self::of(length);
        if self.lines().len() >= lines {
            return;
        }
        self.own().resize(lines, Line([0.0; LINE]));
    }

    /// Where it lies in the arena, in lines, if it does.
    pub(crate) fn place(&self, arena: &Arena) -> Option<Range<usize>> {
        match &self.0 {
            Memory::Shared(part) => arena.place(part),
            Memory::Own(_) | Memory::Kept(_) => None,
        }
    }

    /// The same in memory of its own, which can grow.
    fn own(&mut self) -> &mut Vec<Line> {
        if !matches!(self.0, Memory::Own(_)) {
            self.0 = Memory::Own(self.lines().to_vec());
        }
        match &mut self.0 {
            Memory::Own(own) => own,
            Memory::Shared(_) | Memory::Kept(_) => unreachable!("it was copied"),
        }
    }

    fn lines(&self) -> &[Line] {
        match &self.0 {
            Memory::Own(own) => own,
            Memory::Shared(part) => part.lines(),
            Memory::Kept(part) => part.lines(),
        }
    }

    fn lines_mut(&mut self) -> &mut [Line] {
        if matches!(self.0, Memory::Kept(_)) {
            self.own();
        }
        match &mut self.0 {
            Memory::Own(own) => own,
            Memory::Shared(part) => part.lines_mut(),
            Memory::Kept(_) => unreachable!("it was copied"),
        }
    }

    /// How many numbers.
    pub(crate) fn len(&self) -> usize {
        self.lines().len() * LINE
    }

    /// How many bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(self.lines())
    }

    pub(crate) fn as_ptr(&self) -> *const f32 {
        self.lines().as_ptr().cast()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.lines_mut().as_mut_ptr().cast()
    }

    pub(crate) fn as_mut_bytes(&mut self) -> &mut [u8] {
        let bytes = self.bytes();
        // SAFETY: `Line` is so many bytes of plain numbers, without gaps, and all lines are initialised.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), bytes) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: `Line` is `LINE` numbers and nothing else, and all lines are initialised.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len()) }
    }
}

impl From<KeptPart> for Lines {
    fn from(part: KeptPart) -> Self {
        Self(Memory::Kept(part))
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self(Memory::Own(Vec::new()))
    }
}

impl Clone for Lines {
    fn clone(&self) -> Self {
        Self(Memory::Own(self.lines().to_vec()))
    }
}

/// Memory that kernels use while they run; each thread keeps its own and hands it to every call. Grows to what the largest
/// call needs and is never read across calls.
#[derive(Clone, Default)]
pub struct Scratch {
    /// Left operands in the layout of the kernel.
    pub(crate) left: Lines,
    /// Right operands that are not weights, the keys and values of one head; and rows between two products in tiles.
    pub(crate) right: Lines,
    /// Rows between two products elsewhere.
    pub(crate) between: Lines,
    /// Sums before they are finished.
    pub(crate) sums: Lines,
    /// What attention in tiles has under way.
    pub(crate) attention: Lines,
    /// Where each row lies among packed rows.
    pub(crate) places: Vec<usize>,
    /// Of each packed row of whole numbers.
    pub(crate) grids: Vec<Grid>,
    /// Of each block of packed rows that are multiplied with blocks.
    pub(crate) beside: Vec<Beside>,
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let grids = self.grids.capacity() * size_of::<Grid>() + self.beside.capacity() * size_of::<Beside>();
        let lines = [&self.left, &self.right, &self.between, &self.sums, &self.attention];
        let places = self.places.capacity() * size_of::<usize>();
        let bytes = lines.into_iter().map(Lines::bytes).sum::<usize>() + grids + places;
        f.debug_struct("Scratch").field("bytes", &bytes).finish()
    }
}
