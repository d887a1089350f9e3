//! Floor 4: a user's keys: guest-ssh-get-, -add- and -remove-authorized-keys.
//!
//! What is below a home directory is the user's to arrange, traps included. So the files are
//! worked on with the user's own rights (see [`crate::sys::identity`]), links are never followed,
//! and a file that can't be read is never taken for an empty one. A new file takes the old one's
//! place in one step: at any moment there is either all of the old or all of the new.

mod file;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Command, Context, Waiting, answer, empty, worker};
use crate::protocol::arguments::decode;
use crate::protocol::error::CommandError;
use crate::protocol::text::{from_os_bytes, to_os_bytes};
use crate::protocol::value::Dict;
use crate::sys::identity::{self, Identity, IdentityError};
use crate::sys::strerror;
use file::{KeyFile, KeyFileError};

pub(super) const COMMANDS: &[Command] = &[
    Command::later(37, "guest-ssh-get-authorized-keys", get_authorized_keys),
    Command::later(38, "guest-ssh-add-authorized-keys", add_authorized_keys),
    Command::later(
        39,
        "guest-ssh-remove-authorized-keys",
        remove_authorized_keys,
    ),
];

#[derive(Deserialize)]
struct GetKeys {
    username: String,
}

#[derive(Deserialize)]
struct AddKeys {
    username: String,
    keys: Vec<String>,
    reset: Option<bool>,
}

#[derive(Deserialize)]
struct RemoveKeys {
    username: String,
    keys: Vec<String>,
}

#[derive(Debug, Serialize)]
struct AuthorizedKeys {
    keys: Vec<String>,
}

fn get_authorized_keys(_: &mut Context, arguments: Dict) -> Waiting<'_> {
    Box::pin(async move {
        let GetKeys { username } = decode(arguments)?;
        answer(
            worker::run(worker::FILE_COMMAND_TIMEOUT, move || {
                get(&Account::find(&username)?)
            })
            .await?,
        )
    })
}

fn add_authorized_keys(_: &mut Context, arguments: Dict) -> Waiting<'_> {
    Box::pin(async move {
        let AddKeys {
            username,
            keys,
            reset,
        } = decode(arguments)?;
        let keys = checked(&keys)?;
        let reset = reset.unwrap_or(false);
        worker::run(worker::FILE_COMMAND_TIMEOUT, move || {
            add(&Account::find(&username)?, &keys, reset)
        })
        .await?;
        empty()
    })
}

fn remove_authorized_keys(_: &mut Context, arguments: Dict) -> Waiting<'_> {
    Box::pin(async move {
        let RemoveKeys { username, keys } = decode(arguments)?;
        let keys = checked(&keys)?;
        worker::run(worker::FILE_COMMAND_TIMEOUT, move || {
            remove(&Account::find(&username)?, &keys)
        })
        .await?;
        empty()
    })
}

/// The keys as lines of a file.
///
/// # Errors
/// One of them would be a comment, or more than one line.
fn checked(keys: &[String]) -> Result<Vec<Vec<u8>>, CommandError> {
    let check = |key: &String| {
        if key.starts_with('#') || key.contains('\n') {
            let text = format!("invalid OpenSSH public key: '{key}'");
            Err(CommandError::generic(text))
        } else {
            Ok(to_os_bytes(key))
        }
    };
    keys.iter().map(check).collect()
}

/// Whose keys.
#[derive(Debug)]
struct Account {
    name: String,
    home: PathBuf,
    identity: Identity,
}

impl Account {
    /// Looks the user up where the system keeps its users, which may be another machine.
    fn find(name: &str) -> Result<Self, CommandError> {
        let fail = |reason: String| {
            CommandError::generic(format!("failed to lookup user '{name}': {reason}"))
        };
        let found = Identity::find(name).map_err(|error| fail(strerror(&error)))?;
        // The original's word for a user who does not exist.
        let (identity, user) = found.ok_or_else(|| fail("Success".into()))?;
        Ok(Self {
            name: name.to_owned(),
            home: user.dir,
            identity,
        })
    }

    /// Does `job` on the key file with the user's rights.
    fn with_file<T: Send>(
        &self,
        job: impl FnOnce(&KeyFile) -> Result<T, KeyFileError> + Send,
    ) -> Result<T, CommandError> {
        let file = KeyFile::new(&self.home, self.identity.uid, self.identity.gid);
        let user = &self.name;
        identity::run_as(&self.identity, || job(&file))
            .map_err(|error| {
                CommandError::generic(match error {
                    IdentityError::Groups(error) => {
                        let reason = strerror(&error);
                        format!("failed to set groups for user '{user}': {reason}")
                    }
                    IdentityError::Group => {
                        format!("failed to set effective group ID for user '{user}'")
                    }
                    IdentityError::User => {
                        format!("failed to set effective user ID for user '{user}'")
                    }
                    IdentityError::Thread(error) => {
                        format!("failed to start a thread: {}", strerror(&error))
                    }
                })
            })?
            .map_err(|trouble| CommandError::generic(trouble.text()))
    }
}

/// The keys, the last of the file first; lines are trimmed, comments and blanks left out.
fn get(account: &Account) -> Result<AuthorizedKeys, CommandError> {
    let content = account.with_file(KeyFile::read)?;
    let lines = lines(&content)
        .into_iter()
        .rev()
        .map(|line| line.trim_ascii());
    let keys = lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"));
    Ok(AuthorizedKeys {
        keys: keys.map(from_os_bytes).collect(),
    })
}

/// Appends those of `keys` that are not there yet; with `reset` to an empty file.
fn add(account: &Account, keys: &[Vec<u8>], reset: bool) -> Result<(), CommandError> {
    account.with_file(|file| {
        file.make_directory()?;
        let content = if reset {
            file.check_replaceable()?;
            Vec::new()
        } else {
            match file.read() {
                Err(trouble) if trouble.is_missing() => Vec::new(),
                content => content?,
            }
        };
        let mut lines = lines(&content);
        for key in keys {
            if !lines.contains(&key.as_slice()) {
                lines.push(key);
            }
        }
        file.replace(&lines.join(&b'\n'))
    })
}

/// Takes out every line that is one of `keys`. No file is success.
fn remove(account: &Account, keys: &[Vec<u8>]) -> Result<(), CommandError> {
    account.with_file(|file| {
        let content = match file.read() {
            Err(trouble) if trouble.is_missing() => return Ok(()),
            content => content?,
        };
        let mut lines = lines(&content);
        lines.retain(|line| !keys.iter().any(|key| key == line));
        file.replace(&lines.join(&b'\n'))
    })
}

/// The lines of a file, verbatim; what follows the last LF counts, even if it is empty.
fn lines(content: &[u8]) -> Vec<&[u8]> {
    if content.is_empty() {
        return Vec::new();
    }
    content.split(|&byte| byte == b'\n').collect()
}

#[cfg(test)]
mod tests;
