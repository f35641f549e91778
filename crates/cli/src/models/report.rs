//! Two versions of a model beside each other, for people and for programs.

use std::time::Duration;

use inference::{Agreement, Comparison, Divergence, Measured, Removed};
use serde_json::{Value, json};
use settings::say;

use crate::screen::{brief, bytes, thousands};

/// Prints it, and what was removed from the model, if anything.
pub(crate) fn print(comparison: &Comparison, removed: Option<&Removed>, is_json: bool) {
    if is_json {
        say(as_json(comparison, removed));
        return;
    }
    let Comparison { original, made, inputs, agreement } = comparison;
    let row = |what: &str, value: &dyn Fn(&Measured) -> String, ratio: f64| {
        say(format_args!("{what:<12}  {:>10}  {:>10}  {ratio:>5.2} ×", value(original), value(made)));
    };
    say(format_args!("{:<12}  {:>10}  {:>10}", "", "ORIGINAL", "RESULT"));
    let size = |measured: &Measured| measured.description.file_bytes();
    let memory = |measured: &Measured| measured.description.weight_bytes;
    let ratio = |of: &dyn Fn(&Measured) -> u64| of(made) as f64 / (of(original) as f64).max(1.0);
    row("files", &|measured: &Measured| bytes(size(measured)), ratio(&size));
    row("memory, most", &|measured: &Measured| bytes(memory(measured)), ratio(&memory));
    let each = if matches!(agreement, Agreement::Tokens(_)) { "a token" } else { "an input" };
    row(each, &|measured: &Measured| brief(measured.each), share(made.each, original.each));
    say(format_args!("\non {inputs} inputs: {}", words(agreement)));
    if let Some(removed) = removed {
        say(format_args!("removed: {}", what(removed)));
    }
}

fn what(removed: &Removed) -> String {
    let list = |numbers: &[usize]| numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    match removed {
        Removed::Heads(layers) => {
            let each = layers.iter().enumerate().map(|(layer, heads)| format!("{} of layer {layer}", list(heads)));
            format!("heads {} (counted from 0)", each.collect::<Vec<_>>().join("; "))
        }
        Removed::Layers(layers) => format!("layers {} (counted from 0)", list(layers)),
        Removed::Weights { zeros, parameters } => format!(
            "nothing, but {} of {} numbers are 0, {:.1} %; files are as large as before, unless they are compressed, and products \
             take as long",
            thousands(*zeros),
            thousands(*parameters),
            *zeros as f64 / (*parameters as f64).max(1.0) * 100.0
        ),
    }
}

fn share(part: Duration, whole: Duration) -> f64 {
    part.as_secs_f64() / whole.as_secs_f64().max(f64::MIN_POSITIVE)
}

fn words(agreement: &Agreement) -> String {
    match agreement {
        Agreement::Embeddings { mean_cosine, worst_cosine } => {
            format!("cosine with the original {mean_cosine:.6} on average, {worst_cosine:.6} at worst")
        }
        Agreement::Labels { same, largest_difference } => {
            format!("the same label for {:.1} %, scores differ by at most {largest_difference:.6}", same * 100.0)
        }
        Agreement::Tags { same, tokens } => {
            format!("the same tag for {:.1} % of {tokens} tokens that either tags", same * 100.0)
        }
        Agreement::Tokens(Divergence { same, mean_divergence, tokens, cut, longest }) => {
            let cut = match cut {
                0 => String::new(),
                cut => format!(" (of {cut} prompts only the first {longest})"),
            };
            format!(
                "the same next token for {:.1} % of {tokens} tokens{cut}, mean divergence (KL) {mean_divergence:.6} nats",
                same * 100.0
            )
        }
    }
}

fn as_json(comparison: &Comparison, removed: Option<&Removed>) -> Value {
    let side = |measured: &Measured| {
        let found = &measured.description;
        json!({
            "name": found.spec.name,
            "version": found.spec.version,
            "precision": found.precision,
            "file_bytes": found.file_bytes(),
            "weight_bytes": found.weight_bytes,
            "seconds_each": measured.each.as_secs_f64(),
        })
    };
    let agreement = match &comparison.agreement {
        Agreement::Embeddings { mean_cosine, worst_cosine } => {
            json!({"mean_cosine": mean_cosine, "worst_cosine": worst_cosine})
        }
        Agreement::Labels { same, largest_difference } => {
            json!({"same_label": same, "largest_difference": largest_difference})
        }
        Agreement::Tags { same, tokens } => json!({"same_tag": same, "tokens": tokens}),
        Agreement::Tokens(Divergence { same, mean_divergence, tokens, cut, .. }) => {
            json!({"same_token": same, "mean_divergence": mean_divergence, "tokens": tokens, "inputs_cut": cut})
        }
    };
    let mut report = json!({
        "inputs": comparison.inputs,
        "original": side(&comparison.original),
        "result": side(&comparison.made),
        "agreement": agreement,
    });
    if let Some(removed) = removed {
        report["removed"] = match removed {
            Removed::Heads(heads) => json!({"heads": heads}),
            Removed::Layers(layers) => json!({"layers": layers}),
            Removed::Weights { zeros, parameters } => json!({"zeros": zeros, "parameters": parameters}),
        };
    }
    report
}
