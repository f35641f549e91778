//! The arithmetic of transformers on slices of `f32`: products with packed matrices, one or two at a time, attention over rows of many sequences,
//! softmax, layer norm and activations, each for the best instructions of the machine. No models, no tensors. Callers share work
//! between threads, such as those of a [`Team`], by handing each its own part of the result ([`RowsMut::split_rows`],
//! [`RowsMut::split_columns`]). `docs/kernels.md` draws the layouts and gives accuracy and speed.
//!
//! ```
//! use kernels::{Activation, Cpu, Epilogue, PackedMatrix, Precision, Rows, RowsMut, Scratch};
//!
//! let cpu = Cpu::best();
//! let weights = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]; // three outputs of two inputs
//! let matrix = PackedMatrix::new(cpu, Precision::F32, Rows::new(&weights, 3, 2, 2), Some(&[0.5, 0.5, 0.5]));
//! let mut y = [0.0; 3];
//! matrix.multiply(
//!     Rows::new(&[1.0, 10.0], 1, 2, 2),
//!     0..3,
//!     Epilogue { activation: Activation::None, residual: None },
//!     RowsMut::new(&mut y, 1, 3, 3),
//!     &mut Scratch::default(),
//! );
//! assert_eq!(y, [21.5, 43.5, 65.5]);
//! ```

// The only crate that may: instructions beyond the baseline are unsafe to call, and views of interleaved columns cannot be
// slices. Everything public is safe; what it is called with is checked before the first pointer is made.
#![allow(unsafe_code)]
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(clippy::undocumented_unsafe_blocks)]

#[cfg(target_arch = "x86_64")]
mod amx;
mod arena;
mod attention;
mod blocks;
mod both;
mod bytes;
mod card;
#[cfg(target_arch = "x86_64")]
mod convert;
mod cpu;
mod dots;
mod finish;
mod kept;
mod lanes;
mod mapped;
mod matrix;
mod narrow;
mod norm;
mod pointwise;
mod product;
mod quantise;
mod rows;
mod scratch;
mod self_attention;
mod source;
mod team;

pub use arena::{Arena, Filled, in_huge_pages};
pub use attention::{Attention, attention};
pub use blocks::{BlockForm, BlockRow};
pub use both::Both;
pub use card::{Card, CardError, CardIndices, CardNorm, CardRows, Finish, Heads, Part, WIDEST_HEAD};
pub use cpu::{Cpu, Isa, IsaError, Precision};
pub use finish::{Activation, Epilogue};
pub use kept::{KEPT_ALIGNMENT, Kept};
pub use mapped::mapped;
pub use matrix::PackedMatrix;
pub use norm::{LayerNorm, layer_norm};
pub use pointwise::{activate, softmax};
pub use rows::{Rows, RowsMut};
pub use scratch::Scratch;
pub use self_attention::SelfAttention;
pub use team::Team;
