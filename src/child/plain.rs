//! Scripts without an interpreter line. glibc's execvp(3) hands them to the shell; where the C
//! library does not, the same is done here, so that a hook runs whatever the agent was built with.

use std::ffi::OsStr;
use std::process::Command;

/// A command that runs `program`; one without a slash is searched in `path`.
#[cfg(target_env = "gnu")]
pub fn command(program: &OsStr, _path: Option<&OsStr>) -> Command {
    Command::new(program)
}

/// A command that runs `program`; one without a slash is searched in `path`.
#[cfg(not(target_env = "gnu"))]
pub fn command(program: &OsStr, path: Option<&OsStr>) -> Command {
    match script(program, path) {
        Some(file) => {
            let mut shell = Command::new("/bin/sh");
            shell.arg(file);
            shell
        }
        None => Command::new(program),
    }
}

/// The file of `program` if the kernel would execute it but for its missing interpreter line. What
/// cannot be looked at is left to the kernel, whose error is told.
#[cfg(not(target_env = "gnu"))]
fn script(program: &OsStr, path: Option<&OsStr>) -> Option<std::path::PathBuf> {
    use std::io::Read;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;

    let is_program = |file: &std::path::PathBuf| {
        let found = std::fs::metadata(file);
        found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let file = if program.as_bytes().contains(&b'/') {
        Some(program.into()).filter(is_program)?
    } else {
        let ours = std::env::var_os("PATH");
        let path = path.or(ours.as_deref())?;
        let mut places = std::env::split_paths(path).map(|place| place.join(program));
        places.find(is_program)?
    };
    let mut head = [0; 128];
    let length = std::fs::File::open(&file).ok()?.read(&mut head).ok()?;
    let head = head.get(..length)?;
    let is_known = head.starts_with(b"#!") || head.contains(&0);
    (!is_known).then_some(file)
}
