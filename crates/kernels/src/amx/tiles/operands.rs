//! What tiles multiply, and the order of their instructions.

use std::arch::asm;

use super::super::{INT8_STEP, step_bytes};
use crate::{quantise::SPAN, scratch::LINE_BYTES};

/// What operands hold, and the instructions that multiply them: for 32 rows with sums in tiles 0 to 3, left operands in 4 and 5 and right
/// ones in 6 and 7; for 16 rows with sums in 0 and 1 and the left operand in 4.
///
/// Left operands are read once for each panel, so they bypass the first-level cache (`tileloaddt1`), where right ones stay.
///
/// What `meanwhile` does has its instructions between those on tiles, one call after each piece. The processor looks some hundred instructions
/// ahead, and a product of tiles takes sixteen cycles: so few that units of tiles and registers work at the same time only where their
/// instructions alternate.
pub(in crate::amx) trait Operands {
    /// Bytes of the tiles of one step.
    const STEP_BYTES: usize;
    /// Steps whose sums are taken out of the tiles by themselves; without it all are summed there.
    const SPAN: Option<usize>;
    /// Pieces of a step of 32 rows; one of 16 rows has half as many.
    const PIECES: usize;

    /// Loads what the first step of 32 rows begins with.
    ///
    /// # Safety
    /// As for all here: there is a `Tiles` on this thread, and a step can be read at `left` and `right`. `meanwhile` uses no tiles.
    unsafe fn begin(left: *const u8, right: *const u8);

    /// Multiplies a step of 32 rows, and if it is not the `LAST` one, loads what the next one begins with, each operand after the last use
    /// of the one that it replaces.
    ///
    /// # Safety
    /// As for `begin`, and the next step can be read too, if there is one.
    unsafe fn step<const LAST: bool>(left: *const u8, right: *const u8, meanwhile: &mut impl FnMut());

    /// Loads and multiplies a step of 16 rows.
    ///
    /// # Safety
    /// As for `begin`.
    unsafe fn half_step(left: *const u8, right: *const u8, meanwhile: &mut impl FnMut());
}

/// bf16, in one part or `TWO`, of which three products are summed: low · high, high · high, high · low.
pub(in crate::amx) struct Bf16<const TWO: bool>;

/// Whole numbers of 8 bits: unsigned ones of rows, signed ones of weights.
pub(in crate::amx) struct Int8;

/// Loads a tile from so many bytes after an address.
macro_rules! load {
    ($load:literal, $tile:literal, $from:expr, $offset:literal) => {
        tiles!(concat!($load, " ", $tile, ", [{from} + {line}*1 + ", $offset, "]"); from = $from, line = LINE_BYTES)
    };
}

/// Multiplies two tiles into a third, and leaves a gap.
macro_rules! product {
    ($tiles:literal) => {
        tiles!(concat!("tdpbf16ps ", $tiles););
        gap();
    };
}

/// Loads a tile, and leaves a gap.
macro_rules! operand {
    ($($load:tt)*) => {
        load!($($load)*);
        gap();
    };
}

/// Eight instructions that do nothing, so that fewer of those on tiles wait at a time: a core that serves another thread beside this one
/// then does up to half as many again; one that serves this one alone takes no longer, because it waits for tiles.
#[inline(always)]
fn gap() {
    // SAFETY: nothing is done.
    unsafe { asm!(".rept 8", "nop", ".endr", options(nomem, nostack, preserves_flags)) }
}

/// One tile for sixteen rows or columns of a step, multiplied by this instruction.
macro_rules! single {
    ($dot:literal) => {
        const PIECES: usize = 4;

        #[inline(always)]
        unsafe fn begin(left: *const u8, right: *const u8) {
            // SAFETY: the caller's promise.
            unsafe {
                load!("tileloaddt1", "tmm4", left, 0);
                load!("tileloadd", "tmm6", right, 0);
                load!("tileloadd", "tmm7", right, 1024);
                load!("tileloaddt1", "tmm5", left, 1024);
            }
        }

        #[inline(always)]
        unsafe fn step<const LAST: bool>(left: *const u8, right: *const u8, meanwhile: &mut impl FnMut()) {
            // SAFETY: the caller's promise.
            unsafe {
                tiles!(concat!($dot, " tmm0, tmm4, tmm6"););
                meanwhile();
                tiles!(concat!($dot, " tmm1, tmm4, tmm7"););
                if !LAST {
                    load!("tileloaddt1", "tmm4", left, 2048);
                }
                meanwhile();
                tiles!(concat!($dot, " tmm2, tmm5, tmm6"););
                if !LAST {
                    load!("tileloadd", "tmm6", right, 2048);
                }
                meanwhile();
                tiles!(concat!($dot, " tmm3, tmm5, tmm7"););
                if !LAST {
                    load!("tileloadd", "tmm7", right, 3072);
                    load!("tileloaddt1", "tmm5", left, 3072);
                }
                meanwhile();
            }
        }

        #[inline(always)]
        unsafe fn half_step(left: *const u8, right: *const u8, meanwhile: &mut impl FnMut()) {
            // SAFETY: the caller's promise.
            unsafe {
                load!("tileloaddt1", "tmm4", left, 0);
                load!("tileloadd", "tmm6", right, 0);
                load!("tileloadd", "tmm7", right, 1024);
                tiles!(concat!($dot, " tmm0, tmm4, tmm6"););
                meanwhile();
                tiles!(concat!($dot, " tmm1, tmm4, tmm7"););
                meanwhile();
            }
        }
    };
}

impl Operands for Bf16<false> {
    const STEP_BYTES: usize = step_bytes(false);
    const SPAN: Option<usize> = None;

    single!("tdpbf16ps");
}

impl Operands for Int8 {
    const STEP_BYTES: usize = step_bytes(false);
    const SPAN: Option<usize> = Some(SPAN / INT8_STEP);

    single!("tdpbusd");
}

impl Operands for Bf16<true> {
    const STEP_BYTES: usize = step_bytes(true);
    const SPAN: Option<usize> = None;
    const PIECES: usize = 6;

    #[inline(always)]
    unsafe fn begin(left: *const u8, right: *const u8) {
        // SAFETY: the caller's promise.
        unsafe {
            load!("tileloaddt1", "tmm4", left, 2048);
            load!("tileloadd", "tmm6", right, 0);
            load!("tileloadd", "tmm7", right, 1024);
            load!("tileloaddt1", "tmm5", left, 3072);
        }
    }

    #[inline(always)]
    unsafe fn step<const LAST: bool>(left: *const u8, right: *const u8, meanwhile: &mut impl FnMut()) {
        // SAFETY: the caller's promise.
        unsafe {
            product!("tmm0, tmm4, tmm6");
            product!("tmm1, tmm4, tmm7");
            operand!("tileloaddt1", "tmm4", left, 0);
            meanwhile();
            product!("tmm2, tmm5, tmm6");
            product!("tmm3, tmm5, tmm7");
            operand!("tileloaddt1", "tmm5", left, 1024);
            meanwhile();
            product!("tmm0, tmm4, tmm6");
            product!("tmm2, tmm5, tmm6");
            operand!("tileloadd", "tmm6", right, 2048);
            meanwhile();
            product!("tmm1, tmm4, tmm7");
            product!("tmm3, tmm5, tmm7");
            operand!("tileloadd", "tmm7", right, 3072);
            meanwhile();
            product!("tmm0, tmm4, tmm6");
            product!("tmm1, tmm4, tmm7");
            if !LAST {
                operand!("tileloaddt1", "tmm4", left, 6144);
            }
            meanwhile();
            product!("tmm2, tmm5, tmm6");
            if !LAST {
                operand!("tileloadd", "tmm6", right, 4096);
            }
            product!("tmm3, tmm5, tmm7");
            if !LAST {
                operand!("tileloadd", "tmm7", right, 5120);
                operand!("tileloaddt1", "tmm5", left, 7168);
            }
            meanwhile();
        }
    }

    #[inline(always)]
    unsafe fn half_step(left: *const u8, right: *const u8, meanwhile: &mut impl FnMut()) {
        // SAFETY: the caller's promise.
        unsafe {
            operand!("tileloaddt1", "tmm4", left, 2048);
            operand!("tileloadd", "tmm6", right, 0);
            operand!("tileloadd", "tmm7", right, 1024);
            operand!("tileloaddt1", "tmm5", left, 0);
            tiles!("tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7";);
            meanwhile();
            tiles!("tdpbf16ps tmm0, tmm5, tmm6", "tdpbf16ps tmm1, tmm5, tmm7";);
            operand!("tileloadd", "tmm6", right, 2048);
            operand!("tileloadd", "tmm7", right, 3072);
            meanwhile();
            tiles!("tdpbf16ps tmm0, tmm5, tmm6", "tdpbf16ps tmm1, tmm5, tmm7";);
            meanwhile();
        }
    }
}
