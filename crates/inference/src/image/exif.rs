//! Which way up an image is, as cameras write it down: the orientation of Exif (CIPA DC-008), which is a small TIFF.

use super::Image;

/// The tag of the orientation in the first directory.
const TAG: u16 = 0x0112;

/// The type of its value: a 16-bit number.
const SHORT: u16 = 3;

/// Bytes of an entry of a directory.
const ENTRY: usize = 12;

/// What turns stored pixels upright: first perhaps the swap of rows and columns, then mirrors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Orientation {
    /// Rows become columns.
    transposes: bool,
    /// Columns run from right to left, after that.
    mirrors: bool,
    /// Rows run from bottom to top, after that.
    flips: bool,
}

impl Orientation {
    /// That of a block of Exif; upright when it says nothing, or cannot be read.
    pub(super) fn of(exif: &[u8]) -> Self {
        let (transposes, mirrors, flips) = match tag(exif).unwrap_or(1) {
            2 => (false, true, false),
            3 => (false, true, true),
            4 => (false, false, true),
            5 => (true, false, false),
            6 => (true, true, false),
            7 => (true, true, true),
            8 => (true, false, true),
            _ => return Self::default(),
        };
        Self { transposes, mirrors, flips }
    }

    /// The image, upright.
    pub(super) fn applied_to(self, image: Image) -> Image {
        if self == Self::default() {
            return image;
        }
        let Image { width, height, pixels } = image;
        let (to_width, to_height) = if self.transposes { (height, width) } else { (width, height) };
        let mut turned = Vec::with_capacity(pixels.len());
        for row in 0..to_height {
            let row = if self.flips { to_height - 1 - row } else { row };
            for column in 0..to_width {
                let column = if self.mirrors { to_width - 1 - column } else { column };
                let from = if self.transposes { column * width + row } else { row * width + column };
                turned.extend_from_slice(&pixels[from * 3..][..3]);
            }
        }
        Image { width: to_width, height: to_height, pixels: turned }
    }
}

/// The number that the tag has; `None` where there is none, or the block ends too early.
fn tag(exif: &[u8]) -> Option<u16> {
    let is_little = match exif.get(..4)? {
        [b'I', b'I', 42, 0] => true,
        [b'M', b'M', 0, 42] => false,
        _ => return None,
    };
    let short = |at: usize| {
        let bytes = *exif.get(at..)?.first_chunk::<2>()?;
        Some(if is_little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let long = |at: usize| {
        let bytes = *exif.get(at..)?.first_chunk::<4>()?;
        Some(if is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    };
    let directory = usize::try_from(long(4)?).ok()?;
    let entries = usize::from(short(directory)?);
    let entry = |index: usize| directory.checked_add(2 + index * ENTRY);
    let at = (0..entries).map_while(entry).find(|at| short(*at) == Some(TAG))?;
    if short(at + 2)? == SHORT { short(at + 8) } else { None }
}
