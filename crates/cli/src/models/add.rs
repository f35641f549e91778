//! `augur models add`: copies a model that is on this machine.

use std::path::{Path, PathBuf};

use inference::{CARD, Machine, Origin, copy_files, is_gguf, refuse_pickle};
use prediction::ModelName;
use settings::{AddModel, Fatal, say};
use tokio::task::spawn_blocking;

use super::{
    described,
    install::{Staged, refuse_existing},
    processor,
    report::Report,
    slot::Slot,
};

/// Copies it and says what it is called now.
pub(crate) async fn add(settings: AddModel) -> Result<(), Fatal> {
    let machine = processor(&settings.instructions)?;
    if settings.from.is_file() && is_gguf(&settings.from) {
        return add_file(settings, machine).await;
    }
    let (from, models_dir) = (settings.from, settings.dir.models_dir);
    if !from.is_dir() {
        refuse_pickle(&from)?;
        return Err(Fatal::new(format!(
            "{} is not a directory; a model is one, with a model.toml, or with config.json, model.safetensors and \
             tokenizer.json or preprocessor_config.json, or a GGUF file",
            from.display()
        )));
    }
    let found = described(&from).await?;
    let name = named(&found.dir, &found.spec.name, settings.name)?;
    let slot = Slot { name, label: settings.label };
    let target = slot.place(&models_dir);
    refuse_existing(&target, &slot, settings.replace.replace)?;

    let staged = Staged::once(&models_dir, &slot, "add")?;
    let files = found.files.iter().map(|file| file.path.clone());
    let files: Vec<PathBuf> = files.chain([CARD, Origin::FILE, Report::FILE].map(Into::into)).collect();
    let to = staged.dir.clone();
    spawn_blocking(move || copy_files(&from, &to, files)).await??;
    if described(&staged.dir).await?.spec.version != found.spec.version {
        return Err(Fatal::new(format!("{} changed while it was copied", found.dir.display())));
    }
    let spec = staged.install(settings.replace.replace, machine).await?;
    say(format_args!("added {slot}, version {}, in {}", spec.version.short(), target.display()));
    Ok(())
}

/// Makes a directory of a GGUF file, which is a whole model.
async fn add_file(settings: AddModel, machine: Machine) -> Result<(), Fatal> {
    let (from, models_dir) = (settings.from, settings.dir.models_dir);
    let (home, file) = (from.parent().unwrap_or(Path::new("")), from.file_name().unwrap_or_default());
    let own = from.file_stem().unwrap_or_default().to_string_lossy();
    let name = settings.name.map_or_else(|| ModelName::local(&own), Ok);
    let name =
        name.map_err(|error| Fatal::new(format!("the file's name cannot be a model's: {error}; --name names it")))?;
    let slot = Slot { name, label: settings.label };
    let target = slot.place(&models_dir);
    refuse_existing(&target, &slot, settings.replace.replace)?;
    let staged = Staged::once(&models_dir, &slot, "add")?;
    let (home, to, file) = (home.to_owned(), staged.dir.clone(), PathBuf::from(file));
    spawn_blocking(move || copy_files(&home, &to, [file])).await??;
    let spec = staged.install(settings.replace.replace, machine).await?;
    say(format_args!("added {slot}, version {}, in {}", spec.version.short(), target.display()));
    Ok(())
}

/// What it will be called: a manifest's word is its last.
fn named(dir: &Path, found: &ModelName, wanted: Option<ModelName>) -> Result<ModelName, Fatal> {
    match wanted {
        Some(wanted) if wanted != *found && dir.join("model.toml").exists() => Err(Fatal::new(format!(
            "the model.toml in {} says that the model is {found}; change it there rather than with --name {wanted}",
            dir.display()
        ))),
        wanted => Ok(wanted.unwrap_or_else(|| found.clone())),
    }
}
