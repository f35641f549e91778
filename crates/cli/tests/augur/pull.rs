//! `augur models pull`, from a hub of the test's own.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use hyper::StatusCode;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    hub::{COMMIT, Conduct, Hub},
    once::{Ran, command, ended},
    served::flag,
    tiny,
};

/// Where models are pulled to.
struct Home {
    dir: TempDir,
}

impl Home {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    fn model(&self) -> PathBuf {
        self.dir.path().join(tiny::NAME)
    }

    /// Everything but directories and what the first start of a server needs, by path, what is hidden included.
    fn files(&self) -> BTreeSet<String> {
        let (mut found, mut ahead) = (BTreeSet::new(), vec![self.dir.path().to_owned()]);
        while let Some(dir) = ahead.pop() {
            for entry in fs::read_dir(dir).expect("it can be read").flatten() {
                match entry.path() {
                    path if path.ends_with(".prepared") => {}
                    path if path.is_dir() => ahead.push(path),
                    path => {
                        let path = path.strip_prefix(self.dir.path()).expect("inside").to_string_lossy().into_owned();
                        found.insert(path);
                    }
                }
            }
        }
        found
    }

    async fn pull(&self, hub: &Hub, settings: &[&str]) -> Ran {
        self.pull_of(hub, tiny::REPOSITORY, settings).await
    }

    async fn pull_of(&self, hub: &Hub, repository: &str, settings: &[&str]) -> Ran {
        let models_dir = flag("models-dir", self.dir.path());
        let mut command = command(&["models", "pull", repository, &models_dir]);
        command.env("HF_ENDPOINT", &hub.url).args(settings);
        ended(command, "").await
    }
}

#[track_caller]
fn assert_refused(ran: &Ran, said: &str) {
    assert_eq!((ran.status, ran.out.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.err.contains(said) && ran.err.lines().count() == 1, "{said}: {ran:?}");
}

fn installed(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path.join("augur-source.json")).expect("it is written down")).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_model_reads_is_fetched_and_where_from_is_written_down() {
    let (home, hub) = (Home::new(), Hub::start(Conduct::default()).await);
    let ran = home.pull(&hub, &[]).await;
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "no bar where there is no terminal: {ran:?}");
    assert!(
        ran.out.starts_with("pulled test-org/tiny-encoder, version ") && ran.out.contains("commit 0123456789ab"),
        "{ran:?}"
    );
    let read: Vec<_> = tiny::files(0).into_iter().filter(|(path, _)| tiny::read(path)).collect();
    let mut expected: BTreeSet<_> = read.iter().map(|(path, _)| format!("{}/{path}", tiny::NAME)).collect();
    expected.insert(format!("{}/augur-source.json", tiny::NAME));
    assert_eq!(home.files(), expected);
    for (path, content) in read {
        assert!(fs::read(home.model().join(path)).expect("it is there") == content, "{path}");
    }
    let origin = installed(&home.model());
    assert_eq!((&origin["revision"], &origin["commit"]), (&"main".into(), &COMMIT.into()));
    assert_eq!(origin["source"], format!("{}/{}/tree/{COMMIT}", hub.url, tiny::REPOSITORY));
    assert!(hub.asked().iter().all(|asked| !asked.path.contains("onnx") && !asked.path.ends_with(".bin")));

    // The same commit is not fetched again, by whatever name.
    let ran = home.pull_of(&hub, &format!("{}@{COMMIT}", tiny::REPOSITORY), &[]).await;
    assert!(ran.status == Some(0) && ran.out.contains("is there already, commit 0123456789ab"), "{ran:?}");
    assert_eq!(hub.asked().len(), 1, "what the revision is");

    // What was fetched is pinned.
    fs::write(home.model().join("config.json"), "{\"model_type\": \"bert\"}").expect("writes");
    let shown = ended(command(&["models", "inspect", tiny::NAME, &flag("models-dir", home.dir.path())]), "").await;
    assert!(shown.status == Some(1) && shown.err.contains("config.json"), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_classifier_of_images_needs_no_tokenizer() {
    let (home, hub) = (Home::new(), Hub::start(Conduct { is_of_images: true, ..Conduct::default() }).await);
    let ran = home.pull(&hub, &[]).await;
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    let files = ["README.md", "augur-source.json", "config.json", tiny::WEIGHTS, "preprocessor_config.json"];
    assert_eq!(home.files(), files.map(|path| format!("{}/{path}", tiny::NAME)).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_is_gone_on_from_where_it_broke() {
    let size = tiny::files(0).iter().find(|(path, _)| *path == tiny::WEIGHTS).expect("it has weights").1.len();
    for (ignores_ranges, cuts) in [(false, vec![1000, 500]), (true, vec![1000])] {
        let hub = Hub::start(Conduct { cuts, ignores_ranges, ..Conduct::default() }).await;
        let home = Home::new();
        let ran = home.pull(&hub, &[]).await;
        assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
        let of_store: Vec<_> = hub.asked().into_iter().filter(|asked| !asked.is_hub).map(|asked| asked.range).collect();
        let expected: &[Option<&str>] = match ignores_ranges {
            false => &[None, Some("bytes=1000-"), Some("bytes=1500-")],
            true => &[None, Some("bytes=1000-")],
        };
        assert_eq!(of_store.iter().map(Option::as_deref).collect::<Vec<_>>(), expected);
        assert_eq!(fs::metadata(home.model().join(tiny::WEIGHTS)).expect("it is there").len(), size as u64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_giving_up_is_kept_for_the_next_time() {
    let hub = Hub::start(Conduct { cuts: [vec![1000], vec![0; 5]].concat(), ..Conduct::default() }).await;
    let home = Home::new();
    assert_refused(&home.pull(&hub, &[]).await, "the same command goes on from there");
    assert!(!home.model().exists(), "half a model is none");
    hub.asked();
    hub.conduct().cuts.clear();
    let ran = home.pull(&hub, &[]).await;
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    let asked = hub.asked();
    assert_eq!(asked.last().expect("asked").range.as_deref(), Some("bytes=1000-"));
    assert_eq!(asked.len(), 4, "what the revision is, and the rest of the weights: {asked:?}");
    assert!(home.files().iter().all(|path| path.starts_with(tiny::NAME)), "nothing is left over");
}

/// The model's weights as they should be.
fn weights() -> Vec<u8> {
    tiny::files(0).into_iter().find(|(path, _)| *path == tiny::WEIGHTS).expect("it has weights").1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_has_less_than_is_stated_is_given_up() {
    let mut shorter = weights();
    shorter.pop();
    let hub = Hub::start(Conduct { other_weights: Some(shorter), ..Conduct::default() }).await;
    let home = Home::new();
    assert_refused(&home.pull(&hub, &[]).await, "the same command goes on from there");
    assert!(!home.model().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_content_than_stated_is_refused_and_nothing_is_left() {
    let whole = weights();
    let mut changed = whole.clone();
    *changed.last_mut().expect("a byte") ^= 1;
    let longer = [&whole[..], &[0]].concat();
    for (other_weights, said) in [(changed, "sha256 of model.safetensors is"), (longer, "is longer than")] {
        let hub = Hub::start(Conduct { other_weights: Some(other_weights), ..Conduct::default() }).await;
        let home = Home::new();
        assert_refused(&home.pull(&hub, &[]).await, said);
        assert!(home.files().is_empty(), "{:?}", home.files());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_shown_to_the_hub_alone() {
    let (home, hub) = (Home::new(), Hub::start(Conduct { token: Some("hf_s3cret"), ..Conduct::default() }).await);
    let ran = home.pull(&hub, &[]).await;
    assert_refused(&ran, "HF_TOKEN");
    assert_refused(&home.pull(&hub, &["--hf-token=hf_other"]).await, "with the token");
    assert!(home.files().is_empty());
    hub.asked();
    let ran = home.pull(&hub, &["--hf-token=hf_s3cret"]).await;
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    let asked = hub.asked();
    assert!(asked.iter().any(|asked| !asked.is_hub), "the weights came from elsewhere");
    for asked in asked {
        assert_eq!(asked.token.is_some(), asked.is_hub, "{asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_to_do() {
    let (home, hub) = (Home::new(), Hub::start(Conduct::default()).await);
    let refuse = |status, code| hub.conduct().refuses = Some((status, code));
    assert_refused(&home.pull_of(&hub, "Test-Org/Tiny-Encoder@absent", &[]).await, "no such revision (404");
    assert_refused(&home.pull_of(&hub, "Test-Org/Absent", &[]).await, "no such repository or revision (404");
    refuse(StatusCode::FORBIDDEN, "GatedRepo");
    assert_refused(&home.pull(&hub, &[]).await, "accept them on the repository's page");
    refuse(StatusCode::BAD_GATEWAY, "");
    assert_refused(&home.pull(&hub, &[]).await, "answers 502");
    let gone = ["--hf-endpoint", &format!("http://127.0.0.1:{}", servers::free_port())].map(str::to_owned);
    assert_refused(&home.pull(&hub, &gone.each_ref().map(String::as_str)).await, "no answer from 127.0.0.1");
    assert_refused(&home.pull(&hub, &["--hf-endpoint=nowhere"]).await, "HF_ENDPOINT");
    let ran = home.pull_of(&hub, "tiny-encoder", &[]).await;
    assert!(ran.status == Some(2) && ran.err.contains("owner/name"), "{ran:?}");
    assert!(home.files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_not_fetched() {
    for (lacks, said) in [
        (&[tiny::WEIGHTS][..], "pytorch_model.bin is a pickle"),
        (&[tiny::WEIGHTS, "pytorch_model.bin"], "it has no model.safetensors"),
        (&["tokenizer.json"], "it has no tokenizer.json, and no preprocessor_config.json"),
    ] {
        let (home, hub) = (Home::new(), Hub::start(Conduct { lacks, ..Conduct::default() }).await);
        assert_refused(&home.pull(&hub, &[]).await, said);
        assert_eq!(hub.asked().len(), 1, "nothing is fetched");
        assert!(home.files().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_of_the_name_is_replaced_only_when_that_is_said() {
    let (home, hub) = (Home::new(), Hub::start(Conduct::default()).await);
    tiny::write(&home.model(), 7);
    let before = home.files();
    assert_refused(&home.pull(&hub, &[]).await, "--replace");
    assert_eq!(home.files(), before);
    let ran = home.pull(&hub, &["--label=new"]).await;
    assert!(ran.status == Some(0) && ran.out.contains(&format!("pulled {}@new, version ", tiny::NAME)), "{ran:?}");
    assert!(before.is_subset(&home.files()), "the other one is as it was");
    assert_eq!(installed(&home.dir.path().join(format!("{}@new", tiny::NAME)))["commit"], COMMIT);
    let ran = home.pull(&hub, &["--replace"]).await;
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    assert_eq!(installed(&home.model())["commit"], COMMIT);
    assert!(!home.files().iter().any(|path| path.contains("onnx")), "nothing of the other one is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gguf_file_is_chosen_resumed_and_pinned() {
    const FILES: [&str; 2] = ["tiny-q8_0.gguf", "tiny-other.gguf"];
    let hub = Hub::start(Conduct { generators: &FILES, cuts: vec![1000], ..Conduct::default() }).await;
    let home = Home::new();
    assert_refused(
        &home.pull(&hub, &[]).await,
        "--file chooses among tiny-other.gguf (124 kB), tiny-q8_0.gguf (124 kB)",
    );
    assert_refused(
        &home.pull(&hub, &["--file=tiny-q4_0.gguf"]).await,
        "it has no tiny-q4_0.gguf; --file chooses among",
    );
    assert!(home.files().is_empty());
    hub.asked();
    let ran = home.pull(&hub, &["--file=tiny-q8_0.gguf"]).await;
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    let ranges: Vec<_> = hub.asked().into_iter().filter_map(|asked| asked.range).collect();
    assert_eq!(ranges, ["bytes=1000-"]);
    let expected = ["README.md", "augur-source.json", FILES[0]].map(|path| format!("{}/{path}", tiny::NAME));
    assert_eq!(home.files(), expected.into());
    let again = home.pull(&hub, &["--file=tiny-q8_0.gguf"]).await;
    assert!(again.status == Some(0) && again.out.contains("is there already"), "{again:?}");
    // Another file of the same commit is another model.
    assert_refused(&home.pull(&hub, &["--file=tiny-other.gguf"]).await, "--replace");
    let other = home.pull(&hub, &["--file=tiny-other.gguf", "--replace"]).await;
    assert_eq!((other.status, other.err.as_str()), (Some(0), ""), "{other:?}");
    assert!(home.model().join(FILES[1]).exists() && !home.model().join(FILES[0]).exists());

    // What was fetched is pinned.
    let file = home.model().join(FILES[1]);
    let mut content = fs::read(&file).expect("reads");
    *content.last_mut().expect("a byte") ^= 1;
    fs::write(&file, content).expect("writes");
    let shown = ended(command(&["models", "inspect", tiny::NAME, &flag("models-dir", home.dir.path())]), "").await;
    assert!(shown.status == Some(1) && shown.err.contains("tiny-other.gguf: sha256 is"), "{shown:?}");
}
