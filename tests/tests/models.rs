//! Models come, change, break and go while predictions flow through real workers: what was accepted is finished, each by the
//! version that it was accepted for.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{Cluster, PATIENCE, Plan, answered};
use tokio::{sync::Mutex, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

/// The model that comes and goes.
const MODEL: &str = "augur/iris";
const WEIGHTS: &str = "model.safetensors";
/// Predictions that wait for the old version when it is replaced.
const BACKLOG: usize = 1000;

/// Ids that were accepted, each with its version.
type Accepted = Arc<Mutex<BTreeMap<String, String>>>;

fn flower() -> Value {
    json!({"input": {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}})
}

/// Asks for one prediction; whether it was accepted.
async fn ask(client: &reqwest::Client, address: &str, accepted: &Accepted) -> bool {
    let url = format!("{address}/v1/models/{MODEL}/predictions");
    let (status, answer) = answered(client.post(url).json(&flower())).await;
    if status != 202 {
        assert!(matches!(status, 404 | 503), "{status}: {answer}");
        return false;
    }
    let word = |name: &str| answer[name].as_str().expect("a word").to_owned();
    accepted.lock().await.insert(word("id"), word("version"));
    true
}

/// Asks on and on; returns how often it was refused.
fn flow(cluster: &Cluster, accepted: &Accepted, stop: CancellationToken) -> JoinHandle<u32> {
    let (address, accepted) = (cluster.address.clone(), Arc::clone(accepted));
    tokio::spawn(async move {
        let (client, mut refused) = (reqwest::Client::new(), 0);
        while !stop.is_cancelled() {
            refused += u32::from(!ask(&client, &address, &accepted).await);
            sleep(Duration::from_millis(5)).await;
        }
        refused
    })
}

/// Another version of the bundled model, made beside its place and put there at once.
fn put(models: &Path, remark: &str, weights: Option<&str>) {
    let change = |manifest: &str| format!("# {remark}\n{manifest}");
    put_into(&models.join(MODEL), models, change, weights);
}

/// The same into a directory of another name, with a manifest that was changed so.
fn put_into(place: &Path, models: &Path, change: impl Fn(&str) -> String, weights: Option<&str>) {
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(MODEL);
    let made: PathBuf = models.join(".made");
    fs::create_dir_all(&made).expect("a directory");
    for file in ["model.toml", "input.schema.json", "output.schema.json", WEIGHTS] {
        fs::copy(bundled.join(file), made.join(file)).expect("a copy");
    }
    let manifest = fs::read_to_string(made.join("model.toml")).expect("the manifest");
    fs::write(made.join("model.toml"), change(&manifest)).expect("writes");
    if let Some(weights) = weights {
        fs::write(made.join(WEIGHTS), weights).expect("writes");
    }
    fs::create_dir_all(place.parent().expect("a parent")).expect("a directory");
    if place.exists() {
        fs::rename(place, models.join(".old")).expect("moves");
    }
    fs::rename(made, place).expect("moves");
    let _ = fs::remove_dir_all(models.join(".old"));
}

/// Waits until the model is served by so many workers, in another version than `not`; returns the version.
async fn served(cluster: &Cluster, workers: u64, not: &str) -> String {
    let begun = Instant::now();
    loop {
        let (_, model) = cluster.get(&format!("/v1/models/{MODEL}")).await;
        let latest = &model["latest_version"];
        if latest["workers"] == workers && latest["id"] != not {
            return latest["id"].as_str().expect("an id").to_owned();
        }
        assert!(begun.elapsed() < PATIENCE, "not served so: {model}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until every worker has logged so many lines with this.
async fn logged(cluster: &Cluster, words: &str, times: usize) {
    let begun = Instant::now();
    while !cluster.workers.iter().all(|worker| worker.log().matches(words).count() >= times) {
        assert!(begun.elapsed() < PATIENCE, "a worker does not say {words:?} {times} times");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_change_while_predictions_flow() {
    let cluster = Cluster::start(Plan { workers: 2, lease: Duration::from_secs(10), ..Plan::default() }).await;
    let (accepted, stop) = (Accepted::default(), CancellationToken::new());
    let models = cluster.models.path();
    let echo = cluster.send(1, tests::Load { count: 1000, per_second: 25, ..tests::Load::default() });

    put(models, "first", None);
    cluster.workers[0].signal("HUP");
    let first = served(&cluster, 2, "").await;
    let flowing = flow(&cluster, &accepted, stop.clone());

    // Many wait for the first version when the second comes.
    let client = reqwest::Client::new();
    for _ in 0..BACKLOG / 50 {
        let asked = (0..50).map(|_| ask(&client, &cluster.address, &accepted));
        assert!(futures::future::join_all(asked).await.into_iter().all(|accepted| accepted));
    }
    put(models, "second", None);
    cluster.workers.iter().for_each(|worker| worker.signal("HUP"));
    let second = served(&cluster, 2, &first).await;
    logged(&cluster, "unloaded", 1).await;

    // A broken one changes nothing but the log.
    put(models, "third", Some("no weights"));
    logged(&cluster, "a model cannot be loaded; what ran before goes on", 1).await;
    let before = accepted.lock().await.len();
    assert_eq!(served(&cluster, 2, "").await, second);
    while accepted.lock().await.len() < before + 20 {
        sleep(Duration::from_millis(20)).await;
    }
    put(models, "fourth", None);
    let fourth = served(&cluster, 2, &second).await;

    fs::remove_dir_all(models.join(MODEL)).expect("removes");
    served(&cluster, 0, "").await;
    stop.cancel();
    let refused = flowing.await.expect("the API answers");
    cluster.until_finished().await;
    logged(&cluster, "unloaded", 3).await;
    echo.await.expect("everything is accepted");
    cluster.until_finished().await;

    let accepted = accepted.lock().await.clone();
    let mut by_version = BTreeMap::<&str, usize>::new();
    for (id, version) in &accepted {
        let (status, prediction) = cluster.get(&format!("/v1/predictions/{id}")).await;
        assert_eq!((status, &prediction["status"]), (200, &json!("succeeded")), "{prediction}");
        assert_eq!(prediction["version"], version.as_str());
        *by_version.entry(version).or_default() += 1;
    }
    assert!(by_version[first.as_str()] > BACKLOG, "{by_version:?}, {refused} refused");
    assert!(by_version.contains_key(second.as_str()) && by_version.contains_key(fourth.as_str()), "{by_version:?}");
    assert_eq!(by_version.len(), 3, "a broken version is never asked for: {by_version:?}");
    assert_eq!(cluster.stale_completions().await, 0);
    for worker in &cluster.workers {
        assert!(!worker.log().contains("claimed, but not served here"), "what is accepted is run where it is claimed");
    }
}

/// Asks for this version, and waits for its end.
async fn answer(cluster: &Cluster, target: &str) -> (String, Value) {
    let mut body = flower();
    body["version"] = target.into();
    let call = reqwest::Client::new().post(format!("{}/v1/predictions", cluster.address)).header("Prefer", "wait=60");
    let (_, prediction) = answered(call.json(&body)).await;
    assert_eq!(prediction["status"], "succeeded", "{prediction}");
    (prediction["version"].as_str().expect("a version").to_owned(), prediction["output"]["label"].clone())
}

/// Waits until the model's name alone means another version than `not`, on all workers; returns the version.
async fn default(cluster: &Cluster, not: &str) -> String {
    served(cluster, cluster.workers.len() as u64, not).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_stand_beside_each_other_and_each_pinned_prediction_gets_its_own() {
    let cluster = Cluster::start(Plan { workers: 2, ..Plan::default() }).await;
    let models = cluster.models.path();
    let look = || cluster.workers.iter().for_each(|worker| worker.signal("HUP"));
    put(models, "old", None);
    look();
    let old = default(&cluster, "").await;

    // Another that calls the first species by the last one's name.
    let labelled = models.join(format!("{MODEL}@turned"));
    let turned = |manifest: &str| {
        manifest.replace(r#"["setosa", "versicolor", "virginica"]"#, r#"["virginica", "versicolor", "setosa"]"#)
    };
    put_into(&labelled, models, turned, None);
    look();
    logged(&cluster, "served from now on", 2).await;
    let url = format!("/v1/models/{MODEL}/versions");
    let new = loop {
        let (_, page) = cluster.get(&url).await;
        let of = |version: &Value| {
            (version["workers"] == 2 && version["is_default"] == false).then(|| version["id"].clone())
        };
        let listed = page["results"].as_array().expect("a list").iter().find_map(of);
        match listed {
            Some(id) => break id.as_str().expect("an id").to_owned(),
            None => sleep(Duration::from_millis(50)).await,
        }
    };
    let (setosa, virginica) = (json!("setosa"), json!("virginica"));
    let each = async |alone: &str| {
        for _ in 0..20 {
            let (named, pinned) = (format!("{MODEL}:{}", &new[..12]), [&old, &new]);
            let (one, other, third, name) = tokio::join!(
                answer(&cluster, pinned[0]),
                answer(&cluster, pinned[1]),
                answer(&cluster, &named),
                answer(&cluster, MODEL)
            );
            assert_eq!(one, (old.clone(), setosa.clone()));
            assert_eq!(other, (new.clone(), virginica.clone()));
            assert_eq!((third, name.0.as_str()), (other, alone));
        }
    };
    each(&old).await;

    // The operator declares it the default, and takes it back.
    fs::write(models.join(format!("{MODEL}@default")), "turned\n").expect("writes");
    look();
    assert_eq!(default(&cluster, &old).await, new);
    logged(&cluster, "the default version from now on", 3).await;
    each(&new).await;
    fs::remove_file(models.join(format!("{MODEL}@default"))).expect("removes");
    look();
    assert_eq!(default(&cluster, &new).await, old);
    logged(&cluster, "the default version from now on", 4).await;
    each(&old).await;

    // What is removed is withdrawn; whoever asks for it is told what there is.
    fs::remove_dir_all(labelled).expect("removes");
    look();
    let begun = Instant::now();
    loop {
        let body = json!({"version": new, "input": flower()["input"]});
        let call = reqwest::Client::new().post(format!("{}/v1/predictions", cluster.address)).json(&body);
        let (status, refused) = answered(call).await;
        if status == 503 {
            let said = format!("No worker serves {MODEL}:{} now, but {MODEL}:{}.", &new[..12], &old[..12]);
            assert_eq!(
                (&refused["error"]["code"], refused["detail"].as_str()),
                (&json!("model_unavailable"), Some(said.as_str()))
            );
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "it is still served");
        sleep(Duration::from_millis(50)).await;
    }
    cluster.until_finished().await;
    assert_eq!(answer(&cluster, MODEL).await, (old, setosa));
}
