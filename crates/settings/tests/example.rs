//! `config.example.toml` says what the programs' own help says: every setting, its explanation and its default.

use std::{fmt::Write, fs, path::Path};

use clap::{Arg, Command};
use settings::{Augur, AugurWorker, parse, program_commands};

/// What stands at the head of the file.
const HEAD: &str = "\
# Settings of augur, augur-api and augur-worker, for --config FILE (or AUGUR_CONFIG=FILE). One file may serve all three.
#
# Each key is also a flag (--listen) and an environment variable (AUGUR_LISTEN; DATABASE_URL, REDIS_URL, HF_ENDPOINT and
# HF_TOKEN have no prefix).
# A flag goes before the variable, that before this file, that before the default. Paths are relative to the directory
# that the program is started in. Durations are a whole number and a unit: 500ms, 30s, 5m, 2h, 7d.
#
# What is commented out below is the default, or an example where there is no default.
";

/// Examples of the settings that have no default.
const EXAMPLES: [(&str, &str); 13] = [
    ("database-url", "\"postgres://augur:password@localhost:5432/augur\""),
    ("redis-url", "\"redis://localhost:6379\""),
    ("public-url", "\"https://augur.example.org\""),
    ("model", "[\"path/to/model\"]"),
    ("models-memory", "8589934592"),
    ("isa", "\"avx512\""),
    ("digests", "\"/var/lib/augur/digests.json\""),
    ("only", "\"deliveries\""),
    ("queue-time-limit", "\"1h\""),
    // No key that would work, so that nobody shares one with everybody else.
    ("webhook-key", "\"(openssl rand -base64 32)\""),
    ("webhook-allow", "[\"10.0.0.0/8\"]"),
    ("hf-token", "\"hf_…\""),
    ("api-key", "\"augur_…\""),
];

fn arguments(command: &Command) -> Vec<&Arg> {
    let below = command.get_subcommands().flat_map(arguments);
    command.get_arguments().chain(below).collect()
}

/// Every argument of every program that can come from the environment, except the file's own path.
fn settings(programs: &[Command]) -> Vec<&Arg> {
    let all = programs.iter().flat_map(arguments);
    all.filter(|arg| arg.get_env().is_some() && arg.get_long() != Some("config")).collect()
}

fn defaults(arg: &Arg) -> Vec<String> {
    arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect()
}

fn long(arg: &Arg) -> &str {
    arg.get_long().expect("a setting is a flag")
}

fn wrapped(text: &str) -> String {
    let mut lines = vec!["#".to_owned()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("there is always a line");
        if last.len() + 1 + word.len() > 120 {
            lines.push(format!("# {word}"));
        } else {
            last.push(' ');
            last.push_str(word);
        }
    }
    lines.join("\n") + "\n"
}

fn toml_of(text: &str) -> String {
    let is_bare = text.parse::<f64>().is_ok() || text.parse::<bool>().is_ok();
    if is_bare { text.to_owned() } else { format!("{text:?}") }
}

/// The file as the programs' arguments make it.
fn rendered(programs: &[Command]) -> String {
    let mut file = HEAD.to_owned();
    let mut done: Vec<&str> = Vec::new();
    let mut headings: Vec<&str> = Vec::new();
    let all = settings(programs);
    for arg in &all {
        let heading = arg.get_help_heading().expect("a setting stands under a heading");
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    for heading in headings {
        writeln!(file, "\n# ---- {heading}").expect("a string takes all");
        for arg in all.iter().filter(|arg| arg.get_help_heading() == Some(heading)) {
            let key = long(arg);
            if done.contains(&key) {
                continue;
            }
            done.push(key);
            let help = arg.get_help().expect("a setting is explained").to_string();
            let value = match defaults(arg).as_slice() {
                [] => EXAMPLES.iter().find(|(name, _)| *name == key).expect("without default, an example").1.to_owned(),
                [one] => toml_of(one),
                many => panic!("{key} has several defaults: {many:?}"),
            };
            let note = if defaults(arg).is_empty() { " Not set by default." } else { "" };
            let help = help.trim_end_matches('.');
            write!(file, "\n{}#{key} = {value}\n", wrapped(&format!("{help}.{note}"))).expect("a string takes all");
        }
    }
    file
}

#[test]
fn the_example_is_what_the_programs_say() {
    let expected = rendered(&program_commands());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config.example.toml");
    let found = fs::read_to_string(path).unwrap_or_default();
    if found != expected {
        let right = Path::new(env!("CARGO_TARGET_TMPDIR")).join("config.example.toml");
        fs::write(&right, expected).expect("the target directory is writable");
        panic!("config.example.toml is not what the settings say; copy {} over it", right.display());
    }
}

#[test]
fn the_example_uncommented_is_understood_and_changes_nothing_but_its_examples() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("config.toml");
    let example = rendered(&program_commands());
    let is_setting = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line.contains(" = ");
    let uncommented: Vec<&str> = example.lines().filter(|line| is_setting(line)).map(|line| &line[1..]).collect();
    assert_eq!(uncommented.len(), {
        let programs = program_commands();
        let mut names: Vec<String> = settings(&programs).into_iter().map(|arg| long(arg).to_owned()).collect();
        names.sort();
        names.dedup();
        names.len()
    });

    let parsed = |text: &str| {
        fs::write(&path, text).expect("a temporary file");
        let flag = format!("--config={}", path.display());
        let worker = parse::<AugurWorker>(["augur-worker", &flag].map(Into::into)).expect("the worker understands it");
        let serve = parse::<Augur>(["augur", "serve", &flag].map(Into::into)).expect("augur serve understands it");
        format!("{worker:?} {serve:?}")
    };
    let without_examples: Vec<&str> = uncommented
        .iter()
        .copied()
        .filter(|line| !EXAMPLES.iter().any(|(name, _)| line.starts_with(&format!("{name} = "))))
        .collect();
    assert_eq!(parsed(&without_examples.join("\n")), parsed(""));
    parsed(&uncommented.join("\n"));
}

#[test]
fn every_setting_is_named_alike_everywhere() {
    let programs = program_commands();
    let all = settings(&programs);
    for arg in &all {
        let name = long(arg);
        let upper = name.to_ascii_uppercase().replace('-', "_");
        // Named as everybody's tools have them.
        let is_common = matches!(name, "database-url" | "redis-url" | "hf-endpoint" | "hf-token");
        let expected = if is_common { upper } else { format!("AUGUR_{upper}") };
        assert_eq!(arg.get_env().expect("a setting has a variable").to_string_lossy(), expected);
        let is_secret = matches!(name, "api-key" | "database-url" | "redis-url" | "webhook-key" | "hf-token");
        assert_eq!(arg.is_hide_env_values_set(), is_secret, "{name}");
        for other in all.iter().filter(|other| other.get_long() == arg.get_long()) {
            let is_quiet_demo = name == "log" && [defaults(arg), defaults(other)].concat().contains(&"warn".to_owned());
            assert!(defaults(arg) == defaults(other) || is_quiet_demo, "{name} has two defaults");
            assert_eq!(arg.get_help().map(ToString::to_string), other.get_help().map(ToString::to_string), "{name}");
        }
    }
}

#[test]
fn what_is_no_setting_is_of_one_call_only() {
    let programs = program_commands();
    let mut others: Vec<&str> = programs
        .iter()
        .flat_map(arguments)
        .filter(|arg| arg.get_env().is_none())
        .map(|arg| arg.get_id().as_str())
        .collect();
    others.sort_unstable();
    others.dedup();
    let expected = [
        "calibration",
        "each",
        "from",
        "gguf",
        "heads",
        "input",
        "json",
        "keep",
        "key",
        "label",
        "layers",
        "model",
        "name",
        "overlap",
        "replace",
        "repository",
        "share",
        "sparsity",
        "stream",
        "to",
        "wait",
        "yes",
    ];
    assert_eq!(others, expected);
}
