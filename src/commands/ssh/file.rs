//! One user's `.ssh/authorized_keys`. Floor 4.
//!
//! Every step below the home directory goes by a descriptor of the directory before it (openat(2)), so that the user cannot
//! replace a directory by a link between two steps. `ssh` calls this on a thread that has the user's rights.

use std::ffi::OsStr;
use std::fs::{File, FileType};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};

use crate::sys::strerror;

const DIRECTORY: &str = ".ssh";
const FILE: &str = "authorized_keys";
/// Far more than anyone's keys. Lines have their own limit, because each takes 16 bytes in memory, empty ones, too.
const MAX_SIZE: usize = 1 << 20;
const MAX_LINES: usize = 10_000;
/// Those of agents that were killed may be in use.
const MAX_TEMP_NAME_TRIES: u32 = 100;

pub struct KeyFile {
    home: PathBuf,
    uid: Uid,
    gid: Gid,
}

#[derive(Debug)]
pub struct KeyFileError {
    action: String,
    error: io::Error,
}

impl KeyFileError {
    /// For the wire.
    pub fn text(&self) -> String {
        format!("{}: {}", self.action, strerror(&self.error))
    }

    /// There is no such file or directory, or a file is in the directory's place.
    pub fn is_missing(&self) -> bool {
        matches!(
            self.error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        )
    }
}

impl KeyFile {
    pub fn new(home: &Path, uid: Uid, gid: Gid) -> Self {
        Self {
            home: home.to_owned(),
            uid,
            gid,
        }
    }

    fn directory(&self) -> PathBuf {
        self.home.join(DIRECTORY)
    }

    fn path(&self) -> PathBuf {
        self.directory().join(FILE)
    }

    /// Fails if the file is a link, no regular file, or longer than 1 MiB or 10,000 lines.
    pub fn read(&self) -> Result<Vec<u8>, KeyFileError> {
        let path = self.path();
        let fail = |step: &str, error: io::Error| {
            let path = path.display();
            KeyFileError {
                action: format!("failed to read '{path}': {step} file \u{201C}{path}\u{201D}"),
                error,
            }
        };
        let open = self.open_file();
        let mut file = open.map_err(|error| fail("Failed to open", error))?;
        let mut content = Vec::new();
        let read = Read::by_ref(&mut file)
            .take(MAX_SIZE as u64 + 1)
            .read_to_end(&mut content);
        read.map_err(|error| fail("Failed to read", error))?;
        check_length(&content).map_err(|error| KeyFileError {
            action: format!("failed to read '{}'", path.display()),
            error,
        })?;
        Ok(content)
    }

    fn open_file(&self) -> io::Result<File> {
        let directory = self.open_directory()?;
        // Without O_NONBLOCK the open of a FIFO waits for its other end.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        // Without O_LARGEFILE a 32-bit process gets EOVERFLOW for a file over 2 GiB, in place of the error about its size.
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_LARGEFILE;
        let file = File::from(openat(&directory, FILE, flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("Not a regular file"));
        }
        Ok(file)
    }

    /// Succeeds if [`KeyFile::replace`] replaces a regular file or makes a new one. The old file need not be readable.
    pub fn check_replaceable(&self) -> Result<(), KeyFileError> {
        let fail = |error: io::Error| {
            let path = self.path();
            let path = path.display();
            KeyFileError {
                action: format!(
                    "failed to read '{path}': Failed to open file \u{201C}{path}\u{201D}"
                ),
                error,
            }
        };
        let directory = self.open_directory().map_err(fail)?;
        match file_type(&directory, FILE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Ok(found) if found.is_file() => Ok(()),
            Ok(found) if found.is_symlink() => Err(fail(Errno::ELOOP.into())),
            Ok(_) => Err(fail(io::Error::other("Not a regular file"))),
            Err(error) => Err(fail(error)),
        }
    }

    fn open_directory(&self) -> io::Result<OwnedFd> {
        let home = self.open_home()?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(&home, DIRECTORY, flags, Mode::empty()) {
            // The kernel's error for a link, too, where O_DIRECTORY is given; ELOOP tells what it is.
            Err(Errno::ENOTDIR)
                if file_type(&home, DIRECTORY).is_ok_and(|kind| kind.is_symlink()) =>
            {
                Err(Errno::ELOOP.into())
            }
            directory => Ok(directory?),
        }
    }

    /// The path to a home directory is the administrator's, and may have links.
    fn open_home(&self) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(open(&self.home, flags, Mode::empty())?)
    }

    pub fn make_directory(&self) -> Result<(), KeyFileError> {
        let fail = |error: io::Error| KeyFileError {
            action: format!(
                "failed to create directory '{}'",
                self.directory().display()
            ),
            error,
        };
        let home = self.open_home().map_err(fail)?;
        if file_type(&home, DIRECTORY).is_ok_and(|kind| kind.is_dir()) {
            return Ok(());
        }
        mkdirat(&home, DIRECTORY, Mode::S_IRWXU).map_err(|errno| fail(errno.into()))
    }

    /// Fails also if [`KeyFile::read`] would not read `content`. After an error the old file is as it was.
    pub fn replace(&self, content: &[u8]) -> Result<(), KeyFileError> {
        let path = self.path();
        let write = |error: io::Error| KeyFileError {
            action: format!("failed to write to '{}'", path.display()),
            error,
        };
        check_length(content).map_err(write)?;
        let directory = self.open_directory().map_err(write)?;
        let (file, name) = create_temporary(&directory).map_err(|error| KeyFileError {
            action: format!(
                "failed to write to '{path}': Failed to create file \u{201C}{path}\u{201D}",
                path = path.display()
            ),
            error,
        })?;
        let finish = || {
            self.write_content(&file, content)?;
            let renamed = renameat(&directory, name.as_str(), &directory, FILE);
            renamed.map_err(|errno| write(errno.into()))
        };
        finish().inspect_err(|_| {
            // A file that stays is harmless, and the error to report is the first one.
            unlinkat(&directory, name.as_str(), UnlinkatFlags::NoRemoveDir).ok();
        })
    }

    fn write_content(&self, mut file: &File, content: &[u8]) -> Result<(), KeyFileError> {
        let fail = |action: &'static str| {
            move |error: io::Error| KeyFileError {
                action: format!("failed to {action} '{}'", self.path().display()),
                error,
            }
        };
        // On disk before the rename: after a power cut the file is the old or the new one, not an empty one.
        let written = file.write_all(content).and_then(|()| file.sync_all());
        written.map_err(fail("write to"))?;
        let owner = file.metadata().map_err(fail("write to"))?;
        // It is the user's own, unless a set-group-ID directory gave it its group.
        if owner.uid() != self.uid.as_raw() || owner.gid() != self.gid.as_raw() {
            fchown(file, Some(self.uid), Some(self.gid))
                .map_err(|errno| fail("set ownership of directory")(errno.into()))?;
        }
        fchmod(file, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|errno| fail("set permissions of")(errno.into()))
    }
}

fn check_length(content: &[u8]) -> io::Result<()> {
    let mut lines = content.splitn(MAX_LINES + 1, |&byte| byte == b'\n');
    Err(io::Error::other(if content.len() > MAX_SIZE {
        "larger than 1 MiB; remove keys that nobody needs"
    } else if lines.nth(MAX_LINES).is_some_and(|rest| !rest.is_empty()) {
        "more than 10000 lines; remove keys that nobody needs"
    } else {
        return Ok(());
    }))
}

/// Links are not followed. Not by fstatat(2): on 32-bit systems nix's `stat` has no room for the inode numbers of large
/// filesystems, and the call fails.
fn file_type(directory: &OwnedFd, name: &str) -> io::Result<FileType> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let entry = File::from(openat(directory, name, flags, Mode::empty())?);
    Ok(entry.metadata()?.file_type())
}

/// In the same directory, so that rename(2) can replace the old file.
fn create_temporary(directory: &OwnedFd) -> io::Result<(File, String)> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let mut last = Errno::EEXIST;
    for number in 0..MAX_TEMP_NAME_TRIES {
        let name = format!("{FILE}.{}-{number}", std::process::id());
        match openat(
            directory,
            OsStr::new(&name),
            flags,
            Mode::S_IRUSR | Mode::S_IWUSR,
        ) {
            Ok(file) => return Ok((file.into(), name)),
            Err(Errno::EEXIST) => {}
            Err(errno) => {
                last = errno;
                break;
            }
        }
    }
    Err(last.into())
}
