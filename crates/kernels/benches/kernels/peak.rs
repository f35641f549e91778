//! The most a core does: multiplications and additions in registers, without a word from memory.

#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
use std::arch::asm;

use kernels::{Cpu, Isa, Precision};

/// Rounds of the loop of one run.
const ROUNDS: usize = 2000;

/// Instructions that multiply and add in one round.
const PER_ROUND: usize = 16;

/// What the loop is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loop {
    /// A multiplication or an addition of four f32, with what every machine has: SSE or NEON.
    Baseline,
    /// `fmla` of four f32.
    Neon,
    /// `smlal` of four words.
    NeonWords,
    /// `sdot` of sixteen bytes.
    NeonDots,
    /// `bfdot` of eight bf16.
    NeonBf16,
    /// `vfmadd231ps` of eight f32.
    Avx2,
    /// `vpmaddwd` of sixteen words, each with the addition that it takes.
    Avx2Words,
    /// `vpdpbusd` of 32 bytes.
    Avx2Vnni,
    /// `vfmadd231ps` of sixteen f32.
    Avx512,
    /// `vpdpbusd` of 64 bytes.
    Avx512Vnni,
    /// `vdpbf16ps` of 32 bf16.
    Avx512Bf16,
    /// `tdpbf16ps` of two tiles.
    Amx,
    /// `tdpbusd` of two tiles.
    AmxInt8,
}

/// The fastest loop for products of this precision, as kernels compute them.
pub(crate) fn fastest(cpu: Cpu, precision: Precision) -> Loop {
    match (cpu.isa(), cpu.precision(precision)) {
        (Isa::Portable, _) => Loop::Baseline,
        (Isa::Neon, Precision::Int8) if has_dots(cpu.isa()) => Loop::NeonDots,
        (Isa::Neon, Precision::Int8) => Loop::NeonWords,
        (Isa::Neon, Precision::Bf16) => Loop::NeonBf16,
        (Isa::Neon, _) => Loop::Neon,
        (Isa::Avx2, Precision::Int8) if has_dots(cpu.isa()) => Loop::Avx2Vnni,
        (Isa::Avx2, Precision::Int8) => Loop::Avx2Words,
        (Isa::Avx2, _) => Loop::Avx2,
        (Isa::Avx512, Precision::Int8) if has_dots(cpu.isa()) => Loop::Avx512Vnni,
        (Isa::Avx512, Precision::Bf16) => Loop::Avx512Bf16,
        (Isa::Avx512, _) => Loop::Avx512,
        (Isa::Amx, Precision::Int8) => Loop::AmxInt8,
        (Isa::Amx, _) => Loop::Amx,
    }
}

/// Whether the machine multiplies bytes, and adds the products, in one instruction beside this set.
#[cfg(target_arch = "x86_64")]
fn has_dots(isa: Isa) -> bool {
    if isa == Isa::Avx2 { is_x86_feature_detected!("avxvnni") } else { is_x86_feature_detected!("avx512vnni") }
}

#[cfg(target_arch = "aarch64")]
fn has_dots(_isa: Isa) -> bool {
    std::arch::is_aarch64_feature_detected!("dotprod")
}

#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
fn has_dots(_isa: Isa) -> bool {
    false
}

/// Multiplications and additions of one run.
pub(crate) fn operations(of: Loop) -> f64 {
    let per_instruction = match of {
        Loop::Baseline => 4,
        Loop::Neon | Loop::NeonWords => 2 * 4,
        Loop::Avx2 | Loop::NeonBf16 => 2 * 8,
        // Each multiplication with its addition counts as one.
        Loop::Avx2Words | Loop::Avx512 | Loop::NeonDots => 2 * 16,
        Loop::Avx2Vnni => 2 * 32,
        Loop::Avx512Vnni => 2 * 64,
        Loop::Avx512Bf16 => 2 * 32,
        // 16 × 16 sums of 32 products.
        Loop::Amx => 2 * 16 * 16 * 32,
        Loop::AmxInt8 => 2 * 16 * 16 * 64,
    };
    (ROUNDS * PER_ROUND * per_instruction) as f64
}

/// Sixteen times an instruction on registers of AVX, of which fourteen are sums, round after round.
#[cfg(target_arch = "x86_64")]
macro_rules! vex {
    ($instruction:literal) => {
        sums!($instruction, "ymm", 0 1 2 3 4 5 6 7 8 9 10 11 12 13 0 1)
    };
}

/// The same of AVX-512, two rounds at once on 28 sums, because some of its instructions take long.
#[cfg(target_arch = "x86_64")]
macro_rules! evex {
    ($instruction:literal) => {
        sums!(
            $instruction, "zmm",
            0 1 2 3 4 5 6 7 8 9 10 11 12 13 16 17 18 19 20 21 22 23 24 25 26 27 28 29 0 1 2 3
        )
    };
}

#[cfg(target_arch = "x86_64")]
macro_rules! sums {
    ($instruction:literal, $kind:literal, $($sum:literal)*) => {
        asm!(
            "vxorps xmm15, xmm15, xmm15",
            "2:",
            $(concat!($instruction, " ", $kind, $sum, ", ", $kind, "15, ", $kind, "15"),)*
            "dec {rounds}", "jnz 2b", "vzeroupper",
            rounds = inout(reg) ROUNDS * PER_ROUND / [$($sum),*].len() => _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
            out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _, options(nostack, nomem)
        )
    };
}

/// Sixteen times an instruction on tiles, of which four are sums, round after round.
#[cfg(target_arch = "x86_64")]
macro_rules! tiles {
    ($instruction:literal) => {
        tiles!($instruction, "tmm0, tmm4, tmm6" "tmm1, tmm4, tmm7" "tmm2, tmm5, tmm6" "tmm3, tmm5, tmm7")
    };
    ($instruction:literal, $($operands:literal)*) => {{
        // What `ldtilecfg` reads: palette 1, eight tiles of sixteen rows of 64 bytes.
        let mut configuration = Line([0; 64]);
        configuration.0[0] = 1;
        for tile in 0..8 {
            (configuration.0[16 + 2 * tile], configuration.0[48 + tile]) = (64, 16);
        }
        // Not zeros, with which tiles begin: those are faster than numbers.
        let numbers = Line([0x3f; 64]);
        // The configuration is valid, and released at the end; rows of tiles all come from the same 64 bytes.
        asm!(
            "ldtilecfg [{configuration}]",
            "tileloadd tmm4, [{numbers} + {stride}*1]",
            "tileloadd tmm5, [{numbers} + {stride}*1]",
            "tileloadd tmm6, [{numbers} + {stride}*1]",
            "tileloadd tmm7, [{numbers} + {stride}*1]",
            "2:",
            $(concat!($instruction, " ", $operands),)*
            $(concat!($instruction, " ", $operands),)*
            $(concat!($instruction, " ", $operands),)*
            $(concat!($instruction, " ", $operands),)*
            "dec {rounds}", "jnz 2b", "tilerelease",
            configuration = in(reg) &raw const configuration,
            numbers = in(reg) &raw const numbers,
            stride = in(reg) 0_usize,
            rounds = inout(reg) ROUNDS => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _, options(nostack, readonly)
        )
    }};
}

/// Sixteen times an instruction of NEON, each with a sum of its own, round after round.
#[cfg(target_arch = "aarch64")]
macro_rules! neon_sums {
    ($instruction:literal, $sum:literal, $operand:literal) => {
        neon_sums!($instruction, $sum, $operand, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    ($instruction:literal, $sum:literal, $operand:literal, $($register:literal)*) => {
        neon!($(concat!($instruction, " v", $register, ".", $sum, ", v31.", $operand, ", v31.", $operand))*)
    };
}

/// Sixteen instructions on registers of NEON, round after round.
#[cfg(target_arch = "aarch64")]
macro_rules! neon {
    ($($instruction:expr)*) => {
        asm!(
            "movi v31.2d, #0",
            "2:",
            $($instruction,)*
            "subs {rounds}, {rounds}, #1", "b.ne 2b",
            rounds = inout(reg) ROUNDS => _,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _, out("v14") _, out("v15") _,
            out("v31") _, options(nostack, nomem)
        )
    };
}

/// Runs the loop, for whose instructions the machine must have: the caller has them from [`fastest`].
#[cfg(target_arch = "x86_64")]
pub(crate) fn run(of: Loop) {
    // SAFETY: the machine has the instructions; all registers that change are named, and no memory is touched.
    unsafe {
        match of {
            Loop::Baseline => asm!(
                "xorps xmm14, xmm14", "xorps xmm15, xmm15",
                "2:",
                "mulps xmm0, xmm15", "addps xmm7, xmm14", "mulps xmm1, xmm15", "addps xmm8, xmm14",
                "mulps xmm2, xmm15", "addps xmm9, xmm14", "mulps xmm3, xmm15", "addps xmm10, xmm14",
                "mulps xmm4, xmm15", "addps xmm11, xmm14", "mulps xmm5, xmm15", "addps xmm12, xmm14",
                "mulps xmm6, xmm15", "addps xmm13, xmm14", "mulps xmm0, xmm15", "addps xmm7, xmm14",
                "dec {rounds}", "jnz 2b",
                rounds = inout(reg) ROUNDS => _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _, options(nostack, nomem)
            ),
            Loop::Avx2 => vex!("vfmadd231ps"),
            Loop::Avx2Words => words(),
            Loop::Avx2Vnni => vex!("{{vex}} vpdpbusd"),
            Loop::Avx512 | Loop::Avx512Vnni | Loop::Avx512Bf16 => avx512(of),
            Loop::Amx => tiles!("tdpbf16ps"),
            Loop::AmxInt8 => tiles!("tdpbusd"),
            Loop::Neon | Loop::NeonWords | Loop::NeonDots | Loop::NeonBf16 => unreachable!("x86-64 has none"),
        }
    }
}

/// Runs the loop, as above.
#[cfg(target_arch = "aarch64")]
pub(crate) fn run(of: Loop) {
    // SAFETY: the machine has the instructions.
    unsafe {
        match of {
            Loop::Baseline => neon!(
                "fmul v0.4s, v0.4s, v31.4s" "fadd v1.4s, v1.4s, v31.4s" "fmul v2.4s, v2.4s, v31.4s" "fadd v3.4s, v3.4s, v31.4s"
                "fmul v4.4s, v4.4s, v31.4s" "fadd v5.4s, v5.4s, v31.4s" "fmul v6.4s, v6.4s, v31.4s" "fadd v7.4s, v7.4s, v31.4s"
                "fmul v8.4s, v8.4s, v31.4s" "fadd v9.4s, v9.4s, v31.4s" "fmul v10.4s, v10.4s, v31.4s" "fadd v11.4s, v11.4s, v31.4s"
                "fmul v12.4s, v12.4s, v31.4s" "fadd v13.4s, v13.4s, v31.4s" "fmul v14.4s, v14.4s, v31.4s" "fadd v15.4s, v15.4s, v31.4s"
            ),
            Loop::NeonWords => neon_sums!("smlal", "4s", "4h"),
            Loop::NeonDots => neon_dots(),
            Loop::NeonBf16 => neon_bf16(),
            _ => neon_sums!("fmla", "4s", "4s"),
        }
    }
}

/// The loop of `sdot`.
///
/// # Safety
/// The machine has dot products.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "dotprod")]
unsafe fn neon_dots() {
    // SAFETY: the caller's promise.
    unsafe { neon_sums!("sdot", "4s", "16b") }
}

/// The loop of `bfdot`.
///
/// # Safety
/// The machine has bf16.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "bf16")]
unsafe fn neon_bf16() {
    // SAFETY: the caller's promise.
    unsafe { neon_sums!("bfdot", "4s", "8h") }
}

#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
pub(crate) fn run(_of: Loop) {}

/// Not inlined, because it cannot name the registers after the fifteenth that it changes: the callee may change all of them.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
unsafe fn avx512(of: Loop) {
    // SAFETY: as in `run`; no value is in a register of the vector unit here.
    unsafe {
        match of {
            Loop::Avx512Vnni => evex!("vpdpbusd"),
            Loop::Avx512Bf16 => evex!("vdpbf16ps"),
            _ => evex!("vfmadd231ps"),
        }
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn words() {
    // SAFETY: as in `run`.
    unsafe {
        asm!(
            "vxorps xmm15, xmm15, xmm15",
            "2:",
            "vpmaddwd ymm8, ymm15, ymm15", "vpaddd ymm0, ymm0, ymm8", "vpmaddwd ymm9, ymm15, ymm15", "vpaddd ymm1, ymm1, ymm9",
            "vpmaddwd ymm10, ymm15, ymm15", "vpaddd ymm2, ymm2, ymm10", "vpmaddwd ymm11, ymm15, ymm15", "vpaddd ymm3, ymm3, ymm11",
            "vpmaddwd ymm12, ymm15, ymm15", "vpaddd ymm4, ymm4, ymm12", "vpmaddwd ymm13, ymm15, ymm15", "vpaddd ymm5, ymm5, ymm13",
            "vpmaddwd ymm14, ymm15, ymm15", "vpaddd ymm6, ymm6, ymm14", "vpmaddwd ymm8, ymm15, ymm15", "vpaddd ymm7, ymm7, ymm8",
            "vpmaddwd ymm9, ymm15, ymm15", "vpaddd ymm0, ymm0, ymm9", "vpmaddwd ymm10, ymm15, ymm15", "vpaddd ymm1, ymm1, ymm10",
            "vpmaddwd ymm11, ymm15, ymm15", "vpaddd ymm2, ymm2, ymm11", "vpmaddwd ymm12, ymm15, ymm15", "vpaddd ymm3, ymm3, ymm12",
            "vpmaddwd ymm13, ymm15, ymm15", "vpaddd ymm4, ymm4, ymm13", "vpmaddwd ymm14, ymm15, ymm15", "vpaddd ymm5, ymm5, ymm14",
            "vpmaddwd ymm8, ymm15, ymm15", "vpaddd ymm6, ymm6, ymm8", "vpmaddwd ymm9, ymm15, ymm15", "vpaddd ymm7, ymm7, ymm9",
            "dec {rounds}", "jnz 2b", "vzeroupper",
            rounds = inout(reg) ROUNDS => _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
            out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _, options(nostack, nomem)
        );
    }
}

#[cfg(target_arch = "x86_64")]
#[repr(align(64))]
struct Line([u8; 64]);
