//! One user's `.ssh/authorized_keys`, reached by descriptors from the home directory on, so that
//! nothing can be swapped for a link between two steps. To be used with the user's rights.

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
/// More than anybody's keys; what a line costs in memory is many times an empty line's length.
const MAX_SIZE: usize = 1 << 20;
const MAX_LINES: usize = 10_000;
/// Names tried for the new file.
const MAX_TEMP_NAME_TRIES: u32 = 100;

/// Where the keys are, and whose they are.
pub struct KeyFile {
    home: PathBuf,
    uid: Uid,
    gid: Gid,
}

/// What failed, and why.
#[derive(Debug)]
pub struct KeyFileError {
    action: String,
    error: io::Error,
}

impl KeyFileError {
    /// The wire's text.
    pub fn text(&self) -> String {
        format!("{}: {}", self.action, strerror(&self.error))
    }

    /// There is no such file or directory, or what should be the directory is none.
    pub fn is_missing(&self) -> bool {
        matches!(
            self.error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        )
    }
}

impl KeyFile {
    /// The key file below `home` of that user.
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

    /// All of the file.
    ///
    /// # Errors
    /// It is missing, a link, no regular file, longer than 1 MiB or 10,000 lines, or the user may not read it.
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
        // Without O_NONBLOCK a FIFO would keep us waiting for its other end.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        // With 32 bits a file of more than 2 GiB does not open otherwise, and fails for another reason.
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_LARGEFILE;
        let file = File::from(openat(&directory, FILE, flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("Not a regular file"));
        }
        Ok(file)
    }

    /// Succeeds if [`KeyFile::replace`] replaces a regular file or makes a new one. The old file need not be readable.
    ///
    /// # Errors
    /// There is a link or something else that is no regular file, or the directory cannot be opened.
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
            // What the kernel says of a link, too, where a directory is wanted.
            Err(Errno::ENOTDIR) if file_type(&home, DIRECTORY).is_ok_and(|it| it.is_symlink()) => {
                Err(Errno::ELOOP.into())
            }
            directory => Ok(directory?),
        }
    }

    /// The way to a home is the administrator's to arrange; it may have links.
    fn open_home(&self) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(open(&self.home, flags, Mode::empty())?)
    }

    /// Makes `.ssh`, unless it is there.
    ///
    /// # Errors
    /// Something else is in its place, or the user may not.
    pub fn make_directory(&self) -> Result<(), KeyFileError> {
        let fail = |error: io::Error| KeyFileError {
            action: format!(
                "failed to create directory '{}'",
                self.directory().display()
            ),
            error,
        };
        let home = self.open_home().map_err(fail)?;
        if file_type(&home, DIRECTORY).is_ok_and(|it| it.is_dir()) {
            return Ok(());
        }
        mkdirat(&home, DIRECTORY, Mode::S_IRWXU).map_err(|errno| fail(errno.into()))
    }

    /// Puts a new file with this content in the place of the old one.
    ///
    /// # Errors
    /// The user may not write there, the filesystem is full, or [`KeyFile::read`] would not read it; the old file is as
    /// it was.
    pub fn replace(&self, content: &[u8]) -> Result<(), KeyFileError> {
        let path = self.path();
        let write = |error: io::Error| KeyFileError {
            action: format!("failed to write to '{}'", path.display()),
            error,
        };
        check_length(content).map_err(write)?;
        let directory = self.open_directory().map_err(write)?;
        let (file, name) = create(&directory).map_err(|error| KeyFileError {
            action: format!(
                "failed to write to '{path}': Failed to create file \u{201C}{path}\u{201D}",
                path = path.display()
            ),
            error,
        })?;
        let finish = || {
            self.fill(&file, content)?;
            let renamed = renameat(&directory, name.as_str(), &directory, FILE);
            renamed.map_err(|errno| write(errno.into()))
        };
        finish().inspect_err(|_| {
            // The failure itself is what has to be told.
            unlinkat(&directory, name.as_str(), UnlinkatFlags::NoRemoveDir).ok();
        })
    }

    fn fill(&self, mut file: &File, content: &[u8]) -> Result<(), KeyFileError> {
        let fail = |action: &'static str| {
            move |error: io::Error| KeyFileError {
                action: format!("failed to {action} '{}'", self.path().display()),
                error,
            }
        };
        let written = file.write_all(content).and_then(|()| file.sync_all());
        written.map_err(fail("write to"))?;
        let owner = file.metadata().map_err(fail("write to"))?;
        // It is the user's own but where the directory hands down its group.
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

/// The type of an entry itself, links not followed. Not by fstatat(2), for with 32 bits nix's has no room for the inode numbers of large
/// filesystems.
fn file_type(directory: &OwnedFd, name: &str) -> io::Result<FileType> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let entry = File::from(openat(directory, name, flags, Mode::empty())?);
    Ok(entry.metadata()?.file_type())
}

/// A new file beside the old one, under a name that nobody has.
fn create(directory: &OwnedFd) -> io::Result<(File, String)> {
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
