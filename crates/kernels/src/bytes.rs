//! Sums of products of bytes: unsigned ones of weights with signed ones of a row, four to a lane of 32 bits. One interface over the
//! instructions that do it, and what takes its place where there are none. All give the same sums, which are exact.

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::lanes::{Lanes, Portable};

#[cfg(target_arch = "aarch64")]
pub(crate) use neon::{NeonBytes, NeonBytesDots};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2Bytes, Avx2BytesVnni, Avx512Bytes, Avx512BytesVnni};

/// Bytes in a lane.
pub(crate) const IN_LANE: usize = 4;

/// Instructions for sums of products of bytes.
///
/// # Safety of the unsafe methods
/// The machine has the instructions. `load` reads [`IN_LANE`] bytes for each lane, `group` that many, `small` one for each lane. No
/// alignment is needed.
pub(crate) trait Bytes {
    /// Registers with as many lanes.
    type Floats: Lanes;
    /// Whole numbers of 32 bits, or four bytes, in each lane.
    type Whole: Copy;

    /// `value` in all lanes.
    unsafe fn splat(value: i32) -> Self::Whole;
    /// The bytes of each lane.
    unsafe fn load(from: *const u8) -> Self::Whole;
    /// The same bytes in all lanes.
    unsafe fn group(from: *const u8) -> Self::Whole;
    /// The lower halves of all bytes.
    unsafe fn lower(bytes: Self::Whole) -> Self::Whole;
    /// The upper halves of all bytes.
    unsafe fn upper(bytes: Self::Whole) -> Self::Whole;
    /// Adds the products of unsigned with signed bytes of each lane to its sum.
    unsafe fn add(sums: Self::Whole, unsigned: Self::Whole, signed: Self::Whole) -> Self::Whole;
    /// The numbers of lanes that are below 2²⁴.
    unsafe fn floats(sums: Self::Whole) -> Self::Floats;
    /// Signed bytes as numbers, one for each lane.
    unsafe fn small(from: *const i8) -> Self::Floats;
}

/// Plain Rust, which the compiler puts into whatever registers its target has.
pub(crate) struct PortableBytes;

const WIDTH: usize = Portable::WIDTH;

impl Bytes for PortableBytes {
    type Floats = Portable;
    type Whole = [i32; WIDTH];

    #[inline(always)]
    unsafe fn splat(value: i32) -> Self::Whole {
        [value; WIDTH]
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self::Whole {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<Self::Whole>().read_unaligned() }.map(i32::from_le)
    }

    #[inline(always)]
    unsafe fn group(from: *const u8) -> Self::Whole {
        // SAFETY: the caller's promise.
        [i32::from_le(unsafe { from.cast::<i32>().read_unaligned() }); WIDTH]
    }

    #[inline(always)]
    unsafe fn lower(bytes: Self::Whole) -> Self::Whole {
        bytes.map(|bytes| bytes & 0x0f0f_0f0f)
    }

    #[inline(always)]
    unsafe fn upper(bytes: Self::Whole) -> Self::Whole {
        bytes.map(|bytes| bytes >> 4 & 0x0f0f_0f0f)
    }

    #[inline(always)]
    unsafe fn add(mut sums: Self::Whole, unsigned: Self::Whole, signed: Self::Whole) -> Self::Whole {
        for ((sum, unsigned), signed) in sums.iter_mut().zip(unsigned).zip(signed) {
            for (one, other) in unsigned.to_le_bytes().into_iter().zip(signed.to_le_bytes()) {
                *sum += i32::from(one) * i32::from(other.cast_signed());
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn floats(sums: Self::Whole) -> Portable {
        let sums = sums.map(|sum| sum as f32);
        // SAFETY: a register of numbers.
        unsafe { Portable::load(sums.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn small(from: *const i8) -> Portable {
        // SAFETY: the caller's promise; then a register of numbers.
        unsafe {
            let numbers = from.cast::<[i8; WIDTH]>().read_unaligned().map(f32::from);
            Portable::load(numbers.as_ptr())
        }
    }
}
