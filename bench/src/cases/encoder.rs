//! The case `encoder`: texts of mixed lengths as fast as they are taken, through the whole service, through its engine alone, and through
//! what people would deploy instead.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{json, value::RawValue};
use sqlx::Row;
use tempfile::TempDir;
use tokio::process::Command;

use super::{Measured, repeat};
use crate::{
    cpu::Used,
    drive::{apart, seconds_since_1970, submit_each},
    engine::{Engine, cosine, rate},
    http::request,
    minilm,
    numbers::{Numbers, number, percentile},
    recipe::{Recipe, recipes},
    say,
    servers::Servers,
    stage::{Stage, migrated},
    subject::{AUGUR, Dialect, PEER, Subject},
};

const CONNECTIONS: usize = 64;
/// Texts of one measurement, and of the one before it that warms everything up.
const COUNT: usize = 6_000;
const WARM_UP: usize = 200;

/// The peer's precisions, and how near it comes to our f32 in them at least.
const PEERS: [(&str, f64); 2] = [("f32", 0.9999), ("int8", 0.95)];

/// Ids and outputs of what succeeded.
const OUTPUTS: &str = "SELECT id::text, output FROM predictions WHERE status = 2";
/// Texts in a batch, on average, and the seconds of all batches, of which two may run at a time.
const BATCHES: &str = "
    SELECT count(batch_size)::float8 / sum(1.0::float8 / batch_size), sum(predict_seconds / batch_size)
    FROM predictions";
const PEER_OUTPUTS: &str = "SELECT id::text, output::text FROM jobs WHERE status = 'succeeded'";

/// The peer, or what a case skips without it.
pub(super) async fn peer() -> (Option<Recipe>, Vec<String>) {
    match Recipe::install(recipes().join("encoder/flask-celery"), "encoder".to_owned()).await {
        Ok(recipe) => (Some(recipe), Vec::new()),
        Err(reason) => (None, vec![format!("ONNX Runtime: {reason}")]),
    }
}

/// One of the peer's programs, to be run by its Python.
pub(super) fn script(peer: &Recipe, name: &str) -> Command {
    let mut command = Command::new(peer.environment.join("bin/python"));
    command.arg(peer.directory.with_file_name(name));
    command
}

/// The model as ONNX Runtime loads it.
pub(super) async fn exported(peer: &Recipe, precision: &str, model: &Path) -> PathBuf {
    let file = peer.environment.join(format!("{precision}.onnx"));
    if !file.exists() {
        let mut export = script(peer, "export");
        export.env("PYTHONDONTWRITEBYTECODE", "1").arg(precision).arg(model).arg(&file);
        let output = export.output().await.expect("Python can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    file
}

/// What is measured, once for all runs.
struct Plan {
    texts: Vec<String>,
    inputs: Vec<Box<RawValue>>,
    /// Our model in each precision, and the engine that runs it here.
    engines: Vec<Engine>,
    dirs: Vec<PathBuf>,
    model: PathBuf,
    peer: Option<Recipe>,
    _parent: TempDir,
}

pub(super) async fn measure(runs: usize, most: usize) -> Measured {
    let model = match minilm::fetched().await {
        Ok(model) => model,
        Err(reason) => return Measured { runs: Vec::new(), skipped: vec![format!("all-MiniLM-L6-v2: {reason}")] },
    };
    let (peer, skipped) = peer().await;
    let parent = tempfile::tempdir().expect("temporary directories can be made");
    let dirs = minilm::variants(&model, parent.path()).await;
    let mut engines = Vec::new();
    for dir in &dirs {
        engines.push(Engine::load(dir).await);
    }
    let texts = minilm::texts(&model, COUNT.min(most));
    let inputs = texts.iter().map(|text| serde_json::value::to_raw_value(&json!({ "text": text })).expect("JSON"));
    let plan = Plan { inputs: inputs.collect(), texts, engines, dirs, model, peer, _parent: parent };
    let tokens: Vec<f64> = plan.texts.iter().map(|text| number(minilm::tokens(text))).collect();
    say(&format!(
        "{} texts of {} to {} tokens, the median {}, {:.1} on average",
        tokens.len(),
        percentile(&tokens, 0.0),
        percentile(&tokens, 1.0),
        percentile(&tokens, 0.5),
        tokens.iter().sum::<f64>() / number(tokens.len()),
    ));
    repeat(runs, skipped, || once(&plan)).await
}

async fn once(plan: &Plan) -> Numbers {
    let servers = Arc::new(Servers::start().await);
    let database_url = migrated(&servers).await;
    let stage = Stage::serving(Arc::clone(&servers), &database_url, &[], &plan.dirs).await;
    let mut subject = stage.subject(&AUGUR).await;
    let (mut numbers, mut wanted) = (Numbers::new(), Vec::new());
    for (precision, engine) in minilm::PRECISIONS.iter().zip(&plan.engines) {
        engine.run(&plan.inputs[..WARM_UP.min(plan.inputs.len())]).await;
        let (before, outputs) = engine.run(&plan.inputs).await;
        let prefix = format!("{precision}: augur");
        let bodies: Vec<String> = plan.inputs.iter().map(|input| format!("{{\"input\":{input}}}")).collect();
        let stored = stream(&mut subject, &engine.path(), &bodies, OUTPUTS, &prefix, &mut numbers).await;
        for (ours, alone) in stored.iter().zip(&outputs) {
            assert_eq!(ours, alone.get(), "through the service a text gives what it gives in the engine, bit for bit");
        }
        // The machine's speed may change meanwhile.
        let (after, _) = engine.run(&plan.inputs).await;
        numbers.insert(format!("{precision}: engine alone: texts/s"), rate(2 * plan.inputs.len(), before + after));
        wanted.push(outputs.iter().map(|output| embedding(output.get())).collect::<Vec<_>>());
    }
    stage.end().await;
    let f32s = wanted.first().expect("f32 is the first precision");
    for (precision, least) in PEERS {
        let Some(recipe) = &plan.peer else { break };
        let outputs = theirs(&servers, plan, recipe, precision, &mut numbers).await;
        let worst = worst(&outputs.iter().map(|output| embedding(output)).collect::<Vec<_>>(), f32s);
        assert!(worst >= least, "the peer computes something else: {worst}");
        numbers.insert(format!("{precision}: peer: least cosine to augur's f32"), worst);
    }
    for (precision, ours) in minilm::PRECISIONS.iter().zip(&wanted).skip(1) {
        numbers.insert(format!("{precision}: augur: least cosine to its f32"), worst(ours, f32s));
    }
    ratios(&mut numbers);
    numbers
}

/// The least cosine of embeddings of the same texts.
fn worst(embeddings: &[Vec<f32>], others: &[Vec<f32>]) -> f64 {
    embeddings.iter().zip(others).map(|(one, other)| cosine(one, other)).fold(1.0, f64::min)
}

/// The numbers of an output of ours or the peer's.
fn embedding(output: &str) -> Vec<f32> {
    let numbers = output.trim_start_matches("{\"embedding\":").trim_end_matches('}');
    serde_json::from_str(numbers).expect("an output holds numbers")
}

async fn theirs(
    servers: &Arc<Servers>,
    plan: &Plan,
    recipe: &Recipe,
    precision: &str,
    numbers: &mut Numbers,
) -> Vec<String> {
    let more: [(&str, &OsStr); 2] = [("MODEL", plan.model.as_ref()), ("PRECISION", precision.as_ref())];
    let (service, mut subject) = recipe.start(servers, &more).await;
    let bodies: Vec<String> = plan.texts.iter().map(|text| json!({ "input": text }).to_string()).collect();
    let prefix = format!("{precision}: peer");
    let outputs = stream(&mut subject, PEER.path, &bodies, PEER_OUTPUTS, &prefix, numbers).await;
    service.end().await;
    outputs
}

/// Submits all, waits until they are stored, and returns the output of each; a few before that do not count.
async fn stream(
    subject: &mut Subject,
    path: &str,
    bodies: &[String],
    outputs: &'static str,
    prefix: &str,
    numbers: &mut Numbers,
) -> Vec<String> {
    let requests: Arc<[Vec<u8>]> = bodies.iter().map(|body| request("POST", path, "", body)).collect();
    let Dialect { ends, .. } = *subject.dialect;
    let address = subject.address;
    let first: Arc<[Vec<u8>]> = requests.iter().take(WARM_UP).cloned().collect();
    apart(move || submit_each(address, CONNECTIONS, first)).await;
    subject.over().await;
    subject.clear().await;

    let count = requests.len();
    let before = Used::until_now(&subject.processes);
    let begun = seconds_since_1970();
    let accepted = apart(move || submit_each(address, CONNECTIONS, requests)).await;
    let submitted = seconds_since_1970();
    subject.over().await;
    let used = Used::until_now(&subject.processes);
    let over = seconds_since_1970();
    let row = sqlx::query(ends).fetch_one(&subject.database).await.expect("Postgres answers");
    let (ended, all): (f64, i64) = (row.get(0), row.get(1));
    assert_eq!(usize::try_from(all), Ok(count), "each text makes one prediction");
    numbers.insert(format!("{prefix}: submit/s"), rate(count, submitted - begun));
    numbers.insert(format!("{prefix}: texts/s"), rate(count, ended - begun));
    numbers.extend(used.numbers(&before, prefix, count, over - begun));

    if outputs == OUTPUTS {
        let row = sqlx::query(BATCHES).fetch_one(&subject.database).await.expect("Postgres answers");
        numbers.insert(format!("{prefix}: texts in a batch"), row.get(0));
        numbers.insert(format!("{prefix}: batches under way"), row.get::<f64, _>(1) / (ended - begun));
    }
    let rows = sqlx::query(outputs).fetch_all(&subject.database).await.expect("Postgres answers");
    let mut stored: BTreeMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut ids = accepted.ids;
    ids.sort_unstable_by_key(|(_, place)| *place);
    let outputs = ids.iter().map(|(id, _)| stored.remove(id).expect("each prediction succeeded")).collect();
    subject.clear().await;
    outputs
}

fn ratios(numbers: &mut Numbers) {
    for precision in minilm::PRECISIONS {
        let ours = numbers[&format!("{precision}: augur: texts/s")];
        let alone = numbers[&format!("{precision}: engine alone: texts/s")];
        numbers.insert(format!("{precision}: augur ÷ engine alone"), ours / alone);
        for (theirs, _) in PEERS {
            if let Some(peer) = numbers.get(&format!("{theirs}: peer: texts/s")) {
                numbers.insert(format!("{precision}: augur ÷ peer in {theirs}"), ours / peer);
            }
        }
    }
}
