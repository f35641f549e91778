//! Inputs and answers as JSON: what goes into a model and comes out, and what is wrong with either.

use prediction::{Failure, FailureCode};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

/// What goes into a model and comes out, for people and as JSON Schema, and an input to warm it with.
pub(crate) struct Contract {
    pub(crate) description: String,
    pub(crate) input_schema: Value,
    pub(crate) output_schema: Value,
    pub(crate) example: Value,
}

/// Reads an input's JSON.
pub(crate) fn parse<I: DeserializeOwned>(input: &RawValue) -> Result<I, Failure> {
    serde_json::from_str(input.get()).map_err(|error| invalid(error.to_string()))
}

/// Writes an answer's JSON.
pub(crate) fn answer(answer: &impl Serialize) -> Result<Box<RawValue>, Failure> {
    to_raw_value(answer).map_err(|error| failed(&error))
}

/// The input is not what the model takes.
pub(crate) fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(FailureCode::InvalidInput, message)
}

/// The input is more than the model takes.
pub(crate) fn too_large(message: impl Into<String>) -> Failure {
    Failure::new(FailureCode::InputTooLarge, message)
}

/// The model gave no answer, for a cause of its own.
pub(crate) fn failed(error: &dyn std::fmt::Display) -> Failure {
    tracing::error!(%error, "a model failed");
    Failure::new(FailureCode::ModelError, "the model failed on this input")
}

/// Refuses to answer with what is no number.
pub(crate) fn check_numbers(numbers: &[f32]) -> Result<(), Failure> {
    let are_numbers = numbers.iter().all(|number| number.is_finite());
    if are_numbers { Ok(()) } else { Err(failed(&"what it computed holds what is no number")) }
}
