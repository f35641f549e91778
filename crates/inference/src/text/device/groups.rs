//! Which texts of a batch a card computes together: as many as its memory holds.

use std::ops::Range;

use kernels::{CardError, Precision};

use crate::transformer::Shape;

/// The most tokens of a group, and numbers of its widest rows: so few that no step has 2³¹ numbers or blocks, whatever the lengths of texts.
const MOST_TOKENS: usize = 1 << 19;
const MOST_NUMBERS: usize = i32::MAX as usize;

/// Bytes of an encoder's states between two steps for each token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Footprint(u64);

/// How much memory a group may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    now: u64,
    most: u64,
}

/// The most tokens of a group that layers of this shape are computed with.
pub(super) fn most_tokens(shape: &Shape) -> usize {
    MOST_TOKENS.min(MOST_NUMBERS / widest(shape))
}

/// Columns of the widest rows: queries, keys and values or what is between the dense parts.
fn widest(shape: &Shape) -> usize {
    shape.between.max(3 * shape.width)
}

impl Footprint {
    /// Of layers of this shape: hidden states, what heads gather and a sum, queries, keys and values or what is between the dense parts;
    /// what a model's head makes of them, in f32; and four indices.
    pub(super) fn new(shape: &Shape, precision: Precision) -> Self {
        let bytes = if precision == Precision::Bf16 { 2 } else { 4 };
        Self((bytes * (3 * shape.width + widest(shape)) + 4 * (2 * shape.width + 4)) as u64)
    }

    /// Bytes of so many tokens.
    pub(super) fn of(self, tokens: usize) -> u64 {
        self.0.saturating_mul(tokens as u64)
    }

    /// How many tokens fit.
    pub(super) fn tokens_in(self, bytes: u64) -> usize {
        usize::try_from(bytes / self.0).unwrap_or(usize::MAX)
    }
}

impl Budget {
    /// At most so many bytes.
    pub(super) fn new(most: u64) -> Self {
        Self { now: most, most }
    }

    /// How many of these texts make the next group: at least one.
    fn take(&self, footprint: Footprint, lengths: &[usize]) -> usize {
        let all = lengths.iter().scan(0, |tokens: &mut usize, length| {
            *tokens = tokens.saturating_add(*length);
            Some(*tokens)
        });
        all.take_while(|tokens| footprint.of(*tokens) <= self.now).count().max(1)
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
/// When memory is too little for one text alone, and when the card fails otherwise.
pub(super) fn in_groups<T>(
    lengths: &[usize],
    footprint: Footprint,
    budget: &mut Budget,
    mut forward: impl FnMut(Range<usize>) -> Result<Option<Vec<T>>, CardError>,
) -> Result<Option<Vec<T>>, CardError> {
    let mut results = Vec::with_capacity(lengths.len());
    while results.len() < lengths.len() {
        let begin = results.len();
        let count = budget.take(footprint, &lengths[begin..]);
        match forward(begin..begin + count) {
            Ok(Some(found)) => {
                results.extend(found);
                budget.grow();
            }
            Ok(None) => return Ok(None),
            Err(error) if error.is_out_of_memory && count > 1 => {
                let tokens = lengths[begin..begin + count].iter().sum();
                tracing::warn!(texts = count, tokens, %error, "too much for the device; half is tried");
                budget.shrink(footprint.of(tokens));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some(results))
}

#[cfg(test)]
mod tests {
    use kernels::Activation;

    use super::*;
    use crate::transformer::Order;

    const FOOTPRINT: Footprint = Footprint(10);

    fn fault(is_out_of_memory: bool) -> CardError {
        CardError { is_out_of_memory, reason: "a fault".into() }
    }

    /// Each text's length as its result, in groups that `fits` the memory; and what groups were tried.
    fn run(
        lengths: &[usize],
        budget: &mut Budget,
        fits: impl Fn(usize) -> bool,
    ) -> (Result<Option<Vec<usize>>, CardError>, Vec<usize>) {
        let mut tried = Vec::new();
        let results = in_groups(lengths, FOOTPRINT, budget, |group| {
            tried.push(group.len());
            if fits(group.len()) { Ok(Some(group.map(|text| lengths[text]).collect())) } else { Err(fault(true)) }
        });
        (results, tried)
    }

    #[test]
    fn results_are_in_order_and_groups_are_as_large_as_fits() {
        let lengths = [3, 40, 5, 20, 19, 39, 2];
        let (results, tried) = run(&lengths, &mut Budget::new(u64::MAX), |_| true);
        assert_eq!((results.expect("runs"), tried), (Some(lengths.to_vec()), vec![7]));
        let (results, tried) = run(&lengths, &mut Budget::new(480), |_| true);
        assert_eq!((results.expect("runs"), tried), (Some(lengths.to_vec()), vec![3, 2, 2]));
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
        let (results, tried) = run(&lengths, &mut budget, |texts| texts <= 7);
        assert_eq!(results.expect("runs"), Some(lengths));
        assert_eq!(tried[..5], [100, 50, 29, 16, 8], "halves of their tokens until it fits");
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
        assert!(results.is_err_and(|error| error.is_out_of_memory) && tried == [4, 2, 1], "{tried:?}");
        let other = |_: Range<usize>| Err::<Option<Vec<()>>, _>(fault(false));
        let result = in_groups(&[1; 4], FOOTPRINT, &mut Budget::new(u64::MAX), other);
        assert!(result.is_err_and(|error| !error.is_out_of_memory));
    }

    #[test]
    fn a_stop_ends_all() {
        let stopped = in_groups(&[1; 4], FOOTPRINT, &mut Budget::new(10), |_| Ok(None::<Vec<()>>));
        assert!(stopped.expect("no fault").is_none());
    }

    fn shape(width: usize, between: usize) -> Shape {
        Shape { order: Order::NormLast, width, between, head_width: 32, activation: Activation::GeluErf }
    }

    #[test]
    fn no_group_has_more_numbers_than_31_bits_count() {
        assert_eq!(most_tokens(&shape(384, 1536)), 1 << 19);
        for (width, between) in [(1024, 4096), (4096, 4096), (2560, 10_240)] {
            let most = most_tokens(&shape(width, between));
            let numbers = most * between.max(3 * width);
            assert!(numbers < 1 << 31 && numbers > (1 << 31) - (1 << 15), "{most} tokens of {width} and {between}");
        }
    }

    #[test]
    fn memory_is_counted_by_the_layers_shape() {
        let shape = shape(384, 1536);
        let [exact, half] = [Precision::F32, Precision::Bf16].map(|precision| Footprint::new(&shape, precision));
        assert_eq!(exact.of(10), 10 * (4 * (3 * 384 + 1536) + 4 * (2 * 384 + 4)));
        assert_eq!(exact.of(1) - half.of(1), 2 * (3 * 384 + 1536));
        assert_eq!(exact.tokens_in(exact.of(7) + 1), 7);
        assert_eq!(exact.of(usize::MAX), u64::MAX, "nothing wraps around");
    }
}
