//! How far two text generators agree on the next token, after every token of some prompts.

use std::time::{Duration, Instant};

use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::log_softmax;
use serde_json::{Value, value::to_raw_value};

use super::{Generator, cache::Cache, decoder::Part, workshop::Workshop};

/// Of longer prompts only so many tokens are looked at, and no more than the context holds.
pub(super) const MOST_TOKENS: usize = 256;

/// How far the next tokens of one model are those of another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// The share of places with the same likeliest token, 0 to 1.
    pub same: f64,
    /// The mean of Σ p · ln(p ÷ q) over the vocabulary, p being the original's probabilities and q the other's (Kullback and Leibler,
    /// 1951), in nats; 0 where they are the same.
    pub mean_divergence: f64,
    /// The places that were compared: the tokens of all prompts.
    pub tokens: usize,
    /// How many prompts are longer than what was looked at of them.
    pub cut: usize,
    /// The most tokens of a prompt that were looked at.
    pub longest: usize,
}

/// Runs the prompts of these inputs on both, token by token; also the mean time of a token on each.
///
/// # Errors
/// When an input is not one of theirs, they have not the same tokens, or a decoder fails.
pub(crate) fn compare(
    original: &Generator,
    made: &Generator,
    inputs: &[Value],
) -> Result<(Divergence, [Duration; 2]), String> {
    if original.decoder.config.vocabulary != made.decoder.config.vocabulary {
        return Err("has other tokens than the model that it is compared with".into());
    }
    let sides = [original, made];
    let mut workshop = Workshop::new(original.machine).map_err(|error| format!("no threads: {error}"))?;
    let (mut same, mut apart, mut tokens, mut times) = (0_usize, 0.0, 0_usize, [Duration::ZERO; 2]);
    let (mut cut, mut longest) = (0, 0);
    for (place, input) in inputs.iter().enumerate() {
        let input = to_raw_value(input).map_err(|error| error.to_string())?;
        let read = original.first_tokens(&input, MOST_TOKENS);
        let (prompt, is_cut) = read.map_err(|failure| format!("fails on input {}: {failure}", place + 1))?;
        cut += usize::from(is_cut);
        longest = longest.max(prompt.len());
        let mut caches = sides.map(|side| Cache::new(&side.decoder.config, prompt.len()));
        for token in &prompt {
            let mut logits = [Vec::new(), Vec::new()];
            for (side, generator) in sides.iter().enumerate() {
                let begun = Instant::now();
                let part = Part { tokens: std::slice::from_ref(token), cache: &mut caches[side], wants_logits: true };
                let found = generator.decoder.forward(&mut [part], &mut workshop).map_err(|error| error.to_string())?;
                times[side] += begun.elapsed();
                logits[side] = found.into_iter().next().unwrap_or_default();
            }
            let [one, other] = logits.each_ref().map(|logits| log_probabilities(logits));
            let (one, other) = one.and_then(|one| Ok((one, other?))).map_err(|error| error.to_string())?;
            same += usize::from(likeliest(&one) == likeliest(&other));
            apart += divergence(&one, &other);
            tokens += 1;
        }
    }
    if !f64::is_finite(apart) {
        return Err("computes what is no number".into());
    }
    let count = tokens.max(1);
    let (same, mean_divergence) = (same as f64 / count as f64, apart / count as f64);
    let found = Divergence { same, mean_divergence, tokens, cut, longest };
    Ok((found, times.map(|time| time / u32::try_from(count).unwrap_or(u32::MAX))))
}

/// Σ p · ln(p ÷ q), of their logarithms.
pub(super) fn divergence(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// Those that logits stand for.
pub(super) fn log_probabilities(logits: &[f32]) -> candle_core::Result<Vec<f64>> {
    let logits = Tensor::new(logits, &Device::Cpu)?.to_dtype(DType::F64)?;
    log_softmax(&logits, D::Minus1)?.to_vec1()
}

fn likeliest(probabilities: &[f64]) -> Option<usize> {
    probabilities.iter().enumerate().max_by(|one, other| one.1.total_cmp(other.1)).map(|(token, _)| token)
}

#[cfg(test)]
impl Generator {
    /// The logits after each token of a prompt, each computed from all tokens before it at once.
    pub(crate) fn logits_after_each_token(&self, prompt: &str) -> Vec<Vec<f32>> {
        let tokens = self.tokenizer.tokens(prompt).expect("tokens");
        let mut workshop = Workshop::new(self.machine).expect("threads");
        let after = |length: usize| {
            let mut cache = Cache::new(&self.decoder.config, length);
            let part = Part { tokens: &tokens[..length], cache: &mut cache, wants_logits: true };
            self.decoder.forward(&mut [part], &mut workshop).expect("computes").remove(0)
        };
        (1..=tokens.len()).map(after).collect()
    }
}
