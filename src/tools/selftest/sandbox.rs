//! A private mount namespace in which nothing real can be frozen.
//!
//! Its root is a tmpfs. The system's directories are there as overlays whose changes are thrown
//! away; a filesystem of that kind has no block device, so no freeze can reach what lies below.
//! Before anyone may act in it, the mount table is read back and searched for a block device.

use crate::freeze::guard::LOOP_MAJOR;
use crate::probe::filesystems::{Filesystem, block_filesystems};
use crate::probe::{System, mountinfo, superblocks};
use anyhow::{Context, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, pivot_root};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

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

/// Moves the calling process, and what it starts from now on, into such a namespace. Call it
/// while the process has one thread.
///
/// # Errors
/// Not root, or a mount fails; the process must then end.
pub fn enter() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        let program = std::env::current_exe().unwrap_or_default();
        bail!(
            "a private mount namespace needs root: sudo {} selftest",
            program.display()
        );
    }
    let working_directory = std::env::current_dir().ok();
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("cannot make the mounts private")?;
    // Any existing directory serves as the place where the new root is built.
    let root = Path::new("/proc");
    mount(
        Some("qemu-ga-sandbox"),
        root,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )
    .context("cannot mount a tmpfs")?;
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
    if let Some(directory) = &working_directory {
        expose(root, directory)?;
    }
    fs::create_dir_all(root.join("old-root"))?;
    fs::create_dir_all(root.join("var/log"))?;
    fs::create_dir_all(root.join("var/tmp"))?;
    symlink("/run", root.join("var/run"))?;
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    chdir(root)?;
    pivot_root(".", "old-root").context("cannot change the root")?;
    chdir("/")?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none)
        .context("cannot mount /sys")?;
    // What these show is mounted outside, so that a freeze in here is not to be judged by it.
    for driver in superblocks::DRIVERS {
        let dir = Path::new("/sys/fs").join(driver);
        if dir.exists() {
            mount(none, &dir, Some("tmpfs"), MsFlags::empty(), none)
                .context("cannot hide /sys/fs")?;
        }
    }
    umount2("/old-root", MntFlags::MNT_DETACH).context("cannot let go of the old root")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none)
        .context("cannot mount /proc")?;
    if let Some(directory) = working_directory {
        // A directory that is empty here, such as /tmp, may lack it.
        chdir(&directory).ok();
    }
    check(&[])
}

/// Reads the mount table back: but for the mountpoints of `own`, which must be loop devices, no
/// filesystem in sight may be one that can be frozen.
///
/// # Errors
/// One is; nothing may be frozen then.
pub fn check(own: &[&str]) -> anyhow::Result<()> {
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
            "the private namespace still shows {} on device {}:{}; nothing was done in it",
            String::from_utf8_lossy(&filesystem.mountpoint),
            filesystem.major,
            filesystem.minor
        );
    }
    Ok(())
}

/// Shows the working directory if it lies below a directory that starts empty: what is run here
/// is often built there.
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

/// Shows `from` at `to`; writes go to the tmpfs `root`.
fn overlay(root: &Path, from: &Path, to: &Path) -> anyhow::Result<()> {
    // A name of its own, whatever lies below.
    let name = from.to_string_lossy().trim_matches('/').replace('/', "-");
    let (upper, work) = (
        root.join(".changes").join(&name),
        root.join(".changes.work").join(name),
    );
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    // The directory keeps its mode and owner: some programs insist on /root being private.
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
            "cannot overlay {} (is the overlay filesystem there? modprobe overlay)",
            from.display()
        )
    })
}
