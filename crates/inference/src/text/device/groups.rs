//! Which texts of a batch a device computes together: as many as its memory holds, of similar lengths, because they are padded to
//! the longest of them.

use std::cmp::Reverse;

use crate::{device::Fault, transformer::Shape};

/// Bytes of an encoder's states between two steps, as tensors need them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Footprint {
    /// For each token.
    token: u64,
    /// For each pair of tokens of one text.
    pair: u64,
}

/// How much memory a group may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    now: u64,
    most: u64,
}

impl Footprint {
    /// Of layers of this shape that keep so many numbers for each pair of tokens, counted so that it is rather too much: a step's operands and result, and what
    /// waits for later steps. Attention keeps hidden states, queries, keys and values in two orders, scaled queries, contexts in two orders;
    /// scores before and after each step, and their bias, of which there is one for all texts. The dense parts keep hidden states,
    /// and what is between before and after the bias and the activation.
    pub(super) fn new(shape: &Shape, scores: usize, bytes: usize) -> Self {
        Self { token: ((11 * shape.width + 3 * shape.between) * bytes) as u64, pair: (scores * bytes) as u64 }
    }

    /// So many texts, padded to this length.
    pub(super) fn of(self, texts: usize, length: usize) -> u64 {
        let (texts, length) = (texts as u64, length as u64);
        let of_one = self.token.saturating_add(self.pair.saturating_mul(length)).saturating_mul(length);
        of_one.saturating_mul(texts)
    }

    /// How many tokens fit, in texts of this length.
    pub(super) fn tokens_in(self, bytes: u64, length: usize) -> usize {
        usize::try_from(bytes / self.of(1, length).max(1)).unwrap_or(usize::MAX).saturating_mul(length)
    }
}

impl Budget {
    /// At most so many bytes.
    pub(super) fn new(most: u64) -> Self {
        Self { now: most, most }
    }

    /// How many of these texts, the longest first, make the next group: at least one, and none less than half as long as the
    /// first, so that less than half of what is computed is padding.
    fn take(&self, footprint: Footprint, lengths: impl Iterator<Item = usize> + Clone) -> usize {
        let longest = lengths.clone().next().unwrap_or_default();
        let similar = lengths.take_while(|length| length * 2 >= longest).count();
        let fitting = usize::try_from(self.now / footprint.of(1, longest).max(1)).unwrap_or(usize::MAX);
        similar.min(fitting).max(1)
    }

    /// After a group that was too much: half of it may be tried.
    fn shrink(&mut self, too_much: u64) {
        self.now = too_much / 2;
    }

    /// After one that was not: memory that others held may be free again, and is tried for little by little.
    fn grow(&mut self) {
        self.now = self.most.min(self.now.saturating_add(self.now / 64 + 1));
    }
}

/// What `forward` gives for each text of a batch, in order: of groups of texts, which it is told by their places. A group for which
/// memory is too little is tried again in halves. `None` when `forward` stopped before its end.
///
/// # Errors
/// When memory is too little for one text alone, and when the device fails otherwise.
pub(super) fn in_groups<T>(
    lengths: &[usize],
    footprint: Footprint,
    budget: &mut Budget,
    mut forward: impl FnMut(&[usize]) -> Result<Option<Vec<T>>, Fault>,
) -> Result<Option<Vec<T>>, Fault> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|text| Reverse(lengths[*text]));
    let mut results: Vec<Option<T>> = lengths.iter().map(|_| None).collect();
    let mut rest = order.as_slice();
    while let Some(first) = rest.first() {
        let (group, others) = rest.split_at(budget.take(footprint, rest.iter().map(|text| lengths[*text])));
        match forward(group) {
            Ok(Some(found)) => {
                group.iter().zip(found).for_each(|(text, result)| results[*text] = Some(result));
                budget.grow();
                rest = others;
            }
            Ok(None) => return Ok(None),
            Err(Fault::OutOfMemory(error)) if group.len() > 1 => {
                tracing::warn!(texts = group.len(), longest = lengths[*first], %error, "too much for the device; half is tried");
                budget.shrink(footprint.of(group.len(), lengths[*first]));
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(results.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use candle_core::Error;
    use kernels::Activation;

    use super::*;
    use crate::transformer::Order;

    const FOOTPRINT: Footprint = Footprint { token: 10, pair: 0 };

    /// Each text's length as its result, in groups that `fits` the memory; and what groups were tried.
    fn run(
        lengths: &[usize],
        budget: &mut Budget,
        fits: impl Fn(&[usize]) -> bool,
    ) -> (Result<Option<Vec<usize>>, Fault>, Vec<usize>) {
        let mut tried = Vec::new();
        let results = in_groups(lengths, FOOTPRINT, budget, |group| {
            tried.push(group.len());
            if fits(group) {
                Ok(Some(group.iter().map(|text| lengths[*text]).collect()))
            } else {
                Err(Fault::OutOfMemory(Error::Msg("no memory".into())))
            }
        });
        (results, tried)
    }

    #[test]
    fn results_are_in_order_and_groups_hold_similar_texts() {
        let lengths = [3, 40, 5, 20, 19, 39, 2];
        let (results, tried) = run(&lengths, &mut Budget::new(u64::MAX), |_| true);
        assert_eq!(results.expect("runs"), Some(lengths.to_vec()));
        assert_eq!(tried, [3, 1, 2, 1], "40 39 20, 19, 5 3, 2");
        let (results, tried) = run(&[], &mut Budget::new(0), |_| true);
        assert_eq!((results.expect("runs"), tried), (Some(Vec::new()), Vec::new()));
    }

    #[test]
    fn groups_fit_the_budget_but_one_text_always_runs() {
        let (results, tried) = run(&[8; 10], &mut Budget::new(8 * 10 * 4), |_| true);
        assert_eq!((results.expect("runs"), tried), (Some(vec![8; 10]), vec![4, 4, 2]));
        let (results, tried) = run(&[8; 3], &mut Budget::new(1), |_| true);
        assert_eq!((results.expect("runs"), tried), (Some(vec![8; 3]), vec![1, 1, 1]));
    }

    #[test]
    fn what_is_too_much_is_halved_and_no_text_is_lost() {
        let mut budget = Budget::new(1_000_000);
        let lengths: Vec<usize> = (0..100).map(|index| 50 + index % 50).collect();
        let (results, tried) = run(&lengths, &mut budget, |group| group.len() <= 7);
        assert_eq!(results.expect("runs"), Some(lengths));
        assert_eq!(tried[..5], [100, 50, 25, 12, 6], "halves until it fits");
        assert!(tried[5..].iter().filter(|texts| **texts > 7).count() <= 2, "and what fits is remembered: {tried:?}");
    }

    #[test]
    fn memory_that_is_free_again_is_used_again() {
        let mut budget = Budget::new(1000);
        budget.shrink(1000);
        assert_eq!(budget, Budget { now: 500, most: 1000 });
        (0..100).for_each(|_| budget.grow());
        assert_eq!(budget, Budget::new(1000));
    }

    #[test]
    fn one_text_that_is_too_much_is_a_fault_and_so_is_any_other_error() {
        let (results, tried) = run(&[9; 4], &mut Budget::new(u64::MAX), |_| false);
        assert!(matches!(results, Err(Fault::OutOfMemory(_))) && tried == [4, 2, 1], "{tried:?}");
        let other = |_: &[usize]| Err::<Option<Vec<()>>, _>(Fault::Other(Error::Msg("broken".into())));
        assert!(matches!(in_groups(&[1; 4], FOOTPRINT, &mut Budget::new(u64::MAX), other), Err(Fault::Other(_))));
    }

    #[test]
    fn a_stop_ends_all() {
        let stopped = in_groups(&[1; 4], FOOTPRINT, &mut Budget::new(10), |_| Ok(None::<Vec<()>>));
        assert!(stopped.expect("no fault").is_none());
    }

    #[test]
    fn memory_is_counted_by_the_layers_shape() {
        let order = Order::NormLast;
        let shape = Shape { order, width: 384, between: 1536, head_width: 32, activation: Activation::GeluErf };
        let footprint = Footprint::new(&shape, 36, 4);
        assert_eq!(footprint.of(2, 256), 2 * 256 * 4 * (11 * 384 + 3 * 1536 + 3 * 12 * 256));
        let pruned = Footprint::new(&shape, 24, 4);
        assert_eq!(footprint.of(1, 256) - pruned.of(1, 256), 256 * 4 * 3 * 4 * 256, "scores of four heads");
        assert_eq!(footprint.tokens_in(footprint.of(7, 256) + 1, 256), 7 * 256);
        assert_eq!(footprint.of(usize::MAX, usize::MAX), u64::MAX, "nothing wraps around");
    }
}
