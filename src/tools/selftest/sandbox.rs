//! A private mount namespace in which no filesystem of the machine can be frozen; also for `qemu-ga selftest --run`.
//!
//! Its root is a tmpfs. The machine's directories are overlays whose changes are discarded. FIFREEZE on an overlay does
//! not reach the filesystem below it, because an overlay has no block device. Before anything runs in the namespace,
//! its mount table is read back and must not have a block device.

use crate::freeze::guard::LOOP_MAJOR;
use crate::probe::filesystems::{Filesystem, block_filesystems};
use crate::probe::{System, mountinfo, superblocks};
use crate::sys::strerror;
use anyhow::{Context, anyhow, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, pivot_root};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Top-level directories that start empty.
const EMPTY: [&str; 9] = [
    "tmp",
    "run",
    "var",
    "mnt",
    "media",
    "srv",
    "boot",
    "lost+found",
    "old-root",
];

const NO_SOURCE: Option<&str> = None;

/// The process must have only one thread. It must end if this fails.
pub(super) fn enter(program: Option<&Path>) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        let program = std::env::current_exe().unwrap_or_default();
        bail!(
            "a private mount namespace needs root: sudo {} selftest",
            program.display()
        );
    }
    let working_directory = std::env::current_dir().ok();
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| {
        anyhow!(
            "cannot create a mount namespace: {}; start the container with the capability CAP_SYS_ADMIN (--privileged)",
            strerror(&errno.into())
        )
    })?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NO_SOURCE, "/", NO_SOURCE, private, NO_SOURCE).map_err(|errno| {
        anyhow!(
            "cannot make the mounts private: {}; in a chroot whose directory is no mount point, run mount --bind DIR DIR before chroot DIR",
            strerror(&errno.into())
        )
    })?;
    // Any directory that exists serves as the place where the new root is built.
    let root = Path::new("/proc");
    mount(
        Some("qemu-ga-sandbox"),
        root,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )
    .context("cannot mount a tmpfs")?;
    fill_root(root)?;
    if let Some(directory) = &working_directory {
        expose(root, &common_directory(directory, program))?;
    }
    for directory in ["old-root", "var/log", "var/tmp"] {
        fs::create_dir_all(root.join(directory))?;
    }
    symlink("/run", root.join("var/run"))?;
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    change_root(root)?;
    if let Some(directory) = working_directory {
        // It may be missing here, as below an empty directory such as /tmp. Then / stays.
        chdir(&directory).ok();
    }
    check(&[])
}

fn fill_root(root: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir("/").context("cannot list /")? {
        let name = entry?.file_name();
        let (from, to) = (Path::new("/").join(&name), root.join(&name));
        let name = name.to_string_lossy();
        let kind = fs::symlink_metadata(&from)?.file_type();
        if kind.is_symlink() {
            symlink(fs::read_link(&from)?, &to)?;
        } else if kind.is_dir() {
            fs::create_dir(&to)?;
            match &*name {
                "proc" | "sys" => {}
                "dev" => bind(&from, &to)?,
                name if EMPTY.contains(&name) => {}
                _ => overlay(root, &from, &to)?,
            }
        }
    }
    Ok(())
}

fn change_root(root: &Path) -> anyhow::Result<()> {
    chdir(root)?;
    pivot_root(".", "old-root").context("cannot change the root")?;
    chdir("/")?;
    mount_pseudo("sysfs", "/sys")?;
    // These directories show the filesystems of the machine, which a freeze in here must not see.
    for driver in superblocks::DRIVERS {
        let dir = Path::new("/sys/fs").join(driver);
        if dir.exists() {
            mount(NO_SOURCE, &dir, Some("tmpfs"), MsFlags::empty(), NO_SOURCE)
                .context("cannot hide /sys/fs")?;
        }
    }
    umount2("/old-root", MntFlags::MNT_DETACH).context("cannot unmount the old root")?;
    mount_pseudo("proc", "/proc")
}

fn mount_pseudo(fstype: &str, path: &str) -> anyhow::Result<()> {
    mount(
        Some(fstype),
        path,
        Some(fstype),
        MsFlags::empty(),
        NO_SOURCE,
    )
    .with_context(|| format!("cannot mount {path}"))
}

/// Fails if a filesystem of the mount table is on a block device, other than the loop devices mounted at `own`.
pub(super) fn check(own: &[&str]) -> anyhow::Result<()> {
    let mounts = mountinfo::read(&System::host()).context("cannot read the mount table")?;
    let source = |path: &[u8]| mountinfo::block_device(&System::host(), path);
    let (real, _) = block_filesystems(&mounts, &source);
    let is_own = |filesystem: &Filesystem| {
        filesystem.major == LOOP_MAJOR
            && own
                .iter()
                .any(|name| name.as_bytes() == filesystem.mountpoint)
    };
    if let Some(filesystem) = real.iter().find(|filesystem| !is_own(filesystem)) {
        bail!(
            "the private namespace has {} on device {}:{}; nothing was done in it",
            String::from_utf8_lossy(&filesystem.mountpoint),
            filesystem.major,
            filesystem.minor
        );
    }
    Ok(())
}

/// Shows the working directory if it is below one of [`EMPTY`], because what is run here is often built there.
fn expose(root: &Path, directory: &Path) -> anyhow::Result<()> {
    let relative = directory.strip_prefix("/")?;
    let top = relative.iter().next().unwrap_or_default();
    if relative.iter().count() < 2 || !EMPTY.iter().any(|name| top == *name) {
        return Ok(());
    }
    let to = root.join(relative);
    fs::create_dir_all(&to)?;
    overlay(root, directory, &to)
}

/// The directory that has both the working directory and the program, if the latter is absolute and the two share more
/// than a top-level directory: a test is often run beside the directory in which it was built.
fn common_directory(directory: &Path, program: Option<&Path>) -> PathBuf {
    let Some(program) = program.filter(|program| program.is_absolute()) else {
        return directory.to_owned();
    };
    let both = directory.iter().zip(program);
    let common: PathBuf = both.take_while(|(a, b)| a == b).map(|(a, _)| a).collect();
    match common.iter().count() {
        0..=2 => directory.to_owned(),
        _ => common,
    }
}

fn bind(from: &Path, to: &Path) -> anyhow::Result<()> {
    let none: Option<&str> = None;
    mount(
        Some(from),
        to,
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    )
    .with_context(|| format!("cannot bind {}", from.display()))
}

/// Writes go to the tmpfs `root`.
fn overlay(root: &Path, from: &Path, to: &Path) -> anyhow::Result<()> {
    // Distinct for every directory.
    let name = from.to_string_lossy().trim_matches('/').replace('/', "-");
    let (upper, work) = (
        root.join(".changes").join(&name),
        root.join(".changes.work").join(name),
    );
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    // Some programs refuse to run if /root is not private.
    fs::set_permissions(&upper, fs::metadata(from)?.permissions())?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        from.display(),
        upper.display(),
        work.display()
    );
    mount(
        Some("overlay"),
        to,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .with_context(|| {
        format!(
            "cannot mount an overlay on {}; if the kernel lacks it: modprobe overlay",
            from.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_and_the_working_directory_are_shown() {
        let common = |directory: &str, program: &str| {
            common_directory(Path::new(directory), Some(Path::new(program)))
        };
        assert_eq!(
            common("/srv/x/xtask", "/srv/x/target/test"),
            Path::new("/srv/x")
        );
        assert_eq!(common("/srv/x", "/srv/x/target/test"), Path::new("/srv/x"));
        // Never a whole top-level directory, and a word is looked up in PATH.
        assert_eq!(common("/srv/x", "/srv/y/test"), Path::new("/srv/x"));
        assert_eq!(common("/srv/x", "cargo"), Path::new("/srv/x"));
        assert_eq!(
            common_directory(Path::new("/srv/x"), None),
            Path::new("/srv/x")
        );
    }
}
