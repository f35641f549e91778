//! `augur models default`: says which version of a model its name alone means, or declares another.

use inference::{Beside, default_file_name, write_default};
use settings::{DefaultModel, Fatal, Which, say};
use tokio::task::spawn_blocking;

use super::{
    described,
    slot::{Slot, existing, inside},
};

/// Does what is asked.
pub(crate) async fn default(settings: DefaultModel) -> Result<(), Fatal> {
    let (asked, models_dir) = (settings.model, settings.dir.models_dir);
    let Beside { dir, label, is_default } = existing(&models_dir, &asked).await?;
    let version = described(&dir).await?.spec.version;
    if asked.which != Which::Default && !is_default {
        let owner = dir.parent().unwrap_or(&models_dir);
        let file = inside(owner, &default_file_name(&asked.name));
        let (path, label) = (file.clone(), label.clone());
        let written = spawn_blocking(move || write_default(&path, label.as_ref())).await?;
        written.map_err(|error| Fatal::new(format!("{} cannot be written: {error}", file.display())))?;
    }
    let slot = Slot { name: asked.name.clone(), label };
    say(format_args!("{} means {slot}, version {}, in {}", asked.name, version.short(), dir.display()));
    Ok(())
}
