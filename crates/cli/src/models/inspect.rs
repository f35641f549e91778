//! `augur models inspect`: all there is to know of one model.

use std::fs;

use inference::{Beside, Description};
use prediction::{Label, Limits};
use serde_json::{Value, json};
use settings::{Fatal, InspectModel, say};

use super::{described, loaded, processor, report::Report, slot::existing};
use crate::screen::{bytes, thousands};

/// Loads it and prints it.
pub(crate) async fn inspect(settings: InspectModel) -> Result<(), Fatal> {
    let machine = processor(&settings.instructions)?;
    let beside = existing(&settings.dir.models_dir, &settings.model).await?;
    let found = described(&beside.dir).await?;
    let before = resident_bytes();
    let models = loaded(&beside.dir, machine).await?;
    let grown = before.zip(resident_bytes()).map(|(before, after)| after.saturating_sub(before));
    drop(models);
    let report = Report::read(&beside.dir, &found.spec.version);
    if settings.print.json {
        say(as_json(&found, &beside, grown, &report));
    } else {
        print(&found, &beside, grown, &report);
    }
    Ok(())
}

/// Bytes of memory that this process takes; none where the system has no `/proc` to tell.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?;
    kib.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// How exact a model is, and what that means where it can be chosen.
fn exactness(precision: Option<&str>) -> &str {
    match precision {
        Some("f32") => "f32: within 1e-5 of the reference",
        Some("bf16") => "bf16: embeddings' cosine with f32's at least 0.9999, as tested with all-MiniLM-L6-v2",
        Some("int8") => "int8: embeddings' cosine with f32's at least 0.995, as tested with all-MiniLM-L6-v2",
        _ => "f32",
    }
}

fn print(found: &Description, beside: &Beside, grown: Option<u64>, report: &Result<Option<Report>, String>) {
    let spec = &found.spec;
    let Limits { timeout_seconds, max_retries, max_batch, max_input_bytes } = spec.limits;
    let loaded = grown.map_or_else(String::new, |grown| format!("; {} with all else, loaded and warmed", bytes(grown)));
    let fields = [
        ("version", spec.version.to_string()),
        ("label", beside.label.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)),
        ("default", if beside.is_default { "yes" } else { "no" }.to_owned()),
        ("task", spec.task.clone()),
        ("directory", found.dir.display().to_string()),
        ("source", spec.source.clone().unwrap_or_else(|| "not stated".to_owned())),
        ("license", spec.license.clone().unwrap_or_else(|| "not stated".to_owned())),
        ("architecture", found.architecture.to_owned()),
        ("precision", exactness(found.precision).to_owned()),
        ("parameters", thousands(found.parameters)),
        ("memory", format!("{} of weights at most{loaded}", bytes(found.weight_bytes))),
        (
            "limits",
            format!(
                "{timeout_seconds} s a run, {max_retries} retries, {max_batch} in a batch, {} an input",
                bytes(max_input_bytes as u64)
            ),
        ),
        ("input", spec.input_schema.to_string()),
        ("output", spec.output_schema.to_string()),
        ("example", found.example.to_string()),
    ];
    say(format_args!("{}\n{}\n", spec.name, spec.description));
    for (name, value) in fields {
        say(format_args!("{name:<12}  {value}"));
    }
    say("files");
    for file in &found.files {
        say(format_args!("  {}  {:>8}  {}", file.sha256, bytes(file.bytes), file.path.display()));
    }
    match report {
        Ok(None) => {}
        Ok(Some(report)) => {
            say(format_args!("made of {}; compared with it then", report.origin()));
            report.lines().iter().for_each(|line| say(format_args!("  {line}").to_string().trim_end()));
        }
        Err(reason) => say(format_args!("how it was made cannot be shown: {reason}")),
    }
}

fn as_json(found: &Description, beside: &Beside, grown: Option<u64>, report: &Result<Option<Report>, String>) -> Value {
    let spec = &found.spec;
    let files = found.files.iter().map(|file| json!({"path": file.path, "sha256": file.sha256, "bytes": file.bytes}));
    json!({
        "name": spec.name,
        "version": spec.version,
        "label": beside.label.as_ref().map(Label::as_str),
        "is_default": beside.is_default,
        "task": spec.task,
        "description": spec.description,
        "license": spec.license,
        "source": spec.source,
        "dir": found.dir,
        "architecture": found.architecture,
        "precision": found.precision.unwrap_or("f32"),
        "parameters": found.parameters,
        "memory": {"weight_bytes": found.weight_bytes, "loaded_bytes": grown},
        "limits": spec.limits,
        "input_schema": spec.input_schema,
        "output_schema": spec.output_schema,
        "example": found.example,
        "files": Value::from_iter(files),
        "origin": found.origin,
        "report": match report {
            Ok(report) => json!(report),
            Err(reason) => json!({"error": reason}),
        },
    })
}
