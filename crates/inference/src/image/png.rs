//! PNG: the first picture of a file, as eight-bit samples.

use std::io::Cursor;

use png::{ColorType, Decoder, DecodingError, Limits, Transformations};
use prediction::Failure;

use super::{Bounds, Image, Orientation, Room};
use crate::contract::{invalid, too_large};

/// The most memory the decoder takes for itself, in bytes.
const DECODER_BYTES: usize = 8 << 20;

/// A decoded picture: palettes are looked up, other depths made eight bits.
pub(crate) struct Samples {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) color: ColorType,
    /// As many for each pixel as its colour type says, row by row.
    pub(crate) samples: Vec<u8>,
    orientation: Orientation,
    room: Room,
}

/// Decodes a file; of an animated one the first picture, which is what viewers that know no animation show.
///
/// # Errors
/// `invalid_input` for what is no sound PNG, `input_too_large` beyond the bounds.
pub(crate) fn decode(bytes: &[u8], bounds: Bounds) -> Result<Samples, Failure> {
    let refused = |error: DecodingError| match error {
        DecodingError::LimitsExceeded => too_large("the image takes too much memory to read"),
        error => invalid(format!("the image is not a sound PNG: {error}")),
    };
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: DECODER_BYTES });
    decoder.set_transformations(Transformations::normalize_to_color8());
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let header = decoder.read_header_info().map_err(refused)?;
    let room = bounds.admit(header.width, header.height)?;
    let mut reader = decoder.read_info().map_err(refused)?;
    let length = reader.output_buffer_size().ok_or_else(|| too_large("the image is too large"))?;
    let mut samples = vec![0; length];
    let frame = reader.next_frame(&mut samples).map_err(refused)?;
    let (width, height) = (frame.width as usize, frame.height as usize);
    samples.truncate(frame.buffer_size());
    if width == 0 || height == 0 || samples.len() != width * height * frame.color_type.samples() {
        return Err(invalid("the image is not a sound PNG: it has no pixels"));
    }
    // It may come after the pixels.
    reader.finish().map_err(refused)?;
    let exif = reader.info().exif_metadata.as_deref().unwrap_or_default();
    Ok(Samples { width, height, color: frame.color_type, samples, orientation: Orientation::of(exif), room })
}

impl Samples {
    /// Red, green and blue of each pixel; what is transparent is taken as if it were not.
    pub(super) fn into_rgb(self) -> (Image, Orientation, Room) {
        let Self { width, height, color, samples, orientation, room } = self;
        let each = color.samples();
        let pixels = match color {
            ColorType::Rgb => samples,
            ColorType::Rgba => samples.chunks_exact(each).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
            ColorType::Grayscale | ColorType::GrayscaleAlpha | ColorType::Indexed => {
                samples.chunks_exact(each).flat_map(|pixel| [pixel[0]; 3]).collect()
            }
        };
        (Image { width, height, pixels }, orientation, room)
    }
}
