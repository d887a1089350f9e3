//! Floor 4: guest-set-user-password.
//!
//! chpasswd(8) sets the password, because it knows the system's rules (PAM, hash, lock files). The password goes to the
//! helper's standard input, never to an argument, the environment or a log, and every copy made here is overwritten before
//! its memory is freed: other processes of root, core dumps and swap would keep it otherwise.

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::{Class, Command, CommandFuture, Context, empty, run_helper, worker};
use crate::child::Child;
use crate::protocol::arguments::decode;
use crate::protocol::base64;
use crate::protocol::error::CommandError;
use crate::protocol::text::to_os_bytes;
use crate::protocol::value::Dict;

pub(super) const COMMANDS: &[Command] = &[Command::later(
    27,
    "guest-set-user-password",
    Class::User,
    set_user_password_here,
)];

const ACTION: &str = "set user password";
/// A directory service may be slow, but one that never answers must not keep the host waiting.
const CHPASSWD_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Deserialize)]
struct SetUserPassword {
    username: String,
    /// In base64.
    password: String,
    /// Whether it is a hash already.
    crypted: bool,
}

fn set_user_password_here(_: &mut Context, arguments: Dict) -> CommandFuture<'_> {
    Box::pin(async move {
        let arguments = decode(arguments)?;
        worker::run(worker::SLOW_COMMAND_TIMEOUT, move || {
            set_user_password(Path::new("chpasswd"), arguments)
        })
        .await?;
        empty()
    })
}

/// `helper` is looked for in PATH if it has no slash.
fn set_user_password(helper: &Path, arguments: SetUserPassword) -> Result<(), CommandError> {
    let SetUserPassword {
        username,
        password,
        crypted,
    } = arguments;
    let encoded = Wiped(password.into_bytes());
    // The bytes are those of a string.
    let password = Wiped(base64::decode(
        std::str::from_utf8(&encoded.0).unwrap_or_default(),
    )?);
    let line = credentials(&to_os_bytes(&username), &password.0)?;
    let mut child = Child::new(helper)
        .stdin(line)
        .timeout(Some(CHPASSWD_TIMEOUT));
    if crypted {
        child = child.arg("-e");
    }
    run_helper(child, ACTION)
}

/// The helper's line: `USER:PASSWORD`.
fn credentials(username: &[u8], password: &[u8]) -> Result<Vec<u8>, CommandError> {
    // As in the original, a NUL ends it.
    let password = password.split(|&byte| byte == 0).next().unwrap_or_default();
    if password.contains(&b'\n') {
        return Err(CommandError::generic(
            "forbidden characters in raw password",
        ));
    }
    if username.iter().any(|byte| matches!(byte, b'\n' | b':')) {
        return Err(CommandError::generic("forbidden characters in username"));
    }
    // In one allocation: a vector that grows leaves a copy of the password in freed memory.
    Ok([username, b":", password, b"\n"].concat())
}

/// Bytes that are overwritten before their memory is freed.
struct Wiped(Vec<u8>);

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.fill(0);
        // The compiler would remove a write that nothing reads.
        black_box(&mut self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    /// A helper that keeps its arguments and input, and exits with `status`.
    fn stub(directory: &Path, status: i32) -> PathBuf {
        let path = directory.join("chpasswd");
        let heard = directory.join("heard");
        let script = format!(
            "#!/bin/sh\n{{ echo \"$@\"; cat; }} > {}\n[ {status} = 0 ] || {{ echo one; echo two >&2; }}\nexit {status}\n",
            heard.display()
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn set(helper: &Path, username: &str, password: &[u8], crypted: bool) -> Result<(), String> {
        let arguments = SetUserPassword {
            username: username.into(),
            password: base64::encode(password),
            crypted,
        };
        set_user_password(helper, arguments).map_err(|error| error.desc)
    }

    #[test]
    fn the_helper_hears_user_and_password() {
        let directory = tempfile::tempdir().unwrap();
        let helper = stub(directory.path(), 0);
        let heard = || fs::read_to_string(directory.path().join("heard")).unwrap();
        set(&helper, "tu", b"se:cret \xC3\xA9", false).unwrap();
        assert_eq!(heard(), "\ntu:se:cret \u{E9}\n");
        set(&helper, "tu", b"$6$salt$hash", true).unwrap();
        assert_eq!(heard(), "-e\ntu:$6$salt$hash\n");
        set(&helper, "tu", b"cut\0off\n", false).unwrap();
        assert_eq!(heard(), "\ntu:cut\n");
        set(&helper, "", b"", false).unwrap();
        assert_eq!(heard(), "\n:\n");
    }

    #[test]
    fn bad_input_does_not_reach_the_helper() {
        let directory = tempfile::tempdir().unwrap();
        let helper = stub(directory.path(), 0);
        let raw = Err("forbidden characters in raw password".to_owned());
        let name = Err("forbidden characters in username".to_owned());
        assert_eq!(set(&helper, "t:u", b"a\nb", false), raw);
        assert_eq!(set(&helper, "t:u", b"a", false), name);
        assert_eq!(set(&helper, "tu\nroot", b"a", false), name);
        let arguments = SetUserPassword {
            username: "t:u".into(),
            password: "%%".into(),
            crypted: false,
        };
        let error = set_user_password(&helper, arguments).unwrap_err();
        assert_eq!(error, CommandError::base64());
        assert!(!directory.path().join("heard").exists());
    }

    #[test]
    fn the_helper_s_words_are_the_error() {
        let directory = tempfile::tempdir().unwrap();
        let helper = stub(directory.path(), 1);
        assert_eq!(
            set(&helper, "tu", b"secret", false),
            Err("child process has failed to set user password: one\ntwo\n".into())
        );
        let none = directory.path().join("none");
        assert_eq!(
            set(&none, "tu", b"secret", false),
            Err(format!(
                "child process has failed to set user password: failed to exec '{}': \
                 No such file or directory\n",
                none.display()
            ))
        );
    }
}
