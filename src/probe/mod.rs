//! Floor 1: what the running system says about itself, read from /proc, /sys, /run/udev and
//! os-release.
//!
//! Each parser is a function of text. Each reader takes the [`System`] it looks at, which is a root
//! directory, so that a captured system is test data. Nothing here forks a process, keeps state or
//! panics on odd input: what can't be understood is left out.
#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

pub mod address;
#[cfg(test)]
pub mod capture;
pub mod diskstats;
pub mod filesystems;
pub mod interfaces;
pub mod location;
pub mod meminfo;
pub mod mount_root;
pub mod mountinfo;
pub mod netdev;
pub mod nvme;
pub mod osrelease;
pub mod procstat;
pub mod route;
pub mod rtnetlink;
pub mod shutdown;
pub mod stack;
pub mod superblocks;
pub mod swaps;
pub mod sysblock;
pub mod udev;
pub mod utmp;
pub mod write_counters;
pub mod writers;

/// Longest attribute of sysfs: a page of the smallest size that there is.
const ATTRIBUTE: usize = 4096;

/// A system to look at: the directory that stands for `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    root: PathBuf,
}

impl System {
    /// The running system.
    pub fn host() -> Self {
        Self {
            root: PathBuf::from("/"),
        }
    }

    /// The system whose root directory is `root`.
    ///
    /// # Errors
    /// `root` can't be resolved.
    pub fn at(root: &Path) -> io::Result<Self> {
        Ok(Self {
            root: root.canonicalize()?,
        })
    }

    /// The root directory, without symbolic links.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the absolute `path` of this system really is.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let mut below = path.as_ref().as_os_str().as_bytes();
        while let [b'/', rest @ ..] = below {
            below = rest;
        }
        self.root.join(OsStr::from_bytes(below))
    }

    /// The mount table.
    ///
    /// # Errors
    /// It can't be read.
    pub fn mounts(&self) -> io::Result<Vec<mountinfo::Mount>> {
        mountinfo::read(&self.root)
    }

    /// The filesystems with a block device among `mounts`, in file order, and the mounts left out.
    pub fn block_filesystems(
        &self,
        mounts: &[mountinfo::Mount],
    ) -> (Vec<filesystems::Filesystem>, Vec<filesystems::Skipped>) {
        filesystems::block_filesystems(mounts, &|source| {
            mountinfo::block_device(&self.root, source)
        })
    }

    /// A whole file.
    ///
    /// # Errors
    /// It can't be opened or read.
    pub fn bytes(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, Error> {
        let path = path.as_ref();
        let fail = |call| {
            move |source| Error {
                call,
                path: path.to_owned(),
                source,
            }
        };
        let mut file = std::fs::File::open(self.path(path)).map_err(fail("open"))?;
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut file, &mut bytes).map_err(fail("read"))?;
        Ok(bytes)
    }

    /// A whole file as text; what is not UTF-8 in it becomes U+FFFD.
    ///
    /// # Errors
    /// It can't be opened or read.
    pub fn text(&self, path: impl AsRef<Path>) -> Result<String, Error> {
        Ok(String::from_utf8(self.bytes(path)?)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// What an attribute in sysfs says, which is a page at most and comes in one piece; empty if it
    /// can't be read.
    pub fn attribute(&self, path: &Path) -> String {
        let mut page = [0; ATTRIBUTE];
        let read = std::fs::File::open(self.path(path))
            .and_then(|mut file| io::Read::read(&mut file, &mut page));
        let text = page.get(..read.unwrap_or(0)).unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }

    /// Where a link in sysfs leads. Those are relative and lead to a real path below
    /// `/sys/devices`, so that one look is enough.
    ///
    /// # Errors
    /// It is no link or can't be read; or, if it is none of sysfs, it can't be resolved.
    pub fn sysfs_link(&self, path: &Path) -> Result<PathBuf, Error> {
        let target = std::fs::read_link(self.path(path)).map_err(|source| Error {
            call: "realpath",
            path: path.to_owned(),
            source,
        })?;
        // As many directories up as it says, then names.
        let (mut up, mut names) = (1, target.as_os_str().as_bytes());
        while let Some(rest) = names.strip_prefix(b"../") {
            (up, names) = (up + 1, rest);
        }
        let mut parts = path.as_os_str().as_bytes().rsplitn(up + 1, |&b| b == b'/');
        let real = [parts.nth(up).unwrap_or_default(), names].join(&b'/');
        let is_name = |part: &[u8]| !matches!(part, b"" | b"." | b"..");
        if real.starts_with(b"/sys/devices/") && names.split(|&b| b == b'/').all(is_name) {
            Ok(OsString::from_vec(real).into())
        } else {
            self.resolve(path)
        }
    }

    /// `realpath(path)` as this system sees it.
    ///
    /// # Errors
    /// It can't be resolved, or leads out of the root directory.
    pub fn resolve(&self, path: &Path) -> Result<PathBuf, Error> {
        let fail = |source| Error {
            call: "realpath",
            path: path.to_owned(),
            source,
        };
        let real = self.path(path).canonicalize().map_err(fail)?;
        match real.strip_prefix(&self.root) {
            Ok(below) => Ok(Path::new("/").join(below)),
            Err(_) => Err(fail(io::Error::other("it leads out of the root directory"))),
        }
    }

    /// The names in a directory, in the order the kernel tells them.
    ///
    /// # Errors
    /// The directory can't be opened or read.
    pub fn names(&self, path: &Path) -> Result<Vec<OsString>, Error> {
        let fail = |call| {
            move |source| Error {
                call,
                path: path.to_owned(),
                source,
            }
        };
        let entries = std::fs::read_dir(self.path(path)).map_err(fail("opendir"))?;
        entries
            .map(|entry| Ok(entry.map_err(fail("readdir"))?.file_name()))
            .collect()
    }
}

/// A path that can't be read, and what was tried.
#[derive(Debug)]
pub struct Error {
    /// The call that failed, by its C name.
    pub call: &'static str,
    /// What it was called for.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

impl Error {
    /// The thing is not there (ENOENT), which is often no failure.
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}(\"{}\"): {}",
            self.call,
            self.path.display(),
            self.source
        )
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        let root = tempfile::tempdir().unwrap();
        let system = System::at(root.path()).unwrap();
        let real = root.path().canonicalize().unwrap();
        assert_eq!(system.path("/a/b"), real.join("a/b"));
        std::fs::create_dir_all(real.join("a/b")).unwrap();
        std::os::unix::fs::symlink("a/b", real.join("in")).unwrap();
        std::os::unix::fs::symlink("/", real.join("out")).unwrap();
        assert_eq!(system.resolve(Path::new("/in")).unwrap(), Path::new("/a/b"));
        let error = system.resolve(Path::new("/out")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "realpath(\"/out\"): it leads out of the root directory"
        );
        assert!(system.resolve(Path::new("/none")).unwrap_err().is_missing());
    }

    #[test]
    fn links_of_sysfs_and_others() {
        let root = tempfile::tempdir().unwrap();
        let system = System::at(root.path()).unwrap();
        let link = |from: &str, to: &str| {
            let from = system.path(from);
            std::fs::create_dir_all(from.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(to, from).unwrap();
        };
        let lead = |path: &str| system.sysfs_link(Path::new(path));
        std::fs::create_dir_all(system.path("/sys/devices/pci/x")).unwrap();
        link("/sys/block/x", "../devices/pci/x");
        assert_eq!(
            lead("/sys/block/x").unwrap(),
            Path::new("/sys/devices/pci/x")
        );
        link("/sys/block/y", "./x");
        assert_eq!(
            lead("/sys/block/y").unwrap(),
            Path::new("/sys/devices/pci/x")
        );
        link("/sys/block/z", "/nonexistent");
        assert!(lead("/sys/block/z").unwrap_err().is_missing());
        assert!(lead("/sys/block/none").unwrap_err().is_missing());
        assert!(!lead("/sys/devices/pci/x").unwrap_err().is_missing());
    }

    #[test]
    fn attributes() {
        let root = tempfile::tempdir().unwrap();
        let system = System::at(root.path()).unwrap();
        std::fs::write(system.path("/size"), "5\n").unwrap();
        assert_eq!(system.attribute(Path::new("/size")), "5\n");
        assert_eq!(system.attribute(Path::new("/none")), "");
    }
}
