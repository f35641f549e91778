//! Which items of a batch are computed together, and by whom: texts, or images as sequences of patches.

use std::{cmp::Reverse, iter};

/// Tokens that pass through all layers together: enough that reading the weights for them is little work, so few that what
/// is between two steps stays in the second-level cache of a core.
const TOKENS: usize = 256;

/// How many times as long a batch may take when texts are dealt to threads, whose last ones then wait for each other,
/// than if threads shared every step, for which they wait for each other between all of them.
const SLACK: f32 = 1.15;

/// Texts, by their places in the batch, in groups that are computed together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Deal {
    /// Each group by one thread: for each of them those that are meant for it, the longest first.
    Apart(Vec<Vec<Vec<usize>>>),
    /// Each group by all threads, one group after the other.
    Together(Vec<Vec<usize>>),
}

/// Deals texts of so many tokens to threads of which each does this share of all in the same time.
pub(crate) fn deal(lengths: &[usize], shares: &[f32]) -> Deal {
    let all: usize = lengths.iter().sum();
    // Of each thread as many groups of equal weight as its share of all needs.
    let count = |share: &f32| ((all as f32 * share).round() as usize).div_ceil(TOKENS).max(1);
    let weights = |share: &f32| iter::repeat_n(share / count(share) as f32, count(share));
    let mut groups = groups(lengths, &shares.iter().flat_map(weights).collect::<Vec<_>>()).into_iter();
    let own = |share: &f32| {
        let mut own: Vec<_> = groups.by_ref().take(count(share)).filter(|group| !group.is_empty()).collect();
        own.sort_by_key(|group| Reverse(tokens(lengths, group)));
        own
    };
    let apart: Vec<Vec<_>> = shares.iter().map(own).collect();
    let all_of = |own: &Vec<Vec<usize>>| own.iter().map(|group| tokens(lengths, group)).sum::<usize>();
    if apart.iter().zip(shares).all(|(own, share)| all_of(own) as f32 <= all as f32 * share * SLACK) {
        return Deal::Apart(apart);
    }
    let mut together = self::groups(lengths, &vec![1.0; all.div_ceil(TOKENS * shares.len())]);
    together.retain(|group| !group.is_empty());
    Deal::Together(together)
}

/// Texts in groups of about as many tokens each as weights say.
fn groups(lengths: &[usize], weights: &[f32]) -> Vec<Vec<usize>> {
    let mut texts: Vec<usize> = (0..lengths.len()).collect();
    texts.sort_by_key(|text| Reverse(lengths[*text]));
    let mut groups = vec![(0, Vec::new()); weights.len()];
    for text in texts {
        let fullness = |((tokens, _), weight): &(&mut (usize, _), &f32)| (*tokens + lengths[text]) as f32 / **weight;
        let emptiest = groups.iter_mut().zip(weights).min_by(|one, other| fullness(one).total_cmp(&fullness(other)));
        if let Some(((tokens, group), _)) = emptiest {
            *tokens += lengths[text];
            group.push(text);
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

fn tokens(lengths: &[usize], group: &[usize]) -> usize {
    group.iter().map(|text| lengths[*text]).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [f32; 2] = [0.5; 2];

    #[test]
    fn a_batch_that_divides_well_is_dealt() {
        assert_eq!(deal(&[16; 4], &BOTH), Deal::Apart(vec![vec![vec![0, 2]], vec![vec![1, 3]]]));
        assert_eq!(deal(&[10, 70, 60], &BOTH), Deal::Apart(vec![vec![vec![1]], vec![vec![2, 0]]]));
        assert_eq!(deal(&[7, 9], &[1.0]), Deal::Apart(vec![vec![vec![1, 0]]]));
    }

    #[test]
    fn threads_share_what_does_not_divide() {
        assert_eq!(deal(&[16], &BOTH), Deal::Together(vec![vec![0]]));
        assert_eq!(deal(&[64; 3], &BOTH), Deal::Together(vec![vec![0, 1, 2]]));
        assert_eq!(deal(&[8, 256, 8], &[0.25; 4]), Deal::Together(vec![vec![1, 0, 2]]));
        assert_eq!(deal(&[64; 2], &[0.7, 0.3]), Deal::Together(vec![vec![0, 1]]));
    }

    #[test]
    fn a_faster_thread_gets_more() {
        let Deal::Apart(portions) = deal(&[64; 8], &[0.7, 0.3]) else { panic!("eight texts divide well") };
        assert_eq!(portions.iter().map(|own| own.concat().len()).collect::<Vec<_>>(), [6, 2]);
        assert_eq!(portions.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1], "groups still fit a cache");
    }

    #[test]
    fn groups_are_no_longer_than_fits_a_cache() {
        for (count, length) in [(32, 64), (32, 256), (100, 30), (3, 2000)] {
            for shares in [vec![1.0], vec![0.5; 2], vec![1.0 / 3.0; 3], vec![1.0 / 16.0; 16], vec![0.3, 0.5, 0.2]] {
                let lengths = vec![length; count];
                let (groups, most) = match deal(&lengths, &shares) {
                    Deal::Apart(portions) => (portions.concat(), TOKENS),
                    Deal::Together(groups) => (groups, TOKENS * shares.len()),
                };
                let mut texts = groups.concat();
                texts.sort_unstable();
                assert!(texts.into_iter().eq(0..count), "each text once");
                for group in groups {
                    // One text more than divides is the least that goes beyond.
                    assert!(tokens(&lengths, &group) < most + length, "{count} × {length}, {shares:?}: {group:?}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_dealt_as_nothing() {
        assert_eq!(deal(&[], &BOTH), Deal::Apart(vec![Vec::new(); 2]));
    }
}
