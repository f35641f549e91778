//! Versions of one model beside each other: one worker runs several, several workers run one each, and each prediction is run by the
//! version that it was accepted for.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prediction::{ModelSpec, Status};
use serde_json::json;
use store::PublishedModel;
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::stage::{Stage, output, until};

on_both!(one_worker_serves_several_versions, several_workers_serve_one_version_each);

/// A worker seen within this time is alive.
const ALIVE: Duration = Duration::from_secs(60);

/// A directory of models.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn config(&self) -> inference::Config {
        inference::Config { models_dir: Some(self.0.path().to_owned()), ..inference::Config::default() }
    }

    fn path(&self, own: &str) -> PathBuf {
        self.0.path().join("augur").join(own)
    }

    /// Puts the bundled flowers there, whole at once, as one that calls the first species so.
    fn put(&self, own: &str, first: &str) -> ModelSpec {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/augur/iris");
        let made = self.0.path().join(".made");
        fs::create_dir_all(&made).unwrap();
        for file in ["model.toml", "input.schema.json", "output.schema.json", "model.safetensors"] {
            let bytes = fs::read(from.join(file)).unwrap();
            let is_text = file != "model.safetensors";
            let renamed = || String::from_utf8(bytes.clone()).unwrap().replace("\"setosa\"", &format!("{first:?}"));
            fs::write(made.join(file), if is_text { renamed().into_bytes() } else { bytes }).unwrap();
        }
        fs::create_dir_all(self.0.path().join("augur")).unwrap();
        fs::rename(made, self.path(own)).unwrap();
        inference::inspect(&self.path(own)).unwrap().spec
    }
}

/// Sends as many to each version in turns; each is answered by its own.
async fn answered(stage: &Stage, versions: &[(&ModelSpec, &str)]) {
    let flower = json!({"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2});
    let mut sent = Vec::new();
    for _ in 0..20 {
        for (spec, label) in versions {
            let ids = stage
                .send(vec![flower.clone()], |new| {
                    (new.model, new.version) = (spec.name.clone(), spec.version.clone());
                })
                .await;
            sent.push((ids[0], *spec, *label));
        }
    }
    for (id, spec, label) in sent {
        let prediction = &stage.wait_for(&[id], Status::Succeeded).await[0];
        assert_eq!(prediction.version, spec.version);
        assert_eq!(output(prediction)["label"], label, "answered by another version");
    }
}

async fn published(stage: &Stage, spec: &ModelSpec) -> PublishedModel {
    let published = stage.store.models(ALIVE).await.unwrap();
    published.into_iter().find(|model| model.spec == *spec).expect("it was published")
}

async fn one_worker_serves_several_versions(stage: Stage) {
    let home = Home::new();
    let old = home.put("iris", "old");
    let look = Arc::new(Notify::new());
    let worker = stage.worker_of(home.config(), |config| config.look = Arc::clone(&look)).await;

    // Another version is loaded beside the one that runs.
    let new = home.put("iris@new", "new");
    look.notify_one();
    until(async || stage.store.models(ALIVE).await.unwrap().len() == 2).await;
    let counts = |published: &PublishedModel| (published.workers, published.default_workers);
    assert_eq!(counts(&published(&stage, &old).await), (1, 1));
    assert_eq!(counts(&published(&stage, &new).await), (1, 0));
    answered(&stage, &[(&old, "old"), (&new, "new")]).await;

    // The default is announced when it changes, and both go on.
    fs::write(home.path("iris@default"), "new").unwrap();
    look.notify_one();
    until(async || counts(&published(&stage, &new).await) == (1, 1)).await;
    assert_eq!(counts(&published(&stage, &old).await), (1, 0));
    answered(&stage, &[(&old, "old"), (&new, "new")]).await;

    // One whose directory is removed finishes what was accepted for it.
    fs::remove_dir_all(home.path("iris")).unwrap();
    look.notify_one();
    until(async || counts(&published(&stage, &old).await) == (0, 0)).await;
    answered(&stage, &[(&old, "old"), (&new, "new")]).await;
    worker.stop().await;
}

async fn several_workers_serve_one_version_each(stage: Stage) {
    let homes = [Home::new(), Home::new()];
    let [old, new] = [homes[0].put("iris", "old"), homes[1].put("iris@new", "new")];
    let first = stage.worker_of(homes[0].config(), |_| {}).await;
    let second = stage.worker_of(homes[1].config(), |_| {}).await;
    for (spec, expected) in [(&old, (1, 1)), (&new, (1, 0))] {
        let PublishedModel { workers, default_workers, .. } = published(&stage, spec).await;
        assert_eq!((workers, default_workers), expected);
    }
    answered(&stage, &[(&old, "old"), (&new, "new")]).await;
    first.stop().await;
    second.stop().await;
}
