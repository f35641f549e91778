//! What becomes of measured numbers: percentiles of one run, medians of several.

use std::collections::BTreeMap;

/// What was measured in one run: numbers by their names, which say the unit.
pub(crate) type Numbers = BTreeMap<String, f64>;

/// The value below or at which this share of all values lies (nearest rank).
pub(crate) fn percentile(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let rank = (share * values.len() as f64).ceil() as usize;
    values[rank.clamp(1, values.len()) - 1]
}

/// The median of each number over all runs, to three decimal places.
pub(crate) fn medians(runs: &[Numbers]) -> Numbers {
    of_each(runs, |values| percentile(values, 0.5))
}

/// The least of each number over all runs, to three decimal places.
pub(crate) fn least(runs: &[Numbers]) -> Numbers {
    of_each(runs, |values| percentile(values, 0.0))
}

/// The greatest of each number over all runs, to three decimal places.
pub(crate) fn most(runs: &[Numbers]) -> Numbers {
    of_each(runs, |values| percentile(values, 1.0))
}

fn of_each(runs: &[Numbers], choose: fn(&[f64]) -> f64) -> Numbers {
    let names = runs.first().into_iter().flat_map(|run| run.keys());
    let chosen = |name: &String| {
        let values: Vec<f64> = runs.iter().filter_map(|run| run.get(name).copied()).collect();
        (choose(&values) * 1000.0).round() / 1000.0
    };
    names.map(|name| (name.clone(), chosen(name))).collect()
}

/// A count as a number to calculate with.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn number(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_each_number_by_itself() {
        let run = |a: f64, b: f64| Numbers::from([("a".to_owned(), a), ("b".to_owned(), b)]);
        let runs = [run(3.0, 1.0), run(1.0, 1.0), run(2.0004, 9.0)];
        assert_eq!(medians(&runs), run(2.0, 1.0));
        assert_eq!((least(&runs), most(&runs)), (run(1.0, 1.0), run(3.0, 9.0)));
        assert_eq!(percentile(&[4.0, 2.0, 3.0, 1.0], 0.99), 4.0);
    }
}
