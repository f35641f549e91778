//! Which instructions kernels use: what this machine has, found once, or less where the caller wants less.

use std::{fmt, str::FromStr, sync::OnceLock};

use crate::lanes::{Lanes, Portable};

/// A set of instructions, from the most general to the fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust, for whatever the program was compiled for.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512: F, BW, DQ and VL.
    Avx512,
    /// AMX tiles of bf16, beside AVX-512 and its bf16.
    Amx,
}

/// How exact products are. All sums and everything else are `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As exact as `f32`: relative error of a product at most 2⁻¹⁵.
    F32,
    /// Operands may be rounded to bf16 (8 significant bits) where that is faster; elsewhere the same as `F32`.
    Bf16,
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
}

/// What a kernel does, for any width of registers.
pub(crate) trait Work {
    /// # Safety
    /// The machine has the instructions of `V`.
    unsafe fn run<V: Lanes>(self);
}

impl Isa {
    /// All of them, the most general first.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Amx];

    fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
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
            Self::Unknown(name) => write!(f, "no instructions are called {name:?}: portable, avx2, avx512 or amx"),
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
    /// The fastest this machine has. Asks the machine once, and the operating system for leave to use tiles.
    #[must_use]
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        let isa =
            *BEST.get_or_init(|| Isa::ALL.into_iter().take_while(|isa| has(*isa)).last().unwrap_or(Isa::Portable));
        Self { isa }
    }

    /// These instructions, though the machine may have faster ones.
    ///
    /// # Errors
    /// When the machine does not have them.
    pub fn with(isa: Isa) -> Result<Self, IsaError> {
        if isa <= Self::best().isa { Ok(Self { isa }) } else { Err(IsaError::Unavailable(isa)) }
    }

    /// Which instructions these are.
    #[must_use]
    pub fn isa(self) -> Isa {
        self.isa
    }

    /// Does the work in the widest registers.
    pub(crate) fn run(self, work: impl Work) {
        match self.isa {
            // SAFETY: every machine has the instructions the program was compiled for.
            Isa::Portable => unsafe { work.run::<Portable>() },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a `Cpu` with these instructions exists only where they do.
            Isa::Avx2 => unsafe { x86::avx2(work) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512 | Isa::Amx => unsafe { x86::avx512(work) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("no such Cpu is made here"),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has(isa: Isa) -> bool {
    match isa {
        Isa::Portable => true,
        Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
        Isa::Avx512 => {
            is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
        }
        Isa::Amx => is_x86_feature_detected!("avx512bf16") && crate::amx::is_granted(),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn has(isa: Isa) -> bool {
    isa == Isa::Portable
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The functions whose bodies are compiled for more than the baseline; all that `run` inlines becomes part of them.

    use super::Work;
    use crate::lanes::{Avx2, Avx512};

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
}
