//! Maps of files, and memory that takes their place, as Linux has them.

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
        let at = unsafe { map(ptr::null_mut(), length, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) }?;
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

    pub(super) fn settle(&self, file: &File, offset: u64, accepted: impl FnOnce(&[u8]) -> bool) -> io::Result<bool> {
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
