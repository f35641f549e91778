//! The configuration file: settings under the names of their flags, put in place of the defaults.

use std::{collections::BTreeMap, fs, io, path::Path};

use clap::{Arg, ArgAction, Command, builder::Resettable};
use toml::Value;

/// The configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("the configuration file {path} cannot be read: {cause}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        cause: io::Error,
    },
    /// It is not TOML. Its text is not shown: there may be a password in it.
    #[error("the configuration file {path} is not TOML: line {line}: {reason}")]
    Syntax {
        /// The file.
        path: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// No program has such a setting.
    #[error("the configuration file {path} has a key {key:?}, which is no setting{}",
        .similar.as_ref().map(|name| format!("; did you mean {name:?}?")).unwrap_or_default())]
    UnknownKey {
        /// The file.
        path: String,
        /// The key.
        key: String,
        /// The setting that was probably meant.
        similar: Option<String>,
    },
    /// The setting does not take this value.
    #[error("the configuration file {path} has a bad value for {key:?}: {reason}")]
    BadValue {
        /// The file.
        path: String,
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

/// The values of a configuration file, by setting; each is what its flag would be given, once per element.
pub(crate) type Values = BTreeMap<String, Vec<String>>;

/// Whether an argument is a setting: it can come from the environment too. The file's own path is none.
pub(crate) fn is_setting(arg: &Arg) -> bool {
    arg.get_env().is_some() && arg.get_long() != Some("config")
}

/// Reads the file; every key must be a setting of one of `programs`, with a value that it takes.
pub(crate) fn read(path: &Path, programs: &[Command]) -> Result<Values, FileError> {
    let name = path.display().to_string();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(cause) => return Err(FileError::Unreadable { path: name, cause }),
    };
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => return Err(syntax(name, &text, &error)),
    };
    let mut values = Values::new();
    for (key, value) in table {
        let Some(arg) = programs.iter().find_map(|program| setting(program, &key)) else {
            let similar = similar(&key, programs);
            return Err(FileError::UnknownKey { path: name, key, similar });
        };
        match texts(&value).and_then(|texts| accepted(arg, &key, &texts).map(|()| texts)) {
            Ok(texts) => values.insert(key, texts),
            Err(reason) => return Err(FileError::BadValue { path: name, key, reason }),
        };
    }
    Ok(values)
}

/// Puts the values in place of the defaults, in the command and all commands below it.
pub(crate) fn with_defaults(command: Command, values: &Values) -> Command {
    let replace = |arg: Arg| match arg.get_long().filter(|_| is_setting(&arg)).and_then(|long| values.get(long)) {
        Some(texts) => arg.default_values(texts),
        None => arg,
    };
    command.mut_args(replace).mut_subcommands(|below| with_defaults(below, values))
}

fn setting<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    let here = command.get_arguments().find(|arg| is_setting(arg) && arg.get_long() == Some(key));
    here.or_else(|| command.get_subcommands().find_map(|below| setting(below, key)))
}

/// The setting that differs from the key only in how its words are joined.
fn similar(key: &str, programs: &[Command]) -> Option<String> {
    let name = key.to_ascii_lowercase().replace('_', "-");
    programs.iter().find_map(|program| setting(program, &name)).map(|_| name)
}

fn syntax(path: String, text: &str, error: &toml::de::Error) -> FileError {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = 1 + text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
    FileError::Syntax { path, line, reason: error.message().to_owned() }
}

fn texts(value: &Value) -> Result<Vec<String>, String> {
    Ok(match value {
        Value::String(text) => vec![text.clone()],
        Value::Integer(number) => vec![number.to_string()],
        Value::Float(number) => vec![number.to_string()],
        Value::Boolean(truth) => vec![truth.to_string()],
        Value::Array(values) => {
            let each: Result<Vec<_>, String> = values.iter().map(texts).collect();
            each?.into_iter().flatten().collect()
        }
        Value::Datetime(_) | Value::Table(_) => {
            return Err(format!("a {} where a string, a number, true, false or a list is expected", value.type_str()));
        }
    })
}

/// Asks clap whether the setting takes these values.
fn accepted(arg: &Arg, key: &str, texts: &[String]) -> Result<(), String> {
    if texts.len() > 1 && !matches!(arg.get_action(), ArgAction::Append) {
        return Err("a list where one value is expected".to_owned());
    }
    let probe = Command::new("file").no_binary_name(true).arg(arg.clone().env(Resettable::Reset));
    let flags = texts.iter().map(|text| format!("--{key}={text}"));
    probe.try_get_matches_from(flags).map(drop).map_err(|error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        first.strip_prefix("error: ").unwrap_or(first).to_owned()
    })
}
