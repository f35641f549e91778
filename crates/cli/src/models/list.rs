//! `augur models ls`: a table of what is in the directory of models.

use inference::{Listed, survey};
use prediction::Label;
use serde_json::{Value, json};
use settings::{Fatal, ListModels, say};
use tokio::task::spawn_blocking;

use super::{reason_in, slot::Slot};
use crate::screen::bytes;

/// Prints it.
pub(crate) async fn list(settings: ListModels) -> Result<(), Fatal> {
    let models_dir = settings.dir.models_dir;
    let listed = spawn_blocking(move || survey(&models_dir)).await??;
    if settings.print.json {
        say(Value::from_iter(listed.iter().map(as_json)));
        return Ok(());
    }
    let rows: Vec<[String; 5]> = listed.iter().map(row).collect();
    let head = ["NAME", "TASK", "VERSION", "SIZE", "DEFAULT"].map(str::to_owned);
    let width = |column: usize| {
        let sound = rows.iter().filter(|row| column == 0 || !row[2].is_empty());
        sound.chain([&head]).map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let [name, task, version] = [0, 1, 2].map(width);
    for row in [&head].into_iter().chain(&rows) {
        let line = format!("{:name$}  {:task$}  {:version$}  {:>8}  {}", row[0], row[1], row[2], row[3], row[4]);
        say(line.trim_end());
    }
    Ok(())
}

fn row(listed: &Listed) -> [String; 5] {
    let name = Slot { name: listed.name.clone(), label: listed.label.clone() }.to_string();
    match &listed.found {
        Ok(found) => {
            let (spec, size) = (&found.spec, bytes(found.file_bytes()));
            let default = if listed.is_default { "yes" } else { "" };
            [name, spec.task.clone(), spec.version.short().to_owned(), size, default.to_owned()]
        }
        Err(fault) => {
            let is_declared = listed.is_default && listed.label.is_some();
            let what = if is_declared { "broken, and declared to be the default" } else { "broken" };
            let broken = format!("{what}: {}", reason_in(&listed.dir, fault));
            [name, broken, String::new(), String::new(), String::new()]
        }
    }
}

fn as_json(listed: &Listed) -> Value {
    let (name, dir) = (listed.name.as_str(), &listed.dir);
    let (label, is_default) = (listed.label.as_ref().map(Label::as_str), listed.is_default);
    match &listed.found {
        Ok(found) => json!({
            "name": name,
            "label": label,
            "is_default": is_default,
            "dir": dir,
            "task": found.spec.task,
            "version": found.spec.version,
            "architecture": found.architecture,
            "parameters": found.parameters,
            "bytes": found.file_bytes(),
        }),
        Err(fault) => {
            json!({"name": name, "label": label, "is_default": is_default, "dir": dir, "error": reason_in(&listed.dir, fault)})
        }
    }
}
