//! The hooks' directory, fsfreeze-hook.d: every executable file, in the byte order of the names.
//!
//! Backups, package managers' files and samples are ignored, as hooks/README.md says. A file is opened and checked
//! once; its head is read from the same descriptor.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::libc;
use nix::unistd::{AccessFlags, eaccess};

use super::adapter::Discovered;
use super::settings::{EffectiveSettings, HookConfig, HookKind};
use super::task::{CommandLine, Eligibility, HookTask};
use super::trust::{self, quoted};
use crate::diagnostic::Diagnostic;
use crate::sys::strerror;

const SAMPLE: &str = ".sample";
const SKIPPED_ENDINGS: [&str; 14] = [
    "~",
    ".bak",
    ".orig",
    ".rpmnew",
    ".rpmorig",
    ".rpmsave",
    SAMPLE,
    ".dpkg-old",
    ".dpkg-new",
    ".dpkg-tmp",
    ".dpkg-dist",
    ".dpkg-bak",
    ".dpkg-backup",
    ".dpkg-remove",
];
/// Decides whether a file is a script.
const MAX_HEAD_BYTES: u64 = 8192;
/// More than the lines that may have settings, so that settings after them are reported.
const MAX_SCRIPT_BYTES: u64 = 1 << 20;

/// Fails if another user could have changed the directory or a hook that would run.
pub fn find(dir: &Path, rules: &HookConfig) -> Result<Discovered, Diagnostic> {
    let dir = &trust::absolute(dir);
    let unreadable = |error: io::Error| {
        let what = format!("cannot read the hook directory {}", dir.display());
        Diagnostic::new(what, strerror(&error), "")
    };
    // Check the directory first: the content of a directory that others can write is not evaluated.
    match fs::metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Discovered::default()),
        Err(error) => return Err(unreadable(error)),
        Ok(data) if !data.is_dir() => {
            return Err(unreadable(io::Error::from_raw_os_error(libc::ENOTDIR)));
        }
        Ok(_) => trust::check(dir)?,
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        names.push(entry.map_err(unreadable)?.file_name());
    }
    names.retain(|name| !is_skipped(name));
    // OsString compares bytes, so the locale does not affect the order.
    names.sort_unstable();
    let mut found = Discovered::default();
    for name in &names {
        if let Some((task, warnings)) = of_file(&dir.join(name), rules)? {
            found.tasks.push(task);
            found.warnings.extend(warnings);
        }
    }
    for name in rules.named_hooks() {
        let is_it = |known: &std::ffi::OsString| known.as_bytes() == name.as_bytes();
        if !names.iter().any(is_it) {
            found.warnings.push(format!(
                "[hook {name}] has settings for a hook that is not in {}",
                dir.display()
            ));
        }
    }
    found.warnings.dedup();
    Ok(found)
}

/// None if it is not a file. A sample gets the settings that it will have once it is renamed.
pub fn of_file(
    path: &Path,
    rules: &HookConfig,
) -> Result<Option<(HookTask, Vec<String>)>, Diagnostic> {
    let Some((eligibility, head)) = examine(path)? else {
        return Ok(None);
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(SAMPLE).unwrap_or(&name);
    let EffectiveSettings {
        policy,
        warnings,
        fault,
    } = rules.of_hook(name, &head);
    let command = |phase: &str| CommandLine {
        program: path.to_owned(),
        args: vec![phase.into()],
        timeout: policy.timeout,
        retries: policy.retries,
    };
    let (freeze, thaw) = (command("freeze"), command("thaw"));
    let mut task = HookTask::new(path.to_string_lossy().into_owned(), policy);
    task.freeze = Some(freeze);
    task.thaw = (task.policy.kind == HookKind::Once).then_some(thaw);
    task.eligibility = match fault {
        Some(reason) if eligibility == Eligibility::Fit => Eligibility::unfit(reason),
        _ => eligibility,
    };
    Ok(Some((task, warnings)))
}

fn is_skipped(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b".")
        || SKIPPED_ENDINGS
            .iter()
            .any(|end| name.ends_with(end.as_bytes()))
}

/// Whether it can run, and its head; None for a directory or a socket.
fn examine(path: &Path) -> Result<Option<(Eligibility, Vec<u8>)>, Diagnostic> {
    let data = match fs::metadata(path) {
        Ok(data) => data,
        Err(error) => {
            let why = Diagnostic::new("it leads nowhere", strerror(&error), "");
            return Ok(Some((Eligibility::Skipped(why), Vec::new())));
        }
    };
    if !data.is_file() {
        return Ok(None);
    }
    if eaccess(path, AccessFlags::X_OK).is_err() {
        let mode = data.mode() & 0o7777;
        let (why, remedy) = if mode & 0o111 == 0 {
            let remedy = format!("to have it run: chmod +x {}", quoted(path));
            (format!("not executable (mode {mode:04o})"), remedy)
        } else {
            let why =
                format!("cannot be executed by this process, although its mode is {mode:04o}");
            (why, "is its filesystem mounted noexec?".to_owned())
        };
        let why = Diagnostic::new("", why, remedy);
        return Ok(Some((Eligibility::Skipped(why), Vec::new())));
    }
    let place = trust::open(path)?;
    Ok(Some((Eligibility::Fit, head_of(&place))))
}

/// Reads from the descriptor that was checked. A file that cannot be read has no settings of its own.
fn head_of(place: &File) -> Vec<u8> {
    let mut head = Vec::new();
    let mut read = || {
        let file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))?;
        (&file).take(MAX_HEAD_BYTES).read_to_end(&mut head)?;
        if !head.contains(&0) {
            file.take(MAX_SCRIPT_BYTES).read_to_end(&mut head)?;
        }
        io::Result::Ok(())
    };
    match read() {
        Ok(()) => head,
        Err(_) => Vec::new(),
    }
}
