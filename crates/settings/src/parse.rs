//! From the command line, the environment and the configuration file to a program's settings.

use std::{env, ffi::OsString, path::PathBuf};

use clap::{
    Arg, ArgAction, ArgMatches, Command, CommandFactory,
    builder::{BoolishValueParser, Resettable},
};

use crate::{Augur, AugurApi, AugurWorker, FileError, Program, file};

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// The command line or the environment is at fault, or help was asked for; clap knows how to say it.
    #[error(transparent)]
    Arguments(#[from] clap::Error),
    /// The configuration file is at fault.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Reads a program's settings: a flag goes before its environment variable, that before the file, that before the default.
///
/// # Errors
/// When any of them is not understood, or when only help or the version was asked for.
pub fn parse<P: Program>(arguments: impl IntoIterator<Item = OsString>) -> Result<P, ParseError> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let command = prepared(P::command());
    // The first reading finds the file. It cannot fail where the second would not: no setting is required.
    let first = without_empty(command.clone()).try_get_matches_from(&arguments)?;
    let mut command = without_empty(match config(&first) {
        Some(path) => file::with_defaults(command, &file::read(&path, &program_commands())?),
        None => command,
    });
    let mut matches = command.try_get_matches_from_mut(&arguments)?;
    P::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command).into())
}

/// Every program as clap sees it, with defaults as they are without a configuration file.
#[must_use]
pub fn program_commands() -> [Command; 3] {
    [Augur::command(), AugurApi::command(), AugurWorker::command()].map(prepared)
}

/// What cannot be said with derive: switches can be turned off too (`--migrate=false`), so that a flag can overrule the file;
/// and the demonstration logs little.
fn prepared(command: Command) -> Command {
    let command = everywhere(command, switchable);
    if command.find_subcommand("demo").is_none() {
        return command;
    }
    command.mut_subcommand("demo", |demo| demo.mut_arg("log", |arg| arg.default_value("warn")))
}

/// An empty environment variable counts as none: that is how compose files pass what is not set.
fn without_empty(command: Command) -> Command {
    everywhere(command, |arg| {
        let is_empty = arg.get_env().and_then(env::var_os).is_some_and(|value| value.is_empty());
        if is_empty { arg.env(Resettable::Reset) } else { arg }
    })
}

/// Changes the arguments of a command and of all commands below it.
fn everywhere(command: Command, change: fn(Arg) -> Arg) -> Command {
    command.mut_args(change).mut_subcommands(|below| everywhere(below, change))
}

fn switchable(arg: Arg) -> Arg {
    if !matches!(arg.get_action(), ArgAction::SetTrue) {
        return arg;
    }
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .default_value("false")
        .value_name("BOOL")
        .value_parser(BoolishValueParser::new())
        .hide_possible_values(true)
}

/// The path of the configuration file, of whichever command was given.
fn config(matches: &ArgMatches) -> Option<PathBuf> {
    match matches.subcommand() {
        Some((_, below)) => config(below),
        None => matches.try_get_one::<PathBuf>("config").ok().flatten().cloned(),
    }
}
