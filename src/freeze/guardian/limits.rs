//! What a guardian accepts of a confined agent, which it does not trust: the guardian has all rights of root.
//!
//! The agent's launcher passes it in the environment. Without it the agent has those rights, too, and is believed.

use crate::state::writer::is_socket_in;
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const LIMITS_ENV: &str = "QGA_GUARDIAN_LIMITS";

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// Hook masters that may be called.
    pub(crate) hooks: Vec<PathBuf>,
    pub(crate) statedir: PathBuf,
    /// The snapshot file.
    pub(crate) snapshot: Option<PathBuf>,
}

impl Limits {
    /// The variable's name and value.
    pub(crate) fn to_env(&self) -> serde_json::Result<(OsString, OsString)> {
        Ok((LIMITS_ENV.into(), serde_json::to_string(self)?.into()))
    }

    pub(super) fn of_this_process() -> anyhow::Result<Option<Self>> {
        let Some(text) = std::env::var_os(LIMITS_ENV) else {
            return Ok(None);
        };
        let text = text.to_string_lossy();
        serde_json::from_str(&text).context(LIMITS_ENV).map(Some)
    }

    /// Of the files that the agent names: hook master, snapshot file, listening socket.
    pub(super) fn check(
        &self,
        statedir: &Path,
        [hook, snapshot, socket]: [Option<&Path>; 3],
    ) -> anyhow::Result<()> {
        let refuse = |path: &Path, what: &str| {
            bail!(
                "refused: the confined agent names {}, which is not the configured {what}",
                path.display()
            )
        };
        if statedir != self.statedir {
            return refuse(statedir, "state directory");
        }
        match (hook, snapshot, socket) {
            (Some(hook), ..) if !self.hooks.iter().any(|known| known == hook) => {
                refuse(hook, "hook master")
            }
            (_, Some(snapshot), _) if self.snapshot.as_deref() != Some(snapshot) => {
                refuse(snapshot, "snapshot file")
            }
            (.., Some(socket)) if !is_socket_in(socket, statedir) => {
                refuse(socket, "guardian's socket")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_configured_is_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let statedir = dir.path().to_owned();
        let limits = Limits {
            hooks: vec!["/etc/hook".into()],
            statedir: statedir.clone(),
            snapshot: Some("/s".into()),
        };
        let check = |statedir: &Path, paths: [Option<&str>; 3]| {
            let checked = limits.check(statedir, paths.map(|path| path.map(Path::new)));
            checked.map_err(|error| error.to_string())
        };
        let socket = statedir.join("qga.guardian");
        let own = [Some("/etc/hook"), Some("/s"), socket.to_str()];
        assert_eq!(check(&statedir, own), Ok(()));
        assert_eq!(check(&statedir, [None; 3]), Ok(()));
        let other = check(&statedir, [Some("/tmp/x"), None, None]);
        let text =
            "refused: the confined agent names /tmp/x, which is not the configured hook master";
        assert_eq!(other, Err(text.into()));
        check(Path::new("/tmp"), [None; 3]).unwrap_err();
        check(&statedir, [None, Some("/etc/cron.d/x"), None]).unwrap_err();
        check(&statedir, [None, None, Some("/tmp/qga.guardian")]).unwrap_err();
    }
}
