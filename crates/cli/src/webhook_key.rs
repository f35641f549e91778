//! The webhook key: as it was set, or in a file of the data directory that is made at the first start.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use settings::{DataSettings, Fatal, StoreSettings, WebhookSettings};
use tempfile::Builder;
use webhook::Sealer;

/// The file within the data directory.
const KEY_FILE: &str = "webhook.key";

/// Where the key is.
pub(crate) enum KeyPlace {
    /// In the settings.
    Set(Sealer),
    /// In this file, or it will be.
    File(PathBuf),
    /// Nowhere: a Postgres may have other programs, which could not read a file of this one.
    Nowhere,
}

impl KeyPlace {
    /// What is set goes before the file, which there is for the embedded store alone.
    pub(crate) fn of(webhooks: &WebhookSettings, store: &StoreSettings, data: &DataSettings) -> Result<Self, Fatal> {
        Ok(match webhooks.key()? {
            Some(sealer) => Self::Set(sealer),
            None if store.database_url.is_none() => Self::within(&data.data_dir),
            None => Self::Nowhere,
        })
    }

    /// In a file of this data directory.
    pub(crate) fn within(data_dir: &Path) -> Self {
        Self::File(data_dir.join(KEY_FILE))
    }

    /// The key, if there is one: a file that is absent is none.
    pub(crate) fn found(&self) -> Result<Option<Sealer>, Fatal> {
        match self {
            Self::Set(sealer) => Ok(Some(sealer.clone())),
            Self::File(path) => read(path),
            Self::Nowhere => Ok(None),
        }
    }

    /// The key, in a file that is made when it is absent. The caller alone uses the directory.
    pub(crate) fn found_or_made(&self) -> Result<Option<Sealer>, Fatal> {
        let found = self.found()?;
        match self {
            Self::File(path) if found.is_none() => {
                make(path).map_err(|error| {
                    Fatal::new(format!("the webhook key {} cannot be made: {error}", path.display()))
                })?;
                read(path)
            }
            _ => Ok(found),
        }
    }
}

fn read(path: &Path) -> Result<Option<Sealer>, Fatal> {
    let name = path.display();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Fatal::new(format!("the webhook key {name} cannot be read: {error}"))),
    };
    // The text is not shown: most of it may be the key.
    let sealer = text.trim_end().parse().map_err(|error| {
        Fatal::new(format!(
            "the file {name} holds no webhook key: {error}; restore it, or remove it to have another made, which cannot \
             open the signing secrets stored so far"
        ))
    })?;
    Ok(Some(sealer))
}

/// Makes the file whole or not at all, readable by its owner alone, and there to stay: what is sealed with it is.
fn make(path: &Path) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = Builder::new().permissions(Permissions::from_mode(0o600)).tempfile_in(directory)?;
    writeln!(file, "{}", STANDARD.encode(rand::random::<[u8; 32]>()))?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    File::open(directory)?.sync_all()
}
