//! Images as inputs bring them: PNG or JPEG in base64, measured by their headers before anything of their size is allocated,
//! decoded, and turned the way their camera was held.
//!
//! Pixels are what transformers' `load_image` makes of a file: eight bits each of red, green and blue, what is transparent as if it
//! were not, colour profiles not applied. Sixteen bits lose their lower eight (where Pillow, for grey alone, clips to white).

mod exif;
mod jpeg;
mod png;
mod resize;
mod room;
#[cfg(test)]
mod tests;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prediction::Failure;

pub(crate) use self::{
    exif::Orientation,
    png::{Samples, decode as decode_png},
    resize::{Filter, Target, resize},
    room::Room,
};
use crate::contract::{invalid, too_large};

/// How large an image may be, by its header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The longest side, in pixels.
    pub(crate) side: u32,
    /// Pixels in all.
    pub(crate) pixels: u64,
}

/// Of images that are resized: 4096 × 4096, or a photograph of 16 megapixels. Decoding one takes up to 7 bytes for each pixel, of a
/// progressive JPEG up to 11.
pub(crate) const BOUNDS: Bounds = Bounds { side: 1 << 14, pixels: 1 << 24 };

/// An upright image: red, green and blue of each pixel, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) pixels: Vec<u8>,
}

impl Bounds {
    /// Refuses what is larger; waits until there is room for the rest.
    ///
    /// # Errors
    /// `input_too_large`.
    fn admit(self, width: u32, height: u32) -> Result<Room, Failure> {
        let Self { side, pixels } = self;
        if width > side || height > side {
            return Err(too_large(format!("the image has {width} × {height} pixels; at most {side} a side are read")));
        }
        let wanted = u64::from(width) * u64::from(height);
        if wanted > pixels {
            return Err(too_large(format!("the image has {width} × {height} pixels; at most {pixels} are read")));
        }
        Ok(Room::take(wanted))
    }
}

/// Reads an image from base64, alone or in a `data:` URL. What the URL says of the format does not matter: the first bytes do. The
/// room is to be kept as long as the image.
///
/// # Errors
/// `invalid_input` for what is no image, `input_too_large` beyond the bounds.
pub(crate) fn read(text: &str, bounds: Bounds) -> Result<(Image, Room), Failure> {
    let bytes = base64(encoded(text)?)?;
    let (image, orientation, room) = match &bytes[..] {
        [0x89, b'P', b'N', b'G', ..] => decode_png(&bytes, bounds)?.into_rgb(),
        [0xFF, 0xD8, ..] => jpeg::decode(&bytes, bounds)?,
        _ => return Err(invalid("the image is neither PNG nor JPEG")),
    };
    Ok((orientation.applied_to(image), room))
}

/// The base64 in a `data:` URL, or all of the text.
fn encoded(text: &str) -> Result<&str, Failure> {
    let Some(url) = text.strip_prefix("data:") else { return Ok(text) };
    let (kind, data) = url.split_once(',').unwrap_or_default();
    if kind.starts_with("image/") && kind.ends_with(";base64") {
        Ok(data)
    } else {
        Err(invalid("a data: URL of an image starts with data:image/png;base64, or data:image/jpeg;base64,"))
    }
}

/// The bytes of an image.
///
/// # Errors
/// `invalid_input` when it is not base64.
pub(crate) fn base64(text: &str) -> Result<Vec<u8>, Failure> {
    STANDARD.decode(text).map_err(|error| invalid(format!("the image is not base64: {error}")))
}
