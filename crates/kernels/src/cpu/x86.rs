//! What a machine of x86-64 has, and the functions whose bodies are compiled for more than the baseline; all that `run` inlines becomes
//! part of them.

use super::{BytesWork, Extensions, Isa, NarrowWork, Work};
use crate::{
    bytes::{Avx2Bytes, Avx2BytesVnni, Avx512Bytes, Avx512BytesVnni},
    dots::{Avx2Vnni, Avx2Words, Avx512Bf16, Avx512Vnni, Avx512Words},
    lanes::{Avx2, Avx512},
};

/// Whether this machine has a set; each needs the one before it.
pub(super) fn has(isa: Isa) -> bool {
    match isa {
        Isa::Portable => true,
        Isa::Neon => false,
        Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
        Isa::Avx512 => {
            has(Isa::Avx2)
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
        }
        Isa::Amx => {
            has(Isa::Avx512)
                && is_x86_feature_detected!("avx512vnni")
                && is_x86_feature_detected!("avx512bf16")
                && crate::amx::is_granted()
        }
    }
}

/// What it has beside a set that it has.
pub(super) fn extensions(isa: Isa) -> Extensions {
    match isa {
        Isa::Portable | Isa::Neon => Extensions::default(),
        Isa::Avx2 => Extensions { int8: is_x86_feature_detected!("avxvnni"), bf16: false },
        Isa::Avx512 | Isa::Amx => {
            Extensions { int8: is_x86_feature_detected!("avx512vnni"), bf16: is_x86_feature_detected!("avx512bf16") }
        }
    }
}

/// # Safety
/// The machine has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn avx2(work: impl Work) {
    // SAFETY: the caller's promise.
    unsafe { work.run::<Avx2>() }
}

/// # Safety
/// The machine has AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn avx512(work: impl Work) {
    // SAFETY: the caller's promise.
    unsafe { work.run::<Avx512>() }
}

/// # Safety
/// The machine has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn avx2_words(work: impl NarrowWork) {
    // SAFETY: the caller's promise.
    unsafe { work.run::<Avx2Words>() }
}

/// # Safety
/// The machine has AVX2, FMA and AVX-VNNI.
#[target_feature(enable = "avx2,fma,avxvnni")]
pub(super) unsafe fn avx2_vnni(work: impl NarrowWork) {
    // SAFETY: the caller's promise.
    unsafe { work.run::<Avx2Vnni>() }
}

/// # Safety
/// The machine has AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn avx512_words(work: impl NarrowWork) {
    // SAFETY: the caller's promise.
    unsafe { work.run::<Avx512Words>() }
}

/// # Safety
/// The machine has AVX-512 F, BW, DQ, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn avx512_vnni(work: impl NarrowWork) {
    // SAFETY: the caller's promise.
    unsafe { work.run::<Avx512Vnni>() }
}

/// # Safety
/// The machine has AVX-512 F, BW, DQ, VL and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn avx512_bf16(work: impl NarrowWork) {
    // SAFETY: the caller's promise.
    unsafe { work.run::<Avx512Bf16>() }
}

/// # Safety
/// The machine has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn avx2_bytes(work: impl BytesWork) {
    // SAFETY: the caller's promise.
    unsafe { work.run::<Avx2Bytes>() }
}

/// # Safety
/// The machine has AVX2, FMA and AVX-VNNI.
#[target_feature(enable = "avx2,fma,avxvnni")]
pub(super) unsafe fn avx2_bytes_vnni(work: impl BytesWork) {
    // SAFETY: the caller's promise.
    unsafe { work.run::<Avx2BytesVnni>() }
}

/// # Safety
/// The machine has AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn avx512_bytes(work: impl BytesWork) {
    // SAFETY: the caller's promise.
    unsafe { work.run::<Avx512Bytes>() }
}

/// # Safety
/// The machine has AVX-512 F, BW, DQ, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn avx512_bytes_vnni(work: impl BytesWork) {
    // SAFETY: the caller's promise.
    unsafe { work.run::<Avx512BytesVnni>() }
}
