//! Pictures as classifiers read them: a square of grey cells, given as numbers or as a PNG.
//!
//! Bright is ink, as in the UCI digits and in MNIST: strokes are light on a dark ground. A picture of dark strokes on light
//! paper is to be inverted first. Transparent parts are ground. A PNG is averaged down to the cells by area, each side by
//! itself, so a picture that is not square is stretched.

use std::io::Cursor;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use png::{ColorType, Decoder, DecodingError, Limits, Transformations};
use prediction::{Failure, FailureCode};
use serde::Deserialize;
use serde_json::value::RawValue;

/// How a picture may be written as a string.
const DATA_URL: &str = "data:image/png;base64,";

/// The widest and the highest PNG, in pixels; checked before anything of its size is allocated.
const MAX_SIDE: u32 = 1024;

/// The most bytes of a PNG.
const MAX_PNG_BYTES: usize = 512 << 10;

/// The most memory the decoder takes for itself, in bytes.
const MAX_DECODER_BYTES: usize = 8 << 20;

/// Shares of red, green and blue in brightness (ITU-R BT.601).
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// The picture a network takes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Picture {
    /// Cells on each side.
    side: usize,
    /// A cell full of ink; an empty one is 0.
    ink: f32,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Input {
    Pixels(Pixels),
    Image(String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Pixels {
    Flat(Vec<f32>),
    Rows(Vec<Vec<f32>>),
}

impl Picture {
    /// What is wrong with it, if anything.
    pub(crate) fn check(&self) -> Result<(), String> {
        let sound = (1..=64).contains(&self.side) && self.ink.is_finite() && self.ink > 0.0;
        if sound { Ok(()) } else { Err("a picture has 1 to 64 cells a side and positive ink".into()) }
    }

    /// Cells of the whole square.
    pub(crate) fn cells(&self) -> usize {
        self.side * self.side
    }
}

/// The cells' values, row by row.
///
/// # Errors
/// `invalid_input` for what is no such picture, `input_too_large` for a PNG beyond the limits.
pub(crate) fn read(picture: &Picture, input: &RawValue) -> Result<Vec<f32>, Failure> {
    let cells = match serde_json::from_str(input.get()).map_err(|error| invalid(error.to_string()))? {
        Input::Pixels(Pixels::Flat(cells)) => cells,
        Input::Pixels(Pixels::Rows(rows)) => {
            if rows.iter().any(|row| row.len() != picture.side) {
                return Err(invalid(format!("a row of pixels has {} numbers", picture.side)));
            }
            rows.concat()
        }
        Input::Image(url) => return read_png(picture, &url),
    };
    if cells.len() != picture.cells() {
        return Err(invalid(format!("{} pixels; {} are needed", cells.len(), picture.cells())));
    }
    if cells.iter().any(|value| !(0.0..=picture.ink).contains(value)) {
        return Err(invalid(format!("a pixel is 0 to {}", picture.ink)));
    }
    Ok(cells)
}

fn read_png(picture: &Picture, url: &str) -> Result<Vec<f32>, Failure> {
    let text = url.strip_prefix(DATA_URL).ok_or_else(|| invalid(format!("an image starts with {DATA_URL}")))?;
    if text.len() > MAX_PNG_BYTES.div_ceil(3) * 4 {
        return Err(too_large(format!("the image has more than {MAX_PNG_BYTES} bytes")));
    }
    let bytes = STANDARD.decode(text).map_err(|error| invalid(format!("the image is not base64: {error}")))?;
    let (brightness, width, height) = decode(&bytes)?;
    let mut cells = shrink(&brightness, width, height, picture.side);
    for cell in &mut cells {
        *cell *= picture.ink;
    }
    Ok(cells)
}

/// Brightness (0 to 1) of each pixel, row by row, with width and height.
fn decode(bytes: &[u8]) -> Result<(Vec<f32>, usize, usize), Failure> {
    let refused = |error: DecodingError| match error {
        DecodingError::LimitsExceeded => too_large("the image takes too much memory to read".into()),
        error => invalid(format!("the image is not a sound PNG: {error}")),
    };
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: MAX_DECODER_BYTES });
    decoder.set_transformations(Transformations::normalize_to_color8());
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let header = decoder.read_header_info().map_err(refused)?;
    let (width, height) = (header.width, header.height);
    if width > MAX_SIDE || height > MAX_SIDE {
        return Err(too_large(format!("the image has {width} × {height} pixels; at most {MAX_SIDE} a side are read")));
    }
    let mut reader = decoder.read_info().map_err(refused)?;
    let length = reader.output_buffer_size().ok_or_else(|| too_large("the image is too large".into()))?;
    let mut pixels = vec![0; length];
    // An animated PNG's first picture, which is what viewers that know no animation show.
    let frame = reader.next_frame(&mut pixels).map_err(refused)?;
    let (width, height) = (frame.width as usize, frame.height as usize);
    pixels.truncate(frame.buffer_size());
    let brightness: Vec<f32> =
        pixels.chunks_exact(frame.color_type.samples()).map(|pixel| brightness(frame.color_type, pixel)).collect();
    if width == 0 || height == 0 || brightness.len() != width * height {
        return Err(invalid("the image is not a sound PNG: it has no pixels".into()));
    }
    Ok((brightness, width, height))
}

/// Of one pixel, 0 to 1; what is transparent is dark.
fn brightness(color: ColorType, pixel: &[u8]) -> f32 {
    let part = |index: usize| f32::from(pixel[index]) / 255.0;
    let luma = || (0..3).map(|index| LUMA[index] * part(index)).sum::<f32>();
    match color {
        ColorType::Grayscale | ColorType::Indexed => part(0),
        ColorType::GrayscaleAlpha => part(0) * part(1),
        ColorType::Rgb => luma(),
        ColorType::Rgba => luma() * part(3),
    }
    .min(1.0)
}

/// Averages a picture by area to `side` × `side` cells; pixels on a border count for both sides by their share.
fn shrink(values: &[f32], width: usize, height: usize, side: usize) -> Vec<f32> {
    let across: Vec<f32> =
        values.chunks_exact(width).flat_map(|row| averages(row.iter().copied(), width, side)).collect();
    let mut cells = vec![0.0; side * side];
    for column in 0..side {
        let values = across.iter().skip(column).step_by(side).copied();
        for (row, value) in averages(values, height, side).into_iter().enumerate() {
            cells[row * side + column] = value;
        }
    }
    cells
}

/// Averages `length` values to `count`, each the mean of an equal share of the whole.
fn averages(values: impl Iterator<Item = f32>, length: usize, count: usize) -> Vec<f32> {
    let mut sums = vec![0.0; count];
    // In units of 1/(length · count) of the whole: a value is `count` long, a share `length`; all whole numbers, so exact.
    for (index, value) in values.enumerate() {
        let (mut at, end) = (index * count, (index + 1) * count);
        while at < end {
            let share = at / length;
            let next = end.min((share + 1) * length);
            sums[share] += value * (next - at) as f32;
            at = next;
        }
    }
    sums.iter().map(|sum| sum / length as f32).collect()
}

fn invalid(reason: String) -> Failure {
    Failure::new(FailureCode::InvalidInput, reason)
}

fn too_large(reason: String) -> Failure {
    Failure::new(FailureCode::InputTooLarge, reason)
}
