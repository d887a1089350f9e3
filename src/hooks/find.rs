//! Where a distribution puts the hook master and its hooks.

use std::path::{Path, PathBuf};

/// The master's name in each layout; the hooks lie beside it, in this name with `.d`.
const MASTER: &str = "fsfreeze-hook";
/// Debian's and Ubuntu's place, then RHEL's, CentOS's and Fedora's.
const PLACES: [&str; 2] = ["/etc/qemu", "/etc/qemu-ga"];

/// The master that `-F` without a path means: the first that exists; none installed: the first
/// layout's, so that an error can name it.
pub fn default_master() -> PathBuf {
    master_under(Path::new("/"))
}

/// The hooks' directory of this machine: beside the master, or else the first that exists, or else
/// the first layout's.
pub fn default_dir() -> PathBuf {
    dir_under(Path::new("/"))
}

/// Where the settings of the hooks in `dir` are: beside it, with `.conf` in place of `.d`.
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

/// The first that `exists`, or else the first.
fn first(paths: impl Iterator<Item = PathBuf>, exists: fn(&Path) -> bool) -> PathBuf {
    let paths: Vec<PathBuf> = paths.collect();
    let found = paths.iter().find(|path| exists(path)).or(paths.first());
    found.cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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

        // An empty directory of the other layout does not draw the hooks away from the master.
        fs::create_dir_all(root.join("etc/qemu/fsfreeze-hook.d")).expect("dir");
        assert_eq!(dir_under(root), root.join("etc/qemu-ga/fsfreeze-hook.d"));
        fs::write(root.join("etc/qemu/fsfreeze-hook"), "").expect("file");
        assert_eq!(master_under(root), root.join("etc/qemu/fsfreeze-hook"));
        assert_eq!(dir_under(root), root.join("etc/qemu/fsfreeze-hook.d"));
    }
}
