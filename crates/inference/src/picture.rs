//! Pictures as classifiers read them: a square of grey cells, given as numbers or as a PNG.
//!
//! Bright is ink, as in the UCI digits and in MNIST: strokes are light on a dark ground. A picture of dark strokes on light
//! paper is to be inverted first. Transparent parts are ground. A PNG is averaged down to the cells by area, each side by
//! itself, so a picture that is not square is stretched.

use png::ColorType;
use prediction::Failure;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    contract::{invalid, parse, too_large},
    image::{self, Bounds, Samples},
};

/// How a picture may be written as a string.
const DATA_URL: &str = "data:image/png;base64,";

/// The widest and the highest PNG, in pixels.
const BOUNDS: Bounds = Bounds { side: 1024, pixels: 1024 * 1024 };

/// The most bytes of a PNG.
const MAX_PNG_BYTES: usize = 512 << 10;

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
    let cells = match parse(input)? {
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
    let Samples { width, height, color, samples, .. } = image::decode_png(&image::base64(text)?, BOUNDS)?;
    let brightness: Vec<f32> = samples.chunks_exact(color.samples()).map(|pixel| brightness(color, pixel)).collect();
    let mut cells = shrink(&brightness, width, height, picture.side);
    for cell in &mut cells {
        *cell *= picture.ink;
    }
    Ok(cells)
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
