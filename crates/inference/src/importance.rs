//! Which heads and which layers of a network matter least to what it makes of some inputs. No labels are asked for and nothing is
//! differentiated: the original's own numbers are what counts.

use kernels::Rows;

use crate::LoadError;

/// No further inputs are looked at when those before have so many rows (tokens, or patches of images): removing six of twelve layers
/// runs all of them 57 times.
pub(crate) const MOST_ROWS: usize = 4096;

/// A loaded network, and the inputs that it is judged by.
pub(crate) trait Study {
    /// One of its layers.
    type Layer;

    /// The layers, first to last: whoever asks what one is worth runs the others.
    fn layers_mut(&mut self) -> &mut Vec<Self::Layer>;

    /// Takes all inputs through the layers, and shows of each layer what its heads gathered, side by side: a row for each token or
    /// patch.
    ///
    /// # Errors
    /// When the network fails.
    fn observe(&mut self, see: impl FnMut(usize, Rows<'_>)) -> Result<(), LoadError>;

    /// Keeps what it gives now, to be compared with.
    ///
    /// # Errors
    /// When the network fails.
    fn remember(&mut self) -> Result<(), LoadError>;

    /// How far what it gives now is from what was kept; 0 where it is the same.
    ///
    /// # Errors
    /// When the network fails.
    fn distance(&mut self) -> Result<f64, LoadError>;
}

/// What the heads of a layer make of what they gather: the products of all pairs of each head's columns of the output's matrix, WᵀW,
/// row by row.
pub(crate) struct HeadProducts {
    heads: Vec<Vec<f64>>,
    width: usize,
}

impl HeadProducts {
    /// Of a matrix whose rows are heads of so many columns side by side.
    pub(crate) fn new(matrix: &[f32], columns: usize, width: usize) -> Self {
        let of = |first: usize| {
            let mut products = vec![0.0; width * width];
            for row in matrix.chunks_exact(columns) {
                let row = &row[first..first + width];
                for (products, one) in products.chunks_exact_mut(width).zip(row) {
                    let sums = products.iter_mut().zip(row);
                    sums.for_each(|(product, other)| *product += f64::from(*one) * f64::from(*other));
                }
            }
            products
        };
        Self { heads: (0..columns).step_by(width).map(of).collect(), width }
    }

    /// The sum of ‖W · c‖² = cᵀ(WᵀW)c over the rows c of one head.
    fn sum_of_squares(&self, head: usize, rows: Rows<'_>) -> f64 {
        let rows = rows.columns_in(head * self.width..(head + 1) * self.width);
        let of = |row: &[f32]| {
            let weighed = self.heads[head].chunks_exact(row.len()).map(|products| {
                products.iter().zip(row).map(|(product, number)| product * f64::from(*number)).sum::<f64>()
            });
            weighed.zip(row).map(|(weighed, number)| weighed * f64::from(*number)).sum::<f64>()
        };
        (0..rows.rows()).map(|row| of(rows.row(row))).sum()
    }
}

/// What each head of each layer adds to hidden states: the mean square, over all tokens, of the length of the head's part of
/// attention's output, ‖W · c‖, where c is what it gathered for the token and W its columns of the output's matrix. This is how
/// Kobayashi et al., "Attention is Not Only a Weight" (2020, arXiv 2004.10102), measure a head; Michel et al., "Are Sixteen
/// Heads Really Better than One?" (2019, arXiv 1905.10650), take the gradient of a loss instead, for which labels are needed.
///
/// # Errors
/// When the network fails.
pub(crate) fn head_squares(study: &mut impl Study, layers: &[HeadProducts]) -> Result<Vec<Vec<f64>>, LoadError> {
    let mut sums: Vec<Vec<f64>> = layers.iter().map(|layer| vec![0.0; layer.heads.len()]).collect();
    let mut seen = 0;
    study.observe(|layer, gathered| {
        seen += if layer == 0 { gathered.rows() } else { 0 };
        for (head, sum) in sums[layer].iter_mut().enumerate() {
            *sum += layers[layer].sum_of_squares(head, gathered);
        }
    })?;
    sums.iter_mut().flatten().for_each(|sum| *sum = or_most(*sum / seen.max(1) as f64));
    Ok(sums)
}

/// So many layers, each the one whose removal, after those before it, leaves what the network gives nearest to what it was with all
/// layers; ascending. That is greedy layer pruning (Peer et al. 2021, arXiv 2105.14839), which asks a loss instead.
///
/// # Errors
/// When the network fails.
///
/// # Panics
/// When there are not so many.
pub(crate) fn dispensable_layers(study: &mut impl Study, count: usize) -> Result<Vec<usize>, LoadError> {
    study.remember()?;
    let mut left: Vec<usize> = (0..study.layers_mut().len()).collect();
    let mut removed = Vec::new();
    for _ in 0..count {
        let mut distances = Vec::new();
        for place in 0..left.len() {
            let layer = study.layers_mut().remove(place);
            distances.push((place, or_most(study.distance()?)));
            study.layers_mut().insert(place, layer);
        }
        // Of equal ones the last, which is nearest to what is put out.
        let best = distances.into_iter().rev().min_by(|one, other| one.1.total_cmp(&other.1));
        let (place, _) = best.expect("there is a layer left");
        study.layers_mut().remove(place);
        removed.push(left.remove(place));
    }
    removed.sort_unstable();
    Ok(removed)
}

/// The number, or more than any where it is none: what computes no numbers is the last to be chosen.
fn or_most(number: f64) -> f64 {
    if number.is_nan() { f64::INFINITY } else { number }
}

/// The places of the least so many of these numbers, ascending.
pub(crate) fn least(numbers: &[f64], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..numbers.len()).collect();
    places.sort_by(|one, other| numbers[*one].total_cmp(&numbers[*other]));
    places.truncate(count);
    places.sort_unstable();
    places
}

/// The mean of squared differences between outputs, input by input, of all inputs.
pub(crate) fn mean_squares(original: &[Vec<f32>], found: &[Vec<f32>]) -> f64 {
    let of = |(original, found): (&Vec<f32>, &Vec<f32>)| {
        let differences = original.iter().zip(found).map(|(one, other)| f64::from(one - other).powi(2));
        differences.sum::<f64>() / original.len().max(1) as f64
    };
    original.iter().zip(found).map(of).sum::<f64>() / original.len().max(1) as f64
}
