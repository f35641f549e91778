//! The most a core does: multiplications and additions in registers, without a word from memory.

#[cfg(target_arch = "x86_64")]
use std::arch::asm;

use kernels::{Cpu, Isa, Precision};

/// Rounds of the loop of one run.
const ROUNDS: usize = 2000;

/// Instructions that multiply and add in one round.
const PER_ROUND: usize = 16;

/// What the loop is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loop {
    /// A multiplication or an addition of four f32.
    Sse,
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
        (Isa::Portable, _) => Loop::Sse,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, Precision::Int8) if is_x86_feature_detected!("avxvnni") => Loop::Avx2Vnni,
        (Isa::Avx2, Precision::Int8) => Loop::Avx2Words,
        (Isa::Avx2, _) => Loop::Avx2,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Precision::Int8) if is_x86_feature_detected!("avx512vnni") => Loop::Avx512Vnni,
        (Isa::Avx512, Precision::Bf16) => Loop::Avx512Bf16,
        (Isa::Avx512, _) => Loop::Avx512,
        (Isa::Amx, Precision::Int8) => Loop::AmxInt8,
        (Isa::Amx, _) => Loop::Amx,
    }
}

/// Multiplications and additions of one run.
pub(crate) fn operations(of: Loop) -> f64 {
    let per_instruction = match of {
        Loop::Sse => 4,
        Loop::Avx2 => 2 * 8,
        // Each multiplication with its addition counts as one.
        Loop::Avx2Words | Loop::Avx512 => 2 * 16,
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

/// Runs the loop, for whose instructions the machine must have: the caller has them from [`fastest`].
#[cfg(target_arch = "x86_64")]
pub(crate) fn run(of: Loop) {
    // SAFETY: the machine has the instructions; all registers that change are named, and no memory is touched.
    unsafe {
        match of {
            Loop::Sse => asm!(
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
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
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
