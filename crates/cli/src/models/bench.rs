//! `augur models bench`: how fast a model is on this machine, in the engine that servers run it in.

mod table;

use std::time::{Duration, Instant};

use inference::{Abandon, Machine, Model, Output};
use prediction::{Failure, FailureCode};
use serde::Deserialize;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};
use settings::{BenchModel, Fatal, say};
use tokio::task::JoinSet;

use self::table::{Row, table};
use super::{described, loaded, slot::existing};

/// How many ask at once: one alone, some, and as many as fill batches.
const AT_ONCE: [usize; 3] = [1, 8, 32];
/// Lengths of texts, in words: a question, a sentence or two, a paragraph.
const WORDS: [usize; 3] = [8, 32, 128];
/// Where text models read their text, and where generators read what they go on from.
const TEXT: &str = "text";
const PROMPT: &str = "prompt";
/// Tokens that are asked of a generator: the first, which comes once the prompt is read, and some more.
const WRITTEN: [usize; 2] = [1, 32];

/// What is asked again and again.
struct Asked {
    words: Option<usize>,
    /// Whether it is answered by a text that grows.
    is_written: bool,
    input: Value,
}

/// What a generator says of its text.
#[derive(Deserialize)]
struct Written {
    completion_tokens: u32,
}

/// One answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Answer {
    took: Duration,
    batch: u32,
    written: u32,
}

/// Measures it and prints a table.
pub(crate) async fn bench(settings: BenchModel) -> Result<(), Fatal> {
    let dir = existing(&settings.dir.models_dir, &settings.model).await?.dir;
    let machine = Machine::chosen(settings.machine.instructions.isa.as_deref(), &settings.machine.device)?;
    let found = described(&dir).await?;
    let models = loaded(&dir, machine).await?;
    let model = models.get(&found.spec.name, &found.spec.version);
    let model = model.ok_or_else(|| Fatal::new(format!("{} changed while it was loaded", dir.display())))?;
    let (mut rows, mut left_out) = (Vec::new(), Vec::new());
    for Asked { words, is_written, input } in asked(&found.example) {
        let input = to_raw_value(&input)?;
        let tokens = match model.predict(&input, Abandon::default()).await {
            Ok(output) => output.tokens,
            // A generator cuts no prompt that is longer than its context.
            Err(failure) if is_written && is_refused(&failure) => {
                left_out.push(failure);
                continue;
            }
            Err(failure) => return Err(failed(failure)),
        };
        for at_once in AT_ONCE {
            rows.push(Row { words, tokens, ..measure(&model, &input, is_written, at_once, settings.each).await? });
        }
    }
    if settings.print.json {
        say(Value::from_iter(rows.iter().map(Row::as_json)));
        return Ok(());
    }
    let (device, isa, threads) = (model.device(), machine.cpu.isa(), machine.threads);
    let version = found.spec.version.short();
    say(format_args!("{}, version {version}, {device}, {isa}, {threads} threads\n", found.spec.name));
    table(&rows).iter().for_each(say);
    left_out.iter().for_each(|failure| say(format_args!("left out: {failure}")));
    Ok(())
}

/// The example, or texts of several lengths made of its words; as prompts, each for one token and for some.
fn asked(example: &Value) -> Vec<Asked> {
    let of = |field: &str, words: usize, most_tokens: Option<usize>| {
        let text: Vec<&str> = example[field].as_str()?.split_whitespace().cycle().take(words).collect();
        let mut input = example.clone();
        input[field] = text.join(" ").into();
        if let Some(most) = most_tokens {
            input["max_tokens"] = most.into();
        }
        Some(Asked { words: Some(words), is_written: most_tokens.is_some(), input })
    };
    let texts = WORDS.into_iter().filter_map(|words| of(TEXT, words, None));
    let prompts = WRITTEN.into_iter().flat_map(|most| WORDS.map(|words| (words, most)));
    let prompts = prompts.filter_map(|(words, most)| of(PROMPT, words, Some(most)));
    let made: Vec<Asked> = texts.chain(prompts).collect();
    if made.is_empty() { vec![Asked { words: None, is_written: false, input: example.clone() }] } else { made }
}

/// Keeps so many predictions under way for this long.
async fn measure(
    model: &Model,
    input: &RawValue,
    is_written: bool,
    at_once: usize,
    each: Duration,
) -> Result<Row, Fatal> {
    let (begun, mut asking) = (Instant::now(), JoinSet::new());
    for _ in 0..at_once {
        let (model, input) = (model.clone(), input.to_owned());
        asking.spawn(async move {
            let mut answers = Vec::new();
            loop {
                let asked = Instant::now();
                let Output { batch_size, value, .. } = model.predict(&input, Abandon::default()).await?;
                answers.push((asked.elapsed(), batch_size, is_written.then_some(value)));
                if begun.elapsed() >= each {
                    return Ok::<_, Failure>(answers);
                }
            }
        });
    }
    let mut answers = Vec::new();
    while let Some(asked) = asking.join_next().await {
        for (took, batch, value) in asked?.map_err(failed)? {
            let written = value.map(|value| serde_json::from_str::<Written>(value.get())).transpose()?;
            let written = written.map_or(0, |written| written.completion_tokens);
            answers.push(Answer { took, batch, written });
        }
    }
    let took = begun.elapsed();
    answers.sort_unstable();
    let at = |share: f64| answers[((answers.len() - 1) as f64 * share) as usize].took;
    let mean =
        |of: fn(&Answer) -> u32| answers.iter().map(|answer| f64::from(of(answer))).sum::<f64>() / answers.len() as f64;
    Ok(Row {
        words: None,
        tokens: None,
        written: is_written.then(|| mean(|answer| answer.written)),
        at_once,
        batch: mean(|answer| answer.batch),
        median: at(0.5),
        p99: at(0.99),
        per_second: answers.len() as f64 / took.as_secs_f64(),
    })
}

fn is_refused(failure: &Failure) -> bool {
    matches!(failure.code, FailureCode::InputTooLarge | FailureCode::InvalidInput)
}

fn failed(failure: Failure) -> Fatal {
    Fatal::new(format!("the model fails: {failure}"))
}
