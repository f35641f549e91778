//! The case `first`: from a program's start to its first embedding, beside Python with ONNX Runtime; memory with the encoder; and a
//! small network's time in the engine.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{json, value::RawValue};
use tempfile::TempDir;
use tokio::time::sleep;

use super::{
    Measured,
    encoder::{exported, peer, script},
    repeat,
};
use crate::{
    drive::{apart, submit_each},
    engine::{Engine, cosine},
    http::{Connection, request},
    minilm,
    numbers::{Numbers, percentile},
    program::{Program, program},
    recipe::Recipe,
    servers::Servers,
    stage::{Stage, free_address, migrated},
    subject::AUGUR,
};

const TEXT: &str = "A lighthouse keeper counts the ships.";
/// A start remembers nothing of files that were changed within the five seconds before.
const AGE: Duration = Duration::from_secs(6);
/// How often each program is started; the first turn, which reads its files, does not count.
const STARTS: usize = 7;
/// Texts that a worker has run before its memory is read.
const TEXTS: usize = 400;
/// How often a small network runs.
const ALONE: usize = 2_000;
const MIB: f64 = 1_048_576.0;

/// What is started and measured, once for all runs.
struct Plan {
    model: PathBuf,
    /// By precision.
    dirs: Vec<PathBuf>,
    /// By precision: a directory of models to which `augur models add` brought it.
    brought: Vec<PathBuf>,
    peer: Option<Recipe>,
    _parent: TempDir,
}

pub(super) async fn measure(runs: usize) -> Measured {
    let model = match minilm::fetched().await {
        Ok(model) => model,
        Err(reason) => return Measured { runs: Vec::new(), skipped: vec![format!("all-MiniLM-L6-v2: {reason}")] },
    };
    let (peer, skipped) = peer().await;
    let parent = tempfile::tempdir().expect("temporary directories can be made");
    let dirs = minilm::variants(&model, parent.path()).await;
    let mut brought = Vec::new();
    for (precision, dir) in minilm::PRECISIONS.iter().zip(&dirs) {
        brought.push(minilm::added(dir, &parent.path().join("brought").join(precision)).await);
    }
    sleep(AGE).await;
    let plan = Plan { model, dirs, brought, peer, _parent: parent };
    repeat(runs, skipped, || once(&plan)).await
}

async fn once(plan: &Plan) -> Numbers {
    let mut numbers = starts(plan).await;
    for (precision, dir) in minilm::PRECISIONS.iter().zip(&plan.dirs) {
        let weights = std::fs::metadata(dir.join("model.safetensors")).expect("it has weights").len();
        #[allow(clippy::cast_precision_loss)]
        let weights = weights as f64 / MIB;
        numbers.insert(format!("{precision}: weights in their file: MiB"), weights);
        let memory = memory(&plan.model, precision, dir).await;
        numbers.insert(format!("{precision}: worker's memory: MiB"), memory);
        let bound = 1.3 * weights + 60e6 / MIB;
        numbers.insert(format!("{precision}: worker's memory ÷ (1.3 × weights + 60 MB)"), memory / bound);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above");
    for (model, input) in [
        ("digits", json!({ "pixels": vec![vec![0; 8]; 8] })),
        ("iris", json!({"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2})),
    ] {
        let engine = Engine::load(&root.join("models/augur").join(model)).await;
        let input: Box<RawValue> = serde_json::value::to_raw_value(&input).expect("JSON");
        let (inside, outside) = engine.alone(&input, ALONE).await;
        numbers.insert(format!("{model}, one at a time: in the engine: µs"), inside);
        numbers.insert(format!("{model}, one at a time: until its output is known: µs"), outside);
    }
    numbers
}

/// Milliseconds from exec to the first embedding: `augur serve` with an empty directory of data, of weights that it knows nothing of; started
/// again with that when it has kept what it packed; and with an empty directory of data and a model that `augur models add` brought; asked over
/// HTTP. And Python.
async fn starts(plan: &Plan) -> Numbers {
    let mut milliseconds = vec![Vec::new(); 3 * plan.dirs.len() + 1];
    let mut embeddings: Vec<Vec<f32>> = Vec::new();
    for turn in 0..=STARTS {
        let mut found = Vec::new();
        for ((precision, dir), brought) in minilm::PRECISIONS.iter().zip(&plan.dirs).zip(&plan.brought) {
            let [data, new] = [(); 2].map(|()| tempfile::tempdir().expect("temporary directories can be made"));
            let none = data.path().join("models");
            std::fs::create_dir_all(&none).expect("a directory can be made");
            let (first, program) = serve(precision, &none, Some(dir), data.path()).await;
            kept(data.path()).await;
            program.end().await;
            let (second, program) = serve(precision, &none, Some(dir), data.path()).await;
            program.end().await;
            let (added, program) = serve(precision, brought, None, new.path()).await;
            program.end().await;
            found.extend([first, second, added]);
        }
        if let Some(peer) = &plan.peer {
            found.push(python(peer, &plan.model).await);
        }
        if turn > 0 {
            found.iter().zip(&mut milliseconds).for_each(|((time, _), times)| times.push(*time));
        }
        embeddings = found.into_iter().map(|(_, embedding)| embedding).collect();
    }
    for other in &embeddings[1..] {
        assert!(cosine(&embeddings[0], other) > 0.98, "all embed the same text");
    }
    let mut numbers = Numbers::new();
    let medians: Vec<f64> =
        milliseconds.iter().filter(|times| !times.is_empty()).map(|times| percentile(times, 0.5)).collect();
    let starts = |precision: &&str| {
        ["augur serve", "augur serve again", "augur serve after augur models add"]
            .map(|start| format!("{start}, {precision}"))
    };
    let names: Vec<String> = minilm::PRECISIONS.iter().flat_map(starts).collect();
    for (name, median) in names.iter().map(String::as_str).chain(["Python with ONNX Runtime"]).zip(&medians) {
        numbers.insert(format!("{name}: from exec to the first embedding: ms"), *median);
    }
    if let Some(python) = medians.get(names.len()) {
        for (name, ours) in names.iter().zip(&medians) {
            numbers.insert(format!("Python's first embedding ÷ that of {name}"), python / ours);
        }
    }
    numbers
}

/// Waits until packed weights are kept for another start.
async fn kept(data: &Path) {
    let directory = data.join("data/digests.json.packed");
    let is_kept = || {
        let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().extension().is_none()).count() > 0
    };
    let begun = Instant::now();
    while !is_kept() {
        assert!(begun.elapsed() < Duration::from_secs(30), "nothing is kept in {}", directory.display());
        sleep(Duration::from_millis(50)).await;
    }
}

/// Milliseconds until the answer to the first request was read, and its embedding; with the program, which goes on.
async fn serve(precision: &str, models: &Path, named: Option<&Path>, data: &Path) -> ((f64, Vec<f32>), Program) {
    let address = free_address();
    let arguments: [OsString; 9] = [
        "serve".into(),
        "--log".into(),
        "warn".into(),
        "--listen".into(),
        address.to_string().into(),
        "--data-dir".into(),
        data.join("data").into(),
        "--models-dir".into(),
        models.into(),
    ];
    let named = named.map(|dir| ["--model".into(), dir.into()]);
    let arguments = arguments.into_iter().chain(named.into_iter().flatten());
    let body = json!({ "input": { "text": TEXT } }).to_string();
    let path = format!("/v1/models/{}/predictions", minilm::name(precision));
    let post = request("POST", &path, "prefer: wait=30\r\n", &body);
    let begun = Instant::now();
    let program = Program::start(&program("augur"), arguments, &[], "listening on ").await;
    let mut connection = Connection::open(address).await;
    let answer = connection.exchange(&post).await;
    let milliseconds = begun.elapsed().as_secs_f64() * 1e3;
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(answer.body));
    let answer: serde_json::Value = serde_json::from_slice(answer.body).expect("answers are JSON");
    let embedding = serde_json::from_value(answer["output"]["embedding"].clone()).expect("its output is an embedding");
    ((milliseconds, embedding), program)
}

/// Milliseconds until the embedding was printed, and the embedding.
async fn python(peer: &Recipe, model: &Path) -> (f64, Vec<f32>) {
    let onnx = exported(peer, "f32", model).await;
    let mut command = script(peer, "once");
    command.args([onnx.as_os_str(), model.join("tokenizer.json").as_os_str(), OsStr::new(TEXT)]);
    let begun = Instant::now();
    let output = command.output().await.expect("Python can be started");
    let milliseconds = begun.elapsed().as_secs_f64() * 1e3;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (milliseconds, serde_json::from_slice(&output.stdout).expect("it prints numbers"))
}

/// Resident memory in MiB of a worker that has the model and has run texts of all lengths.
async fn memory(model: &Path, precision: &str, dir: &Path) -> f64 {
    let servers = Arc::new(Servers::start().await);
    let database_url = migrated(&servers).await;
    let stage = Stage::serving(servers, &database_url, &[], &[dir.to_owned()]).await;
    let mut subject = stage.subject(&AUGUR).await;
    let path = format!("/v1/models/{}/predictions", minilm::name(precision));
    let body = |text: &String| request("POST", &path, "", &json!({ "input": { "text": text } }).to_string());
    let requests = minilm::texts(model, TEXTS).iter().map(body).collect();
    let address = subject.address;
    apart(move || submit_each(address, 64, requests)).await;
    subject.over().await;
    let memory = stage.worker().resident_mib();
    stage.end().await;
    memory
}
