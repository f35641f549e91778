//! What the Dockerfiles, the compose file and the documents tell to type or to set exists in the programs.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use tests::program;

const OURS: [&str; 3] = ["augur", "augur-api", "augur-worker"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What a program says to these words and `--help`; none when it does not know them.
fn help(name: &str, words: &[&str]) -> Option<String> {
    let output = Command::new(program(name)).args(words).arg("--help").output().expect("our program starts");
    output.status.success().then(|| String::from_utf8(output.stdout).expect("help is UTF-8"))
}

/// Every help text there is: of each program and of each subcommand of `augur`.
fn all_help() -> String {
    let augur = help("augur", &[]).expect("augur has help");
    let commands: Vec<String> = augur
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next().map(str::to_owned))
        .collect();
    assert!(commands.iter().any(|command| command == "serve"), "the commands are read off: {commands:?}");
    let of_commands = commands
        .iter()
        .filter(|command| *command != "help")
        .map(|command| help("augur", &[command]).unwrap_or_else(|| panic!("augur {command} has help")));
    let of_programs = OURS[1..].iter().map(|name| help(name, &[]).expect("a program has help"));
    of_commands.chain(of_programs).collect()
}

/// A flag or variable stands in a help text as a whole word.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let is_end = |c: Option<char>| !c.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '-');
        is_end(text[at + word.len()..].chars().next()) && is_end(text[..at].chars().next_back())
    })
}

/// Asserts that a command line of ours names a subcommand and flags that exist; of others' programs only that they are expected.
fn check_command(words: &[&str], place: &str) {
    let name = words[0].rsplit('/').next().unwrap_or(words[0]);
    if !OURS.contains(&name) {
        return;
    }
    // Only `augur` has subcommands, and some of these have their own.
    let mut subcommands = words[1..].iter().take_while(|word| name == "augur" && !word.starts_with('-')).copied();
    let mut subcommand: Vec<&str> = subcommands.next().into_iter().collect();
    let mut help = help_of(name, &subcommand, place);
    if !subcommand.is_empty() && help.lines().any(|line| line == "Commands:") {
        subcommand.extend(subcommands.next());
        help = help_of(name, &subcommand, place);
    }
    for word in words.iter().filter(|word| word.starts_with("--")) {
        let flag = word.split('=').next().unwrap_or(word);
        assert!(has_word(&help, flag), "{place}: `{name} {}` has no flag {flag}", subcommand.join(" "));
    }
}

fn help_of(name: &str, subcommand: &[&str], place: &str) -> String {
    help(name, subcommand).unwrap_or_else(|| panic!("{place}: there is no `{name} {}`", subcommand.join(" ")))
}

/// The JSON arrays of strings in a file: how Dockerfiles and compose files write commands.
fn arrays(text: &str) -> Vec<Vec<String>> {
    let candidates = text.lines().filter_map(|line| serde_json::from_str(&line[line.find('[')?..]).ok());
    candidates.collect()
}

#[test]
fn commands_in_images_and_compose_exist() {
    let others = ["redis-server", "redis-cli", "pg_isready", "CMD"];
    for path in ["docker-compose.yml", "docker/api.Dockerfile", "docker/worker.Dockerfile"] {
        let commands = arrays(&read(path));
        assert!(!commands.is_empty(), "{path} has commands");
        for command in commands {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let name = words[0];
            let is_script = root().join("docker").join(name).is_file();
            assert!(OURS.contains(&name) || others.contains(&name) || is_script, "{path}: what is {name}?");
            check_command(&words, path);
        }
    }
}

#[test]
fn commands_in_documents_exist() {
    let mut checked = 0;
    for path in ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "config.example.toml"] {
        let text = read(path).replace("\\\n", " ");
        let mut in_code = false;
        for line in text.lines() {
            in_code ^= line.starts_with("```");
            let line = line.split(" #").next().unwrap_or_default().replace("cargo run --release --", "augur");
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_ours = words.first().is_some_and(|word| OURS.contains(&word.rsplit('/').next().unwrap_or_default()));
            if in_code && is_ours {
                check_command(&words, path);
                checked += 1;
            }
        }
    }
    assert!(checked > 0, "the README tells to type something");
}

#[test]
fn variables_named_anywhere_exist() {
    let help = all_help();
    let mut named = BTreeSet::new();
    for path in [
        "docker-compose.yml",
        "docker/api.Dockerfile",
        "docker/worker.Dockerfile",
        "docker/api-healthy",
        "README.md",
        "CONTRIBUTING.md",
        "ARCHITECTURE.md",
    ] {
        for word in read(path).split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')) {
            let is_setting = word.starts_with("AUGUR_") && !word.starts_with("AUGUR_TEST_");
            if is_setting || ["DATABASE_URL", "REDIS_URL"].contains(&word) {
                assert!(has_word(&help, word), "{path} names {word}, which no program reads");
                named.insert(word.to_owned());
            }
        }
    }
    assert!(named.contains("AUGUR_LISTEN") && named.contains("DATABASE_URL"), "names are found: {named:?}");
}

#[test]
fn images_are_built_from_what_exists() {
    for path in ["docker/api.Dockerfile", "docker/worker.Dockerfile"] {
        let text = read(path).replace("\\\n", " ");
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.first() == Some(&"COPY") && !line.contains("--from=") {
                let sources = words[1..words.len() - 1].iter().filter(|word| !word.starts_with("--"));
                sources.for_each(|source| assert!(root().join(source).exists(), "{path} copies {source}"));
            }
            for pair in words.windows(2) {
                match pair {
                    ["--package", name] => {
                        assert!(
                            root().join("crates").join(name).join("Cargo.toml").is_file(),
                            "{path}: package {name}"
                        );
                    }
                    ["--bin", name] => assert!(OURS.contains(name), "{path}: program {name}"),
                    _ => {}
                }
            }
        }
        assert!(text.contains("\nUSER augur\n") && text.contains("\nHEALTHCHECK "), "{path}: not root, and watched");
    }
}

#[test]
fn nothing_in_the_compose_file_is_published_beyond_loopback() {
    let text = read("docker-compose.yml");
    let ports: Vec<&str> = text
        .lines()
        .skip_while(|line| line.trim() != "ports:")
        .skip(1)
        .take_while(|line| line.trim().starts_with('-'))
        .collect();
    assert_eq!(text.matches("ports:").count(), 1, "the API alone has ports");
    assert!(!ports.is_empty() && ports.iter().all(|port| port.trim().starts_with("- \"127.0.0.1:")), "{ports:?}");
    for file in text.lines().filter_map(|line| line.trim().strip_prefix("dockerfile: ")) {
        assert!(root().join(file).is_file(), "{file}");
    }
}

#[test]
fn what_serves_shares_one_webhook_key_in_the_compose_file() {
    let text = read("docker-compose.yml");
    assert_eq!(text.matches("AUGUR_WEBHOOK_KEY: ${AUGUR_WEBHOOK_KEY:-}").count(), 1, "one key, and none of our own");
    let services: Vec<&str> = text.split("\n\n").filter(|part| part.contains("environment: *serving")).collect();
    let names: Vec<&str> = services.iter().filter_map(|service| service.lines().next()).map(str::trim).collect();
    assert_eq!(names, ["api:", "worker:"]);
}
