//! What the blocks of a GGUF file's quantized tensors say, kind by kind, as the kernels take it. The layouts are ggml's
//! (<https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>); numbers of two bytes are little-endian.

use candle_core::quantized::GgmlDType;
use kernels::{BlockForm, BlockRow};

/// Weights of a block of the older kinds, and of what has a fine step in most of the newer ones.
const SMALL: usize = 32;

/// Weights of a block of the newer kinds.
const LARGE: usize = 256;

/// What a kind's weights look like; `None` of kinds that are not known here.
pub(crate) fn form(kind: GgmlDType) -> Option<BlockForm> {
    use GgmlDType::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    let small =
        |is_narrow, zero, has_lows| BlockForm { block: SMALL, blocks: 1, is_narrow, zero, has_fine: false, has_lows };
    let large = |block, is_narrow, zero, has_lows| BlockForm {
        block,
        blocks: LARGE / block,
        is_narrow,
        zero,
        has_fine: true,
        has_lows,
    };
    Some(match kind {
        Q4_0 => small(true, 8, false),
        Q4_1 => small(true, 0, true),
        Q5_0 => small(false, 16, false),
        Q5_1 => small(false, 0, true),
        Q8_0 => small(false, 128, false),
        Q2K => large(16, true, 0, true),
        Q3K => large(16, true, 4, false),
        Q4K => large(32, true, 0, true),
        Q5K => large(32, false, 0, true),
        Q6K => large(16, false, 32, false),
        _ => return None,
    })
}

/// Reads one row of a tensor of a kind that has a [`form`].
///
/// # Panics
/// When the bytes are not whole blocks of the kind, or it has no form.
pub(crate) fn read(kind: GgmlDType, bytes: &[u8], row: &mut BlockRow) {
    assert!(bytes.len().is_multiple_of(kind.type_size()), "a row of {kind:?} has {} bytes", bytes.len());
    let read = match kind {
        GgmlDType::Q4_0 => q4_0,
        GgmlDType::Q4_1 => q4_1,
        GgmlDType::Q5_0 => q5_0,
        GgmlDType::Q5_1 => q5_1,
        GgmlDType::Q8_0 => q8_0,
        GgmlDType::Q2K => q2_k,
        GgmlDType::Q3K => q3_k,
        GgmlDType::Q4K => q4_k,
        GgmlDType::Q5K => q5_k,
        GgmlDType::Q6K => q6_k,
        other => unreachable!("{other:?} has no form"),
    };
    bytes.chunks_exact(kind.type_size()).for_each(|block| read(block, row));
}

/// The 16-bit float at the beginning, and what is after it.
fn half(bytes: &[u8]) -> (f32, &[u8]) {
    let (half, rest) = bytes.split_at(2);
    (half::f16::from_le_bytes([half[0], half[1]]).to_f32(), rest)
}

/// Levels of four bits: the lower halves of all bytes, then the upper ones.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().map(|byte| byte & 15).chain(bytes.iter().map(|byte| byte >> 4))
}

fn q4_0(block: &[u8], row: &mut BlockRow) {
    let (step, levels) = half(block);
    row.steps.push(step);
    row.levels.extend(nibbles(levels));
}

fn q4_1(block: &[u8], row: &mut BlockRow) {
    let (step, rest) = half(block);
    let (low, levels) = half(rest);
    row.steps.push(step);
    row.lows.push(low);
    row.levels.extend(nibbles(levels));
}

/// Levels of five bits, whose highest ones are in the first four bytes.
fn fives(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let (high, low) = bytes.split_at(4);
    nibbles(low).enumerate().map(|(index, level)| level | (high[index / 8] >> (index % 8) & 1) << 4)
}

fn q5_0(block: &[u8], row: &mut BlockRow) {
    let (step, levels) = half(block);
    row.steps.push(step);
    row.levels.extend(fives(levels));
}

fn q5_1(block: &[u8], row: &mut BlockRow) {
    let (step, rest) = half(block);
    let (low, levels) = half(rest);
    row.steps.push(step);
    row.lows.push(low);
    row.levels.extend(fives(levels));
}

fn q8_0(block: &[u8], row: &mut BlockRow) {
    let (step, levels) = half(block);
    row.steps.push(step);
    // Signed bytes, of which -128 is level 0.
    row.levels.extend(levels.iter().map(|level| level ^ 0x80));
}

fn q2_k(block: &[u8], row: &mut BlockRow) {
    let (scales, rest) = block.split_at(16);
    let (levels, rest) = rest.split_at(64);
    let (step, rest) = half(rest);
    row.steps.push(step);
    row.lows.push(-half(rest).0);
    row.fine.extend(scales.iter().map(|scale| (scale & 15).cast_signed()));
    row.fine_lows.extend(scales.iter().map(|scale| (scale >> 4).cast_signed()));
    for some in levels.chunks_exact(32) {
        for shift in [0, 2, 4, 6] {
            row.levels.extend(some.iter().map(|byte| byte >> shift & 3));
        }
    }
}

fn q3_k(block: &[u8], row: &mut BlockRow) {
    let (high, rest) = block.split_at(32);
    let (levels, rest) = rest.split_at(64);
    let (scales, rest) = rest.split_at(12);
    row.steps.push(half(rest).0);
    row.fine.extend((0..16).map(|index| {
        // Four bits of each in the first eight bytes, two more in the last four.
        let low = scales[index % 8] >> (index / 8 * 4) & 15;
        let high = scales[8 + index % 4] >> (index / 4 * 2) & 3;
        (low | high << 4).cast_signed() - 32
    }));
    for (half, some) in levels.chunks_exact(32).enumerate() {
        for pair in 0..4 {
            let bit = half * 4 + pair;
            row.levels.extend(some.iter().zip(high).map(|(low, high)| low >> (2 * pair) & 3 | (high >> bit & 1) << 2));
        }
    }
}

/// The fine steps and lows of a block of 256 weights, six bits each.
fn sixes(scales: &[u8], row: &mut BlockRow) {
    for index in 0..8 {
        let (step, low) = match index {
            0..4 => (scales[index] & 63, scales[index + 4] & 63),
            _ => {
                (scales[index + 4] & 15 | scales[index - 4] >> 6 << 4, scales[index + 4] >> 4 | scales[index] >> 6 << 4)
            }
        };
        row.fine.push(step.cast_signed());
        row.fine_lows.push(low.cast_signed());
    }
}

/// The steps of the two kinds that have lows in six bits, and what is after them.
fn steps_and_lows<'a>(block: &'a [u8], row: &mut BlockRow) -> &'a [u8] {
    let (step, rest) = half(block);
    let (low, rest) = half(rest);
    let (scales, levels) = rest.split_at(12);
    row.steps.push(step);
    row.lows.push(-low);
    sixes(scales, row);
    levels
}

fn q4_k(block: &[u8], row: &mut BlockRow) {
    let levels = steps_and_lows(block, row);
    levels.chunks_exact(32).for_each(|some| row.levels.extend(nibbles(some)));
}

fn q5_k(block: &[u8], row: &mut BlockRow) {
    let (high, low) = steps_and_lows(block, row).split_at(32);
    for (pair, some) in low.chunks_exact(32).enumerate() {
        let level = |(index, level): (usize, u8)| level | (high[index % 32] >> (2 * pair + index / 32) & 1) << 4;
        row.levels.extend(nibbles(some).enumerate().map(level));
    }
}

fn q6_k(block: &[u8], row: &mut BlockRow) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, step) = rest.split_at(16);
    row.steps.push(half(step).0);
    row.fine.extend(scales.iter().map(|scale| scale.cast_signed()));
    for (low, high) in low.chunks_exact(64).zip(high.chunks_exact(32)) {
        let level = |(index, level): (usize, u8)| level | (high[index % 32] >> (index / 32 * 2) & 3) << 4;
        row.levels.extend(nibbles(low).enumerate().map(level));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    /// Blocks of a kind, and what the reference reads in them.
    #[derive(Deserialize)]
    struct Golden {
        bytes: String,
        weights: Vec<f32>,
    }

    #[test]
    fn blocks_say_what_the_reference_reads_in_them() {
        use GgmlDType::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
        let goldens: BTreeMap<String, Golden> =
            serde_json::from_str(include_str!("../../tests/goldens/blocks.json")).expect("goldens");
        let kinds = [
            ("Q4_0", Q4_0),
            ("Q4_1", Q4_1),
            ("Q5_0", Q5_0),
            ("Q5_1", Q5_1),
            ("Q8_0", Q8_0),
            ("Q2_K", Q2K),
            ("Q3_K", Q3K),
            ("Q4_K", Q4K),
            ("Q5_K", Q5K),
            ("Q6_K", Q6K),
        ];
        assert_eq!(goldens.len(), kinds.len());
        for (name, kind) in kinds {
            let golden = &goldens[name];
            let (form, mut row) = (form(kind).expect("a form"), BlockRow::default());
            read(kind, &hex::decode(&golden.bytes).expect("bytes"), &mut row);
            assert_eq!(row.levels.len(), golden.weights.len(), "{name}");
            assert!(!form.is_narrow || row.levels.iter().all(|level| *level < 16), "{name}");
            for (index, (level, expected)) in row.levels.iter().zip(&golden.weights).enumerate() {
                let block = index / form.block;
                let fine = |fine: &[i8]| if form.has_fine { f32::from(fine[block]) } else { 1.0 };
                let low = if form.has_lows { row.lows[block / form.blocks] * fine(&row.fine_lows) } else { 0.0 };
                let step = row.steps[block / form.blocks] * fine(&row.fine);
                let found = step * (f32::from(*level) - f32::from(form.zero)) + low;
                // The reference may round in another order.
                let rounding = f32::EPSILON * (step.abs() * 256.0 + low.abs());
                assert!((found - expected).abs() <= rounding, "{name}, {index}: {found}, {expected}");
            }
        }
        assert_eq!((form(GgmlDType::F32), form(GgmlDType::BF16)), (None, None));
    }
}
