//! Floor 4: guest-fstrim: FITRIM on every filesystem that a freeze would count, so that the host can free the blocks.
//!
//! It may take hours on large disks, so it runs on a worker thread and is interruptible. A filesystem that cannot be
//! trimmed has its error in the reply; it does not fail the command.

use super::{Class, Command, CommandFuture, answer, worker};
use crate::deadline::Pool;
use crate::probe::System;
use crate::probe::mount_root::MountRoot;
use crate::protocol::arguments::decode;
use crate::protocol::error::CommandError;
use crate::protocol::text::from_os_bytes;
use crate::protocol::value::Dict;
use crate::sys::fstrim::{Trimmed, trim};
use crate::sys::strerror;
use nix::libc;
use serde::{Deserialize, Serialize};
use std::io;
use std::time::Duration;

pub(super) const COMMANDS: &[Command] =
    &[
        Command::later(18, "guest-fstrim", Class::Hardware, |_, arguments| {
            fstrim(arguments)
        })
        .interruptible(),
    ];

/// The path may cross a network filesystem that does not respond.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Fstrim {
    minimum: Option<i64>,
}

#[derive(Debug, Serialize)]
struct TrimReply {
    paths: Vec<TrimmedFilesystem>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct TrimmedFilesystem {
    path: String,
    /// Bytes; the schema's `int` is signed.
    trimmed: Option<i64>,
    minimum: Option<i64>,
    error: Option<String>,
}

fn fstrim(arguments: Dict) -> CommandFuture<'static> {
    Box::pin(async move {
        let Fstrim { minimum } = decode(arguments)?;
        tracing::info!(target: crate::AUDIT, "guest-fstrim called");
        // As in the original, a negative number becomes a huge one, which most filesystems refuse.
        let minimum = minimum.unwrap_or(0) as u64;
        let report = worker::run(worker::FSTRIM_TIMEOUT, move || {
            let pool = Pool::default();
            trim_all(&System::host(), &|root| {
                let file = pool.run_one(Some(OPEN_TIMEOUT), drop, || root.open());
                trim(file.map_err(TrimError::Open)?, minimum).map_err(TrimError::Trim)
            })
        });
        answer(report.await?)
    })
}

#[derive(Debug)]
enum TrimError {
    Open(io::Error),
    Trim(io::Error),
}

/// The reply has the last mounted filesystem first.
fn trim_all(
    system: &System,
    trim: &dyn Fn(MountRoot) -> Result<Trimmed, TrimError>,
) -> Result<TrimReply, CommandError> {
    let mounts = system.mounts().map_err(|e| {
        CommandError::generic(format!("cannot read the mount table: {}", strerror(&e)))
    })?;
    let (filesystems, _) = system.block_filesystems(&mounts);
    let mut paths: Vec<TrimmedFilesystem> = filesystems
        .iter()
        .map(|filesystem| {
            let root = MountRoot::of(&mounts, filesystem, &filesystem.mountpoint);
            describe(&filesystem.mountpoint, trim(root))
        })
        .collect();
    paths.reverse();
    Ok(TrimReply { paths })
}

fn describe(path: &[u8], result: Result<Trimmed, TrimError>) -> TrimmedFilesystem {
    let path = from_os_bytes(path);
    let error = match result {
        Ok(Trimmed { bytes, minimum }) => {
            return TrimmedFilesystem {
                path,
                trimmed: Some(bytes as i64),
                minimum: Some(minimum as i64),
                error: None,
            };
        }
        Err(TrimError::Open(e)) => format!("failed to open: {}", strerror(&e)),
        Err(TrimError::Trim(e)) => match e.raw_os_error() {
            // ENOTTY: the filesystem has no such ioctl; EOPNOTSUPP: its device cannot discard.
            Some(libc::ENOTTY | libc::EOPNOTSUPP) => "trim not supported".to_owned(),
            _ => format!("failed to trim: {}", strerror(&e)),
        },
    };
    TrimmedFilesystem {
        path,
        trimmed: None,
        minimum: None,
        error: Some(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{reply, value::to_value};

    #[test]
    fn each_filesystem_tells_its_own_end() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("proc/self")).unwrap();
        let table = [
            "1 8:1 /",
            "2 8:2 /ok",
            "3 8:2 /again",
            "4 8:3 /odd\\040one",
            "5 0:9 /tmp",
            "6 8:4 /gone",
            "7 8:5 /old",
        ]
        .map(|line| {
            let [id, device, path] =
                <[&str; 3]>::try_from(line.split(' ').collect::<Vec<_>>()).unwrap();
            format!("{id} 1 {device} / {path} rw - ext4 /dev/x rw\n")
        });
        std::fs::write(root.path().join("proc/self/mountinfo"), table.concat()).unwrap();
        let system = System::at(root.path()).unwrap();
        let error = io::Error::from_raw_os_error;
        let report = trim_all(&system, &|root| match root.mountpoint() {
            b"/ok" => Ok(Trimmed {
                bytes: 4096,
                minimum: 512,
            }),
            b"/odd one" => Err(TrimError::Trim(error(libc::EINVAL))),
            b"/gone" => Err(TrimError::Open(error(libc::ENOENT))),
            b"/old" => Err(TrimError::Trim(error(libc::ENOTTY))),
            _ => Err(TrimError::Trim(error(libc::EOPNOTSUPP))),
        });
        let mut line = Vec::new();
        reply::write(&mut line, None, Ok(&to_value(&report.unwrap())), false);
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "{\"return\": {\"paths\": [\
             {\"path\": \"/old\", \"error\": \"trim not supported\"}, \
             {\"path\": \"/gone\", \"error\": \"failed to open: No such file or directory\"}, \
             {\"path\": \"/odd one\", \"error\": \"failed to trim: Invalid argument\"}, \
             {\"minimum\": 512, \"path\": \"/ok\", \"trimmed\": 4096}, \
             {\"path\": \"/\", \"error\": \"trim not supported\"}]}}\n"
        );
    }
}
