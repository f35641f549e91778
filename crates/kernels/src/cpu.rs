//! Which instructions kernels use: what this machine has, found once, or less where the caller wants less.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::{fmt, str::FromStr, sync::OnceLock};

#[cfg(target_arch = "aarch64")]
use self::aarch64::{extensions, has};
#[cfg(target_arch = "x86_64")]
use self::x86::{extensions, has};
use crate::{
    bytes::{Bytes, PortableBytes},
    dots::{Dots, PortableWords},
    lanes::{Lanes, Portable},
};

/// A set of instructions. Those of one architecture go from the most general to the fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust, for whatever the program was compiled for.
    Portable,
    /// NEON, of aarch64.
    Neon,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512: F, BW, DQ and VL.
    Avx512,
    /// AMX tiles of bf16 and of bytes, beside AVX-512, its VNNI and its bf16.
    Amx,
}

/// How exact products are. All sums and everything else are `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As exact as `f32`: relative error of a product at most 2⁻¹⁵.
    F32,
    /// Operands may be rounded to bf16 (8 significant bits) where that is faster; elsewhere the same as `F32`.
    Bf16,
    /// Operands of matrices are whole numbers of 8 bits, on a grid of its own for each 192 inputs of each output's weights and of
    /// each row that is multiplied with them; the sums of their products are exact, and the same on every machine.
    Int8,
}

/// Why there is no [`Cpu`] for what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IsaError {
    /// No set of instructions has this name.
    Unknown(String),
    /// This machine, or its operating system, does not have it.
    Unavailable(Isa),
}

/// The proof that this machine has a set of instructions; kernels take it, so that none runs where it cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    isa: Isa,
    extensions: Extensions,
}

/// Instructions that multiply narrow numbers and add the products of a group, which some processors have beside a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Extensions {
    /// AVX-512 VNNI, AVX-VNNI beside AVX2, or dot products beside NEON.
    int8: bool,
    /// AVX-512 BF16, or BF16 beside NEON.
    bf16: bool,
}

/// What a kernel does, for any width of registers.
pub(crate) trait Work {
    /// # Safety
    /// The machine has the instructions of `V`.
    unsafe fn run<V: Lanes>(self);
}

/// What a kernel does, for any instructions that multiply bytes.
pub(crate) trait BytesWork {
    /// # Safety
    /// The machine has the instructions of `B`.
    unsafe fn run<B: Bytes>(self);
}

/// What a kernel does, for any instructions that multiply narrow numbers.
pub(crate) trait NarrowWork {
    /// # Safety
    /// The machine has the instructions of `D`.
    unsafe fn run<D: Dots>(self);
}

impl Isa {
    /// All of them, of each architecture the most general first.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Neon, Self::Avx2, Self::Avx512, Self::Amx];

    fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Self, IsaError> {
        Self::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| IsaError::Unknown(name.to_owned()))
    }
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => {
                write!(f, "no instructions are called {name:?}: portable, neon, avx2, avx512 or amx")
            }
            Self::Unavailable(isa) => write!(f, "this machine has no {isa}"),
        }
    }
}

impl std::error::Error for IsaError {}

impl Default for Cpu {
    fn default() -> Self {
        Self::best()
    }
}

impl Cpu {
    /// The fastest this machine has.
    #[must_use]
    pub fn best() -> Self {
        let isa = available().last().copied().unwrap_or(Isa::Portable);
        Self { isa, extensions: extensions(isa) }
    }

    /// These instructions, though the machine may have faster ones.
    ///
    /// # Errors
    /// When the machine does not have them.
    pub fn with(isa: Isa) -> Result<Self, IsaError> {
        let cpu = Self { isa, extensions: extensions(isa) };
        if available().contains(&isa) { Ok(cpu) } else { Err(IsaError::Unavailable(isa)) }
    }

    /// The same set as older processors have it, without instructions for sums of narrow products (VNNI, dot products, BF16). Tiles
    /// stay.
    #[must_use]
    pub fn without_extensions(self) -> Self {
        Self { extensions: Extensions::default(), ..self }
    }

    /// The same without tiles, whose f32 is exact to 2⁻¹⁷ of each operand: for what adds up too many of such errors.
    #[must_use]
    pub fn in_registers(self) -> Self {
        Self { isa: if self.isa == Isa::Amx { Isa::Avx512 } else { self.isa }, ..self }
    }

    /// What products are really computed in where this precision is asked for: it, or `F32` where that is as fast.
    #[must_use]
    pub fn precision(self, asked: Precision) -> Precision {
        match asked {
            Precision::Bf16 if self.isa != Isa::Amx && !self.extensions.bf16 => Precision::F32,
            asked => asked,
        }
    }

    /// Which instructions these are.
    #[must_use]
    pub fn isa(self) -> Isa {
        self.isa
    }

    /// A word for how weights are packed for it: another for another processor, unless it packs them alike.
    #[must_use]
    pub fn packing(self) -> String {
        let Extensions { int8, bf16 } = self.extensions;
        let extensions = [(int8, "-int8"), (bf16, "-bf16")];
        let extensions = extensions.map(|(has_it, word)| if has_it { word } else { "" });
        format!("{}{}", self.isa, extensions.concat())
    }

    /// Does the work in the widest registers.
    pub(crate) fn run(self, work: impl Work) {
        match self.isa {
            // SAFETY: every machine has the instructions the program was compiled for.
            Isa::Portable => unsafe { work.run::<Portable>() },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: a `Cpu` with these instructions exists only where they do.
            Isa::Neon => unsafe { aarch64::neon(work) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { x86::avx2(work) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512 | Isa::Amx => unsafe { x86::avx512(work) },
            _ => unreachable!("no such Cpu is made here"),
        }
    }

    /// Does the work on whole numbers of 8 bits, in the widest registers.
    pub(crate) fn run_int8(self, work: impl NarrowWork) {
        #[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
        let has_dots = self.extensions.int8;
        match self.isa {
            // SAFETY: every machine has the instructions the program was compiled for.
            Isa::Portable => unsafe { work.run::<PortableWords>() },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: a `Cpu` with these instructions and extensions exists only where they do.
            Isa::Neon => unsafe { if has_dots { aarch64::neon_dots(work) } else { aarch64::neon_words(work) } },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { if has_dots { x86::avx2_vnni(work) } else { x86::avx2_words(work) } },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512 | Isa::Amx => unsafe {
                if has_dots { x86::avx512_vnni(work) } else { x86::avx512_words(work) }
            },
            _ => unreachable!("no such Cpu is made here"),
        }
    }

    /// Does the work on bytes as they are, in the widest registers.
    pub(crate) fn run_bytes(self, work: impl BytesWork) {
        #[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
        let has_dots = self.extensions.int8;
        match self.isa {
            // SAFETY: every machine has the instructions the program was compiled for.
            Isa::Portable => unsafe { work.run::<PortableBytes>() },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: a `Cpu` with these instructions and extensions exists only where they do.
            Isa::Neon => unsafe { if has_dots { aarch64::neon_bytes_dots(work) } else { aarch64::neon_bytes(work) } },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { if has_dots { x86::avx2_bytes_vnni(work) } else { x86::avx2_bytes(work) } },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512 | Isa::Amx => unsafe {
                if has_dots { x86::avx512_bytes_vnni(work) } else { x86::avx512_bytes(work) }
            },
            _ => unreachable!("no such Cpu is made here"),
        }
    }

    /// Does the work on bf16, for which [`precision`](Self::precision) must be `Bf16`, and there are no tiles.
    pub(crate) fn run_bf16(self, work: impl NarrowWork) {
        #[cfg(target_arch = "aarch64")]
        if self.extensions.bf16 {
            // SAFETY: a `Cpu` with this extension exists only where it does.
            return unsafe { aarch64::neon_bf16(work) };
        }
        #[cfg(target_arch = "x86_64")]
        if self.extensions.bf16 {
            // SAFETY: as above.
            return unsafe { x86::avx512_bf16(work) };
        }
        let _ = work;
        unreachable!("matrices of bf16 are packed only where there is an instruction for them");
    }
}

/// The sets that this machine has, the fastest last. Asks the machine once, and the operating system for leave to use tiles.
fn available() -> &'static [Isa] {
    static AVAILABLE: OnceLock<Vec<Isa>> = OnceLock::new();
    AVAILABLE.get_or_init(|| Isa::ALL.into_iter().filter(|isa| has(*isa)).collect())
}

#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
fn has(isa: Isa) -> bool {
    isa == Isa::Portable
}

#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
fn extensions(_isa: Isa) -> Extensions {
    Extensions::default()
}
