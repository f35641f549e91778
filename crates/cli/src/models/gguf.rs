//! Which GGUF file of a repository is fetched: one alone is a model.

use std::path::Path;

use inference::is_gguf;

use super::hub::{HubFile, Revision};
use crate::screen::bytes;

/// The path of the file that was asked for, or of the only one; none where the repository is to be fetched as a directory
/// (`is_directory`: it has what that needs), and nobody asked for a file.
///
/// # Errors
/// When there is no such file, or it is not clear which.
pub(super) fn choose(revision: &Revision, asked: Option<&str>, is_directory: bool) -> Result<Option<String>, String> {
    let files: Vec<_> = revision.files.iter().filter(|file| is_gguf(Path::new(&file.path))).collect();
    if asked.is_none() && (is_directory || files.is_empty()) {
        return Ok(None);
    }
    let named = |file: &&&HubFile| asked.is_none_or(|asked| file.path == asked);
    match files.iter().filter(named).collect::<Vec<_>>()[..] {
        [file] if file.path.contains('/') => {
            Err(format!("{} lies in a directory, and one at the top is fetched; --file names it", file.path))
        }
        [file] if is_part(&file.path) => Err(format!("{} is one part of several, and whole files are read", file.path)),
        [file] => Ok(Some(file.path.clone())),
        _ if files.is_empty() => Err("it has no GGUF files".to_owned()),
        _ => {
            let whole = files.iter().filter(|file| !file.path.contains('/') && !is_part(&file.path));
            let each = |file: &&HubFile| format!("{} ({})", file.path, file.size.map_or("?".to_owned(), bytes));
            let list = whole.map(each).collect::<Vec<_>>().join(", ");
            let reason = asked.map_or("it has several GGUF files".to_owned(), |asked| format!("it has no {asked}"));
            Err(format!("{reason}; --file chooses among {list}"))
        }
    }
}

/// Whether it is one of the files that llama.cpp splits a model into, as in `model-00001-of-00003.gguf`.
fn is_part(path: &str) -> bool {
    let stem = path.rsplit_once('.').map_or(path, |(stem, _)| stem);
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|digit| digit.is_ascii_digit());
    let Some((first, last)) = stem.rsplit_once("-of-") else { return false };
    is_number(last) && first.rsplit_once('-').is_some_and(|(_, number)| is_number(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(paths: &[&str], asked: Option<&str>, is_directory: bool) -> Result<Option<String>, String> {
        let file = |path: &&str| HubFile { path: (*path).to_owned(), size: Some(2_000_000), blob_id: None, lfs: None };
        let revision = Revision { commit: String::new(), files: paths.iter().map(file).collect() };
        choose(&revision, asked, is_directory)
    }

    #[test]
    fn one_file_is_chosen_or_asked_for() {
        let found = |path: &str| Ok(Some(path.to_owned()));
        assert_eq!(chosen(&["README.md", "a.gguf"], None, false), found("a.gguf"));
        assert_eq!(chosen(&["a.gguf", "b.GGUF"], Some("b.GGUF"), false), found("b.GGUF"));
        assert_eq!(chosen(&["model.safetensors", "a.gguf"], None, true), Ok(None), "the directory");
        assert_eq!(chosen(&["model.safetensors", "a.gguf"], Some("a.gguf"), true), found("a.gguf"));
        assert_eq!(chosen(&["README.md"], None, false), Ok(None));
        let several = chosen(&["a.gguf", "b.gguf", "c-00001-of-00002.gguf"], None, false).expect_err("which?");
        assert_eq!(several, "it has several GGUF files; --file chooses among a.gguf (2.0 MB), b.gguf (2.0 MB)");
        let absent = chosen(&["a.gguf"], Some("d.gguf"), false).expect_err("absent");
        assert_eq!(absent, "it has no d.gguf; --file chooses among a.gguf (2.0 MB)");
        assert!(chosen(&["README.md"], Some("a.gguf"), true).expect_err("none").contains("no GGUF files"));
        assert!(chosen(&["c-00001-of-00002.gguf"], None, false).expect_err("a part").contains("one part of several"));
        assert!(chosen(&["q/a.gguf"], None, false).expect_err("below").contains("lies in a directory"));
    }
}
