//! The inputs that two models are compared on.

use std::{fs::File, io::Read, path::Path};

use serde_json::{Value, json};

use crate::{Description, LoadError, generate};

/// Sentences of our own, of many kinds: news, complaints, questions, instructions, names and places, two in other languages than
/// English, one very short and one long.
const TEXTS: &str = include_str!("texts.txt");

/// The most bytes of a file of inputs, and the most inputs.
const LONGEST_FILE: u64 = 64 << 20;
const MOST_INPUTS: usize = 10_000;

/// Inputs for this model: those of a file with one JSON value a line, else its own example, and that with each of some sentences
/// of ours for its text.
///
/// # Errors
/// When the file cannot be read, is too long, holds no inputs, or one that does not fit the model's schema.
pub fn calibration(found: &Description, file: Option<&Path>) -> Result<Vec<Value>, LoadError> {
    let Some(path) = file else { return Ok(own(found)) };
    let wrong = |reason: String| LoadError::new(path, reason);
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST_FILE + 1).read_to_string(&mut text));
    if read.map_err(|error| wrong(format!("cannot be read: {error}")))? as u64 > LONGEST_FILE {
        return Err(wrong(format!("is longer than {LONGEST_FILE} bytes")));
    }
    let schema = jsonschema::validator_for(&found.spec.input_schema);
    let schema = schema.map_err(|error| wrong(format!("the model's input_schema is no JSON Schema: {error}")))?;
    let mut inputs = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let input: Value =
            serde_json::from_str(line).map_err(|error| wrong(format!("line {}: {error}", number + 1)))?;
        schema.validate(&input).map_err(|error| wrong(format!("line {}: {error}", number + 1)))?;
        inputs.push(input);
    }
    match inputs.len() {
        0 => Err(wrong("has no inputs; one is expected on each line, as JSON".into())),
        count if count > MOST_INPUTS => Err(wrong(format!("has {count} inputs; at most {MOST_INPUTS} are taken"))),
        _ => Ok(inputs),
    }
}

fn own(found: &Description) -> Vec<Value> {
    let example = &found.example;
    let with = |text: &str| match found.spec.task.as_str() {
        generate::TASK => Some(json!({"prompt": text, "max_tokens": 1})),
        _ => {
            let mut input = example.clone();
            input.get("text")?;
            input["text"] = text.into();
            Some(input)
        }
    };
    [example.clone()].into_iter().chain(TEXTS.lines().filter_map(with)).collect()
}
