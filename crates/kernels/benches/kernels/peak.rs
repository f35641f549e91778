//! The most a core does: multiplications and additions in registers, without a word from memory.

#[cfg(target_arch = "x86_64")]
use std::arch::asm;

use kernels::Isa;

/// Rounds of the loop of one run.
const ROUNDS: usize = 2000;

/// Instructions that multiply and add in one round.
const PER_ROUND: usize = 16;

/// Floating-point operations of one run.
pub(crate) fn flop(isa: Isa) -> f64 {
    let per_instruction = match isa {
        // A multiplication or an addition of four numbers.
        Isa::Portable => 4,
        Isa::Avx2 => 2 * 8,
        Isa::Avx512 => 2 * 16,
        // 16 × 16 sums of 32 products.
        Isa::Amx => 2 * 16 * 16 * 32,
    };
    (ROUNDS * PER_ROUND * per_instruction) as f64
}

/// Runs the loop for the instructions, which the machine must have: the caller has a `Cpu` of them.
#[cfg(target_arch = "x86_64")]
pub(crate) fn run(isa: Isa) {
    // SAFETY: the machine has the instructions; all registers that change are named, and no memory is touched.
    unsafe {
        match isa {
            Isa::Portable => asm!(
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
            Isa::Avx2 => vex(),
            Isa::Avx512 => evex(),
            Isa::Amx => tiles(),
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn run(_isa: Isa) {}

#[cfg(target_arch = "x86_64")]
unsafe fn vex() {
    // SAFETY: as in `run`.
    unsafe {
        asm!(
            "vxorps xmm15, xmm15, xmm15",
            "2:",
            "vfmadd231ps ymm0, ymm15, ymm15", "vfmadd231ps ymm1, ymm15, ymm15", "vfmadd231ps ymm2, ymm15, ymm15",
            "vfmadd231ps ymm3, ymm15, ymm15", "vfmadd231ps ymm4, ymm15, ymm15", "vfmadd231ps ymm5, ymm15, ymm15",
            "vfmadd231ps ymm6, ymm15, ymm15", "vfmadd231ps ymm7, ymm15, ymm15", "vfmadd231ps ymm8, ymm15, ymm15",
            "vfmadd231ps ymm9, ymm15, ymm15", "vfmadd231ps ymm10, ymm15, ymm15", "vfmadd231ps ymm11, ymm15, ymm15",
            "vfmadd231ps ymm12, ymm15, ymm15", "vfmadd231ps ymm13, ymm15, ymm15", "vfmadd231ps ymm0, ymm15, ymm15",
            "vfmadd231ps ymm1, ymm15, ymm15",
            "dec {rounds}", "jnz 2b", "vzeroupper",
            rounds = inout(reg) ROUNDS => _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
            out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _, options(nostack, nomem)
        );
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn evex() {
    // SAFETY: as in `run`.
    unsafe {
        asm!(
            "vxorps xmm15, xmm15, xmm15",
            "2:",
            "vfmadd231ps zmm0, zmm15, zmm15", "vfmadd231ps zmm1, zmm15, zmm15", "vfmadd231ps zmm2, zmm15, zmm15",
            "vfmadd231ps zmm3, zmm15, zmm15", "vfmadd231ps zmm4, zmm15, zmm15", "vfmadd231ps zmm5, zmm15, zmm15",
            "vfmadd231ps zmm6, zmm15, zmm15", "vfmadd231ps zmm7, zmm15, zmm15", "vfmadd231ps zmm8, zmm15, zmm15",
            "vfmadd231ps zmm9, zmm15, zmm15", "vfmadd231ps zmm10, zmm15, zmm15", "vfmadd231ps zmm11, zmm15, zmm15",
            "vfmadd231ps zmm12, zmm15, zmm15", "vfmadd231ps zmm13, zmm15, zmm15", "vfmadd231ps zmm0, zmm15, zmm15",
            "vfmadd231ps zmm1, zmm15, zmm15",
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

#[cfg(target_arch = "x86_64")]
unsafe fn tiles() {
    // What `ldtilecfg` reads: palette 1, eight tiles of sixteen rows of 64 bytes.
    let mut configuration = Line([0; 64]);
    configuration.0[0] = 1;
    for tile in 0..8 {
        (configuration.0[16 + 2 * tile], configuration.0[48 + tile]) = (64, 16);
    }
    // Not zeros, with which tiles begin: those are faster than numbers.
    let numbers = Line([0x3f; 64]);
    // SAFETY: as in `run`; the configuration is valid, and released at the end; rows of tiles all come from the same 64 bytes.
    unsafe {
        asm!(
            "ldtilecfg [{configuration}]",
            "tileloadd tmm4, [{numbers} + {stride}*1]",
            "tileloadd tmm5, [{numbers} + {stride}*1]",
            "tileloadd tmm6, [{numbers} + {stride}*1]",
            "tileloadd tmm7, [{numbers} + {stride}*1]",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7", "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7", "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7", "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7", "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
            "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7", "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {rounds}", "jnz 2b", "tilerelease",
            configuration = in(reg) &raw const configuration,
            numbers = in(reg) &raw const numbers,
            stride = in(reg) 0_usize,
            rounds = inout(reg) ROUNDS => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _, options(nostack, readonly)
        );
    }
}
