//! The tile registers where a machine has none, for tests: their instructions are invalid there, and a handler of SIGILL does what they
//! say. Formats of instructions: Intel's Software Developer's Manual, volume 2; a thousand times slower than tiles.

#[cfg(not(debug_assertions))]
compile_error!("amx-emulator is for tests: nothing that is used computes so slowly");

use std::{cell::UnsafeCell, mem, ptr, sync::Once};

/// Bytes of a row of a tile.
const ROW: usize = 64;

/// A tile: sixteen rows.
type Tile = [u8; 16 * ROW];

/// What a thread's tile registers hold.
struct Registers {
    tiles: [Tile; 8],
    rows: [u8; 8],
    row_bytes: [u16; 8],
}

thread_local! {
    // Constant and without a destructor, so that a handler of signals may use it.
    static REGISTERS: UnsafeCell<Registers> =
        const { UnsafeCell::new(Registers { tiles: [[0; 16 * ROW]; 8], rows: [0; 8], row_bytes: [0; 8] }) };
}

/// Does from now on what tile instructions say, on all threads.
///
/// # Panics
/// When the system lets nobody handle signals.
pub(super) fn start() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = handle;
        // SAFETY: a zeroed action is a valid one; the handler has the signature that SA_SIGINFO asks for.
        let status = unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
            libc::sigaction(libc::SIGILL, &raw const action, ptr::null_mut())
        };
        assert!(status == 0, "a handler of SIGILL can be set");
    });
}

extern "C" fn handle(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system hands the context of the thread that was interrupted, whose registers may be changed; its instruction
    // pointer is at the instruction.
    let done = unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        REGISTERS.with(|tiles| run(&mut *tiles.get(), registers))
    };
    if done.is_none() {
        // Not ours: it ends the program when it comes again.
        // SAFETY: resetting a signal's action is always sound.
        unsafe { libc::signal(libc::SIGILL, libc::SIG_DFL) };
    }
}

/// The general registers of a context, by their numbers in instructions.
const GENERAL: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Runs the instruction at the instruction pointer and moves that behind it; `None` when it is not one of tiles.
///
/// # Safety
/// The registers are those of a thread that is at an instruction, whose operands in memory are as it promises.
unsafe fn run(tiles: &mut Registers, registers: &mut [i64; 23]) -> Option<()> {
    let at = registers[libc::REG_RIP as usize] as *const u8;
    // SAFETY: an instruction that the processor refused was read by it.
    let byte = |index: usize| unsafe { *at.add(index) };
    // Three bytes of VEX, map 0F38, no wide operands.
    if byte(0) != 0xc4 || byte(1) & 0x1f != 2 || byte(2) & 0x84 != 0 {
        return None;
    }
    let (prefix, third) = (byte(2) & 3, usize::from(!byte(2) >> 3 & 7));
    let (opcode, form) = (byte(3), byte(4));
    let (is_register, tile, second) = (form >> 6 == 3, usize::from(form >> 3 & 7), usize::from(form & 7));
    let mut length = 5;
    let mut address = || {
        let general = |number: u8| registers[GENERAL[usize::from(number)] as usize];
        let is_high = |bit: u8| (!byte(1) >> bit & 1) << 3;
        let (mut base, mut stride) = (form & 7 | is_high(5), 0);
        if form & 7 == 4 {
            let parts = byte(5);
            length = 6;
            base = parts & 7 | is_high(5);
            let index = parts >> 3 & 7 | is_high(6);
            stride = if index == 4 { 0 } else { general(index) << (parts >> 6) };
        }
        let displacement = match form >> 6 {
            0 => 0,
            1 => i64::from(byte(length).cast_signed()),
            _ => i64::from(i32::from_le_bytes([byte(length), byte(length + 1), byte(length + 2), byte(length + 3)])),
        };
        length += [0, 1, 4][usize::from(form >> 6)];
        ((general(base) + displacement) as *mut u8, stride as isize)
    };
    match (opcode, prefix, is_register) {
        // ldtilecfg
        (0x49, 0, false) => {
            let (from, _) = address();
            for tile in 0..8 {
                // SAFETY: the instruction reads 64 bytes.
                unsafe {
                    tiles.row_bytes[tile] = from.add(16 + 2 * tile).cast::<u16>().read_unaligned();
                    tiles.rows[tile] = *from.add(48 + tile);
                }
            }
            tiles.tiles = [[0; 16 * ROW]; 8];
        }
        // tilerelease
        (0x49, 0, true) => (tiles.rows, tiles.row_bytes) = ([0; 8], [0; 8]),
        // tilezero
        (0x49, 3, true) => tiles.tiles[tile] = [0; 16 * ROW],
        // tileloadd, tileloaddt1 and tilestored
        (0x4b, 1..=3, false) => {
            let (memory, stride) = address();
            let bytes = usize::from(tiles.row_bytes[tile]);
            for (row, line) in tiles.tiles[tile].chunks_mut(ROW).enumerate().take(tiles.rows[tile].into()) {
                let memory = memory.wrapping_offset(row as isize * stride);
                // SAFETY: the instruction reads or writes so many bytes there.
                unsafe {
                    if prefix == 2 {
                        ptr::copy_nonoverlapping(line.as_ptr(), memory, bytes);
                    } else {
                        ptr::copy_nonoverlapping(memory, line.as_mut_ptr(), bytes);
                    }
                }
            }
        }
        // tdpbf16ps
        (0x5c, 2, true) => {
            let sums = multiplied(&tiles.tiles[tile], &tiles.tiles[second], &tiles.tiles[third], add_bf16);
            tiles.tiles[tile] = sums;
        }
        // tdpbusd
        (0x5e, 1, true) => {
            let sums = multiplied(&tiles.tiles[tile], &tiles.tiles[second], &tiles.tiles[third], add_bytes);
            tiles.tiles[tile] = sums;
        }
        _ => return None,
    }
    registers[libc::REG_RIP as usize] += length as i64;
    Some(())
}

/// Four bytes of a tile: a group of numbers, or a sum.
type Four = [u8; 4];

/// Whole tiles: to each sum the products of sixteen groups of a row with sixteen of a column.
fn multiplied(sums: &Tile, left: &Tile, right: &Tile, add: impl Fn(Four, Four, Four) -> Four) -> Tile {
    let four = |tile: &Tile, row: usize, place: usize| {
        let at = row * ROW + place * 4;
        [tile[at], tile[at + 1], tile[at + 2], tile[at + 3]]
    };
    let mut result = *sums;
    for (place, result) in result.chunks_exact_mut(4).enumerate() {
        let (row, column) = (place / 16, place % 16);
        let sum = (0..16)
            .fold(four(sums, row, column), |sum, group| add(sum, four(left, row, group), four(right, group, column)));
        result.copy_from_slice(&sum);
    }
    result
}

/// A sum in f32 with the products of two bf16.
fn add_bf16(sum: Four, left: Four, right: Four) -> Four {
    let bf16 = |low: u8, high: u8| f32::from_bits(u32::from_le_bytes([0, 0, low, high]));
    let sum = f32::from_le_bytes(sum) + bf16(left[0], left[1]) * bf16(right[0], right[1]);
    (sum + bf16(left[2], left[3]) * bf16(right[2], right[3])).to_le_bytes()
}

/// A sum in i32 with the products of four bytes, unsigned ones of the left and signed ones of the right.
fn add_bytes(sum: Four, left: Four, right: Four) -> Four {
    let products = left.into_iter().zip(right).map(|(left, right)| i32::from(left) * i32::from(right.cast_signed()));
    products.fold(i32::from_le_bytes(sum), i32::wrapping_add).to_le_bytes()
}
