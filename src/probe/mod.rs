//! The state of the running system (floor 1), read from /proc, /sys, /run/udev and os-release.
//!
//! Each parser is a function of text. Each reader gets the [`System`] to read, which is a root directory, so captured
//! systems are test data. Nothing here starts a process, keeps state or panics on unexpected input: what cannot be
//! understood is left out. The plan of a freeze, the commands that report on the guest, and the tools read by this.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

pub(crate) mod address;
#[cfg(test)]
pub(crate) mod capture;
pub(crate) mod confidential;
pub mod diskstats;
mod envfile;
pub mod filesystems;
pub(crate) mod interfaces;
pub(crate) mod location;
pub mod logind;
pub mod machine;
pub mod meminfo;
pub(crate) mod mount_root;
pub mod mountinfo;
pub mod netdev;
pub(crate) mod nvme;
pub mod osrelease;
pub mod partitions;
pub mod pressure;
pub mod procstat;
pub mod route;
pub mod rtnetlink;
pub(crate) mod shutdown;
pub(crate) mod stack;
pub(crate) mod superblocks;
pub mod swaps;
pub(crate) mod sysblock;
pub mod udev;
pub mod utmp;
pub(crate) mod write_counters;
pub(crate) mod writers;

/// Longest attribute of sysfs: a page (sysfs_emit in fs/sysfs/file.c), of the smallest page size.
const MAX_ATTRIBUTE_SIZE: usize = 4096;

/// A system to read: the directory that is its `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    root: PathBuf,
}

impl System {
    pub(crate) fn host() -> Self {
        Self {
            root: PathBuf::from("/"),
        }
    }

    /// `root` is the system's `/`.
    pub fn at(root: &Path) -> io::Result<Self> {
        Ok(Self {
            root: root.canonicalize()?,
        })
    }

    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        // Path::join with an absolute path would drop the root.
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    pub(crate) fn mounts(&self) -> io::Result<Vec<mountinfo::Mount>> {
        mountinfo::read(self)
    }

    pub(crate) fn block_filesystems(
        &self,
        mounts: &[mountinfo::Mount],
    ) -> (Vec<filesystems::Filesystem>, Vec<filesystems::Skipped>) {
        filesystems::block_filesystems(mounts, &|source| mountinfo::block_device(self, source))
    }

    pub(crate) fn bytes(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, Error> {
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

    /// Bytes that are not UTF-8 become U+FFFD.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> Result<String, Error> {
        Ok(into_text(self.bytes(path)?))
    }

    /// The text of an attribute in sysfs, which is at most a page and comes in one read(2). Empty if it cannot be read.
    pub(crate) fn attribute(&self, path: &Path) -> String {
        // The buffer on the stack and the single read(2) matter: a guest may have hundreds of disks with dozens of
        // attributes.
        let mut page = [0; MAX_ATTRIBUTE_SIZE];
        let read = std::fs::File::open(self.path(path))
            .and_then(|mut file| io::Read::read(&mut file, &mut page));
        let text = page.get(..read.unwrap_or(0)).unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }

    /// The target of a link in sysfs. It need not exist if the link has the usual form.
    pub(crate) fn sysfs_link(&self, path: &Path) -> Result<PathBuf, Error> {
        let target = std::fs::read_link(self.path(path)).map_err(|source| Error {
            call: "realpath",
            path: path.to_owned(),
            source,
        })?;
        // sysfs makes relative links to a real path below /sys/devices (sysfs_create_link in fs/sysfs/symlink.c): some
        // times `../`, then names. So one readlink(2) replaces realpath(3), which makes one for each component.
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

    /// `realpath(path)` as this system sees it; fails if it leads out of the root directory.
    pub(crate) fn resolve(&self, path: &Path) -> Result<PathBuf, Error> {
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

    /// In the kernel's order.
    pub(crate) fn names(&self, path: &Path) -> Result<Vec<OsString>, Error> {
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

/// A path that cannot be read.
#[derive(Debug)]
pub struct Error {
    /// The failed call by its C name, as texts on the wire have it.
    pub(crate) call: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

/// Without a copy if `bytes` are UTF-8; others become U+FFFD.
fn into_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

impl Error {
    pub(crate) fn is_missing(&self) -> bool {
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
