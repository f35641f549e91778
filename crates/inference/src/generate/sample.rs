//! Choosing the next token: a pure function of the logits, what was asked for, and one random number.

use std::cmp::Ordering;

/// How the next token is chosen. As in transformers: logits are divided by the temperature, then all but the `top_k` likeliest
/// tokens are left out, then all but the fewest of these whose probabilities add up to `top_p`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sampling {
    /// 0 takes the likeliest token, always.
    pub(super) temperature: f32,
    pub(super) top_p: f32,
    /// 0 leaves none out.
    pub(super) top_k: usize,
}

/// How many of the likeliest are sorted at first, to find which reach `top_p`.
const SORTED_FIRST: usize = 64;
/// By how much more are sorted each time that those did not.
const SORTED_FURTHER: usize = 4;

/// A token and its logit, or its share of the probability.
type Weighed = (u32, f32);

/// The token that a random number from 0 to 1 (exclusive) falls on; of equally likely ones the lower comes first. `None` where the
/// logits are no distribution: one is NaN or +∞, or all are -∞.
pub(super) fn choose(logits: &[f32], sampling: Sampling, random: f64) -> Option<u32> {
    let best = likeliest(logits)?;
    if sampling.temperature == 0.0 || sampling.top_k == 1 {
        return Some(best.0);
    }
    // e^x of what is left when the highest is 0: the likeliest weighs 1, whatever the temperature.
    let weigh = |(token, logit): (u32, f32)| (token, ((logit - best.1) / sampling.temperature).exp());
    let mut weighed: Vec<Weighed> = (0..).zip(logits.iter().copied()).map(weigh).collect();
    if (1..weighed.len()).contains(&sampling.top_k) {
        let last = *weighed.clone().select_nth_unstable_by(sampling.top_k - 1, likelier).1;
        keep_up_to(&mut weighed, last);
    }
    if sampling.top_p < 1.0
        && let Some(last) = last_of_nucleus(&weighed, f64::from(sampling.top_p))
    {
        keep_up_to(&mut weighed, last);
    }
    let mut left = random * sum(&weighed);
    let chosen = weighed.iter().find(|(_, weight)| {
        left -= f64::from(*weight);
        left < 0.0
    });
    // Rounding may leave a little at the end.
    Some(chosen.map_or(best.0, |(token, _)| *token))
}

fn likeliest(logits: &[f32]) -> Option<Weighed> {
    let is_number = |logit: &f32| !logit.is_nan() && *logit < f32::INFINITY;
    if !logits.iter().all(is_number) {
        return None;
    }
    let best = (0..).zip(logits.iter().copied()).min_by(likelier)?;
    (best.1 > f32::NEG_INFINITY).then_some(best)
}

/// Leaves those that are as likely as the last one that is kept, or likelier, in their order.
fn keep_up_to(weighed: &mut Vec<Weighed>, last: Weighed) {
    weighed.retain(|one| likelier(one, &last).is_le());
}

/// The least likely of the fewest of the likeliest tokens whose weights are at least this share of all; there is one at least.
fn last_of_nucleus(weighed: &[Weighed], share: f64) -> Option<Weighed> {
    let all = sum(weighed);
    // Even together, tokens below this do not reach what may be left out, so that the rest need not be sorted with them.
    let least = all * (1.0 - share) / weighed.len() as f64;
    let mut likely: Vec<Weighed> = weighed.iter().copied().filter(|(_, weight)| f64::from(*weight) >= least).collect();
    if likely.is_empty() {
        likely = weighed.to_vec();
    }
    // Sorted a part at a time: mostly the first few reach it.
    let (mut rest, mut together) = (likely.as_mut_slice(), SORTED_FIRST);
    let (mut reached, mut last) = (0.0, None);
    while !rest.is_empty() {
        let count = together.min(rest.len());
        if count < rest.len() {
            rest.select_nth_unstable_by(count - 1, likelier);
        }
        let (next, after) = rest.split_at_mut(count);
        next.sort_unstable_by(likelier);
        for one in next {
            if last.is_some() && reached >= share * all {
                return last;
            }
            reached += f64::from(one.1);
            last = Some(*one);
        }
        (rest, together) = (after, together * SORTED_FURTHER);
    }
    last
}

fn sum(weighed: &[Weighed]) -> f64 {
    weighed.iter().map(|(_, weight)| f64::from(*weight)).sum()
}

/// The likelier first, then the lower token.
fn likelier(one: &Weighed, other: &Weighed) -> Ordering {
    other.1.total_cmp(&one.1).then(one.0.cmp(&other.0))
}

/// Random numbers that are the same for the same seed, on every machine: SplitMix64 (Steele, Lea and Flood 2014,
/// <https://doi.org/10.1145/2660193.2660195>).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number from 0 to 1, exclusive, of 53 bits.
    pub(super) fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0 };
    /// Probabilities 0.5, 0.25, 0.125, 0.125, not in that order.
    const SHARES: [f32; 4] = [0.125, 0.5, 0.125, 0.25];

    fn logits() -> Vec<f32> {
        SHARES.iter().map(|share| share.ln() + 3.0).collect()
    }

    /// The share of each token, by going through random numbers evenly.
    fn shares(logits: &[f32], sampling: Sampling) -> Vec<f64> {
        let steps = 4096;
        let mut shares = vec![0.0; logits.len()];
        for step in 0..steps {
            let random = (f64::from(step) + 0.5) / f64::from(steps);
            shares[choose(logits, sampling, random).expect("a token") as usize] += 1.0 / f64::from(steps);
        }
        shares
    }

    #[track_caller]
    fn are_close(ours: &[f64], theirs: &[f64]) {
        assert!(ours.iter().zip(theirs).all(|(x, y)| (x - y).abs() < 1e-3), "{ours:?} is not {theirs:?}");
    }

    #[test]
    fn shares_are_those_of_softmax() {
        are_close(&shares(&logits(), ALL), &[0.125, 0.5, 0.125, 0.25]);
        // Squares of the shares at half the temperature.
        let half = Sampling { temperature: 0.5, ..ALL };
        are_close(&shares(&logits(), half), &[0.0455, 0.7273, 0.0455, 0.1818]);
    }

    #[test]
    fn the_likeliest_is_taken_without_temperature() {
        for random in [0.0, 0.5, 0.999_999] {
            assert_eq!(choose(&logits(), Sampling { temperature: 0.0, ..ALL }, random), Some(1));
            assert_eq!(choose(&logits(), Sampling { top_k: 1, ..ALL }, random), Some(1));
            assert_eq!(choose(&logits(), Sampling { top_p: 0.0, ..ALL }, random), Some(1));
            assert_eq!(choose(&logits(), Sampling { temperature: 1e-30, ..ALL }, random), Some(1));
        }
    }

    #[test]
    fn top_k_leaves_out_all_but_the_likeliest() {
        are_close(&shares(&logits(), Sampling { top_k: 2, ..ALL }), &[0.0, 2.0 / 3.0, 0.0, 1.0 / 3.0]);
        // Of the two that are as likely, the lower.
        are_close(&shares(&logits(), Sampling { top_k: 3, ..ALL }), &[1.0 / 7.0, 4.0 / 7.0, 0.0, 2.0 / 7.0]);
        for top_k in [4, 5, usize::MAX] {
            are_close(&shares(&logits(), Sampling { top_k, ..ALL }), &[0.125, 0.5, 0.125, 0.25]);
        }
    }

    #[test]
    fn top_p_keeps_the_fewest_that_reach_it() {
        for (top_p, kept) in [
            (0.4, [0.0, 1.0, 0.0, 0.0]),
            (0.5, [0.0, 1.0, 0.0, 0.0]),
            (0.51, [0.0, 2.0 / 3.0, 0.0, 1.0 / 3.0]),
            (0.8, [1.0 / 7.0, 4.0 / 7.0, 0.0, 2.0 / 7.0]),
            (0.999, [0.125, 0.5, 0.125, 0.25]),
            (1.0, [0.125, 0.5, 0.125, 0.25]),
        ] {
            // ln and exp of these shares round by 1e-7, which the borders must bear.
            let top_p = top_p - 1e-6;
            are_close(&shares(&logits(), Sampling { top_p, ..ALL }), &kept);
        }
        // The share is of what top_k left.
        are_close(&shares(&logits(), Sampling { top_k: 2, top_p: 0.6, ..ALL }), &[0.0, 1.0, 0.0, 0.0]);
    }

    /// As the rule says, by sorting everything.
    fn by_sorting(logits: &[f32], sampling: Sampling, random: f64) -> u32 {
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: &f32| ((logit - best) / sampling.temperature).exp();
        let mut sorted: Vec<Weighed> = (0..).zip(logits.iter().map(weight)).collect();
        sorted.sort_by(likelier);
        sorted.truncate(if sampling.top_k == 0 { usize::MAX } else { sampling.top_k });
        let of_token = |(token, _): &Weighed| *token;
        let mut in_order = sorted.clone();
        in_order.sort_by_key(of_token);
        let (share, mut reached, mut kept) = (f64::from(sampling.top_p) * sum(&in_order), 0.0, 0);
        while kept < sorted.len() && (kept == 0 || reached < share || sampling.top_p == 1.0) {
            reached += f64::from(sorted[kept].1);
            kept += 1;
        }
        sorted.truncate(kept);
        sorted.sort_by_key(of_token);
        let mut left = random * sum(&sorted);
        let falls = |(_, weight): &&Weighed| {
            left -= f64::from(*weight);
            left < 0.0
        };
        sorted.iter().find(falls).expect("a token").0
    }

    #[test]
    fn selecting_gives_what_sorting_does() {
        let mut random = Random::new(9);
        for round in 0..300 {
            // Flat, with many that are equal, and steep.
            let (spread, grain) = ([0.01, 1.0, 12.0][round % 3], [0.0, 0.25][round / 3 % 2]);
            let logit = |random: &mut Random| {
                let logit = (random.next() * spread) as f32;
                if grain > 0.0 { (logit / grain).round() * grain } else { logit }
            };
            let logits: Vec<f32> = (0..1000).map(|_| logit(&mut random)).collect();
            let top_k = [0, 1, 7, 900][(random.next() * 4.0) as usize];
            let sampling = Sampling { temperature: 0.7, top_p: random.next() as f32, top_k };
            for _ in 0..5 {
                let number = random.next();
                assert_eq!(
                    choose(&logits, sampling, number),
                    Some(by_sorting(&logits, sampling, number)),
                    "{sampling:?}"
                );
            }
        }
    }

    #[test]
    fn the_nucleus_is_as_sorting_all_would_find_it() {
        let mut random = Random::new(5);
        for _ in 0..200 {
            let logits: Vec<f32> = (0..50).map(|_| (random.next() * 8.0) as f32).collect();
            let top_p = random.next() as f32;
            let mut sorted: Vec<Weighed> = (0..).zip(logits.iter().map(|logit| logit.exp())).collect();
            sorted.sort_by(likelier);
            let (all, mut reached, mut nucleus) = (sum(&sorted), 0.0, Vec::new());
            for (token, weight) in sorted {
                if reached < f64::from(top_p) * all || nucleus.is_empty() {
                    nucleus.push(token);
                }
                reached += f64::from(weight);
            }
            for _ in 0..20 {
                let token = choose(&logits, Sampling { top_p, ..ALL }, random.next()).expect("a token");
                assert!(nucleus.contains(&token), "{token} is not in {nucleus:?}");
            }
        }
    }

    #[test]
    fn equals_are_taken_by_their_order() {
        let equal = vec![2.0; 5];
        assert_eq!(choose(&equal, Sampling { temperature: 0.0, ..ALL }, 0.9), Some(0));
        are_close(&shares(&equal, ALL), &[0.2; 5]);
        are_close(&shares(&equal, Sampling { top_k: 2, ..ALL }), &[0.5, 0.5, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn what_is_no_distribution_gives_no_token() {
        let (nan, infinite) = (f32::NAN, f32::INFINITY);
        for logits in [vec![], vec![1.0, nan], vec![nan; 2], vec![infinite, 0.0], vec![-infinite; 3]] {
            for sampling in [ALL, Sampling { temperature: 0.0, ..ALL }, Sampling { top_p: 0.5, top_k: 2, ..ALL }] {
                assert_eq!(choose(&logits, sampling, 0.5), None, "{logits:?}");
            }
        }
        assert_eq!(choose(&[-infinite, 1.0, -infinite], ALL, 0.999), Some(1));
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let numbers = |seed| {
            let mut random = Random::new(seed);
            [random.next(), random.next()]
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
        // The first output for seed 1234567 is 6457827717110365317, as published implementations have it.
        assert_eq!(Random::new(1_234_567).next(), (6_457_827_717_110_365_317_u64 >> 11) as f64 / (1_u64 << 53) as f64);
    }
}
