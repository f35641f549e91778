//! Smaller versions of models: weights in fewer bits, and what computes with them told so.

mod decoder;
mod encoder;
#[cfg(test)]
pub(crate) mod tests;

use std::path::Path;

use prediction::ModelName;

use crate::{Description, LoadError, derived, generate, gguf::Gguf, plain::WEIGHTS, vision};

/// What weights become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Floats of 8 significant bits, for encoders of texts and networks for images.
    Bf16,
    /// Whole numbers of 8 bits when they are multiplied, bf16 in the file; for encoders of texts.
    Int8,
    /// Blocks of 32 numbers of 8 bits with a scale, for text generators.
    Q8_0,
    /// Blocks of 256 numbers of 4 bits with scales of scales, for text generators.
    Q4K,
}

impl Form {
    /// As manifests and names of models have it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4_k",
        }
    }
}

/// Writes the model `found` in another form, called `name`, into the directory `to`, which is there and empty. Slow, blocking.
///
/// # Errors
/// When that model cannot have this form, or has it already, and when a file cannot be read or written.
pub fn quantize(found: &Description, form: Form, name: &ModelName, to: &Path) -> Result<(), LoadError> {
    let (dir, task, word) = (&found.dir, found.spec.task.as_str(), form.word());
    let wrong = |reason: String| LoadError::new(dir, reason);
    match form {
        Form::Q8_0 | Form::Q4K if task == generate::TASK => {
            let file = generate::file(dir)?.ok_or_else(|| wrong("has no GGUF file any more".into()))?;
            derived::copy_card(dir, to)?;
            decoder::write(&Gguf::open(&dir.join(file))?, form, &to.join(format!("{}.gguf", name.name())))
        }
        _ if task == generate::TASK => {
            Err(wrong(format!("is a text generator, which can be q8_0 or q4_k, not {word}")))
        }
        Form::Q8_0 | Form::Q4K => Err(wrong(format!("does {task}; {word} is for text generators in GGUF files"))),
        Form::Int8 if task == vision::TASK => {
            Err(wrong("does image-classification; only its weights can be stored as bf16, its products are f32".into()))
        }
        Form::Bf16 | Form::Int8 => {
            if found.architecture == "mlp" {
                return Err(wrong(format!("is an mlp, which is small and has no {word}")));
            }
            match found.precision {
                Some(precision) if precision == word => return Err(wrong(format!("is {word} already"))),
                Some("f32") | None => {}
                Some(other) => {
                    return Err(wrong(format!("is {other} already; begin with the model that it was made of")));
                }
            }
            derived::copy_all_else(found, to)?;
            let narrowed = encoder::write_weights(&dir.join(WEIGHTS), &to.join(WEIGHTS))?;
            if task == vision::TASK {
                return if narrowed {
                    Ok(())
                } else {
                    Err(wrong("has no weights of 32 bits: it is bf16 already".into()))
                };
            }
            derived::write_manifest(found, name, &found.spec.description, word, to)
        }
    }
}
