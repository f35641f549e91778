//! The bias of attention by how far apart two tokens stand, as MPNet has it: one table for all layers, with a number for each head and
//! each bucket of distances.
//!
//! After Raffel et al., "Exploring the Limits of Transfer Learning" (2019, arXiv 1910.10683), whose T5 deals distances to buckets so.

use super::config::Config;
use crate::{
    LoadError,
    transformer::{Bias, Tensors},
};

/// The table: buckets × heads.
const TABLE: &str = "encoder.relative_attention_bias.weight";

/// What transformers computes, whatever `config.json` says.
pub(super) const BUCKETS: usize = 32;

/// More than any model has: a layer that lacks some heads has a number for each of its heads and each distance, either way.
pub(super) const MOST_POSITIONS: usize = 1 << 13;

/// Reads what the encoder adds to scores, for texts as long as there are positions; `None` where the family adds nothing.
///
/// # Errors
/// When the table is missing or of another shape.
pub(super) fn load(tensors: &Tensors<'_>, config: &Config) -> Result<Option<Bias>, LoadError> {
    if !config.family.has_bias() {
        return Ok(None);
    }
    let (heads, reach) = (config.num_attention_heads, config.positions());
    let table = tensors.numbers(TABLE, &[BUCKETS, heads])?;
    let row = |head: usize| {
        let behind = (1..reach).rev().map(|distance| bucket(distance, false));
        let all = behind.chain((0..reach).map(|distance| bucket(distance, true)));
        all.map(|bucket| table[bucket * heads + head]).collect::<Vec<_>>()
    };
    Ok(Some(Bias::new((0..heads).map(row).collect())))
}

/// The bucket of a key so many tokens before its query or `ahead` of it: one for each distance below 8, then two for each doubling, the
/// last for all from 91 on (8 · 2^(7/2)). In whole numbers: floor(2 · log₂(d / 8)) is that of log₂ d² less 6, and has no rounding that
/// may differ.
fn bucket(distance: usize, ahead: bool) -> usize {
    const EACH_WAY: usize = BUCKETS / 2;
    let within = match distance {
        0..8 => distance,
        _ => (EACH_WAY / 2 + distance.saturating_mul(distance).ilog2() as usize - 6).min(EACH_WAY - 1),
    };
    if ahead && distance > 0 { within + EACH_WAY } else { within }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_dealt_as_transformers_deals_them() {
        // Where its MPNetEncoder.relative_position_bucket begins another one.
        let begins = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91];
        for distance in (0..1000).chain([1 << 20, usize::MAX]) {
            let expected = begins.iter().filter(|begin| **begin <= distance).count() - 1;
            assert_eq!(bucket(distance, false), expected, "{distance} before");
            assert_eq!(bucket(distance, true), if distance == 0 { 0 } else { expected + 16 }, "{distance} ahead");
        }
    }
}
