//! JPEG, baseline and progressive: grey, YCbCr, RGB, and the four inks of printers as Adobe's programs write them.

use prediction::Failure;
use zune_jpeg::{
    JpegDecoder,
    errors::DecodeErrors,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

use super::{Bounds, Image, Orientation, Room};
use crate::contract::invalid;

/// The longest side that the format can state.
const LONGEST_SIDE: usize = u16::MAX as usize;

/// The most scans of a progressive file; each takes time for all pixels, however few bytes it has. Encoders write about ten.
const MOST_SCANS: usize = 64;

/// Decodes a file.
///
/// # Errors
/// `invalid_input` for what is no sound JPEG, `input_too_large` beyond the bounds.
pub(super) fn decode(bytes: &[u8], bounds: Bounds) -> Result<(Image, Orientation, Room), Failure> {
    let refused = |error: DecodeErrors| invalid(format!("the image is not a sound JPEG: {error}"));
    // The decoder makes up what is missing in the last rows.
    if !has_end(bytes) {
        return Err(invalid("the image is not a sound JPEG: it is cut off"));
    }
    // Without instructions of one machine, so that all see the same pixels; strict, so that half an image is none.
    let options = DecoderOptions::new_safe()
        .set_strict_mode(true)
        .set_max_width(LONGEST_SIDE)
        .set_max_height(LONGEST_SIDE)
        .jpeg_set_max_scans(MOST_SCANS)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(refused)?;
    let info = decoder.info().ok_or_else(|| invalid("the image is not a sound JPEG: it has no header"))?;
    let room = bounds.admit(info.width.into(), info.height.into())?;
    if !matches!(info.components, 1 | 3 | 4) {
        return Err(invalid(format!("the image is a JPEG of {} colours; 1, 3 and 4 are read", info.components)));
    }
    let orientation = Orientation::of(info.exif_data.as_deref().unwrap_or_default());
    let pixels = decoder.decode().map_err(refused)?;
    let (width, height) = (info.width.into(), info.height.into());
    if pixels.len() != width * height * 3 {
        return Err(invalid("the image is not a sound JPEG: its colours are not known"));
    }
    Ok((Image { width, height, pixels }, orientation, room))
}

/// Whether the mark of the end follows the beginning of the pixels, among which no byte looks like a mark.
fn has_end(bytes: &[u8]) -> bool {
    // Before them come segments that state their length, and may hold whole images of their own.
    let mut rest = bytes.get(2..).unwrap_or_default();
    loop {
        match rest {
            [0xFF, 0xFF, ..] => rest = &rest[1..],
            [0xFF, 0xDA, scan @ ..] => return scan.windows(2).any(|mark| mark == [0xFF, 0xD9]),
            [0xFF, _, high, low, ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                rest = rest.get(2 + length..).unwrap_or_default();
            }
            _ => return false,
        }
    }
}
