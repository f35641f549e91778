//! Made-up weights that a test and the script of its goldens compute alike: FNV-1a of a tensor's name, a multiple of 2^32 over the golden
//! ratio for each index, and MurmurHash3's finish.

use candle_core::{Device, Tensor};

/// The tensor with this name, of numbers that are made of hashes from 0 to 1.
pub(crate) fn tensor(name: &str, shape: &[usize], number: impl Fn(f64) -> f64) -> Tensor {
    let seed = name.bytes().fold(0x811C_9DC5_u32, |seed, byte| (seed ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let hashed = |index: usize| {
        let mut mixed = seed.wrapping_add((index as u32).wrapping_mul(0x9E37_79B9));
        for (shift, factor) in [(16, 0x85EB_CA6B), (13, 0xC2B2_AE35), (16, 1)] {
            mixed = (mixed ^ (mixed >> shift)).wrapping_mul(factor);
        }
        number(f64::from(mixed) / 2_f64.powi(32)) as f32
    };
    let numbers: Vec<f32> = (0..shape.iter().product()).map(hashed).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).expect("a tensor")
}
