//! Floor 4: a user's keys: guest-ssh-get-, -add- and -remove-authorized-keys.
//!
//! A user controls everything below the home directory and may put links there to reach files of others. So the files are
//! read and written with the user's own rights ([`crate::sys::identity`]), links are never followed, and a file that cannot
//! be read is never treated as empty. A new file replaces the old one by rename(2): at any moment all of the old or all of
//! the new keys are there. Name services may be slow, so everything runs on a worker thread.

mod file;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Class, Command, CommandFuture, Context, answer, empty, worker};
use crate::protocol::arguments::decode;
use crate::protocol::error::CommandError;
use crate::protocol::text::{from_os_bytes, to_os_bytes};
use crate::protocol::value::Dict;
use crate::sys::identity::{self, Identity, IdentityError};
use crate::sys::strerror;
use file::{KeyFile, KeyFileError};

pub(super) const COMMANDS: &[Command] = &[
    Command::later(
        37,
        "guest-ssh-get-authorized-keys",
        Class::User,
        get_authorized_keys,
    ),
    Command::later(
        38,
        "guest-ssh-add-authorized-keys",
        Class::User,
        add_authorized_keys,
    ),
    Command::later(
        39,
        "guest-ssh-remove-authorized-keys",
        Class::User,
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

fn get_authorized_keys(_: &mut Context, arguments: Dict) -> CommandFuture<'_> {
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

fn add_authorized_keys(_: &mut Context, arguments: Dict) -> CommandFuture<'_> {
    Box::pin(async move {
        let AddKeys {
            username,
            keys,
            reset,
        } = decode(arguments)?;
        let keys = validate_keys(&keys)?;
        let reset = reset.unwrap_or(false);
        worker::run(worker::FILE_COMMAND_TIMEOUT, move || {
            add(&Account::find(&username)?, &keys, reset)
        })
        .await?;
        empty()
    })
}

fn remove_authorized_keys(_: &mut Context, arguments: Dict) -> CommandFuture<'_> {
    Box::pin(async move {
        let RemoveKeys { username, keys } = decode(arguments)?;
        let keys = validate_keys(&keys)?;
        worker::run(worker::FILE_COMMAND_TIMEOUT, move || {
            remove(&Account::find(&username)?, &keys)
        })
        .await?;
        empty()
    })
}

/// Fails if a key would be a comment, or more than one line: it could add options or keys that the host did not mean.
fn validate_keys(keys: &[String]) -> Result<Vec<Vec<u8>>, CommandError> {
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

#[derive(Debug)]
struct Account {
    name: String,
    home: PathBuf,
    identity: Identity,
}

impl Account {
    /// Looks the user up by the system's name services, which may ask another machine.
    fn find(name: &str) -> Result<Self, CommandError> {
        let fail = |reason: String| {
            CommandError::generic(format!("failed to lookup user '{name}': {reason}"))
        };
        let found = Identity::find(name).map_err(|error| fail(strerror(&error)))?;
        // The original's text for an unknown user: getpwnam(3) leaves errno at 0.
        let (identity, user) = found.ok_or_else(|| fail("Success".into()))?;
        Ok(Self {
            name: name.to_owned(),
            home: user.dir,
            identity,
        })
    }

    /// Runs `job` on the key file with the user's rights.
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
            .map_err(|error| CommandError::generic(error.text()))
    }
}

/// The last of the file first as in the original; lines are trimmed, comments and empty lines left out.
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
            // A link or a directory in its place is an error, and must not be replaced.
            file.check_replaceable()?;
            Vec::new()
        } else {
            match file.read() {
                Err(error) if error.is_missing() => Vec::new(),
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

/// Removes every line that is one of `keys`. Without a file there is nothing to do.
fn remove(account: &Account, keys: &[Vec<u8>]) -> Result<(), CommandError> {
    account.with_file(|file| {
        let content = match file.read() {
            Err(error) if error.is_missing() => return Ok(()),
            content => content?,
        };
        let mut lines = lines(&content);
        lines.retain(|line| !keys.iter().any(|key| key == line));
        file.replace(&lines.join(&b'\n'))
    })
}

/// The lines of a file, verbatim. What follows the last line feed is a line, even if it is empty: so the join of the
/// lines is the file again, byte for byte.
fn lines(content: &[u8]) -> Vec<&[u8]> {
    if content.is_empty() {
        return Vec::new();
    }
    content.split(|&byte| byte == b'\n').collect()
}

#[cfg(test)]
mod tests;
