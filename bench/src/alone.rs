//! `augur serve`: everything in one process, on a file of its own or on Postgres.

use std::{ffi::OsString, net::SocketAddr};

use tempfile::TempDir;

use crate::{
    program::{Program, program},
    servers::Servers,
    stage::{WEBHOOKS, free_address},
    subject::{AUGUR, Subject},
};

/// One server, gone when this process is.
pub(crate) struct Alone {
    pub(crate) address: SocketAddr,
    pub(crate) program: Program,
    _data: TempDir,
}

impl Alone {
    /// On a file, or on this database, which has our schema; never with Redis.
    pub(crate) async fn start(database_url: Option<&str>) -> Self {
        let address = free_address();
        let data = tempfile::tempdir().expect("temporary directories can be made");
        let mut arguments: Vec<OsString> =
            ["serve", "--enable-echo", "--log", "warn", "--listen"].map(Into::into).to_vec();
        arguments.push(address.to_string().into());
        arguments.extend(WEBHOOKS.map(OsString::from));
        if let Some(url) = database_url {
            arguments.extend(["--database-url", url].map(OsString::from));
        }
        for (option, directory) in [("--data-dir", "data"), ("--models-dir", "models")] {
            let path = data.path().join(directory);
            std::fs::create_dir(&path).expect("a directory can be made");
            arguments.extend([option.into(), path.into()]);
        }
        let program = Program::start(&program("augur"), arguments, &[], "listening on ").await;
        Self { address, program, _data: data }
    }

    /// On Postgres, asked as callers do.
    pub(crate) async fn subject(&self, servers: &Servers, database_url: &str) -> Subject {
        let mut processes = servers.processes().await;
        processes.insert("augur serve".into(), vec![self.program.id()]);
        Subject::new(&AUGUR, self.address, database_url, processes).await
    }
}
