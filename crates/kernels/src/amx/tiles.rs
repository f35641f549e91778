//! The tile registers: leave to use them, their configuration, and the loop that multiplies in them, in assembly because
//! stable Rust has no intrinsics for it. Instructions and layouts: Intel's Software Developer's Manual, volume 1, chapter 18;
//! leave: `Documentation/arch/x86/xstate.rst` of Linux.

use std::{
    arch::{asm, x86_64::__cpuid_count},
    marker::PhantomData,
};

use super::{INT8_STEP, step_bytes};
use crate::{quantise::SPAN, scratch::LINE_BYTES};

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
    /// Whether to add to the sums that are there.
    pub(super) accumulates: bool,
    /// What will be read soon, for the second-level cache.
    pub(super) ahead: *const u8,
    /// Bytes from one line that is asked for to the next, of which there are `AHEAD_LINES` in each step; 0 asks for one line
    /// again and again, which costs nothing.
    pub(super) ahead_stride: usize,
}

/// Lines asked for in one step of a product.
pub(super) const AHEAD_LINES: usize = 4;

/// Asks for the next lines.
macro_rules! ask {
    () => {
        "prefetcht1 [{ahead}]
        add {ahead}, {ahead_stride}
        prefetcht1 [{ahead}]
        add {ahead}, {ahead_stride}
        prefetcht1 [{ahead}]
        add {ahead}, {ahead_stride}
        prefetcht1 [{ahead}]
        add {ahead}, {ahead_stride}"
    };
}

/// The loop over steps; the pieces differ in how many row tiles and parts there are. `step` multiplies and loads what the next step
/// begins with, `end` only multiplies.
macro_rules! multiply {
    (
        $product:ident, $bytes:expr,
        load: [$($load:expr),*], zero: [$($zero:expr),*],
        begin: [$($begin:expr),*], step: [$($step:expr),*], end: [$($end:expr),*],
        store: [$($store:expr),*]
        $(, lower: $lower:ident)?
    ) => {
        asm!(
            "test {accumulates}, {accumulates}",
            "jz 2f",
            $($load,)*
            "jmp 3f",
            "2:",
            $($zero,)*
            "3:",
            $($begin,)*
            "dec {depth}",
            "jz 5f",
            "4:",
            $($step,)*
            ask!(),
            "add {left}, {bytes}",
            "add {right}, {bytes}",
            "dec {depth}",
            "jnz 4b",
            "5:",
            $($end,)*
            $($store,)*
            bytes = const $bytes,
            left = inout(reg) $product.left => _,
            right = inout(reg) $product.right => _,
            depth = inout(reg) $product.depth => _,
            line = in(reg) LINE_BYTES,
            sums = in(reg) $product.sums,
            $($lower = in(reg) $product.sums.byte_add(16 * $product.sums_stride),)?
            stride = in(reg) $product.sums_stride,
            accumulates = in(reg) usize::from($product.accumulates),
            ahead = inout(reg) $product.ahead => _,
            ahead_stride = in(reg) $product.ahead_stride,
            options(nostack),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
        )
    };
}

/// 32 rows: sums in tiles 0 to 3, left operands in 4 and 5, right ones in 6 and 7. Each operand of the next step is loaded after the last
/// use of the one that it replaces.
macro_rules! multiply_tall {
    (
        $product:ident, $bytes:expr,
        begin: [$($begin:expr),*], step: [$($step:expr),*], end: [$($end:expr),*]
    ) => {
        multiply!(
            $product, $bytes,
            load: [
                "tileloadd tmm0, [{sums} + {stride}*1]",
                "tileloadd tmm1, [{sums} + {stride}*1 + 64]",
                "tileloadd tmm2, [{lower} + {stride}*1]",
                "tileloadd tmm3, [{lower} + {stride}*1 + 64]"
            ],
            zero: ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"],
            begin: [$($begin),*], step: [$($step),*], end: [$($end),*],
            store: [
                "tilestored [{sums} + {stride}*1], tmm0",
                "tilestored [{sums} + {stride}*1 + 64], tmm1",
                "tilestored [{lower} + {stride}*1], tmm2",
                "tilestored [{lower} + {stride}*1 + 64], tmm3"
            ],
            lower: lower
        )
    };
}

/// 16 rows: sums in tiles 0 and 1, the left operand in 4, right ones in 6 and 7.
macro_rules! multiply_flat {
    ($product:ident, $bytes:expr, [$($step:expr),*] $(, $last:expr)?) => {
        multiply!(
            $product, $bytes,
            load: ["tileloadd tmm0, [{sums} + {stride}*1]", "tileloadd tmm1, [{sums} + {stride}*1 + 64]"],
            zero: ["tilezero tmm0", "tilezero tmm1"],
            begin: [], step: [$($step),*], end: [$($last,)? $($step),*],
            store: ["tilestored [{sums} + {stride}*1], tmm0", "tilestored [{sums} + {stride}*1 + 64], tmm1"]
        )
    };
}

/// One part, any number of rows, with this instruction; the last step may begin with one more.
macro_rules! multiply_one {
    ($product:ident, $dot:literal $(, $last:expr)?) => {
        if $product.rows > 16 {
            multiply_tall!(
                $product,
                step_bytes(false),
                begin: [
                    "tileloaddt1 tmm4, [{left} + {line}*1]",
                    "tileloadd tmm6, [{right} + {line}*1]",
                    "tileloadd tmm7, [{right} + {line}*1 + 1024]",
                    "tileloaddt1 tmm5, [{left} + {line}*1 + 1024]"
                ],
                step: [
                    concat!($dot, " tmm0, tmm4, tmm6"),
                    concat!($dot, " tmm1, tmm4, tmm7"),
                    "tileloaddt1 tmm4, [{left} + {line}*1 + 2048]",
                    concat!($dot, " tmm2, tmm5, tmm6"),
                    "tileloadd tmm6, [{right} + {line}*1 + 2048]",
                    concat!($dot, " tmm3, tmm5, tmm7"),
                    "tileloadd tmm7, [{right} + {line}*1 + 3072]",
                    "tileloaddt1 tmm5, [{left} + {line}*1 + 3072]"
                ],
                end: [
                    $($last,)?
                    concat!($dot, " tmm0, tmm4, tmm6"),
                    concat!($dot, " tmm1, tmm4, tmm7"),
                    concat!($dot, " tmm2, tmm5, tmm6"),
                    concat!($dot, " tmm3, tmm5, tmm7")
                ]
            )
        } else {
            multiply_flat!(
                $product,
                step_bytes(false),
                [
                    "tileloaddt1 tmm4, [{left} + {line}*1]",
                    "tileloadd tmm6, [{right} + {line}*1]",
                    "tileloadd tmm7, [{right} + {line}*1 + 1024]",
                    concat!($dot, " tmm0, tmm4, tmm6"),
                    concat!($dot, " tmm1, tmm4, tmm7")
                ]
                $(, $last)?
            )
        }
    };
}

/// What operands hold.
pub(super) trait Operands {
    /// Bytes of the tiles of one step.
    const STEP_BYTES: usize;
    /// Steps whose sums are taken out of the tiles by themselves; without it all are summed there.
    const SPAN: Option<usize>;

    /// # Safety
    /// There is a `Tiles` on this thread. `left` and `right` hold `depth` steps, at least one; `sums` can take 32 numbers in each
    /// of 32 rows (16 if `rows` is at most 16), which are initialised if it accumulates.
    unsafe fn multiply(product: &Product);
}

/// bf16, in one part or `TWO`.
pub(super) struct Bf16<const TWO: bool>;

/// Whole numbers of 8 bits: unsigned ones of rows, signed ones of weights.
pub(super) struct Int8;

impl<const TWO: bool> Operands for Bf16<TWO> {
    const STEP_BYTES: usize = step_bytes(TWO);
    const SPAN: Option<usize> = None;

    #[inline(always)]
    unsafe fn multiply(product: &Product) {
        // SAFETY: the caller's promise.
        unsafe { multiply::<TWO>(product) }
    }
}

impl Operands for Int8 {
    const STEP_BYTES: usize = step_bytes(false);
    const SPAN: Option<usize> = Some(SPAN / INT8_STEP);

    #[inline(always)]
    unsafe fn multiply(product: &Product) {
        debug_assert!(product.depth > 0);
        // So few steps that a third would ask for nothing if the last did not.
        // SAFETY: the caller's promise. Prefetches may have any address.
        unsafe { multiply_one!(product, "tdpbusd", ask!()) }
    }
}

/// Multiplies bf16; with `TWO`, each number is in two parts, and three products are summed: low · high, high · high, high · low.
///
/// # Safety
/// As for [`Operands::multiply`].
#[inline(always)]
pub(super) unsafe fn multiply<const TWO: bool>(product: &Product) {
    debug_assert!(product.depth > 0);
    // SAFETY: the caller's promise. Prefetches may have any address.
    unsafe {
        match (TWO, product.rows > 16) {
            (true, true) => multiply_tall!(
                product,
                step_bytes(true),
                begin: [
                    "tileloaddt1 tmm4, [{left} + {line}*1 + 2048]",
                    "tileloadd tmm6, [{right} + {line}*1]",
                    "tileloadd tmm7, [{right} + {line}*1 + 1024]",
                    "tileloaddt1 tmm5, [{left} + {line}*1 + 3072]"
                ],
                step: [
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloaddt1 tmm4, [{left} + {line}*1]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "tileloaddt1 tmm5, [{left} + {line}*1 + 1024]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tileloadd tmm6, [{right} + {line}*1 + 2048]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "tileloadd tmm7, [{right} + {line}*1 + 3072]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloaddt1 tmm4, [{left} + {line}*1 + 6144]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tileloadd tmm6, [{right} + {line}*1 + 4096]",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "tileloadd tmm7, [{right} + {line}*1 + 5120]",
                    "tileloaddt1 tmm5, [{left} + {line}*1 + 7168]"
                ],
                end: [
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloaddt1 tmm4, [{left} + {line}*1]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "tileloaddt1 tmm5, [{left} + {line}*1 + 1024]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tileloadd tmm6, [{right} + {line}*1 + 2048]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "tileloadd tmm7, [{right} + {line}*1 + 3072]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7"
                ]
            ),
            (true, false) => multiply_flat!(
                product,
                step_bytes(true),
                [
                    "tileloaddt1 tmm4, [{left} + {line}*1 + 2048]",
                    "tileloadd tmm6, [{right} + {line}*1]",
                    "tileloadd tmm7, [{right} + {line}*1 + 1024]",
                    "tileloaddt1 tmm5, [{left} + {line}*1]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm0, tmm5, tmm6",
                    "tdpbf16ps tmm1, tmm5, tmm7",
                    "tileloadd tmm6, [{right} + {line}*1 + 2048]",
                    "tileloadd tmm7, [{right} + {line}*1 + 3072]",
                    "tdpbf16ps tmm0, tmm5, tmm6",
                    "tdpbf16ps tmm1, tmm5, tmm7"
                ]
            ),
            (false, _) => multiply_one!(product, "tdpbf16ps"),
        }
    }
}
