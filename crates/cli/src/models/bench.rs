//! `augur models bench`: how fast a model is on this machine, in the engine that servers run it in.

use std::time::{Duration, Instant};

use inference::{Abandon, Machine, Model, Output};
use prediction::Failure;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use settings::{BenchModel, Fatal, say};
use tokio::task::JoinSet;

use super::{described, loaded, slot::existing};
use crate::screen::{brief, thousands};

/// How many ask at once: one alone, some, and as many as fill batches.
const AT_ONCE: [usize; 3] = [1, 8, 32];
/// Lengths of texts, in words: a question, a sentence or two, a paragraph.
const WORDS: [usize; 3] = [8, 32, 128];
/// Where text models read their text.
const TEXT: &str = "text";
/// Cells of the longest bar.
const WIDTH: f64 = 24.0;

/// One measurement.
struct Row {
    words: Option<usize>,
    at_once: usize,
    tokens: Option<u32>,
    /// Predictions in the batch that one was in, on average.
    batch: f64,
    median: Duration,
    p99: Duration,
    per_second: f64,
}

/// Measures it and prints a table.
pub(crate) async fn bench(settings: BenchModel) -> Result<(), Fatal> {
    let dir = existing(&settings.dir.models_dir, &settings.model).await?.dir;
    let machine = Machine::chosen(settings.machine.instructions.isa.as_deref(), &settings.machine.device)?;
    let found = described(&dir).await?;
    let models = loaded(&dir, machine).await?;
    let model = models.get(&found.spec.name, &found.spec.version);
    let model = model.ok_or_else(|| Fatal::new(format!("{} changed while it was loaded", dir.display())))?;
    let mut rows = Vec::new();
    for (words, input) in inputs(&found.example) {
        let input = to_raw_value(&input)?;
        for at_once in AT_ONCE {
            rows.push(measure(&model, words, &input, at_once, settings.each).await?);
        }
    }
    if settings.print.json {
        say(Value::from_iter(rows.iter().map(Row::as_json)));
        return Ok(());
    }
    let (device, isa, threads) = (model.device(), machine.cpu.isa(), machine.threads);
    let version = found.spec.version.short();
    say(format_args!("{}, version {version}, {device}, {isa}, {threads} threads\n", found.spec.name));
    say("WORDS  TOKENS  AT ONCE  BATCH    MEDIAN       P99  PER SECOND");
    let most = rows.iter().map(|row| row.per_second).fold(0.0, f64::max);
    for row in &rows {
        say(row.line(most));
    }
    Ok(())
}

/// The example, or texts of several lengths made of its words.
fn inputs(example: &Value) -> Vec<(Option<usize>, Value)> {
    let Some(text) = example.get(TEXT).and_then(Value::as_str) else { return vec![(None, example.clone())] };
    let of = |words: usize| {
        let text: Vec<&str> = text.split_whitespace().cycle().take(words).collect();
        let mut input = example.clone();
        input[TEXT] = text.join(" ").into();
        (Some(words), input)
    };
    WORDS.map(of).into()
}

/// Keeps so many predictions under way for this long.
async fn measure(
    model: &Model,
    words: Option<usize>,
    input: &RawValue,
    at_once: usize,
    each: Duration,
) -> Result<Row, Fatal> {
    let tokens = model.predict(input, Abandon::default()).await.map_err(failed)?.tokens;
    let (begun, mut asking) = (Instant::now(), JoinSet::new());
    for _ in 0..at_once {
        let (model, input) = (model.clone(), input.to_owned());
        asking.spawn(async move {
            let mut answers = Vec::new();
            loop {
                let asked = Instant::now();
                let Output { batch_size, .. } = model.predict(&input, Abandon::default()).await?;
                answers.push((asked.elapsed(), batch_size));
                if begun.elapsed() >= each {
                    return Ok::<_, Failure>(answers);
                }
            }
        });
    }
    let mut answers = Vec::new();
    while let Some(asked) = asking.join_next().await {
        answers.extend(asked?.map_err(failed)?);
    }
    let took = begun.elapsed();
    answers.sort_unstable();
    let at = |share: f64| answers[((answers.len() - 1) as f64 * share) as usize].0;
    let batches: f64 = answers.iter().map(|(_, batch)| f64::from(*batch)).sum();
    Ok(Row {
        words,
        at_once,
        tokens,
        batch: batches / answers.len() as f64,
        median: at(0.5),
        p99: at(0.99),
        per_second: answers.len() as f64 / took.as_secs_f64(),
    })
}

fn failed(failure: Failure) -> Fatal {
    Fatal::new(format!("the model fails: {failure}"))
}

impl Row {
    fn line(&self, most: f64) -> String {
        let shown = |number: Option<String>| number.unwrap_or_else(|| "-".to_owned());
        let bar = "█".repeat((self.per_second / most * WIDTH).round() as usize);
        let line = format!(
            "{:>5}  {:>6}  {:>7}  {:>5.1}  {:>8}  {:>8}  {:>10}  {bar}",
            shown(self.words.map(|words| words.to_string())),
            shown(self.tokens.map(|tokens| tokens.to_string())),
            self.at_once,
            self.batch,
            brief(self.median),
            brief(self.p99),
            thousands(self.per_second as u64),
        );
        line.trim_end().to_owned()
    }

    fn as_json(&self) -> Value {
        json!({
            "words": self.words,
            "tokens": self.tokens,
            "at_once": self.at_once,
            "mean_batch": self.batch,
            "median_seconds": self.median.as_secs_f64(),
            "p99_seconds": self.p99.as_secs_f64(),
            "per_second": self.per_second,
        })
    }
}
