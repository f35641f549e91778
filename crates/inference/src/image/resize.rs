//! Resizing as Pillow does it: two passes of a filter as wide as the reduction, in fixed point, rounded to eight bits after each.
//!
//! The arithmetic is that of `Resample.c` in Pillow up to version 12, so that models see the pixels that they were trained on.
//! From version 13 on Pillow begins with rows where that is less work, which changes some samples by one.

use std::ops::Range;

use super::Image;

/// Fractional bits of weights: two are left for sums beyond 255, as filters that go below 0 give them.
const BITS: u32 = 32 - 8 - 2;

/// What sums begin with, so that cutting their fraction off rounds them.
const HALF: i32 = 1 << (BITS - 1);

/// What weighs the pixels around a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// A triangle.
    Bilinear,
    /// Keys' cubic with a = -1/2.
    Bicubic,
    /// A sinc of three lobes.
    Lanczos,
}

/// The weights of the pixels that make one.
struct Weights {
    first: usize,
    weights: Vec<i32>,
}

impl Filter {
    /// How far it reaches, in pixels.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
            Self::Lanczos if x < 3.0 => sinc(x) * sinc(x / 3.0),
            _ => 0.0,
        }
    }

    /// The weights for those of `to` pixels that are wanted, along a side of `from`. Where nothing is resized, each is itself.
    fn weights(self, from: usize, to: usize, wanted: Range<usize>) -> Vec<Weights> {
        let scale = from as f64 / to as f64;
        // Wider when pixels become fewer, so that all of them count.
        let stretch = scale.max(1.0);
        let support = self.support() * stretch;
        let weights = |index: usize| {
            let center = (index as f64 + 0.5) * scale;
            // Casts cut off what is behind the point, and what is below 0.
            let first = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let raw: Vec<f64> =
                (first..end).map(|pixel| self.at((pixel as f64 - center + 0.5) * (1.0 / stretch))).collect();
            let sum: f64 = raw.iter().sum();
            let sum = if sum == 0.0 { 1.0 } else { sum };
            let fixed = |weight: f64| {
                let weight = weight / sum * f64::from(1 << BITS);
                (if weight < 0.0 { weight - 0.5 } else { weight + 0.5 }) as i32
            };
            Weights { first, weights: raw.into_iter().map(fixed).collect() }
        };
        wanted.map(weights).collect()
    }
}

fn sinc(x: f64) -> f64 {
    let x = x * std::f64::consts::PI;
    if x == 0.0 { 1.0 } else { x.sin() / x }
}

/// Part of an image of another size: what is cut off is never computed, so that no image makes a huge one, however narrow it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The whole image's.
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// The part's.
    pub(crate) columns: Range<usize>,
    pub(crate) rows: Range<usize>,
}

/// Part of the image in another size.
pub(crate) fn resize(image: &Image, target: &Target, filter: Filter) -> Image {
    let columns = filter.weights(image.width, target.width, target.columns.clone());
    let rows = filter.weights(image.height, target.height, target.rows.clone());
    let first = rows.first().map_or(0, |row| row.first);
    let end = rows.last().map_or(0, |row| row.first + row.weights.len());
    let (width, height) = (columns.len(), rows.len());
    let between = across(&image.pixels[first * image.width * 3..end * image.width * 3], image.width, &columns);
    Image { width, height, pixels: down(&between, width, first, &rows) }
}

/// Rows of so many pixels, of another length.
fn across(pixels: &[u8], width: usize, columns: &[Weights]) -> Vec<u8> {
    let mut resized = Vec::with_capacity(pixels.len() / width * columns.len());
    for row in pixels.chunks_exact(width * 3) {
        for Weights { first, weights } in columns {
            let mut sums = [HALF; 3];
            for (pixel, weight) in row[first * 3..].chunks_exact(3).zip(weights) {
                for (sum, sample) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*sample) * weight;
                }
            }
            resized.extend(sums.map(rounded));
        }
    }
    resized
}

/// Other rows of so many pixels; the first of those that there are has this number.
fn down(pixels: &[u8], width: usize, number: usize, rows: &[Weights]) -> Vec<u8> {
    let length = width * 3;
    let mut resized = Vec::with_capacity(length * rows.len());
    let mut sums = vec![HALF; length];
    for Weights { first, weights } in rows {
        sums.fill(HALF);
        for (row, weight) in pixels[(first - number) * length..].chunks_exact(length).zip(weights) {
            for (sum, sample) in sums.iter_mut().zip(row) {
                *sum += i32::from(*sample) * weight;
            }
        }
        resized.extend(sums.iter().copied().map(rounded));
    }
    resized
}

fn rounded(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}
