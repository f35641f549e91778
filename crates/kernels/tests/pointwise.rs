//! Softmax, layer norm and activations against plain references, over dense ranges, odd widths, strides and alignments.

#![allow(clippy::print_stderr)]

mod reference;

use kernels::{Activation, LayerNorm, RowsMut, activate, layer_norm, softmax};
use reference::{Random, Spread, cpus};

const ACTIVATIONS: [Activation; 5] =
    [Activation::None, Activation::GeluErf, Activation::GeluTanh, Activation::Relu, Activation::Silu];

const WIDTHS: [usize; 14] = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 33, 64, 384, 1001];

#[test]
fn activations_are_within_their_bound_everywhere() {
    for cpu in cpus() {
        for activation in ACTIVATIONS {
            // Dense around 0, then outwards to the largest number.
            let dense = (-80_000..=80_000).map(|x| x as f32 * 1e-4);
            let far = (0..380).map(|power| 1.6_f32.powi(power - 190)).flat_map(|x| [x, -x]);
            let numbers: Vec<f32> = dense.chain(far.filter(|x| x.is_finite())).chain([0.0, -0.0, f32::MAX]).collect();
            let mut y = numbers.clone();
            activate(cpu, activation, RowsMut::new(&mut y, 1, numbers.len(), numbers.len()));
            let mut worst: f64 = 0.0;
            for (x, y) in numbers.iter().zip(&y) {
                let expected = reference::activation(activation, f64::from(*x));
                let error = (f64::from(*y) - expected).abs() / f64::from(x.abs()).max(1.0);
                assert!(error <= 3e-7, "{} {activation:?}({x}) = {y} instead of {expected}", cpu.isa());
                worst = worst.max(error);
            }
            eprintln!("{} {activation:?}: error at most {worst:.1e} · max(1, |x|)", cpu.isa());
        }
        // Far from 0 nothing is left of the approximation.
        let mut far = [20.0, -20.0, 1e30, -1e30];
        activate(cpu, Activation::GeluErf, RowsMut::new(&mut far, 1, 4, 4));
        assert_eq!(far, [20.0, 0.0, 1e30, 0.0], "{}", cpu.isa());
    }
}

#[test]
fn activations_keep_what_is_not_finite_and_the_rest_of_the_row() {
    let mut random = Random::new();
    for cpu in cpus() {
        for activation in ACTIVATIONS {
            for width in WIDTHS {
                let mut x = Spread::new(&mut random, 3, width);
                let before: Vec<f32> = (0..width).map(|column| x.at(1, column)).collect();
                if width > 0 {
                    *x.at_mut(1, width - 1) = f32::NAN;
                    *x.at_mut(0, width - 1) = f32::INFINITY;
                }
                activate(cpu, activation, x.view_mut());
                for (column, before) in before.into_iter().enumerate() {
                    if column + 1 == width {
                        assert!(x.at(1, column).is_nan(), "{} {activation:?}", cpu.isa());
                        assert_eq!(x.at(0, column), f32::INFINITY, "{} {activation:?}", cpu.isa());
                    } else {
                        let expected = reference::activation(activation, f64::from(before));
                        let error = (f64::from(x.at(1, column)) - expected).abs();
                        assert!(error <= 3e-7 * f64::from(before.abs()).max(1.0), "{} {activation:?}", cpu.isa());
                    }
                }
            }
        }
    }
}

#[test]
fn softmax_is_that_of_the_reference() {
    let mut random = Random::new();
    for cpu in cpus() {
        let mut worst: f64 = 0.0;
        for width in WIDTHS {
            for spread in [0.0, 1.0, 30.0] {
                let mut x = Spread::new(&mut random, 5, width);
                for row in 0..5 {
                    (0..width).for_each(|column| *x.at_mut(row, column) *= spread);
                }
                if width > 1 {
                    // Masked out.
                    *x.at_mut(3, random.below(width - 1)) = f32::NEG_INFINITY;
                }
                let rows = |x: &Spread| -> Vec<Vec<f64>> {
                    (0..5).map(|row| (0..width).map(|column| f64::from(x.at(row, column))).collect()).collect()
                };
                let before = rows(&x);
                softmax(cpu, x.view_mut());
                x.assert_gaps_untouched();
                for (before, after) in before.iter().zip(rows(&x)) {
                    for (expected, found) in reference::softmax(before).into_iter().zip(after) {
                        let error = (found - expected).abs() / (expected + 1e-30);
                        assert!(error <= 5e-6 || (found - expected).abs() < 1e-30, "{}: {found} {expected}", cpu.isa());
                        worst = worst.max(if expected > 1e-20 { error } else { 0.0 });
                    }
                }
            }
        }
        eprintln!("{} softmax: relative error at most {worst:.1e}", cpu.isa());
    }
}

#[test]
fn softmax_of_what_is_not_finite_is_nan_in_that_row() {
    for cpu in cpus() {
        for width in [1, 5, 16, 40] {
            for at in [0, width - 1] {
                let mut x = vec![0.5; 3 * width];
                x[at] = f32::NAN;
                x[width + at] = f32::INFINITY;
                softmax(cpu, RowsMut::new(&mut x, 3, width, width));
                assert!(
                    x[..2 * width].iter().all(|number| !number.is_finite() || *number == 0.0),
                    "{}: {x:?}",
                    cpu.isa()
                );
                assert!(x[at].is_nan() && x[width + at].is_nan(), "{}: {x:?}", cpu.isa());
                assert!(x[2 * width..].iter().all(|number| (number * width as f32 - 1.0).abs() < 1e-6), "{x:?}");
                let mut masked = vec![f32::NEG_INFINITY; width];
                softmax(cpu, RowsMut::new(&mut masked, 1, width, width));
                assert!(masked.iter().all(|number| number.is_nan()), "{}: {masked:?}", cpu.isa());
            }
        }
    }
}

#[test]
fn layer_norm_is_that_of_the_reference() {
    let mut random = Random::new();
    for cpu in cpus() {
        let mut worst: f64 = 0.0;
        for width in WIDTHS {
            for has_residual in [false, true] {
                let x = Spread::new(&mut random, 6, width);
                let residual = has_residual.then(|| Spread::new(&mut random, 6, width));
                let (weight, bias) = (random.numbers(width), random.numbers(width));
                let mut y = Spread::new(&mut random, 6, width);
                let norm = LayerNorm { weight: &weight, bias: &bias, epsilon: 1e-5 };
                layer_norm(cpu, norm, x.view(), residual.as_ref().map(Spread::view), y.view_mut());
                y.assert_gaps_untouched();
                for row in 0..6 {
                    let added = |column| residual.as_ref().map_or(0.0, |residual| f64::from(residual.at(row, column)));
                    let sum: Vec<f64> = (0..width).map(|column| f64::from(x.at(row, column)) + added(column)).collect();
                    for (column, expected) in reference::layer_norm(&sum, &weight, &bias, 1e-5).into_iter().enumerate()
                    {
                        // Two numbers that are nearly alike have no digits left: their variance is all ε.
                        let error = (f64::from(y.at(row, column)) - expected).abs() / (expected.abs() + 1.0);
                        assert!(error <= 1e-5 || width < 4 && error < 1e-3, "{}: {width} columns, {error}", cpu.isa());
                        worst = worst.max(if width < 4 { 0.0 } else { error });
                    }
                }
            }
        }
        eprintln!("{} layer norm: error at most {worst:.1e} · (1 + |y|)", cpu.isa());
    }
}

#[test]
fn layer_norm_keeps_nan_in_its_row() {
    for cpu in cpus() {
        let (ones, zeros) = (vec![1.0; 50], vec![0.0; 50]);
        let norm = LayerNorm { weight: &ones, bias: &zeros, epsilon: 1e-5 };
        let mut x: Vec<f32> = (0..100).map(|x| x as f32).collect();
        x[49] = f32::NAN;
        let mut y = vec![0.0; 100];
        layer_norm(cpu, norm, kernels::Rows::new(&x, 2, 50, 50), None, RowsMut::new(&mut y, 2, 50, 50));
        assert!(y[..50].iter().all(|number| number.is_nan()), "{}", cpu.isa());
        assert!(y[50..].iter().all(|number| number.is_finite()), "{}", cpu.isa());
    }
}
