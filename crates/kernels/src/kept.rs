//! Packed weights that an earlier start has written to a file, as memory. At first that is the file as the system has it in its cache.
//! Later memory of the process's own takes the place of that ([`Kept::settle`]), in huge pages, which is not the worse for what happens to
//! the file.

#[cfg(target_os = "linux")]
mod linux;

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
