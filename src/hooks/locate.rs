//! Where a distribution installs the hook master and its hooks.
//!
//! The agent, the hook master and the tools use the same functions, so all three agree on the directory. These
//! functions only look at names and file types; [`super::trust`] decides what may run.

use super::BINARY_ENV;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const MASTER: &str = "fsfreeze-hook";
/// Debian and Ubuntu; RHEL, CentOS and Fedora.
const PLACES: [&str; 2] = ["/etc/qemu", "/etc/qemu-ga"];

pub const FOREIGN_MASTER: &str = "not our hook master: the settings of fsfreeze-hook.conf and of the hooks do not \
     apply, and a freeze reaches at most the level filesystem, as it does not report its hooks";

const MAX_MASTER_HEAD_BYTES: u64 = 64 * 1024;

/// Whether the master is this project's script, another script that calls `qemu-ga hook`, or this program itself. This
/// is a guess from the text of the script; the report says what a master really did.
pub fn is_our_master(path: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|data| (data.dev(), data.ino())).ok();
    if identity(path).is_some() && identity(path) == identity(Path::new("/proc/self/exe")) {
        return true;
    }
    // open(2) of a FIFO without a writer blocks.
    if !path.is_file() {
        return false;
    }
    let mut head = Vec::new();
    let read = fs::File::open(path)
        .and_then(|file| file.take(MAX_MASTER_HEAD_BYTES).read_to_end(&mut head));
    let name = BINARY_ENV.as_bytes();
    read.is_ok() && head.windows(name.len()).any(|part| part == name)
}

/// For `-F` without a path: the first that exists, else that of the first layout, so that an error can name a path.
pub fn default_master() -> PathBuf {
    master_under(Path::new("/"))
}

/// Next to an installed master, else the first that exists, else that of the first layout.
pub fn default_dir() -> PathBuf {
    dir_under(Path::new("/"))
}

pub fn dir_of(master: &Path) -> PathBuf {
    let mut dir = master.as_os_str().to_owned();
    dir.push(".d");
    dir.into()
}

/// Beside [`default_dir`].
pub fn restore_dir() -> PathBuf {
    default_dir().with_file_name("restore-hook.d")
}

pub fn conf_beside(dir: &Path) -> PathBuf {
    dir.with_extension("conf")
}

fn master_under(root: &Path) -> PathBuf {
    first(
        candidates(root).map(|place| place.join(MASTER)),
        Path::is_file,
    )
}

fn dir_under(root: &Path) -> PathBuf {
    let beside = |place: PathBuf| place.join(format!("{MASTER}.d"));
    if let Some(place) = candidates(root)
        .find(|place| place.join(MASTER).is_file() && beside(place.clone()).is_dir())
    {
        return beside(place);
    }
    first(candidates(root).map(beside), Path::is_dir)
}

fn candidates(root: &Path) -> impl Iterator<Item = PathBuf> {
    PLACES
        .iter()
        .map(move |place| root.join(place.trim_start_matches('/')))
}

fn first(paths: impl Iterator<Item = PathBuf>, exists: fn(&Path) -> bool) -> PathBuf {
    let paths: Vec<PathBuf> = paths.collect();
    let found = paths.iter().find(|path| exists(path)).or(paths.first());
    found.cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts() {
        let root = tempfile::tempdir().expect("dir");
        let root = root.path();
        assert_eq!(master_under(root), root.join("etc/qemu/fsfreeze-hook"));
        assert_eq!(dir_under(root), root.join("etc/qemu/fsfreeze-hook.d"));

        fs::create_dir_all(root.join("etc/qemu-ga/fsfreeze-hook.d")).expect("dir");
        assert_eq!(dir_under(root), root.join("etc/qemu-ga/fsfreeze-hook.d"));
        fs::write(root.join("etc/qemu-ga/fsfreeze-hook"), "").expect("file");
        assert_eq!(master_under(root), root.join("etc/qemu-ga/fsfreeze-hook"));

        // An empty directory of the other layout does not take precedence over the master's own.
        fs::create_dir_all(root.join("etc/qemu/fsfreeze-hook.d")).expect("dir");
        assert_eq!(dir_under(root), root.join("etc/qemu-ga/fsfreeze-hook.d"));
        fs::write(root.join("etc/qemu/fsfreeze-hook"), "").expect("file");
        assert_eq!(master_under(root), root.join("etc/qemu/fsfreeze-hook"));
        assert_eq!(dir_under(root), root.join("etc/qemu/fsfreeze-hook.d"));
    }
}
