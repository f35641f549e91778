//! The official libraries, as `scripts/fetch-verifiers` fetches them, and what they say of webhooks.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::Stdio,
};

use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tests::Received;
use tokio::{io::AsyncWriteExt as _, process::Command};

/// A webhook as a receiver has it, and the secret to verify it with.
#[derive(Clone)]
pub(crate) struct Case {
    secret: String,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Case {
    /// As it came.
    pub(crate) fn new(webhook: &Received, secret: &str) -> Self {
        Self { secret: secret.to_owned(), headers: webhook.headers.clone(), body: webhook.body.clone() }
    }

    /// With another value of a header.
    pub(crate) fn with_header(mut self, name: &str, value: &str) -> Self {
        let before = self.headers.insert(name.to_owned(), value.to_owned());
        assert!(before.is_some_and(|before| before != value), "{name} had another value");
        self
    }

    /// With another body.
    pub(crate) fn with_body(mut self, body: String) -> Self {
        assert_ne!(self.body, body);
        self.body = body;
        self
    }

    /// Whether the verifier that is at hand at once refuses it.
    pub(crate) fn is_refused(&self) -> bool {
        refusal(self).is_some()
    }

    fn header_map(&self) -> HeaderMap {
        let header = |(name, value): (&String, &String)| {
            (name.parse().expect("a header's name"), value.parse().expect("a header's value"))
        };
        self.headers.iter().map(header).collect::<HeaderMap>()
    }
}

/// The root of the tree.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above").to_owned()
}

/// Where the libraries are.
///
/// # Panics
/// When they are not there; says how they get there.
pub(crate) fn directory() -> PathBuf {
    let directory =
        env::var_os("AUGUR_TEST_VERIFIERS_DIR").map_or_else(|| root().join(".cache/verifiers"), PathBuf::from);
    assert!(
        directory.join("packages").is_file(),
        "the official verifiers must be in {}: scripts/fetch-verifiers fetches them",
        directory.display()
    );
    directory
}

pub(crate) fn python() -> PathBuf {
    directory().join("python/bin/python")
}

/// A copy of a module from `source` that finds the libraries of npm beside itself, in a directory that is gone with what is
/// returned.
pub(crate) fn beside_node_modules(source: &Path) -> (tempfile::TempDir, PathBuf) {
    let beside = tempfile::tempdir().expect("temporary directories can be made");
    std::os::unix::fs::symlink(directory().join("node_modules"), beside.path().join("node_modules")).expect("a link");
    let module = beside.path().join(source.file_name().expect("a file"));
    std::fs::copy(source, &module).expect("the module can be read");
    (beside, module)
}

/// By verifier, why it refuses each of these webhooks; nothing where it accepts.
pub(crate) async fn refusals(cases: &[Case]) -> BTreeMap<String, Vec<Option<String>>> {
    let input: Vec<Value> =
        cases.iter().map(|case| json!({ "secret": case.secret, "headers": case.headers, "body": case.body })).collect();
    let input = serde_json::to_vec(&input).expect("JSON");
    let verifiers = root().join("tests/verifiers");
    let (_beside, module) = beside_node_modules(&verifiers.join("verify.mjs"));
    let (python, script) = (python(), verifiers.join("verify.py"));
    let (python, node) = tokio::join!(run(&python, &script, &input), run(Path::new("node"), &module, &input));
    let rust = ("standardwebhooks (crates.io)".to_owned(), cases.iter().map(refusal).collect());
    let refusals: BTreeMap<_, Vec<_>> = python.into_iter().chain(node).chain([rust]).collect();
    assert_eq!(refusals.len(), 4, "two verifiers of PyPI, one of npm, one of crates.io: {:?}", refusals.keys());
    assert!(refusals.values().all(|verdicts| verdicts.len() == cases.len()));
    refusals
}

fn refusal(case: &Case) -> Option<String> {
    let webhook = standardwebhooks::Webhook::new(&case.secret).expect("a secret");
    webhook.verify(case.body.as_bytes(), &case.header_map()).err().map(|error| error.to_string())
}

async fn run(program: &Path, script: &Path, input: &[u8]) -> BTreeMap<String, Vec<Option<String>>> {
    let mut command = Command::new(program);
    let child = command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let mut stdin = child.stdin.take().expect("its input is a pipe");
    let writing = async {
        // Whether it read everything shows in its answer.
        let _ = stdin.write_all(input).await;
        drop(stdin);
    };
    let ((), output) = tokio::join!(writing, child.wait_with_output());
    let output = output.expect("it ends");
    assert!(output.status.success(), "{}: {}", script.display(), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the verdicts are JSON")
}
