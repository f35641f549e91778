//! The tile registers: leave to use them, their configuration, and the loop that multiplies in them, in assembly because
//! stable Rust has no intrinsics for it. Instructions and layouts: Intel's Software Developer's Manual, volume 1, chapter 18;
//! leave: `Documentation/arch/x86/xstate.rst` of Linux.

use std::{
    arch::{
        asm,
        x86_64::{__cpuid_count, _MM_HINT_T1, _mm_prefetch},
    },
    marker::PhantomData,
};

/// Instructions on tiles, which keep what they hold from one call to the next: the compiler has no use for them, and what this thread
/// calls in between does not touch them.
macro_rules! tiles {
    ($($instruction:expr),*; $($name:ident = $value:expr),*) => {
        asm!(
            $($instruction,)*
            $($name = in(reg) $value,)*
            options(nostack),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
        )
    };
}

mod operands;

use crate::scratch::LINE_BYTES;

pub(super) use operands::{Bf16, Int8, Operands};

/// Whether the processor has tiles of bf16 and of bytes, and the operating system lets this process use them. Linux is asked: its leave is
/// for the process, all threads of it, and costs each thread that uses tiles the memory to save them in.
pub(crate) fn is_granted() -> bool {
    has_tiles() || is_emulated()
}

#[cfg(all(feature = "amx-emulator", target_os = "linux"))]
fn is_emulated() -> bool {
    super::emulator::start();
    true
}

#[cfg(not(all(feature = "amx-emulator", target_os = "linux")))]
fn is_emulated() -> bool {
    false
}

fn has_tiles() -> bool {
    // Leaf 7, EDX: bit 22 is AMX-BF16, bit 24 AMX-TILE, bit 25 AMX-INT8.
    const ALL: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & ALL == ALL && request_leave()
}

#[cfg(target_os = "linux")]
fn request_leave() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: the call takes no memory of ours; an unknown or refused request returns an error.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn request_leave() -> bool {
    false
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Eight tiles of sixteen rows of a line, for this thread, until dropped.
pub(super) struct Tiles {
    // Registers belong to the thread.
    not_send: PhantomData<*const ()>,
}

impl Tiles {
    /// # Safety
    /// The machine has tiles, and leave was given ([`is_granted`]). This thread has no other `Tiles`.
    pub(super) unsafe fn configure() -> Self {
        let mut configuration =
            Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        configuration.row_bytes[..8].fill(64);
        configuration.rows[..8].fill(16);
        // SAFETY: the caller's promise; the configuration is 64 bytes and valid.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _);
        }
        Self { not_send: PhantomData }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // Or every switch to another thread would save 8 KiB of tiles.
        // SAFETY: the machine has tiles, because there is a `Tiles`.
        unsafe {
            asm!("tilerelease", options(nostack, nomem),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _);
        }
    }
}

/// One product of a block of up to 32 rows and a panel of 32 columns.
pub(super) struct Product {
    /// For each step the tiles of rows 0..16 and 16..32, of the high parts and then of the low ones.
    pub(super) left: *const u8,
    /// For each step the tiles of columns 0..16 and 16..32, of the high parts and then of the low ones.
    pub(super) right: *const u8,
    /// Steps; at least one.
    pub(super) depth: usize,
    /// 32 × 32 numbers, of f32, or of i32 where operands are whole numbers; only the first 16 rows of them when there are at most 16.
    pub(super) sums: *mut f32,
    /// Bytes from one row of the sums to the next.
    pub(super) sums_stride: usize,
    /// How many rows are wanted; up to 16 take half the time.
    pub(super) rows: usize,
    /// What sums begin with.
    pub(super) begin: Begin,
    /// What will be read soon, for the second-level cache.
    pub(super) ahead: *const u8,
    /// How many lines of it are asked for in each step.
    pub(super) ahead_lines: usize,
}

/// What sums begin with.
#[derive(Clone, Copy)]
pub(super) enum Begin {
    Zeros,
    /// In each row these 32 numbers, of `f32`.
    Bias(*const f32),
    /// What is there.
    Sums,
}

impl Product {
    /// How often `meanwhile` is called.
    pub(super) fn pieces<N: Operands>(&self) -> usize {
        self.depth * if self.rows > 16 { N::PIECES } else { N::PIECES / 2 }
    }
}

/// Multiplies.
///
/// # Safety
/// There is a `Tiles` on this thread. `left` and `right` hold `depth` steps, at least one; `sums` can take 32 numbers in each of 32 rows (16
/// if `rows` is at most 16), which are initialised if it begins with them, as are 32 numbers of a bias. `meanwhile` touches none of them, and no tiles.
#[inline(always)]
pub(super) unsafe fn multiply<N: Operands>(product: &Product, meanwhile: &mut impl FnMut()) {
    debug_assert!(product.depth > 0);
    let (mut left, mut right, mut ahead) = (product.left, product.right, product.ahead);
    let is_tall = product.rows > 16;
    // SAFETY: the caller's promise. Prefetches may have any address.
    unsafe {
        begin_sums(product);
        if is_tall {
            N::begin(left, right);
        }
        for step in 0..product.depth {
            match (is_tall, step + 1 == product.depth) {
                (true, false) => N::step::<false>(left, right, meanwhile),
                (true, true) => N::step::<true>(left, right, meanwhile),
                (false, _) => N::half_step(left, right, meanwhile),
            }
            for _ in 0..product.ahead_lines {
                _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                ahead = ahead.wrapping_add(LINE_BYTES);
            }
            (left, right) = (left.wrapping_add(N::STEP_BYTES), right.wrapping_add(N::STEP_BYTES));
        }
        store_sums(product);
    }
}

/// Loads what sums begin with.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
unsafe fn begin_sums(product: &Product) {
    let [upper, lower] = halves_of_sums(product);
    // The same line for every row of a tile.
    let (upper, lower, stride) = match product.begin {
        // SAFETY: there is a `Tiles`.
        Begin::Zeros => unsafe {
            tiles!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3";);
            return;
        },
        Begin::Bias(bias) => (bias, bias, 0),
        Begin::Sums => (upper.cast_const(), lower.cast_const(), product.sums_stride),
    };
    // SAFETY: the caller's promise.
    unsafe {
        tiles!(
            "tileloadd tmm0, [{sums} + {stride}*1]",
            "tileloadd tmm1, [{sums} + {stride}*1 + 64]";
            sums = upper, stride = stride
        );
        if product.rows > 16 {
            tiles!(
                "tileloadd tmm2, [{sums} + {stride}*1]",
                "tileloadd tmm3, [{sums} + {stride}*1 + 64]";
                sums = lower, stride = stride
            );
        }
    }
}

/// Stores the sums.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
unsafe fn store_sums(product: &Product) {
    let [upper, lower] = halves_of_sums(product);
    // SAFETY: the caller's promise.
    unsafe {
        tiles!(
            "tilestored [{sums} + {stride}*1], tmm0",
            "tilestored [{sums} + {stride}*1 + 64], tmm1";
            sums = upper, stride = product.sums_stride
        );
        if product.rows > 16 {
            tiles!(
                "tilestored [{sums} + {stride}*1], tmm2",
                "tilestored [{sums} + {stride}*1 + 64], tmm3";
                sums = lower, stride = product.sums_stride
            );
        }
    }
}

/// Where the first 16 rows of the sums begin, and the others.
fn halves_of_sums(product: &Product) -> [*mut f32; 2] {
    [product.sums, product.sums.wrapping_byte_add(16 * product.sums_stride)]
}
