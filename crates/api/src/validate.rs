//! Inputs against the model's JSON Schema, with a JSON Pointer into the request body for every fault.

use jsonschema::{ValidationError, Validator, error::ValidationErrorKind};
use serde_json::Value;

use crate::{json::shown, problem::Fault};

/// The most faults that are listed.
pub(crate) const MOST_FAULTS: usize = 20;
/// The longest text about one fault, in characters: schemas may list thousands of allowed values.
const LONGEST_DETAIL: usize = 300;
/// Where the input lies in the request body.
const INPUT: &str = "/input";

/// A compiled input schema.
pub(crate) struct InputSchema(Validator);

impl InputSchema {
    /// Compiles a schema (2020-12). Nothing is fetched: references lead within it.
    ///
    /// # Errors
    /// What is wrong with the schema, for the log.
    pub(crate) fn compile(schema: &Value) -> Result<Self, String> {
        jsonschema::draft202012::new(schema).map(Self).map_err(|error| error.to_string())
    }

    /// The faults of this input, the first ones when there are many; none when it fits.
    pub(crate) fn faults(&self, input: &Value) -> Vec<Fault> {
        if self.0.is_valid(input) {
            return Vec::new();
        }
        let mut faults = Vec::new();
        for error in self.0.iter_errors(input) {
            describe(&error, &mut faults);
            if faults.len() >= MOST_FAULTS {
                break;
            }
        }
        faults.truncate(MOST_FAULTS);
        faults
    }
}

/// Adds what `error` says, named by the member that is at fault.
fn describe(error: &ValidationError<'_>, faults: &mut Vec<Fault>) {
    let here = format!("{INPUT}{}", error.instance_path().as_str());
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            faults.push(Fault::new(member(&here, name), "is required"));
        }
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            faults.extend(
                unexpected
                    .iter()
                    .take(MOST_FAULTS)
                    .map(|name| Fault::new(member(&here, name), "is not a field of this input")),
            );
        }
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            match meant(context, depth(error)) {
                Some(errors) => errors.iter().take(MOST_FAULTS).for_each(|inner| describe(inner, faults)),
                None => {
                    faults.push(Fault::new(here, "is none of the kinds that are allowed here"));
                }
            }
        }
        ValidationErrorKind::FalseSchema => {
            faults.push(Fault::new(here, "is not allowed here"));
        }
        _ => faults.push(Fault::new(here, cut(&error.masked().to_string()))),
    }
}

/// How deep in the input an error lies.
fn depth(error: &ValidationError<'_>) -> usize {
    error.instance_path().segments().count()
}

/// Of the alternatives for a value at depth `own`, all of which failed, the one that the caller most likely meant: not one
/// for another type of value, and of the rest the one that fits furthest into it, then the one with the fewest faults.
fn meant<'a>(alternatives: &'a [Vec<ValidationError<'static>>], own: usize) -> Option<&'a [ValidationError<'static>]> {
    let is_for_another_type =
        |error: &ValidationError<'_>| matches!(error.kind(), ValidationErrorKind::Type { .. }) && depth(error) == own;
    alternatives
        .iter()
        .filter(|errors| !errors.iter().any(is_for_another_type))
        .max_by_key(|errors| (errors.iter().map(depth).max(), usize::MAX - errors.len()))
        .map(Vec::as_slice)
}

/// The pointer to the member `name` of the object at `parent`.
fn member(parent: &str, name: &str) -> String {
    format!("{parent}/{}", shown(name).replace('~', "~0").replace('/', "~1"))
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST_DETAIL) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn faults(schema: &Value, input: &Value) -> Vec<(String, String)> {
        let schema = InputSchema::compile(schema).expect("a good schema");
        schema.faults(input).into_iter().map(|fault| (fault.pointer, fault.detail)).collect()
    }

    fn pointers(schema: &Value, input: &Value) -> Vec<String> {
        faults(schema, input).into_iter().map(|(pointer, _)| pointer).collect()
    }

    #[test]
    fn each_fault_has_its_place() {
        let schema = json!({
            "type": "object",
            "properties": {"a/b": {"type": "integer"}, "list": {"type": "array", "items": {"maximum": 16}}},
            "required": ["a/b", "other"],
            "additionalProperties": false
        });
        let input = json!({"a/b": "secret text", "list": [1, 17], "x~": 1});
        let mut found = faults(&schema, &input);
        found.sort();
        let places: Vec<&str> = found.iter().map(|(pointer, _)| pointer.as_str()).collect();
        assert_eq!(places, ["/input/a~1b", "/input/list/1", "/input/other", "/input/x~0"]);
        assert!(found.iter().all(|(_, detail)| !detail.contains("secret")), "{found:?}");
        assert_eq!(faults(&schema, &json!({"a/b": 1, "other": 2})).len(), 1);
    }

    #[test]
    fn the_alternative_that_was_meant_is_described() {
        let row = json!({"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4});
        let square = json!({"type": "array", "items": {"type": "array", "items": {"type": "number"}}, "minItems": 2, "maxItems": 2});
        let schema = json!({"type": "object", "anyOf": [
            {"properties": {"pixels": {"anyOf": [row, square]}}, "required": ["pixels"]},
            {"properties": {"image": {"type": "string"}}, "required": ["image"]}
        ]});
        assert_eq!(pointers(&schema, &json!({"pixels": [1, 2, "x", 4]})), ["/input/pixels/2"]);
        assert_eq!(pointers(&schema, &json!({"pixels": [[1, 2], [3, "x"]]})), ["/input/pixels/1/1"]);
        assert_eq!(pointers(&schema, &json!({"pixels": "x"})), ["/input/pixels"]);
        assert_eq!(pointers(&schema, &json!([])), ["/input"]);
    }

    #[test]
    fn many_and_long_faults_are_cut() {
        let schema = json!({"type": "array", "items": {"enum": (0..10_000).collect::<Vec<_>>()}});
        let found = faults(&schema, &json!(vec!["x".repeat(100_000); 1000]));
        assert_eq!(found.len(), MOST_FAULTS);
        assert!(found.iter().all(|(pointer, detail)| pointer.len() < 400 && detail.len() < 400));
        let names: serde_json::Map<String, Value> =
            (0..100).map(|n| (format!("{n}{}", "y".repeat(1000)), Value::Null)).collect();
        let found = faults(&json!({"properties": {"a": true}, "additionalProperties": false}), &Value::Object(names));
        assert_eq!(found.len(), MOST_FAULTS, "{found:?}");
        assert!(found.iter().all(|(pointer, _)| pointer.len() < 400));
    }

    #[test]
    fn references_lead_nowhere_outside() {
        assert!(InputSchema::compile(&json!({"$ref": "http://127.0.0.1:9/x.json"})).is_err());
        assert!(InputSchema::compile(&json!({"$ref": "file:///etc/hostname"})).is_err());
        assert!(InputSchema::compile(&json!({"$defs": {"n": {"type": "number"}}, "$ref": "#/$defs/n"})).is_ok());
    }
}
