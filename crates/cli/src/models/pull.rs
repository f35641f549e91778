//! `augur models pull`: fetches a model from the Hugging Face hub.

use std::{collections::BTreeMap, fs, path::Path};

use inference::{CARD, Origin, is_setting};
use settings::{Fatal, PullModel, Repository, say};

use super::{
    described,
    download::{Failed, Wanted, download},
    gguf,
    hub::{Hub, Revision},
    install::{Staged, refuse_existing},
    processor,
    progress::Progress,
    slot::Slot,
};
use crate::screen::bytes;

/// What a model cannot be without.
const NEEDED: [&str; 2] = ["config.json", WEIGHTS];
/// What says how inputs are read, of texts and of images: it cannot be without one of them.
const READERS: [&str; 2] = ["tokenizer.json", "preprocessor_config.json"];
const WEIGHTS: &str = "model.safetensors";
/// What the weights are when they are in several files.
const SHARDS: &str = "model.safetensors.index.json";
/// Which commit what was gathered is of, and which of its files was asked for.
const COMMIT: &str = "commit";

/// Fetches it and says what it is called.
pub(crate) async fn pull(settings: PullModel) -> Result<(), Fatal> {
    let PullModel { repository, gguf, label, replace, hub, instructions, dir, .. } = settings;
    let machine = processor(&instructions)?;
    let (hub, models_dir, slot) = (Hub::new(&hub)?, dir.models_dir, Slot { name: repository.name.clone(), label });
    let revision = hub.revision(&repository).await?;
    let commit = checked(&revision.commit).ok_or_else(|| hub.refused(&repository, "the hub names no commit"))?;
    let wanted = wanted(&revision, gguf.as_deref()).map_err(|reason| hub.refused(&repository, &reason))?;
    let target = slot.place(&models_dir);
    let has_all = |origin: Origin| {
        origin.commit == commit && wanted.iter().all(|file| origin.files.contains_key(Path::new(&file.path)))
    };
    let is_there = Origin::read(&target).is_ok_and(|origin| origin.is_some_and(has_all));
    if is_there && described(&target).await.is_ok() {
        say(format_args!("{slot} is there already, commit {}, in {}", short(commit), target.display()));
        return Ok(());
    }
    refuse_existing(&target, &slot, replace.replace)?;

    let staged = Staged::kept(&models_dir, &slot, "pull")?;
    begin(&staged, &format!("{commit} {}", gguf.unwrap_or_default()))?;
    let mut progress = Progress::of(wanted.iter().map(|file| file.bytes).sum());
    let mut files = BTreeMap::new();
    for file in &wanted {
        let url = hub.file_url(&repository, commit, &file.path);
        let fetched = download(&hub, url, file, &staged.dir.join(&file.path), &mut progress).await;
        files.insert(file.path.clone().into(), fetched.map_err(|failed| given_up(&hub, &repository, &staged, failed))?);
    }
    drop(progress);
    let source = hub.page(&repository, commit).to_string();
    let origin = Origin { source, revision: repository.revision.clone(), commit: commit.to_owned(), files };
    let install = async {
        origin.write(&staged.dir)?;
        staged.install(replace.replace, machine).await
    };
    let installed = install.await.inspect_err(|_| staged.discard())?;
    say(format_args!(
        "pulled {slot}, version {}, {}, commit {}, in {}",
        installed.version.short(),
        bytes(wanted.iter().map(|file| file.bytes).sum()),
        short(commit),
        target.display()
    ));
    Ok(())
}

/// A commit as git names it; it becomes part of URLs.
fn checked(commit: &str) -> Option<&str> {
    (commit.len() >= 40 && commit.bytes().all(|digit| digit.is_ascii_hexdigit())).then_some(commit)
}

fn short(commit: &str) -> &str {
    &commit[..12]
}

/// The files that the model reads, small ones first; of GGUF files, the one that was asked for.
fn wanted(revision: &Revision, asked: Option<&str>) -> Result<Vec<Wanted>, String> {
    let has = |path: &str| revision.files.iter().any(|file| file.path == path);
    if let Some(chosen) = gguf::choose(revision, asked, NEEDED.into_iter().all(has))? {
        return listed(revision, |path| path == chosen || path == CARD);
    }
    if let Some(missing) = NEEDED.into_iter().find(|path| !has(path)) {
        let pickle = revision.files.iter().find(|file| inference::refuse_pickle(Path::new(&file.path)).is_err());
        return Err(match pickle {
            _ if missing == WEIGHTS && has(SHARDS) => {
                format!("its weights are in several files ({SHARDS}), and one {WEIGHTS} is read")
            }
            Some(pickle) if missing == WEIGHTS => format!(
                "it has no {WEIGHTS}, and {} is a pickle, which can run code when it is read: convert it to safetensors",
                pickle.path
            ),
            _ => format!("it has no {missing}"),
        });
    }
    if !READERS.into_iter().any(has) {
        let [texts, images] = READERS;
        return Err(format!("it has no {texts}, and no {images} either: it reads neither texts nor images"));
    }
    let is_read = |path: &str| {
        NEEDED.contains(&path) || READERS.contains(&path) || is_setting(path) || is_module(path) || path == CARD
    };
    listed(revision, is_read)
}

/// The files of these paths, with what the hub states of them, small ones first.
fn listed(revision: &Revision, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<Wanted>, String> {
    let files = revision.files.iter().filter(|file| is_wanted(&file.path)).cloned().map(|file| {
        let path = file.path.clone();
        Wanted::new(file).ok_or_else(|| format!("the hub does not state the size and digest of {path}"))
    });
    let mut files = files.collect::<Result<Vec<_>, _>>()?;
    files.sort_by_key(|file| file.bytes);
    Ok(files)
}

/// Whether it is the configuration of a sentence-transformers module, as in `1_Pooling/config.json`.
fn is_module(path: &str) -> bool {
    let directory = path.strip_suffix("/config.json").unwrap_or_default();
    directory.split_once('_').is_some_and(|(number, module)| {
        number.parse::<u8>().is_ok()
            && !module.is_empty()
            && module.bytes().all(|letter| letter.is_ascii_alphanumeric())
    })
}

/// Forgets what was gathered of another commit, or for another choice among its files.
fn begin(staged: &Staged, asked: &str) -> Result<(), Fatal> {
    let path = staged.home.join(COMMIT);
    if fs::read_to_string(&path).unwrap_or_default() != asked {
        fs::remove_dir_all(&staged.dir)?;
        fs::create_dir_all(&staged.dir)?;
        fs::write(path, asked)?;
    }
    Ok(())
}

fn given_up(hub: &Hub, repository: &Repository, staged: &Staged, failed: Failed) -> Fatal {
    match failed {
        Failed::Away(reason) => hub
            .refused(repository, &format!("{reason}; what has come is kept, and the same command goes on from there")),
        Failed::Wrong(reason) => {
            staged.discard();
            hub.refused(repository, &format!("{reason}; nothing of it was kept"))
        }
        Failed::Disk(error) => Fatal::new(format!("{} cannot be written: {error}", staged.dir.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_told_from_other_directories() {
        for (path, expected) in [
            ("1_Pooling/config.json", true),
            ("2_Dense/config.json", true),
            ("onnx/config.json", false),
            ("1_/config.json", false),
            ("../1_Pooling/config.json", false),
            ("1_Pooling/../config.json", false),
            ("1_Pooling/pytorch_model.bin", false),
        ] {
            assert_eq!(is_module(path), expected, "{path}");
        }
    }
}
