//! A text generator's GGUF file in blocks of fewer bits.

use std::{borrow::Cow, path::Path};

use candle_core::quantized::GgmlDType;

use super::Form;
use crate::{
    LoadError,
    gguf::{Change, Gguf, is_float},
};

/// What makes logits, where it is not the embeddings too: as llama.cpp has it, 6 bits beside others of 4.
const OUTPUT: &str = "output.weight";
const EMBEDDINGS: &str = "token_embd.weight";

/// `general.file_type` as llama.cpp numbers it (`llama_ftype`): mostly Q8_0, and mostly Q4_K with little else (its "S").
const MOSTLY_Q8_0: u32 = 7;
const MOSTLY_Q4_K: u32 = 14;
/// `general.quantization_version`: that of ggml's blocks.
const BLOCKS_VERSION: u32 = 2;

/// Writes the file in this form. Matrices become blocks; what makes logits becomes Q6_K where others become Q4_K; norms and biases
/// stay as they are.
///
/// # Errors
/// When its matrices are in blocks already or do not divide into such blocks, and when the file cannot be written.
pub(super) fn write(gguf: &Gguf, form: Form, path: &Path) -> Result<(), LoadError> {
    let is_tied = !gguf.has_tensor(OUTPUT);
    let kind_of = |name: &str, kind: GgmlDType, shape: &[usize]| match form {
        _ if shape.len() < 2 => kind,
        Form::Q4K if name == OUTPUT || (is_tied && name == EMBEDDINGS) => GgmlDType::Q6K,
        Form::Q4K => GgmlDType::Q4K,
        Form::Q8_0 | Form::Bf16 | Form::Int8 => GgmlDType::Q8_0,
    };
    let word = form.word();
    for (name, kind, shape) in gguf.stored().into_iter().filter(|(.., shape)| shape.len() > 1) {
        if !is_float(kind) {
            return Err(gguf.wrong(match kind == kind_of(name, kind, shape) {
                true => format!("is {word} already (tensor {name:?})"),
                false => {
                    format!("tensor {name:?} is {kind:?} already; begin with the file of floats that it was made of")
                }
            }));
        }
        let (columns, block) = (shape[shape.len() - 1], kind_of(name, kind, shape).block_size());
        if !columns.is_multiple_of(block) {
            let reason = format!("tensor {name:?} has {columns} columns, no multiple of {block}, the blocks of {word}");
            let advice = if form == Form::Q4K && columns.is_multiple_of(32) { "; q8_0 is possible" } else { "" };
            return Err(gguf.wrong(reason + advice));
        }
    }
    let file_type = if form == Form::Q4K { MOSTLY_Q4_K } else { MOSTLY_Q8_0 };
    let numbers = [("general.file_type", file_type), ("general.quantization_version", BLOCKS_VERSION)];
    let stored = gguf.stored();
    let mut tensors = gguf.outlines();
    tensors.iter_mut().for_each(|tensor| tensor.kind = kind_of(&tensor.name, tensor.kind, &tensor.shape));
    gguf.write_as(path, &numbers.map(|(key, number)| (key.to_owned(), Change::Number(number))), &tensors, |place| {
        let (name, kind, shape) = stored[place];
        let tensor = &tensors[place];
        if tensor.kind == kind {
            return gguf.bytes(name).map(Cow::Borrowed);
        }
        gguf.encoded(gguf.numbers(name, shape)?, tensor).map(Cow::Owned)
    })
}
