//! Models made of others: made hidden, shown beside the original, and put into their place when that is wanted.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    path::Path,
};

use inference::{Beside, Comparison, Description, LoadError, Machine, Removed, calibration, compare};
use prediction::{Label, ModelName};
use rustix::fs::statvfs;
use serde_json::Value;
use settings::{DeriveSettings, Fatal, ModelVersion, say};
use tokio::task::spawn_blocking;

use super::{
    described,
    install::{Staged, refuse_existing},
    processor,
    report::Report,
    slot::{Slot, existing},
};
use crate::screen::bytes;

/// The exit status when the result was shown and not kept.
const NOT_KEPT: u8 = 3;

/// What a model is made of.
pub(super) struct Source<'a> {
    /// The original.
    pub(super) found: &'a Description,
    /// What both are compared on.
    pub(super) inputs: &'a [Value],
    /// What the result is called.
    pub(super) name: &'a ModelName,
    /// Where its files are written.
    pub(super) to: &'a Path,
    /// What runs it.
    pub(super) machine: Machine,
}

/// Makes it, shows it, and puts it into its place when that is wanted. `word` says what was made of it: the
/// result's label, unless it has another; `purpose` keeps the work of different commands apart. `make` writes the files, and says what they lack, if anything.
pub(super) async fn derive(
    model: ModelVersion,
    settings: DeriveSettings,
    word: &str,
    purpose: &str,
    make: impl FnOnce(Source<'_>) -> Result<Option<Removed>, LoadError> + Send + 'static,
) -> Result<(), Fatal> {
    let DeriveSettings { name, label, calibration: inputs, yes, print, instructions, dir, .. } = settings;
    let machine = processor(&instructions)?;
    let models_dir = dir.models_dir;
    let Beside { dir: from, label: of, .. } = existing(&models_dir, &model).await?;
    let slot = slot(model.name, of, word, name, label)?;
    let target = slot.place(&models_dir);
    if target.exists() {
        let said =
            format!("{slot} is there already, in {}; --label or --name calls the result otherwise", target.display());
        return Err(Fatal::new(said));
    }
    let found = described(&from).await?;
    refuse_full(&models_dir, found.file_bytes())?;
    let inputs = calibration(&found, inputs.as_deref())?;

    let staged = Staged::once(&models_dir, &slot, purpose)?;
    let (of, judged, made, called) = (found.clone(), inputs.clone(), staged.dir.clone(), slot.name.clone());
    let made = spawn_blocking(move || make(Source { found: &of, inputs: &judged, name: &called, to: &made, machine }));
    let removed = made.await??;
    let comparison = compare(&from, &staged.dir, inputs, machine).await?;
    let report = Report::of(&comparison, removed, machine);
    report.print(print.json)?;
    if !yes && !agreed(&comparison, &slot).await? {
        return Err(Fatal::new(format!("{slot} was not kept; --yes keeps it without asking")).with_status(NOT_KEPT));
    }
    refuse_existing(&target, &slot, false)?;
    report.write(&staged.dir)?;
    let spec = staged.install(false, machine).await?;
    if !print.json {
        say(format_args!("added {slot}, version {}, in {}", spec.version, target.display()));
    }
    Ok(())
}

/// What the result is called: another version of the same model, or another model.
fn slot(
    model: ModelName,
    of: Option<Label>,
    word: &str,
    name: Option<ModelName>,
    label: Option<Label>,
) -> Result<Slot, Fatal> {
    let label = match (label, &name) {
        (None, None) => {
            let own = of.map_or_else(String::new, |of| format!("{of}-")) + word;
            let label = own.parse().map_err(|error| Fatal::new(format!("{own}: {error}; --label gives another")))?;
            Some(label)
        }
        (label, _) => label,
    };
    Ok(Slot { name: name.unwrap_or(model), label })
}

/// Refuses to begin where the result, at most as large as the model, would not fit.
fn refuse_full(models_dir: &Path, needed: u64) -> Result<(), Fatal> {
    let disk = statvfs(models_dir).map_err(|error| Fatal::from(io::Error::from(error)))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < needed {
        return Err(Fatal::new(format!(
            "{} has {} free; the result may need {}",
            models_dir.display(),
            bytes(free),
            bytes(needed)
        )));
    }
    Ok(())
}

/// Asks whoever sits at the terminal; nobody there has not said yes.
async fn agreed(comparison: &Comparison, slot: &Slot) -> Result<bool, Fatal> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(false);
    }
    let question = format!("Keep {slot}, {}? [y/N] ", bytes(comparison.made.description.file_bytes()));
    let answer = spawn_blocking(move || {
        write!(io::stderr(), "{question}").and_then(|()| io::stderr().flush())?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        Ok::<_, io::Error>(answer)
    });
    let answer = answer.await??;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
