//! Memory in lines of the cache: for packed data, and for what a kernel needs only while it runs.

use crate::quantise::Grid;

/// Bytes of one line of the cache, which is one row of a tile and one AVX-512 register.
pub(crate) const LINE_BYTES: usize = 64;

/// Numbers in one line.
pub(crate) const LINE: usize = LINE_BYTES / size_of::<f32>();

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// A buffer of `f32` that begins on a line of the cache; all zeros at first.
#[derive(Clone, Default)]
pub(crate) struct Lines(Vec<Line>);

impl Lines {
    /// At least so many zeros.
    pub(crate) fn zeroed(length: usize) -> Self {
        let mut lines = Self(Vec::with_capacity(length.div_ceil(LINE)));
        lines.in_huge_pages();
        lines.reserve(length);
        lines
    }

    /// Grows to at least so many numbers; keeps what was there, whatever it means.
    pub(crate) fn reserve(&mut self, length: usize) {
        let lines = length.div_ceil(LINE);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0.0; LINE]));
        }
    }

    /// How many numbers.
    pub(crate) fn len(&self) -> usize {
        self.0.len() * LINE
    }

    /// How many bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len() * LINE_BYTES
    }

    pub(crate) fn as_ptr(&self) -> *const f32 {
        self.0.as_ptr().cast()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.0.as_mut_ptr().cast()
    }

    pub(crate) fn as_mut_bytes(&mut self) -> &mut [u8] {
        let bytes = self.bytes();
        // SAFETY: `Line` is so many bytes of plain numbers, without gaps, and all lines are initialised.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), bytes) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: `Line` is `LINE` numbers and nothing else, and all lines are initialised.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len()) }
    }

    /// Asks for huge pages before the memory is first touched: weights are streamed, and small pages would cost a walk of the
    /// page table every 4 KiB.
    #[cfg(target_os = "linux")]
    fn in_huge_pages(&mut self) {
        const HUGE_PAGE: usize = 2 << 20;
        let begin = self.0.as_mut_ptr() as usize;
        let (first, last) =
            (begin.next_multiple_of(HUGE_PAGE), (begin + self.0.capacity() * LINE_BYTES) / HUGE_PAGE * HUGE_PAGE);
        if first < last {
            // SAFETY: the range is whole pages within our own allocation; the advice changes no contents. That it may be
            // refused does not matter.
            unsafe { libc::madvise(first as *mut libc::c_void, last - first, libc::MADV_HUGEPAGE) };
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn in_huge_pages(&mut self) {}
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
    /// Of each packed row of whole numbers.
    pub(crate) grids: Vec<Grid>,
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let grids = self.grids.capacity() * size_of::<Grid>();
        let lines = [&self.left, &self.right, &self.between, &self.sums];
        let bytes = lines.into_iter().map(Lines::bytes).sum::<usize>() + grids;
        f.debug_struct("Scratch").field("bytes", &bytes).finish()
    }
}
