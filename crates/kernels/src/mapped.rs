//! Files as memory.

use std::{fs::File, io};

use memmap2::Mmap;

/// Maps a whole file read-only.
///
/// A map is sound while nobody changes the file under it: this is for files that are installed by renaming and never rewritten in
/// place.
///
/// # Errors
/// When the system refuses.
pub fn mapped(file: &File) -> io::Result<Mmap> {
    // SAFETY: whoever calls this answers for the file, as above.
    unsafe { Mmap::map(file) }
}
