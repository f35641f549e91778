//! Which items of a batch are computed together, and by whom: texts, or images as sequences of patches.

use std::cmp::Reverse;

/// Tokens that pass through all layers together: enough that reading the weights for them is little work, so few that what
/// is between two steps stays in the second-level cache of a core.
const TOKENS: usize = 256;

/// How many hundredths longer a batch may take when texts are dealt to threads, whose last ones then wait for each other,
/// than if threads shared every step, for which they wait for each other between all of them.
const SLACK: usize = 115;

/// Texts, by their places in the batch, in groups that are computed together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Deal {
    /// Each group by one thread.
    Apart(Vec<Vec<usize>>),
    /// Each group by all threads, one group after the other.
    Together(Vec<Vec<usize>>),
}

/// Deals texts of so many tokens to so many threads.
pub(crate) fn deal(lengths: &[usize], threads: usize) -> Deal {
    let all: usize = lengths.iter().sum();
    let wanted = all.div_ceil(TOKENS).next_multiple_of(threads);
    let apart = groups(lengths, wanted);
    // The longest first, each to the thread that is free first.
    let mut busy = vec![0; threads];
    for group in &apart {
        let free = busy.iter_mut().min().expect("at least one thread");
        *free += tokens(lengths, group);
    }
    let last = busy.into_iter().max().expect("at least one thread");
    if last * 100 <= all.div_ceil(threads) * SLACK {
        return Deal::Apart(apart);
    }
    Deal::Together(groups(lengths, all.div_ceil(TOKENS * threads)))
}

/// So many groups of about as many tokens each, or fewer if there are not so many texts; the longest first.
fn groups(lengths: &[usize], count: usize) -> Vec<Vec<usize>> {
    let mut texts: Vec<usize> = (0..lengths.len()).collect();
    texts.sort_by_key(|text| Reverse(lengths[*text]));
    let mut groups = vec![(0, Vec::new()); count.min(texts.len())];
    for text in texts {
        if let Some((tokens, group)) = groups.iter_mut().min_by_key(|(tokens, _)| *tokens) {
            *tokens += lengths[text];
            group.push(text);
        }
    }
    groups.sort_by_key(|(tokens, _)| Reverse(*tokens));
    groups.into_iter().map(|(_, group)| group).collect()
}

fn tokens(lengths: &[usize], group: &[usize]) -> usize {
    group.iter().map(|text| lengths[*text]).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_divides_well_is_dealt() {
        assert_eq!(deal(&[16; 4], 2), Deal::Apart(vec![vec![0, 2], vec![1, 3]]));
        assert_eq!(deal(&[10, 70, 60], 2), Deal::Apart(vec![vec![1], vec![2, 0]]));
        assert_eq!(deal(&[7, 9], 1), Deal::Apart(vec![vec![1, 0]]));
    }

    #[test]
    fn threads_share_what_does_not_divide() {
        assert_eq!(deal(&[16], 2), Deal::Together(vec![vec![0]]));
        assert_eq!(deal(&[64; 3], 2), Deal::Together(vec![vec![0, 1, 2]]));
        assert_eq!(deal(&[8, 256, 8], 4), Deal::Together(vec![vec![1, 0, 2]]));
    }

    #[test]
    fn groups_are_no_longer_than_fits_a_cache() {
        for (count, length) in [(32, 64), (32, 256), (100, 30), (3, 2000)] {
            for threads in [1, 2, 3, 16] {
                let lengths = vec![length; count];
                let (groups, most) = match deal(&lengths, threads) {
                    Deal::Apart(groups) => (groups, TOKENS),
                    Deal::Together(groups) => (groups, TOKENS * threads),
                };
                let mut texts = groups.concat();
                texts.sort_unstable();
                assert!(texts.into_iter().eq(0..count), "each text once");
                for group in groups {
                    // One text more than divides is the least that goes beyond.
                    assert!(tokens(&lengths, &group) < most + length, "{count} × {length}, {threads}: {group:?}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_dealt_as_nothing() {
        assert_eq!(deal(&[], 2), Deal::Apart(Vec::new()));
    }
}
