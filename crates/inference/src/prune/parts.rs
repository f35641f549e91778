//! Parts of matrices, cut out of their bytes, and zeros in place of small numbers, whatever file they are of.

/// Of bytes that are so many equal parts, some of them: rows of a matrix, numbers of a bias. `None` when the parts are not equal.
pub(super) fn some_rows(bytes: &[u8], parts: usize, kept: &[usize]) -> Option<Vec<u8>> {
    if parts == 0 || !bytes.len().is_multiple_of(parts) {
        return None;
    }
    let part = bytes.len() / parts;
    Some(kept.iter().flat_map(|place| &bytes[place * part..][..part]).copied().collect())
}

/// Of the bytes of so many rows, each of so many equal parts, some of those parts. `None` when they are not equal.
pub(super) fn some_columns(bytes: &[u8], rows: usize, parts: usize, kept: &[usize]) -> Option<Vec<u8>> {
    if rows == 0 || parts == 0 || bytes.is_empty() || !bytes.len().is_multiple_of(rows * parts) {
        return None;
    }
    let row = bytes.len() / rows;
    Some(bytes.chunks_exact(row).filter_map(|row| some_rows(row, parts, kept)).flatten().collect())
}

/// Floats of so many bytes with zeros in place of the `count` smallest in magnitude; of equal ones, the first. That is pruning by
/// magnitude (Han et al., "Learning both Weights and Connections for Efficient Neural Networks", 2015, arXiv 1506.02626), without
/// training again.
pub(super) fn without_smallest<const BYTES: usize>(floats: &[u8], count: usize) -> Vec<u8> {
    let mut floats = floats.to_vec();
    let (numbers, _) = floats.as_chunks_mut::<BYTES>();
    // Among floats of one format, magnitudes are ordered as their bits are without the sign.
    let magnitudes: Vec<u32> = numbers.iter().map(magnitude).collect();
    let Some(last) = count.checked_sub(1) else { return floats };
    let threshold = *magnitudes.clone().select_nth_unstable(last).1;
    let mut equal = count - magnitudes.iter().filter(|magnitude| **magnitude < threshold).count();
    for (number, magnitude) in numbers.iter_mut().zip(magnitudes) {
        let is_last = magnitude == threshold && equal > 0;
        equal -= usize::from(is_last);
        if is_last || magnitude < threshold {
            *number = [0; BYTES];
        }
    }
    floats
}

/// How many floats of so many bytes are 0.
pub(super) fn zeros<const BYTES: usize>(floats: &[u8]) -> u64 {
    floats.as_chunks::<BYTES>().0.iter().filter(|number| magnitude(number) == 0).count() as u64
}

/// How many of so many numbers are a share of them.
pub(super) fn share_of(share: f64, numbers: usize) -> usize {
    (share * numbers as f64) as usize
}

/// The number of a layer once these are gone; `None` when it is one of them.
pub(super) fn renumbered(layer: usize, removed: &[usize]) -> Option<usize> {
    let before = removed.iter().filter(|removed| **removed < layer).count();
    (!removed.contains(&layer)).then(|| layer - before)
}

/// The bits of a little-endian float without its sign.
fn magnitude<const BYTES: usize>(number: &[u8; BYTES]) -> u32 {
    let bits = number.iter().rev().fold(0, |bits, byte| bits << 8 | u32::from(*byte));
    bits & !(1 << (8 * BYTES - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_become_zeros() {
        let floats = [-1.0_f32, 0.5, -0.25, 0.25, f32::MIN_POSITIVE, 2.0, -0.0];
        let bytes: Vec<u8> = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
        let left = |count: usize| {
            let left = without_smallest::<4>(&bytes, count);
            left.as_chunks::<4>().0.iter().map(|number| f32::from_le_bytes(*number)).collect::<Vec<_>>()
        };
        assert_eq!(left(0), floats);
        assert_eq!(left(2), [-1.0, 0.5, -0.25, 0.25, 0.0, 2.0, 0.0]);
        assert_eq!(left(3), [-1.0, 0.5, 0.0, 0.25, 0.0, 2.0, 0.0], "of equal ones the first");
        assert_eq!(left(7), [0.0; 7]);
        assert_eq!((zeros::<4>(&bytes), zeros::<4>(&without_smallest::<4>(&bytes, 3))), (1, 3));
    }

    #[test]
    fn parts_are_cut_out_whole() {
        let bytes: Vec<u8> = (0..12).collect();
        assert_eq!(some_rows(&bytes[..8], 2, &[1]).as_deref(), Some(&[4, 5, 6, 7][..]));
        assert_eq!(some_columns(&bytes, 2, 3, &[0, 2]).as_deref(), Some(&[0, 1, 4, 5, 6, 7, 10, 11][..]));
        assert!(some_rows(&bytes[..8], 3, &[0]).is_none() && some_columns(&bytes, 2, 4, &[0]).is_none());
    }
}
