//! Packed weights that an earlier start has written to a file, as memory. At first that is the file as the system has it in its cache.
//! Later memory of the process's own takes the place of that ([`Kept::settle`]), in huge pages, which is not the worse for what happens to
//! the file.

use std::{
    fmt,
    fs::File,
    io,
    ops::Range,
    ptr::NonNull,
    sync::{Arc, OnceLock},
};

use crate::scratch::{LINE_BYTES, Line};

/// What the place and the length of packed weights in their file are a multiple of: pages of all systems are.
pub const KEPT_ALIGNMENT: usize = 1 << 16;

/// Some bytes of a file, which nobody may change; cheap to clone.
#[derive(Clone)]
pub struct Kept(Arc<Region>);

/// Memory of a file, which can be read as long as this lives.
struct Region {
    begin: NonNull<Line>,
    lines: usize,
    /// What was reserved for it: where that begins, and how many bytes it has.
    #[cfg(target_os = "linux")]
    reserved: (usize, usize),
}

// SAFETY: it is only read.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

/// Some lines of it.
pub(crate) struct KeptPart {
    region: Arc<Region>,
    lines: Range<usize>,
}

impl Kept {
    /// Whether this system can: Linux from 5.14 on, which says beforehand what cannot be read.
    #[must_use]
    pub fn is_possible() -> bool {
        static IS_POSSIBLE: OnceLock<bool> = OnceLock::new();
        *IS_POSSIBLE.get_or_init(Region::is_possible)
    }

    /// Maps so many bytes of a file from `offset` on, both a multiple of [`KEPT_ALIGNMENT`].
    ///
    /// A map is sound while nobody changes the file under it: this is for files that are installed by renaming and never rewritten in
    /// place.
    ///
    /// # Errors
    /// When the file has not as many, and when the system refuses or [cannot](Self::is_possible).
    pub fn map(file: &File, offset: u64, bytes: usize) -> io::Result<Self> {
        let has_all =
            offset.checked_add(bytes as u64).is_some_and(|end| file.metadata().is_ok_and(|file| file.len() >= end));
        if !has_all {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if bytes == 0 || !bytes.is_multiple_of(KEPT_ALIGNMENT) || !offset.is_multiple_of(KEPT_ALIGNMENT as u64) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Region::map(file, offset, bytes).map(|region| Self(Arc::new(region)))
    }

    /// Reads the bytes into memory of the process's own, and if they are `accepted`, puts that where the map is, for whoever reads it.
    /// Says whether they were. If not, or where the system moves nothing there, the map stays.
    ///
    /// # Errors
    /// When the file cannot be read, or there is no memory for it.
    pub fn settle(&self, file: &File, offset: u64, accepted: impl FnOnce(&[u8]) -> bool) -> io::Result<bool> {
        self.0.settle(file, offset, accepted)
    }

    /// These lines of it, if it has them and they can be read: who touches what cannot be read is ended by the system.
    pub(crate) fn part(&self, lines: Range<usize>) -> Option<KeptPart> {
        let is_within = lines.start <= lines.end && lines.end <= self.0.lines;
        (is_within && self.0.can_be_read(&lines)).then(|| KeptPart { region: Arc::clone(&self.0), lines })
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("bytes", &(self.0.lines * LINE_BYTES)).finish_non_exhaustive()
    }
}

impl KeptPart {
    pub(crate) fn lines(&self) -> &[Line] {
        // SAFETY: the lines are within the region, which lives as long as this; any bytes are plain numbers.
        unsafe { std::slice::from_raw_parts(self.region.begin.as_ptr().add(self.lines.start), self.lines.len()) }
    }
}

#[cfg(not(target_os = "linux"))]
impl Region {
    fn is_possible() -> bool {
        false
    }

    fn map(_: &File, _: u64, _: usize) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn can_be_read(&self, _: &Range<usize>) -> bool {
        false
    }

    fn settle(&self, _: &File, _: u64, _: impl FnOnce(&[u8]) -> bool) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        fs::File,
        io,
        ops::Range,
        os::{fd::AsRawFd as _, unix::fs::FileExt as _},
        process::abort,
        ptr::{self, NonNull},
    };

    use libc::{c_int, c_void, off_t};

    use super::{KEPT_ALIGNMENT, Region};
    use crate::{
        arena::{HUGE_PAGE, are_free},
        scratch::LINE_BYTES,
    };

    /// Addresses that are this process's to map: `bytes` from where a huge page begins.
    struct Place {
        /// All of them.
        reserved: (usize, usize),
        begin: usize,
    }

    impl Place {
        fn reserve(bytes: usize, protection: c_int) -> io::Result<Self> {
            let length = bytes.checked_add(HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
            // SAFETY: new addresses, wherever the system has some.
            let at =
                unsafe { map(ptr::null_mut(), length, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) }?;
            Ok(Self { reserved: (at, length), begin: at.next_multiple_of(HUGE_PAGE) })
        }

        /// Gives them back.
        ///
        /// # Safety
        /// Nobody uses what is there.
        unsafe fn free(&self) {
            // SAFETY: the caller's promise.
            unsafe { libc::munmap(self.reserved.0 as *mut c_void, self.reserved.1) };
        }

        /// Gives back what is around these bytes, which are somewhere else by now, and whose addresses may be anybody's.
        ///
        /// # Safety
        /// Nobody uses what is there.
        unsafe fn free_around(&self, bytes: usize) {
            let (first, end) = (self.reserved.0, self.reserved.0 + self.reserved.1);
            for (from, to) in [(first, self.begin), (self.begin + bytes, end)] {
                if from < to {
                    // SAFETY: the caller's promise.
                    unsafe { libc::munmap(from as *mut c_void, to - from) };
                }
            }
        }
    }

    /// # Safety
    /// As of `mmap`: with `MAP_FIXED`, what is at these addresses is nobody's.
    unsafe fn map(
        at: *mut c_void,
        bytes: usize,
        protection: c_int,
        flags: c_int,
        file: c_int,
        offset: off_t,
    ) -> io::Result<usize> {
        // SAFETY: the caller's promise.
        let at = unsafe { libc::mmap(at, bytes, protection, flags, file, offset) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at.addr()) }
    }

    /// Whether all of these pages can be read, of which some may not be in memory yet.
    ///
    /// # Safety
    /// They are this process's.
    unsafe fn can_be_read(at: *mut c_void, bytes: usize) -> bool {
        // SAFETY: the caller's promise; contents stay what they are.
        unsafe { libc::madvise(at, bytes, libc::MADV_POPULATE_READ) == 0 }
    }

    impl Region {
        pub(super) fn is_possible() -> bool {
            let answers = [libc::PROT_NONE, libc::PROT_READ].map(|protection| {
                let place = Place::reserve(KEPT_ALIGNMENT, protection).ok()?;
                // SAFETY: the addresses were reserved, and nobody uses them.
                unsafe {
                    let can = can_be_read(place.begin as *mut c_void, KEPT_ALIGNMENT);
                    place.free();
                    Some(can)
                }
            });
            answers == [Some(false), Some(true)]
        }

        pub(super) fn map(file: &File, offset: u64, bytes: usize) -> io::Result<Self> {
            let Place { reserved, begin } = Place::reserve(bytes, libc::PROT_NONE)?;
            let begin = NonNull::new(begin as *mut _).ok_or(io::ErrorKind::OutOfMemory)?;
            // It gives the addresses back, if this fails.
            let region = Self { begin, lines: bytes / LINE_BYTES, reserved };
            // SAFETY: the addresses were reserved, and nobody knows them yet.
            unsafe { region.map_again(file, offset, libc::MAP_FIXED) }?;
            Ok(region)
        }

        /// Maps the file where it belongs.
        ///
        /// # Safety
        /// As of `mmap`.
        unsafe fn map_again(&self, file: &File, offset: u64, flag: c_int) -> io::Result<usize> {
            let from = off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
            let (at, bytes) = (self.begin.as_ptr().cast(), self.lines * LINE_BYTES);
            // SAFETY: the caller's promise.
            unsafe { map(at, bytes, libc::PROT_READ, libc::MAP_SHARED | flag, file.as_raw_fd(), from) }
        }

        pub(super) fn can_be_read(&self, lines: &Range<usize>) -> bool {
            let first = lines.start * LINE_BYTES / KEPT_ALIGNMENT * KEPT_ALIGNMENT;
            let end = (lines.end * LINE_BYTES).next_multiple_of(KEPT_ALIGNMENT);
            // SAFETY: whole pages of the region.
            lines.is_empty() || unsafe { can_be_read(self.begin.as_ptr().byte_add(first).cast(), end - first) }
        }

        pub(super) fn settle(
            &self,
            file: &File,
            offset: u64,
            accepted: impl FnOnce(&[u8]) -> bool,
        ) -> io::Result<bool> {
            let bytes = self.lines * LINE_BYTES;
            let place = Place::reserve(bytes, libc::PROT_READ | libc::PROT_WRITE)?;
            let way = place.begin as *mut c_void;
            // SAFETY: the addresses were reserved, are zeros, and are known here alone.
            let accepted = unsafe { read(file, offset, way, bytes) }.map(accepted);
            // SAFETY: as above; nobody uses what was not moved.
            unsafe {
                if matches!(accepted, Ok(true)) && self.takes(file, offset, way) {
                    place.free_around(bytes);
                } else {
                    place.free();
                }
            }
            accepted
        }

        /// Moves what is at these addresses, from which a huge page begins, to its own. Says whether it is there; if not, what was there
        /// still is.
        ///
        /// # Safety
        /// It is what is there, in one piece, and nobody uses it.
        unsafe fn takes(&self, file: &File, offset: u64, way: *mut c_void) -> bool {
            let bytes = self.lines * LINE_BYTES;
            // SAFETY: both ranges are this process's, and of as many pages. Whoever reads meanwhile finds the same bytes before and after,
            // and waits in between: the system does not let anyone see a half.
            let is_moved = unsafe {
                let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                libc::mprotect(way, bytes, libc::PROT_READ) == 0
                    && libc::mremap(way, bytes, bytes, flags, self.begin.as_ptr().cast::<c_void>()) != libc::MAP_FAILED
            };
            if is_moved {
                return true;
            }
            // It may have cleared the way for what it did not move then. Whatever is there now is the map, unless it did, and something else
            // was put there in this moment.
            // SAFETY: nothing is replaced.
            match unsafe { self.map_again(file, offset, libc::MAP_FIXED_NOREPLACE) } {
                Ok(at) if at == self.begin.addr().get() => false,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
                // Others read there.
                _ => abort(),
            }
        }
    }

    /// Reads so many bytes of the file to these addresses, in huge pages if there are such.
    ///
    /// # Safety
    /// They can be written, are initialised, and are nobody else's, as long as what is returned.
    unsafe fn read<'a>(file: &File, offset: u64, to: *mut c_void, bytes: usize) -> io::Result<&'a [u8]> {
        // Of the whole range: what is advised otherwise than what is beside it older systems do not move with that. Where there are no huge
        // pages, later ones will do.
        // SAFETY: the caller's promise.
        let advise = || unsafe { libc::madvise(to, bytes, libc::MADV_HUGEPAGE) };
        let are_free = are_free(bytes);
        if are_free {
            advise();
        }
        // SAFETY: the caller's promise.
        let read = unsafe { std::slice::from_raw_parts_mut(to.cast(), bytes) };
        file.read_exact_at(read, offset)?;
        if !are_free {
            advise();
        }
        Ok(read)
    }

    impl Drop for Region {
        fn drop(&mut self) {
            // SAFETY: no part is left: each holds the region.
            unsafe { Place { reserved: self.reserved, begin: self.begin.addr().get() }.free() };
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{
        fs,
        io::Write as _,
        sync::atomic::{AtomicBool, AtomicUsize, Ordering},
        thread,
    };

    use super::*;

    const LINES: usize = KEPT_ALIGNMENT / LINE_BYTES;

    /// A file of so many pieces of [`KEPT_ALIGNMENT`], each filled with its number, that nobody finds but by this.
    fn file(pieces: u8) -> File {
        let path = std::env::temp_dir().join(format!("kept-{}-{pieces}", std::process::id()));
        let mut file = File::options().create_new(true).read(true).write(true).open(&path).expect("a file");
        fs::remove_file(path).expect("it is there");
        (0..pieces).for_each(|piece| file.write_all(&[piece; KEPT_ALIGNMENT]).expect("room for it"));
        file
    }

    fn bytes(part: &KeptPart) -> &[u8] {
        let lines = part.lines();
        // SAFETY: lines are plain numbers.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), size_of_val(lines)) }
    }

    #[allow(clippy::print_stderr)]
    fn is_possible() -> bool {
        let is_possible = Kept::is_possible();
        if !is_possible {
            eprintln!("NOT TESTED: this system is not Linux 5.14 or later, or an emulator of it");
        }
        is_possible
    }

    #[test]
    fn what_is_kept_is_read_where_it_is_and_no_further() {
        if !is_possible() {
            return;
        }
        let file = file(50);
        let kept = Kept::map(&file, KEPT_ALIGNMENT as u64, 48 * KEPT_ALIGNMENT).expect("it has as many");
        for piece in [0, 31, 47] {
            let part = kept.part(piece * LINES..(piece + 1) * LINES).expect("it is within");
            assert!(bytes(&part).iter().all(|byte| usize::from(*byte) == piece + 1));
        }
        #[allow(clippy::reversed_empty_ranges)]
        for outside in [0..48 * LINES + 1, 48 * LINES + 1..48 * LINES + 1, 2..1, 0..usize::MAX] {
            assert!(kept.part(outside).is_none());
        }
        assert!(kept.part(48 * LINES..48 * LINES).is_some_and(|part| part.lines().is_empty()));
        for (offset, length) in [(0, 51), (50, 1), (1 << 40, 1), (1, 0)] {
            assert!(Kept::map(&file, offset * KEPT_ALIGNMENT as u64, length * KEPT_ALIGNMENT).is_err());
        }
        for (offset, length) in [(1, KEPT_ALIGNMENT), (0, 100), (0, LINE_BYTES)] {
            assert!(Kept::map(&file, offset, length).is_err());
        }
        file.set_len(20 * KEPT_ALIGNMENT as u64).expect("it can be written");
        assert!(kept.part(18 * LINES..19 * LINES).is_some());
        assert!(kept.part(18 * LINES..20 * LINES).is_none(), "it would end whoever reads it");
    }

    /// Where this process has something mapped at this address: the whole range, as the system knows it.
    fn range(address: usize) -> (usize, usize) {
        let maps = fs::read_to_string("/proc/self/maps").expect("there is one");
        let ranges = maps.lines().map(|line| {
            let (range, _) = line.split_once(' ').expect("a range");
            let (begin, end) = range.split_once('-').expect("two addresses");
            [begin, end].map(|address| usize::from_str_radix(address, 16).expect("a number"))
        });
        let mut ranges = ranges.filter(|[begin, end]| (*begin..*end).contains(&address));
        ranges.next().map(|[begin, end]| (begin, end)).expect("it is mapped")
    }

    #[test]
    fn what_settles_is_the_same_for_whoever_reads_and_does_not_need_the_file() {
        if !is_possible() {
            return;
        }
        let (pieces, file) = (67_u8, file(67));
        for _ in 0..20 {
            let kept = Kept::map(&file, 0, usize::from(pieces) * KEPT_ALIGNMENT).expect("it has as many");
            let part = kept.part(0..usize::from(pieces) * LINES).expect("it is within");
            let is_whole = |part: &KeptPart| {
                let mut pieces = (0..pieces).zip(bytes(part).chunks(KEPT_ALIGNMENT));
                pieces.all(|(piece, bytes)| bytes.iter().step_by(512).all(|byte| *byte == piece))
            };
            let (is_over, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
            thread::scope(|scope| {
                let reading = scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        assert!(is_whole(&part));
                        rounds.fetch_add(1, Ordering::Relaxed);
                    }
                });
                while rounds.load(Ordering::Relaxed) == 0 && !reading.is_finished() {
                    thread::yield_now();
                }
                assert!(!kept.settle(&file, 0, |_| false).expect("it can be read"));
                let accepted = kept.settle(&file, 0, |bytes| bytes.len() == usize::from(pieces) * KEPT_ALIGNMENT);
                assert!(accepted.expect("it can be read"));
                // In one piece, without which older systems do not move it.
                let begin = part.lines().as_ptr().addr();
                let (first, end) = range(begin);
                assert!(first <= begin && end >= begin + usize::from(pieces) * KEPT_ALIGNMENT);
                is_over.store(true, Ordering::Relaxed);
                reading.join().expect("all was whole");
            });
            drop(kept);
            assert!(is_whole(&part));
        }
        let kept = Kept::map(&file, 0, KEPT_ALIGNMENT).expect("it has as many");
        let part = kept.part(0..LINES).expect("it is within");
        kept.settle(&file, 0, |_| true).expect("it can be read");
        file.set_len(0).expect("it can be written");
        assert!(bytes(&part).iter().all(|byte| *byte == 0));
        assert!(kept.settle(&file, 0, |_| true).is_err());
    }
}
