//! The last step of loading: a model runs its example before anybody is served.

use std::{path::Path, sync::Arc, time::Instant};

use jsonschema::Validator;
use prediction::ModelSpec;
use serde_json::{Value, value::to_raw_value};

use crate::{
    Abandon, LoadError, Model,
    architecture::{Architecture, Described},
    turn::Turn,
};

/// A model that has run its example. What it is called may not be known yet.
pub(crate) struct Warm(Box<dyn FnOnce(ModelSpec) -> Result<Model, LoadError>>);

impl Warm {
    /// Starts the model's engine.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(self, spec: ModelSpec) -> Result<Model, LoadError> {
        self.0(spec)
    }
}

/// What is needed to warm a model.
pub(crate) struct Warmer<'a, S> {
    pub(crate) dir: &'a Path,
    pub(crate) described: &'a Described,
    /// Gives its schemas, compiled.
    pub(crate) schemas: S,
}

/// The schemas of a model, which take milliseconds to compile.
pub(crate) struct Schemas {
    input: Validator,
    output: Validator,
}

impl Schemas {
    /// Compiles them.
    ///
    /// # Errors
    /// When one is no JSON Schema.
    pub(crate) fn of(dir: &Path, described: &Described) -> Result<Self, LoadError> {
        let schema = |schema: &Value, what: &str| {
            let wrong = |error| LoadError::new(dir, format!("{what} is no JSON Schema: {error}"));
            jsonschema::validator_for(schema).map_err(wrong)
        };
        let input = schema(&described.input_schema, "input_schema")?;
        Ok(Self { input, output: schema(&described.output_schema, "output_schema")? })
    }
}

impl<S: FnOnce() -> Result<Schemas, LoadError>> Warmer<'_, S> {
    /// Runs the example once, and checks that it and its result fit the schemas.
    ///
    /// # Errors
    /// When the example does not run or does not fit, and when a schema is none.
    pub(crate) fn warm<A: Architecture>(self, architecture: A) -> Result<Warm, LoadError> {
        let Self { dir, described, schemas } = self;
        let (schemas, started) = (schemas()?, Instant::now());
        let wrong = |reason: String| LoadError::new(dir, reason);
        schemas
            .input
            .validate(&described.example)
            .map_err(|error| wrong(format!("the example does not fit the input schema: {error}")))?;
        let failed = |error: &dyn std::error::Error| wrong(format!("the example does not run: {error}"));
        let input = to_raw_value(&described.example).map_err(|error| failed(&error))?;
        let item = architecture.prepare(&input).map_err(|error| failed(&error))?;
        let results =
            architecture.run(&[(item, Abandon::default())], &mut Turn::kept()).map_err(|error| failed(&error))?;
        let result = results.into_iter().next().ok_or_else(|| wrong("the example gives no result".into()))?;
        let output = result.map_err(|error| failed(&error))?;
        let output: Value = serde_json::from_str(output.get()).map_err(|error| failed(&error))?;
        schemas
            .output
            .validate(&output)
            .map_err(|error| wrong(format!("the example's result does not fit the output schema: {error}")))?;
        let (warm_up, dir) = (started.elapsed(), dir.to_owned());
        Ok(Warm(Box::new(move |spec| {
            tracing::info!(model = %spec.name, version = spec.version.short(), device = %architecture.device(), ?warm_up, "loaded");
            Model::start(spec, Arc::new(architecture))
                .map_err(|error| LoadError::new(&dir, format!("no thread: {error}")))
        })))
    }
}
