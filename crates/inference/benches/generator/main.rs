//! How fast text follows text, as servers run it: `cargo bench -p inference --bench generator -- DIR …`, each a directory with a
//! GGUF file (by default the tests' tiny one, which shows nothing but what a step costs besides arithmetic). Tokens of a second, by
//! how many sequences run at once, and tokens of prompts of a second. A peer (`peer/mod.rs`) takes part
//! with `--peer "COMMAND"`: for each line `SEQUENCES PROMPT TOKENS` it lets so many sequences go on from prompts of so many tokens by so
//! many more, the likeliest each time. Machines are shared and noisy, so subjects take turns, and each figure is a median, with the least and the most.
#![allow(clippy::print_stdout)]

#[path = "../peer/mod.rs"]
mod peer;

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use inference::{Abandon, Config, Machine, Model, Models};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use tokio::{runtime::Runtime, task::JoinSet};

use peer::Peer;

/// Sequences at once that begin with a few tokens and go on by some.
const AT_ONCE: [usize; 4] = [1, 4, 16, 32];
const TOKENS: usize = 24;

/// Characters of prompts, short ones and the long one.
const SHORT: usize = 8;
const LONG: usize = 180;

/// Turns of each figure, and what one lasts, at least.
const TURNS: usize = 3;
const TURN: Duration = Duration::from_secs(2);

fn main() {
    peer::enter_workspace();
    let (mut dirs, mut commands) = (Vec::<PathBuf>::new(), Vec::new());
    // What cargo adds, `--bench`, is no directory.
    let mut arguments = env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--peer" => commands.push(arguments.next().expect("--peer has a command")),
            _ => dirs.push(argument.into()),
        }
    }
    let tiny = tempfile::tempdir().expect("a directory");
    if dirs.is_empty() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/generators/llama-f32.gguf");
        let dir = tiny.path().join("tiny");
        fs::create_dir(&dir).and_then(|()| fs::copy(golden, dir.join("tiny.gguf"))).expect("copies");
        dirs.push(dir);
    }
    let runtime = Runtime::new().expect("threads");
    println!(
        "{} threads, {}; median of {TURNS} turns, least and most",
        Machine::default().threads,
        Machine::default().cpu.isa()
    );
    for dir in dirs {
        let models = Models::load(&Config { model_dirs: vec![dir.clone()], ..Config::default() }).expect("loads");
        let spec = models.specs().remove(0);
        let model = models.get(&spec.name, &spec.version).expect("what is served can be had");
        let mut peers: Vec<Peer> = commands.iter().map(|command| Peer::start(command, &gguf(&dir))).collect();
        println!("\n{}, tokens/s", spec.name);
        for at_once in AT_ONCE {
            let what = format!("{at_once:>2} at once");
            report(&what, turns(&runtime, &model, &mut peers, at_once, SHORT, TOKENS));
        }
        report("a prompt", turns(&runtime, &model, &mut peers, 1, LONG, 1));
    }
}

/// The file of a directory.
fn gguf(dir: &Path) -> PathBuf {
    let mut files = fs::read_dir(dir).expect("a directory").flatten().map(|entry| entry.path());
    files.find(|path| path.extension().is_some_and(|ending| ending == "gguf")).expect("a GGUF file")
}

/// Tokens of a second, of each subject's turns: those that are generated, or those of the prompt where it is all there is to do.
fn turns(
    runtime: &Runtime,
    model: &Model,
    peers: &mut [Peer],
    at_once: usize,
    prompt: usize,
    tokens: usize,
) -> Vec<(String, Vec<f64>)> {
    // Whose characters are in no word of the vocabulary.
    let input = json!({"prompt": "~".repeat(prompt), "max_tokens": tokens, "temperature": 0});
    let input: Box<RawValue> = to_raw_value(&input).expect("JSON");
    let counted = if tokens == 1 { "prompt_tokens" } else { "completion_tokens" };
    let mut subjects = vec![("augur".to_owned(), Vec::new())];
    subjects.extend(peers.iter().map(|peer| (peer.name.clone(), Vec::new())));
    for _ in 0..TURNS {
        let (rate, prompt) = runtime.block_on(rate(model, &input, at_once, counted));
        subjects[0].1.push(rate);
        for (peer, (_, rates)) in peers.iter_mut().zip(&mut subjects[1..]) {
            let (mut time, mut runs) = (Duration::ZERO, 0);
            while time < TURN {
                time += peer.ask(&format!("{at_once} {prompt} {tokens}"));
                runs += 1;
            }
            let each = if tokens == 1 { prompt } else { tokens };
            rates.push((runs * at_once * each) as f64 / time.as_secs_f64());
        }
    }
    subjects
}

fn report(what: &str, subjects: Vec<(String, Vec<f64>)>) {
    let mut ours = None;
    print!("{what}:");
    for (name, mut rates) in subjects {
        rates.sort_by(f64::total_cmp);
        let median = rates[rates.len() / 2];
        print!("  {name} {median:.1} ({:.1}–{:.1})", rates[0], rates[rates.len() - 1]);
        match ours {
            None => ours = Some(median),
            Some(ours) => print!(", augur ÷ it {:.2}", ours / median),
        }
    }
    println!();
}

/// Tokens of a second while so many ask, again and again; and how many the prompt has.
async fn rate(model: &Model, input: &RawValue, at_once: usize, counted: &'static str) -> (f64, usize) {
    let (begun, mut asking) = (Instant::now(), JoinSet::new());
    for _ in 0..at_once {
        let (model, input) = (model.clone(), input.to_owned());
        asking.spawn(async move {
            let (mut all, mut prompt) = (0, 0);
            while begun.elapsed() < TURN {
                let output = model.predict(&input, Abandon::default()).await.expect("an answer");
                let answer: Value = serde_json::from_str(output.value.get()).expect("JSON");
                let count = |what: &str| answer[what].as_u64().expect("a count") as usize;
                all += count(counted);
                prompt = count("prompt_tokens");
            }
            (all, prompt)
        });
    }
    let counts = asking.join_all().await;
    let all: usize = counts.iter().map(|(all, _)| all).sum();
    (all as f64 / begun.elapsed().as_secs_f64(), counts[0].1)
}
