//! How fast text follows text, as servers run it: `cargo bench -p inference --bench generator -- DIR …`, each a directory with a
//! GGUF file (by default the tests' tiny ones, which show nothing but what a step costs besides arithmetic). Tokens of a second, by
//! how many ask at once, and tokens of prompts of a second.
#![allow(clippy::print_stdout)]

use std::{
    env,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use inference::{Abandon, Config, Machine, Model, Models};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use tokio::{runtime::Runtime, task::JoinSet};

const AT_ONCE: [usize; 4] = [1, 4, 16, 32];

/// Tokens that follow each prompt.
const TOKENS: usize = 64;

/// Words of the prompt that is long.
const WORDS: usize = 60;

/// What each figure lasts, at least.
const FIGURE: Duration = Duration::from_secs(4);

fn main() {
    // What cargo adds, `--bench`, is no directory.
    let mut dirs: Vec<PathBuf> = env::args().skip(1).filter(|argument| argument != "--bench").map(Into::into).collect();
    let tiny = tempfile::tempdir().expect("a directory");
    if dirs.is_empty() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/generators/llama-f32.gguf");
        let dir = tiny.path().join("tiny");
        std::fs::create_dir(&dir).and_then(|()| std::fs::copy(golden, dir.join("tiny.gguf"))).expect("copies");
        dirs.push(dir);
    }
    let runtime = Runtime::new().expect("threads");
    println!("{} threads, {}", Machine::default().threads, Machine::default().cpu.isa());
    for dir in dirs {
        let models = Models::load(&Config { model_dirs: vec![dir], ..Config::default() }).expect("loads");
        let spec = models.specs().remove(0);
        let model = models.get(&spec.name, &spec.version).expect("what is served can be had");
        println!("\n{}", spec.name);
        for at_once in AT_ONCE {
            let input = json!({"prompt": "The ships", "max_tokens": TOKENS, "temperature": 1, "top_p": 0.9});
            let rate = runtime.block_on(rate(&model, &input, at_once, "completion_tokens"));
            println!("{at_once:>3} at once: {rate:>8.1} tokens/s in all, {:>7.1} each", rate / at_once as f64);
        }
        let long = "ship ".repeat(WORDS);
        let rate = runtime.block_on(rate(&model, &json!({"prompt": long, "max_tokens": 1}), 1, "prompt_tokens"));
        println!("    prompts: {rate:>8.1} tokens/s");
    }
}

/// Tokens of a second while so many ask, again and again.
async fn rate(model: &Model, input: &Value, at_once: usize, counted: &'static str) -> f64 {
    let input: Box<RawValue> = to_raw_value(input).expect("JSON");
    let (begun, mut asking) = (Instant::now(), JoinSet::new());
    for _ in 0..at_once {
        let (model, input) = (model.clone(), input.clone());
        asking.spawn(async move {
            let mut tokens = 0;
            while begun.elapsed() < FIGURE {
                let output = model.predict(&input, Abandon::default()).await.expect("an answer");
                let answer: Value = serde_json::from_str(output.value.get()).expect("JSON");
                tokens += answer[counted].as_u64().expect("a count");
            }
            tokens
        });
    }
    let tokens: u64 = asking.join_all().await.into_iter().sum();
    tokens as f64 / begun.elapsed().as_secs_f64()
}
