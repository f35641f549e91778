//! The user that servers run as when the tests are root's.

use std::{
    fs,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::Path,
    process::Command,
};

/// Another user than ourselves.
#[derive(Clone, Copy)]
pub(crate) struct User {
    uid: u32,
    gid: u32,
}

impl User {
    /// The user for a server that refuses root: none unless we are root (as the owner of `directory`, which we made, tells),
    /// else `postgres` or `nobody`.
    pub(crate) fn for_server_refusing_root(directory: &Path) -> Option<Self> {
        let our_uid = fs::metadata(directory).expect("the directory was just made").uid();
        if our_uid != 0 {
            return None;
        }
        let users = fs::read_to_string("/etc/passwd").expect("/etc/passwd can be read");
        let find = |name: &str| {
            let mut fields = users.lines().map(|line| line.split(':')).find_map(|mut fields| {
                let is_it = fields.next() == Some(name);
                is_it.then_some(fields)
            })?;
            // name:password:uid:gid:…
            Some(Self { uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
        };
        Some(find("postgres").or_else(|| find("nobody")).expect("there is a user `postgres` or `nobody` to run as"))
    }

    /// A command run as this user (as ourselves when there is none).
    pub(crate) fn command(user: Option<Self>, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some(user) = user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    /// Gives a directory to this user.
    pub(crate) fn own(self, directory: &Path) {
        std::os::unix::fs::chown(directory, Some(self.uid), Some(self.gid)).expect("root may give a directory away");
    }
}
