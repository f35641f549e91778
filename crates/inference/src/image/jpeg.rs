//! JPEG, baseline and progressive: grey, YCbCr, RGB, and the four inks of printers as Adobe's programs write them.

use std::{
    fmt::Display,
    panic::{AssertUnwindSafe, catch_unwind},
};

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

/// The most scans; each takes time for many pixels, however few bytes it has. Encoders write about ten.
const MOST_SCANS: usize = 64;

/// The most segments before the first scan: the decoder looks at some of them again with each that follows. A colour profile has up
/// to 255, whatever else is in a file a few.
const MOST_SEGMENTS: usize = 1000;

/// Decodes a file.
///
/// # Errors
/// `invalid_input` for what is no sound JPEG, `input_too_large` beyond the bounds.
pub(super) fn decode(bytes: &[u8], bounds: Bounds) -> Result<(Image, Orientation, Room), Failure> {
    let unsound = |reason: &dyn Display| invalid(format!("the image is not a sound JPEG: {reason}"));
    let refused = |error: DecodeErrors| unsound(&error);
    check_marks(bytes).map_err(|reason| unsound(&reason))?;
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
    // The decoder panics on some ratios of its colours.
    let decoded = catch_unwind(AssertUnwindSafe(|| decoder.decode()));
    let pixels = decoded.map_err(|_| unsound(&"its colours cannot be put together"))?.map_err(refused)?;
    let (width, height) = (info.width.into(), info.height.into());
    if pixels.len() != width * height * 3 {
        return Err(invalid("the image is not a sound JPEG: its colours are not known"));
    }
    Ok((Image { width, height, pixels }, orientation, room))
}

/// Looks at the marks alone, for what the decoder does not bound: it reads as many segments and baseline scans as there are, and
/// makes up what is missing in the last rows.
fn check_marks(bytes: &[u8]) -> Result<(), &'static str> {
    // Segments state their length, and may hold whole images of their own.
    let mut rest = bytes.get(2..).unwrap_or_default();
    for _ in 0..MOST_SEGMENTS {
        while let [0xFF, 0xFF, ..] = rest {
            rest = &rest[1..];
        }
        match rest {
            [0xFF, 0xDA, scans @ ..] => {
                // No byte of a pixel looks like a mark.
                let marks = |kind: u8| scans.windows(2).filter(move |pair| *pair == [0xFF, kind]);
                return match (marks(0xD9).next(), marks(0xDA).count() < MOST_SCANS) {
                    (None, _) => Err("it is cut off"),
                    (_, false) => Err("it has too many scans"),
                    _ => Ok(()),
                };
            }
            // What has no length, and what would begin or end an image.
            [0xFF, 0x00 | 0x01 | 0xD0..=0xD9, ..] => return Err("a mark is out of place"),
            [0xFF, _, high, low, ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                rest = rest.get(2 + length..).unwrap_or_default();
            }
            _ => return Err("it is cut off"),
        }
    }
    Err("it has too many segments")
}
