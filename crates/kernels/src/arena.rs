//! Memory in huge pages. Weights are streamed, and small pages cost a walk of the page table every 4 KiB, and a fault for each of them when
//! they are first touched: for the 42 MB of a small encoder 16 ms, where huge pages take 2. Most matrices are smaller than a huge page, so
//! they share some.
//!
//! Where the system has no huge pages left it moves other memory about to make some, which takes 4 ms for each while its user waits. So
//! they are asked for beforehand only while there are some, and else once the memory is in use: then the system makes them beside.

use std::{
    alloc::{Layout, alloc, dealloc},
    fmt, fs,
    ops::Range,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::scratch::{LINE_BYTES, Line};

pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// Memory that packed matrices share; it is given back when it and the last of them are dropped.
pub struct Arena(Option<Arc<Block>>);

/// What packed matrices have in an arena, once all of them are made.
pub struct Filled(Arc<Block>);

struct Block {
    begin: NonNull<Line>,
    layout: Layout,
    /// Lines that were handed out.
    used: AtomicUsize,
}

// SAFETY: a block only counts what it hands out; each part belongs to whoever took it.
unsafe impl Send for Block {}
// SAFETY: as above; the count is atomic.
unsafe impl Sync for Block {}

/// Some lines of a block that nobody else has or will have.
pub(crate) struct Part {
    begin: NonNull<Line>,
    lines: usize,
    /// Keeps the memory.
    block: Arc<Block>,
}

// SAFETY: it is plain numbers that belong to the part alone.
unsafe impl Send for Part {}
// SAFETY: as above.
unsafe impl Sync for Part {}

impl Arena {
    /// Room for so many bytes. Of these the system gives only what is used, in whole huge pages. What finds no room in it has memory
    /// of its own.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let layout = bytes.checked_next_multiple_of(HUGE_PAGE).filter(|bytes| *bytes > 0);
        let layout = layout.and_then(|bytes| Layout::from_size_align(bytes, HUGE_PAGE).ok());
        Self(layout.and_then(|layout| {
            // SAFETY: the layout is of at least one page.
            let begin: NonNull<Line> = NonNull::new(unsafe { alloc(layout) })?.cast();
            if are_free(layout.size()) {
                advise(begin.as_ptr().cast(), layout.size());
            }
            Some(Arc::new(Block { begin, layout, used: AtomicUsize::new(0) }))
        }))
    }

    /// So many lines, of zeros, if there is room for them.
    pub(crate) fn take(&self, lines: usize) -> Option<Part> {
        let block = self.0.as_ref()?;
        let all = block.layout.size() / LINE_BYTES;
        let taken = |used: usize| used.checked_add(lines).filter(|used| *used <= all);
        let first = block.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).ok()?;
        // SAFETY: lines `first..first + lines` are within the block and handed out once; zeros are a `Line`.
        let begin = unsafe {
            let begin = block.begin.add(first);
            begin.write_bytes(0, lines);
            begin
        };
        Some(Part { begin, lines, block: Arc::clone(block) })
    }

    /// What it holds, to which nothing is added any more; `None` where it never had memory.
    #[must_use]
    pub fn filled(self) -> Option<Filled> {
        self.0.clone().map(Filled)
    }

    /// Where a part of this arena lies in it, in lines; `None` for one of another.
    pub(crate) fn place(&self, part: &Part) -> Option<Range<usize>> {
        let block = self.0.as_ref().filter(|block| Arc::ptr_eq(block, &part.block))?;
        let first = (part.begin.addr().get() - block.begin.addr().get()) / LINE_BYTES;
        Some(first..first + part.lines)
    }
}

impl Filled {
    /// The bytes of what was handed out there, of 64 each line.
    ///
    /// # Panics
    /// When not all of it was handed out.
    #[must_use]
    pub fn lines(&self, place: Range<usize>) -> &[u8] {
        &self.bytes()[place.start * LINE_BYTES..place.end * LINE_BYTES]
    }

    /// All that was handed out, from the first line on.
    fn bytes(&self) -> &[u8] {
        let bytes = self.0.used.load(Ordering::Relaxed) * LINE_BYTES;
        // SAFETY: what was handed out was written as zeros, and `Line` is plain numbers. Packed matrices, which alone have parts, are not
        // written to after they are made, for which they need the arena, which is gone.
        unsafe { std::slice::from_raw_parts(self.0.begin.as_ptr().cast(), bytes) }
    }
}

impl Drop for Arena {
    /// All is in place.
    fn drop(&mut self) {
        if let Some(block) = &self.0 {
            advise(block.begin.as_ptr().cast(), block.used.load(Ordering::Relaxed) * LINE_BYTES);
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and no part is left: each holds the block.
        unsafe { dealloc(self.begin.as_ptr().cast(), self.layout) };
    }
}

impl fmt::Debug for Filled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filled").field("bytes", &self.bytes().len()).finish()
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.0.as_ref().map(|block| block.used.load(Ordering::Relaxed) * LINE_BYTES);
        f.debug_struct("Arena").field("used", &used).finish_non_exhaustive()
    }
}

impl Part {
    pub(crate) fn lines(&self) -> &[Line] {
        // SAFETY: the lines are this part's, and were written as zeros.
        unsafe { std::slice::from_raw_parts(self.begin.as_ptr(), self.lines) }
    }

    pub(crate) fn lines_mut(&mut self) -> &mut [Line] {
        // SAFETY: as above, and the part is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.begin.as_ptr(), self.lines) }
    }
}

/// Asks for huge pages where the vector has room for such, unless there are none; to be called before that is first touched.
pub fn in_huge_pages<T>(room: &mut Vec<T>) {
    let bytes = room.capacity() * size_of::<T>();
    if bytes >= HUGE_PAGE && are_free(bytes) {
        advise(room.as_mut_ptr().cast(), bytes);
    }
}

/// Whether the system has huge pages for twice these bytes and to spare (it begins to make room before the last is gone), as far as it says
/// so.
pub(crate) fn are_free(bytes: usize) -> bool {
    const SPARE: usize = 64;
    let wanted = bytes.div_ceil(HUGE_PAGE);
    fs::read_to_string("/proc/buddyinfo").map_or(true, |counts| free_in(&counts) >= wanted.saturating_mul(2) + SPARE)
}

/// Huge pages in free blocks, of which there is a line for each zone of memory: its names, then for each power of two how many blocks of so
/// many pages it has.
fn free_in(counts: &str) -> usize {
    const PAGE: usize = 4 << 10;
    let of_zone = |zone: &str| {
        let blocks = zone.split_whitespace().skip(4).enumerate().filter_map(|(power, count)| {
            let pages = 1_usize.checked_shl(u32::try_from(power).ok()?)?;
            count.parse::<usize>().ok()?.checked_mul(pages / (HUGE_PAGE / PAGE))
        });
        blocks.sum::<usize>()
    };
    counts.lines().map(of_zone).sum()
}

/// Asks for huge pages within an allocation.
#[cfg(target_os = "linux")]
pub(crate) fn advise(begin: *mut u8, bytes: usize) {
    let begin = begin as usize;
    let (first, last) = (begin.next_multiple_of(HUGE_PAGE), (begin + bytes) / HUGE_PAGE * HUGE_PAGE);
    if first < last {
        // SAFETY: the range is whole pages within one allocation of this process; the advice changes no contents. That it may be refused
        // does not matter.
        unsafe { libc::madvise(first as *mut libc::c_void, last - first, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn advise(_: *mut u8, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::{LINE, Lines};

    #[test]
    fn parts_are_zeros_of_their_own_and_outlive_the_arena() {
        let arena = Arena::new(1);
        let mut parts: Vec<Lines> = (1..40).map(|number| Lines::zeroed_in(Some(&arena), number * LINE)).collect();
        for (number, lines) in parts.iter_mut().enumerate() {
            assert!(lines.as_mut_slice().iter().all(|number| *number == 0.0));
            lines.as_mut_slice().fill(number as f32);
        }
        let copy = parts[7].clone();
        drop(arena);
        parts.remove(3);
        for (lines, number) in parts.iter_mut().zip((0..).filter(|number| *number != 3)) {
            assert!(lines.as_mut_slice().iter().all(|found| *found == number as f32), "{number}");
        }
        parts.clear();
        assert_eq!(copy.clone().as_mut_slice(), [7.0; 8 * LINE]);
    }

    #[test]
    fn free_huge_pages_are_those_of_large_blocks() {
        let counts = "Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      3 \n\
                      Node 0, zone   Normal    787   6269    606    841     58    112      0      0      9      5      2 \n";
        assert_eq!(free_in(counts), 1 + 2 * 3 + 5 + 2 * 2);
        for other in ["", "nothing of that kind", "Node 0, zone Normal x 18446744073709551615"] {
            assert_eq!(free_in(other), 0);
        }
    }

    #[test]
    fn what_finds_no_room_has_memory_of_its_own() {
        let arena = Arena::new(HUGE_PAGE);
        let all = HUGE_PAGE / size_of::<f32>();
        let [mut first, mut second] = [all - LINE, 2 * LINE].map(|length| Lines::zeroed_in(Some(&arena), length));
        first.as_mut_slice().fill(1.0);
        second.as_mut_slice().fill(2.0);
        assert!(arena.take(2).is_none() && arena.take(usize::MAX).is_none());
        // The last line is still there to be had.
        assert!(arena.take(1).is_some_and(|part| part.lines().len() == 1));
        assert!(first.as_mut_slice().iter().all(|number| *number == 1.0));
        for bytes in [0, usize::MAX] {
            let mut lines = Lines::zeroed_in(Some(&Arena::new(bytes)), LINE);
            assert_eq!(lines.as_mut_slice(), [0.0; LINE]);
        }
        second.reserve(100 * LINE);
        assert_eq!((second.as_mut_slice()[2 * LINE - 1], second.as_mut_slice()[2 * LINE]), (2.0, 0.0));
    }
}
