//! What a Hugging Face directory is called, and its licence.

use std::{fs, path::Path};

use prediction::ModelName;

use crate::{LoadError, versions};

/// A model's card, which states its licence.
pub const CARD: &str = "README.md";

/// The model's name: `org/name` for a snapshot in Hugging Face's own cache (`models--org--name/snapshots/<commit>`), else the
/// directory's last two parts, without the label that sets a version apart, `augur` for an owner where that makes no name; in lower
/// case, as model names are.
///
/// # Errors
/// When the directory's own part has characters that names do not have.
pub(crate) fn name(dir: &Path) -> Result<ModelName, LoadError> {
    let wrong = |reason: String| LoadError::new(dir, reason);
    let whole = dir.canonicalize().map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let part = |depth: usize| {
        let name = whole.ancestors().nth(depth).and_then(Path::file_name);
        name.map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default()
    };
    let (own, owner, repository) = (part(0), part(1), part(2));
    if let Some(name) = repository.strip_prefix("models--").filter(|_| owner == "snapshots")
        && let Ok(name) = name.replacen("--", "/", 1).parse()
    {
        return Ok(name);
    }
    let own = versions::split(&own).map_or(own.as_str(), |(own, _)| own);
    format!("{owner}/{own}")
        .parse()
        .or_else(|_| ModelName::local(own))
        .map_err(|error| wrong(format!("the directory's name cannot be a model's: {error}; rename it")))
}

/// The licence that the model card's header states, where it names one.
pub(crate) fn license(dir: &Path) -> Option<String> {
    let card = fs::read_to_string(dir.join(CARD)).ok()?;
    let header = card.strip_prefix("---")?.split("\n---").next()?;
    let license = header.lines().find_map(|line| line.strip_prefix("license:"))?.trim().trim_matches(['"', '\'']);
    (!matches!(license, "" | "other" | "unknown")).then(|| license.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_directories() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let named = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(&path).expect("makes a directory");
            name(&path).map(|name| name.as_str().to_owned()).map_err(|error| error.to_string())
        };
        assert_eq!(named("Owner/All-MiniLM-L6-v2").as_deref(), Ok("owner/all-minilm-l6-v2"));
        assert_eq!(named("my models/All-MiniLM-L6-v2").as_deref(), Ok("augur/all-minilm-l6-v2"));
        assert_eq!(named("models--BAAI--bge-small/snapshots/0a1b").as_deref(), Ok("baai/bge-small"));
        assert_eq!(named("Owner/Name@int8").as_deref(), Ok("owner/name"));
        assert!(named("owner/name@default").expect_err("no label").contains("rename it"));
        assert!(named("not a name").expect_err("a space").contains("rename it"));
    }

    #[test]
    fn the_card_states_the_licence() {
        let stated = |card: &str| {
            let directory = tempfile::tempdir().expect("a temporary directory");
            fs::write(directory.path().join(CARD), card).expect("writes");
            license(directory.path())
        };
        assert_eq!(stated("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model").as_deref(), Some("apache-2.0"));
        assert_eq!(stated("---\nlicense: other\n---\n"), None);
        assert_eq!(stated("# Model\nlicense: mit\n"), None);
    }
}
