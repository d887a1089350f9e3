//! Floor 4: x-guest-authenticate, of our own, and the token that it compares.
//!
//! A host without a channel of its own (Firecracker and others connect any local process to the guest's vsock) proves with
//! the token that it may use the agent. The channel says which clients are trusted; the dispatcher refuses those that are
//! not, but for a few commands. `app` reads the file at the start.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Deserialize;

use super::profile::Class;
use super::{Command, CommandResult, Context, empty};
use crate::diagnostic::Diagnostic;
use crate::hooks::trust;
use crate::protocol::arguments::decode;
use crate::protocol::error::CommandError;
use crate::protocol::value::Dict;
use crate::sys::strerror;

pub(crate) const NAME: &str = "x-guest-authenticate";

pub(super) const COMMANDS: &[Command] =
    &[Command::now(1002, NAME, Class::Query, authenticate).also_frozen()];

/// In bytes: what cannot be guessed, and what is certainly no token.
const MIN_TOKEN_LENGTH: usize = 16;
const MAX_TOKEN_LENGTH: usize = 1024;

const OTHERS: u32 = 0o077;

/// What a client has to know. It has no `Debug`, so that no log shows it.
pub(crate) struct AccessToken(Vec<u8>);

impl AccessToken {
    /// The first line of a file that root alone may read, and that only root can exchange.
    pub(crate) fn read(path: &Path) -> Result<Self, Diagnostic> {
        let shown = path.display();
        let what = format!("cannot use the token file {shown}");
        let fault = |why: String, remedy: String| Diagnostic::new(&what, why, remedy);
        let unreadable = |error: io::Error| {
            fault(
                strerror(&error),
                "correct vsock-token-file, or create the file".into(),
            )
        };
        let place = trust::open(path).map_err(|error| fault(error.why, error.remedy))?;
        let data = place.metadata().map_err(unreadable)?;
        if !data.is_file() {
            return Err(fault(
                "not a regular file".into(),
                "correct vsock-token-file".into(),
            ));
        }
        if data.mode() & OTHERS != 0 {
            let why = format!(
                "mode {:04o} lets others than its owner use it",
                data.mode() & 0o7777
            );
            return Err(fault(why, format!("run \"chmod 600 {shown}\"")));
        }
        let mut text = Vec::new();
        let limit = MAX_TOKEN_LENGTH as u64 + 1;
        // `place` cannot be read itself (O_PATH).
        File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))
            .and_then(|file| file.take(limit).read_to_end(&mut text))
            .map_err(unreadable)?;
        let line = text.split(|&byte| byte == b'\n').next();
        let token = line.unwrap_or_default().trim_ascii();
        if !(MIN_TOKEN_LENGTH..=MAX_TOKEN_LENGTH).contains(&token.len()) {
            return Err(fault(
                format!("its first line has {} characters", token.len()),
                format!(
                    "write a token of {MIN_TOKEN_LENGTH} to {MAX_TOKEN_LENGTH} characters there"
                ),
            ));
        }
        Ok(Self(token.to_vec()))
    }

    /// In a time that depends on the lengths alone.
    fn equals(&self, given: &[u8]) -> bool {
        let pairs = self.0.iter().zip(given);
        let differing = pairs.fold(0, |bits, (a, b)| black_box(bits | (a ^ b)));
        self.0.len() == given.len() && differing == 0
    }
}

/// The key of the token file beside a channel that no token protects.
pub(crate) fn token_without_vsock() -> Diagnostic {
    Diagnostic::new(
        "vsock-token-file has no effect",
        "the channel is no vsock",
        "remove the key, or use vsock-listen",
    )
}

/// Of the client whose request runs.
#[derive(Default)]
pub(crate) struct Authentication {
    token: Option<AccessToken>,
    /// Set by the session before each request, and by x-guest-authenticate.
    pub(crate) is_sender_trusted: bool,
    /// One warning is enough until somebody knows the token: who guesses must not fill the log.
    has_warned: bool,
}

impl Authentication {
    pub(crate) fn with(token: Option<AccessToken>) -> Self {
        Self {
            token,
            ..Self::default()
        }
    }

    /// Fails for a client that has to authenticate before it may use the command.
    pub(crate) fn check(&self, command: &str) -> Result<(), CommandError> {
        const BEFORE: [&str; 4] = ["guest-sync", "guest-sync-delimited", "guest-ping", NAME];
        if self.is_sender_trusted || BEFORE.contains(&command) {
            return Ok(());
        }
        Err(CommandError::generic(format!(
            "authentication required: send {NAME} with the token first"
        )))
    }
}

#[derive(Deserialize)]
struct Arguments {
    token: String,
}

fn authenticate(context: &mut Context, arguments: Dict) -> CommandResult {
    let Arguments { token: given } = decode(arguments)?;
    let authentication = &mut context.authentication;
    let Some(token) = &authentication.token else {
        return Err(CommandError::generic(
            "no token is configured (vsock-token-file)",
        ));
    };
    if token.equals(given.as_bytes()) {
        authentication.is_sender_trusted = true;
        authentication.has_warned = false;
        return empty();
    }
    if !authentication.has_warned {
        tracing::warn!(
            "a client sent a wrong token; further ones are not logged until the right one is sent"
        );
        authentication.has_warned = true;
    }
    Err(CommandError::generic("the token is wrong"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    const TOKEN: &str = "0123456789abcdef";

    #[test]
    fn equal_tokens_and_no_others() {
        let token = AccessToken(TOKEN.into());
        assert!(token.equals(TOKEN.as_bytes()));
        for other in [
            "",
            "0123456789abcde",
            "0123456789abcdef0",
            "1123456789abcdef",
        ] {
            assert!(!token.equals(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_client_that_is_not_trusted_may_synchronize_and_authenticate() {
        let mut authentication = Authentication::with(None);
        for command in super::super::all() {
            let allowed = matches!(
                command.name,
                "guest-sync" | "guest-sync-delimited" | "guest-ping" | "x-guest-authenticate"
            );
            assert_eq!(
                authentication.check(command.name).is_ok(),
                allowed,
                "{}",
                command.name
            );
        }
        authentication.is_sender_trusted = true;
        assert!(authentication.check("guest-exec").is_ok());
    }

    #[test]
    fn files_that_are_no_secret_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let read = || {
            AccessToken::read(&path)
                .map(|token| token.0)
                .map_err(|fault| fault.why)
        };
        let write = |text: &str, mode: u32| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        };
        assert!(read().unwrap_err().contains("No such file"));
        write(&format!("  {TOKEN} \nsecond line\n"), 0o600);
        assert_eq!(read().unwrap(), TOKEN.as_bytes());
        write("", 0o400);
        assert_eq!(read().unwrap_err(), "its first line has 0 characters");
        fs::remove_file(&path).unwrap();
        let long = "x".repeat(1 << 20);
        for (text, length) in [("short\n", 5), (long.as_str(), 1025)] {
            write(text, 0o600);
            assert_eq!(
                read().unwrap_err(),
                format!("its first line has {length} characters")
            );
        }
        for mode in [0o640, 0o604] {
            write(TOKEN, mode);
            assert_eq!(
                read().unwrap_err(),
                format!("mode {mode:04o} lets others than its owner use it")
            );
        }
        write(TOKEN, 0o666);
        assert!(read().is_err());
        fs::remove_file(&path).unwrap();
        symlink(directory.path(), &path).unwrap();
        assert_eq!(read().unwrap_err(), "not a regular file");
    }
}
