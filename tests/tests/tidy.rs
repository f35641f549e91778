//! The rules of the tree as code: which crate may use what, how files begin and how long they get, what no file may say.
//! `CONTRIBUTING.md` gives the reasons.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};

/// Which of our crates each of our crates may use. Parts never use parts; the programs introduce them to each other.
const EDGES: &[(&str, &[&str])] = &[
    ("prediction", &[]),
    ("settings", &["prediction"]),
    ("store", &["prediction"]),
    ("queue", &["prediction"]),
    ("inference", &["prediction", "kernels"]),
    ("kernels", &[]),
    ("webhook", &["prediction"]),
    ("api", &["prediction", "settings", "store", "queue", "webhook"]),
    ("worker", &["prediction", "settings", "store", "queue", "inference", "webhook"]),
    ("cli", &["prediction", "settings", "store", "queue", "inference", "webhook", "api", "worker"]),
    ("servers", &[]),
    ("tests", &["prediction", "servers", "webhook"]),
    ("bench", &["servers", "inference"]),
];

/// For its tests each crate may use this one too.
const FOR_TESTS: &str = "servers";

/// Outside technologies (crates whose names begin so), and the only crates of ours that may name them.
const TECHNOLOGIES: &[(&str, &[&str])] = &[
    ("sqlx", &["store", "servers", "tests", "bench"]),
    ("apalis", &["queue"]),
    ("redis", &["queue"]),
    ("candle", &["inference"]),
    ("cudarc", &["kernels"]),
    ("tokenizers", &["inference"]),
    ("minijinja", &["inference"]),
    ("safetensors", &["inference"]),
    ("memmap2", &["inference", "kernels"]),
    ("zune", &["inference"]),
    ("axum", &["api", "tests"]),
    ("hyper", &["api", "webhook", "cli"]),
    ("tokio-rustls", &["webhook"]),
    ("utoipa", &["api"]),
    ("clap", &["settings", "cli"]),
    ("tracing-subscriber", &["settings"]),
];

/// What the API must not reach, however indirectly: it runs where there are no models.
const NEVER_IN_API: &[&str] = &["inference", "candle", "tokenizers", "gemm"];

const LONGEST_SOURCE_FILE: usize = 400;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above").to_owned()
}

fn metadata() -> Metadata {
    let compiler = Command::new("rustc").arg("-vV").output().expect("rustc can be started");
    let words = String::from_utf8(compiler.stdout).expect("rustc speaks UTF-8");
    let host = words.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host");
    // Offline, and for this machine only: what was compiled is here, and a test downloads nothing.
    let options = ["--offline", "--filter-platform", host].map(str::to_owned).to_vec();
    MetadataCommand::new().current_dir(root()).other_options(options).exec().expect("cargo tells the metadata")
}

fn ours(metadata: &Metadata) -> Vec<&Package> {
    metadata.workspace_packages()
}

/// Every file of the tree but built, fetched and hidden ones.
fn files() -> Vec<PathBuf> {
    let (mut found, mut directories) = (Vec::new(), vec![root()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory can be read") {
            let path = entry.expect("a directory can be read").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("files are named in UTF-8");
            let hidden = name.starts_with('.') && ![".ci", ".dockerignore", ".gitignore"].contains(&name);
            if path.is_file() && !hidden {
                found.push(path);
            } else if path.is_dir() && !hidden && !["target", "augur-data", "__pycache__"].contains(&name) {
                directories.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The text files among them, by their path from the root.
fn texts() -> BTreeMap<String, String> {
    let relative = |path: &Path| path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
    files().iter().filter_map(|path| Some((relative(path), fs::read_to_string(path).ok()?))).collect()
}

fn rust_files() -> impl Iterator<Item = (String, String)> {
    texts().into_iter().filter(|(path, _)| path.ends_with(".rs"))
}

fn assert_none(faults: &[String], rule: &str) {
    assert!(faults.is_empty(), "{rule}:\n  {}", faults.join("\n  "));
}

#[test]
fn crates_use_each_other_only_along_the_edges() {
    let metadata = metadata();
    let names: BTreeSet<&str> = ours(&metadata).iter().map(|package| package.name.as_str()).collect();
    let known: BTreeSet<&str> = EDGES.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, known, "EDGES names every crate of the workspace");
    let edges: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    let mut faults = Vec::new();
    for package in ours(&metadata) {
        for dependency in package.dependencies.iter().filter(|dependency| names.contains(dependency.name.as_str())) {
            let for_tests = dependency.kind == DependencyKind::Development && dependency.name == FOR_TESTS;
            if !for_tests && !edges[package.name.as_str()].contains(&dependency.name.as_str()) {
                faults.push(format!("{} → {}", package.name, dependency.name));
            }
        }
    }
    assert_none(&faults, "not among the edges of design");
}

#[test]
fn each_outside_technology_is_named_in_one_place() {
    let metadata = metadata();
    let mut faults = Vec::new();
    for package in ours(&metadata) {
        for dependency in &package.dependencies {
            let technology = TECHNOLOGIES.iter().find(|(begin, _)| dependency.name.starts_with(begin));
            if technology.is_some_and(|(_, users)| !users.contains(&package.name.as_str())) {
                faults.push(format!("{} → {}", package.name, dependency.name));
            }
        }
    }
    assert_none(&faults, "an outside technology belongs to one crate");
}

#[test]
fn the_api_never_reaches_inference() {
    let metadata = metadata();
    let names: BTreeMap<&PackageId, &str> =
        metadata.packages.iter().map(|package| (&package.id, package.name.as_str())).collect();
    let graph = metadata.resolve.as_ref().expect("cargo resolves");
    let next: BTreeMap<&PackageId, Vec<&PackageId>> = graph
        .nodes
        .iter()
        .map(|node| {
            let shipped = node
                .deps
                .iter()
                .filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development));
            (&node.id, shipped.map(|dependency| &dependency.pkg).collect())
        })
        .collect();
    let reached_from = |name: &str| {
        let start = ours(&metadata).into_iter().find(|package| package.name.as_str() == name).expect("a crate of ours");
        let (mut reached, mut ahead) = (BTreeSet::new(), vec![&start.id]);
        while let Some(id) = ahead.pop() {
            if reached.insert(names[id]) {
                ahead.extend(&next[id]);
            }
        }
        reached
    };
    let forbidden = |reached: &BTreeSet<&str>| -> Vec<String> {
        let is_forbidden = |name: &&&str| NEVER_IN_API.iter().any(|begin| name.starts_with(begin));
        reached.iter().filter(is_forbidden).map(|name| (*name).to_owned()).collect()
    };
    assert!(!forbidden(&reached_from("worker")).is_empty(), "the worker does reach it, so this test sees the graph");
    assert_none(&forbidden(&reached_from("api")), "augur-api links what it must not");
}

#[test]
fn only_settings_reads_the_environment() {
    let readers = [concat!("env::", "var"), concat!("option_", "env!"), concat!("env::", "vars")];
    let mut faults = Vec::new();
    for (path, text) in rust_files().filter(|(path, _)| path.starts_with("crates/") && path.contains("/src/")) {
        if path.starts_with("crates/settings/") || path.ends_with("/tests.rs") {
            continue;
        }
        let shipped = text.split("#[cfg(test)]").next().unwrap_or_default();
        if readers.iter().any(|reader| shipped.contains(reader)) {
            faults.push(path);
        }
    }
    assert_none(&faults, "reads the environment");
}

#[test]
fn only_kernels_has_unsafe_code() {
    // Who wants some must be allowed to: the workspace denies it.
    let allowed = concat!("(unsafe", "_code)");
    let allows = |(path, text): &(String, String)| !path.starts_with("crates/kernels/") && text.contains(allowed);
    let faults: Vec<String> = rust_files().filter(allows).map(|(path, _)| path).collect();
    assert_none(&faults, "allows unsafe code");
}

#[test]
fn every_source_file_says_what_it_is_for_and_stays_short() {
    let mut faults = Vec::new();
    for (path, text) in rust_files() {
        if !text.starts_with("//! ") {
            faults.push(format!("{path} does not begin with a //! line"));
        }
        let lines = text.lines().count();
        if lines > LONGEST_SOURCE_FILE {
            faults.push(format!("{path} has {lines} lines, more than {LONGEST_SOURCE_FILE}"));
        }
    }
    assert_none(&faults, "source files");
}

#[test]
fn nothing_is_left_for_later() {
    // In two pieces each, so that this file does not contain them.
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("to", "do!("),
        concat!("unimpl", "emented!("),
        concat!("db", "g!("),
        concat!("#[ig", "nore"),
    ];
    let code = |path: &str| {
        [".rs", ".toml", ".sql", ".lua", ".sh", ".py", ".yml", "Dockerfile"].iter().any(|end| path.ends_with(end))
    };
    let mut faults = Vec::new();
    for (path, text) in texts().into_iter().filter(|(path, _)| code(path)) {
        for (number, line) in text.lines().enumerate() {
            faults.extend(
                marks.iter().filter(|mark| line.contains(*mark)).map(|mark| format!("{path}:{}: {mark}", number + 1)),
            );
        }
    }
    assert_none(&faults, "left for later");
}

#[test]
fn no_file_names_somebodys_machine() {
    let paths = ["/root", "/work", "/home", "/Users", "/tmp", "/private"].map(|directory| format!("{directory}/"));
    let hosts = [
        concat!("index.", "crates.io"),
        concat!("static.", "crates.io"),
        concat!("py", "pi.org"),
        concat!("python", "hosted.org"),
        concat!("deb.", "debian.org"),
        concat!("docker", ".io"),
        concat!("artif", "actory"),
    ];
    let mut faults = Vec::new();
    for (path, text) in
        texts().into_iter().filter(|(path, _)| path != "tests/tests/tidy.rs" && !path.contains("/goldens/"))
    {
        for (number, line) in text.lines().enumerate() {
            let absolute = |directory: &String| {
                line.match_indices(directory.as_str())
                    .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}>".contains(c)))
            };
            if paths.iter().any(absolute) || hosts.iter().any(|host| line.contains(host)) {
                faults.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none(&faults, "names a path of one machine or a registry's host");
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut faults = Vec::new();
    for (path, text) in texts().into_iter().filter(|(path, _)| path.ends_with(".md")) {
        let document = root().join(&path);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| {
            !target.contains("://") && !target.starts_with(['#', '<']) && !target.starts_with("mailto:")
        }) {
            let file = target.split(['#', ' ']).next().unwrap_or_default();
            if !document.parent().expect("a directory").join(file).exists() {
                faults.push(format!("{path} → {target}"));
            }
        }
    }
    assert_none(&faults, "links that lead nowhere");
}

#[test]
fn dependencies_are_declared_once() {
    let mut faults = Vec::new();
    for (path, text) in texts().into_iter().filter(|(path, _)| path.ends_with("Cargo.toml") && path != "Cargo.toml") {
        let mut in_dependencies = false;
        for (number, line) in text.lines().enumerate() {
            if line.starts_with('[') {
                in_dependencies = line.ends_with("dependencies]");
            } else if in_dependencies
                && !line.is_empty()
                && !line.starts_with('#')
                && !line.contains("workspace = true")
            {
                faults.push(format!("{path}:{}: {line}", number + 1));
            }
        }
        if !text.contains("[lints]\nworkspace = true") {
            faults.push(format!("{path} does not take the workspace's lints"));
        }
    }
    assert_none(&faults, "Cargo.toml files take versions and lints from the workspace's");
}
