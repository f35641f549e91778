//! What people would deploy instead: recipes in `bench/peers`, each installed beside our programs and started on the servers that
//! ours run on.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use tokio::process::Command;

use crate::{
    program::{Program, program},
    say,
    servers::Servers,
    stage::free_address,
    subject::{PEER, Subject},
};

/// A recipe that is installed.
pub(crate) struct Recipe {
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
    pub(crate) environment: PathBuf,
}

/// Where recipes are.
pub(crate) fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

impl Recipe {
    /// Installs the recipe in `directory` into an environment of this name, if need be.
    ///
    /// # Errors
    /// Says what is missing.
    pub(crate) async fn install(directory: PathBuf, name: String) -> Result<Self, String> {
        let environment = program("augur").with_file_name("peers").join(&name);
        say(&format!("installing {name}"));
        match Command::new(directory.join("install")).arg(&environment).output().await {
            Ok(output) if output.status.success() => Ok(Self { name, directory, environment }),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Starts it with a database of its own; `more`: what else it is told by its environment.
    pub(crate) async fn start(&self, servers: &Servers, more: &[(&str, &OsStr)]) -> (Program, Subject) {
        let (database_url, redis_url, address) = (servers.database().await, servers.redis_url(), free_address());
        let port = address.port().to_string();
        let usual: [(&str, &OsStr); 4] = [
            ("DATABASE_URL", database_url.as_ref()),
            ("REDIS_URL", redis_url.as_ref()),
            ("PORT", port.as_ref()),
            ("ENVIRONMENT", self.environment.as_ref()),
        ];
        let environment = [&usual, more].concat();
        let service = Program::start(&self.directory.join("run"), [], &environment, "ready").await;
        let mut processes = servers.processes().await;
        processes.insert("the service".into(), vec![service.id()]);
        let subject = Subject::new(&PEER, address, &database_url, processes).await;
        (service, subject)
    }
}
