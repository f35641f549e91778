//! What a machine of aarch64 has, and the functions whose bodies are compiled for more than the baseline; all that `run` inlines becomes
//! part of them.

use std::arch::is_aarch64_feature_detected;

use super::{BytesWork, Extensions, Isa, NarrowWork, Work};
use crate::{
    bytes::{NeonBytes, NeonBytesDots},
    dots::{NeonBf16, NeonDots, NeonWords},
    lanes::Neon,
};

/// Whether this machine has a set. Kernels take the first byte of a number for its lowest one.
pub(super) fn has(isa: Isa) -> bool {
    match isa {
        Isa::Portable => true,
        Isa::Neon => cfg!(target_endian = "little") && is_aarch64_feature_detected!("neon"),
        Isa::Avx2 | Isa::Avx512 | Isa::Amx => false,
    }
}

/// What it has beside a set that it has.
pub(super) fn extensions(isa: Isa) -> Extensions {
    match isa {
        Isa::Neon => {
            Extensions { int8: is_aarch64_feature_detected!("dotprod"), bf16: is_aarch64_feature_detected!("bf16") }
        }
        _ => Extensions::default(),
    }
}

/// # Safety
/// The machine has NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn neon(work: impl Work) {
    // SAFETY: the caller's promise.
    unsafe { work.run::<Neon>() }
}

/// # Safety
/// The machine has NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn neon_words(work: impl NarrowWork) {
    // SAFETY: the caller's promise.
    unsafe { work.run::<NeonWords>() }
}

/// # Safety
/// The machine has NEON and its dot products.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn neon_dots(work: impl NarrowWork) {
    // SAFETY: the caller's promise.
    unsafe { work.run::<NeonDots>() }
}

/// # Safety
/// The machine has NEON and its bf16.
#[target_feature(enable = "neon,bf16")]
pub(super) unsafe fn neon_bf16(work: impl NarrowWork) {
    // SAFETY: the caller's promise.
    unsafe { work.run::<NeonBf16>() }
}

/// # Safety
/// The machine has NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn neon_bytes(work: impl BytesWork) {
    // SAFETY: the caller's promise.
    unsafe { work.run::<NeonBytes>() }
}

/// # Safety
/// The machine has NEON and its dot products.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn neon_bytes_dots(work: impl BytesWork) {
    // SAFETY: the caller's promise.
    unsafe { work.run::<NeonBytesDots>() }
}
