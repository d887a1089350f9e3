//! Filesystems that may be frozen, and the namespace in which nothing else can be.

use super::binary;
use super::left_out::needs_root;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::major;
use qemu_ga::freeze::guard::LOOP_MAJOR;
use qemu_ga::sys::fsfreeze;
use qemu_ga::sys::loopdev::LoopDevice;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs `body` on a thread in a mount namespace of its own, so that whatever its agent freezes was
/// mounted by this very test. Without root the test is left out.
///
/// # Panics
/// The root is not the private tmpfs, or a filesystem with a device is in sight; and with `body`.
pub fn in_namespace(body: impl FnOnce() + Send + 'static) {
    if needs_root() {
        return;
    }
    let thread = std::thread::Builder::new().name("namespace".into());
    let started = thread.spawn(|| {
        refuse_real_filesystems();
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).expect("private");
        refuse_real_filesystems();
        body();
    });
    if let Err(panic) = started.expect("thread").join() {
        std::panic::resume_unwind(panic);
    }
}

const NONE: Option<&str> = None;

fn refuse_real_filesystems() {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    let is_sandbox = table.lines().any(|line| {
        let mountpoint = line.split(' ').nth(4);
        let fstype = line.split(" - ").nth(1).and_then(|l| l.split(' ').next());
        (mountpoint, fstype) == (Some("/"), Some("tmpfs"))
    });
    assert!(
        is_sandbox,
        "this test freezes filesystems and the root here is no private tmpfs: run it with tests/run"
    );
    let real = table.lines().find(|line| {
        let device = line.split(' ').nth(2);
        !device.is_some_and(|device| device.starts_with("0:"))
    });
    assert_eq!(real, None, "a real filesystem is in sight");
}

/// Whether `program` is installed.
pub fn has(program: &str) -> bool {
    let found = Command::new(program)
        .arg("-V")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    found.is_ok()
}

/// Makes `special` appear at `target`.
pub fn bind(special: &Path, target: &Path) {
    fs::create_dir_all(target).expect("mountpoint");
    bind_file(special, target);
}

/// [`bind`] where the target is a file that exists.
pub fn bind_file(special: &Path, target: &Path) {
    mount(Some(special), target, NONE, MsFlags::MS_BIND, NONE).expect("bind");
}

/// Mounts a tmpfs that is empty but for this checkout and the binaries, which may be anywhere.
pub fn tmpfs(target: &Path) {
    let kept: Vec<(PathBuf, File)> = needed_below(target)
        .into_iter()
        .map(|dir| (dir.clone(), File::open(&dir).expect("directory")))
        .collect();
    mount(Some("none"), target, Some("tmpfs"), MsFlags::empty(), NONE).expect("tmpfs");
    for (dir, file) in kept {
        // The descriptor still leads to what the tmpfs hides.
        bind(
            &PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())),
            &dir,
        );
    }
}

/// The directories below `target` that every test needs, none of them below another.
fn needed_below(target: &Path) -> Vec<PathBuf> {
    let mut needed = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR"))];
    let program = std::env::current_exe().expect("own path");
    for file in [binary(), program] {
        let dir = file.parent().expect("directory").to_owned();
        if !needed.iter().any(|other| dir.starts_with(other)) {
            needed.push(dir);
        }
    }
    needed.retain(|dir| dir.starts_with(target) && dir != target);
    needed
}

/// Unmounts as umount -l does.
pub fn detach(target: &Path) {
    umount2(target, MntFlags::MNT_DETACH).expect("umount");
}

/// A loop device over a new image of so many MiB.
pub fn in_image(image: &Path, mib: u64) -> LoopDevice {
    let file = File::create(image).expect("image");
    file.set_len(mib << 20).expect("image");
    LoopDevice::attach(image).expect("loop device")
}

/// A loop-mounted filesystem; thawed and unmounted when dropped, whatever has happened.
pub struct Disk {
    mountpoint: PathBuf,
    /// `None`: a hook may unmount it.
    root: Option<File>,
    device: LoopDevice,
}

impl Disk {
    /// An ext4 filesystem at `mountpoint`, in an image of 32 MiB at `image`.
    pub fn ext4_in(image: &Path, mountpoint: &Path) -> Self {
        Self::make(image, mountpoint, "ext4", &["mkfs.ext4", "-q", "-F"], 32)
    }

    /// An ext4 filesystem at `mountpoint`, in an image beside it.
    pub fn ext4(mountpoint: &Path) -> Self {
        Self::ext4_in(&mountpoint.with_extension("img"), mountpoint)
    }

    /// An ext4 filesystem of so many MiB: room for a copy of a debug build.
    pub fn ext4_of(mountpoint: &Path, mib: u64) -> Self {
        let image = mountpoint.with_extension("img");
        Self::make(&image, mountpoint, "ext4", &["mkfs.ext4", "-q", "-F"], mib)
    }

    /// An ext4 filesystem without journal, in an image of 32 MiB.
    pub fn ext4_without_journal(image: &Path, mountpoint: &Path) -> Self {
        let mkfs = ["mkfs.ext4", "-q", "-F", "-O", "^has_journal"];
        Self::make(image, mountpoint, "ext4", &mkfs, 32)
    }

    /// An XFS filesystem.
    pub fn xfs(mountpoint: &Path) -> Self {
        let image = mountpoint.with_extension("img");
        Self::make(&image, mountpoint, "xfs", &["mkfs.xfs", "-q"], 320)
    }

    /// A btrfs filesystem.
    pub fn btrfs(mountpoint: &Path) -> Self {
        let image = mountpoint.with_extension("img");
        Self::make(&image, mountpoint, "btrfs", &["mkfs.btrfs", "-q"], 128)
    }

    fn make(image: &Path, mountpoint: &Path, fstype: &str, mkfs: &[&str], mib: u64) -> Self {
        let file = File::create(image).expect("image");
        file.set_len(mib << 20).expect("image");
        let made = Command::new(mkfs[0]).args(&mkfs[1..]).arg(image).output();
        let made = made.unwrap_or_else(|e| panic!("cannot run {}: {e}", mkfs[0]));
        assert!(made.status.success(), "{made:?}");
        let device = LoopDevice::attach(image).expect("loop device");
        fs::create_dir_all(mountpoint).expect("mountpoint");
        let flags = MsFlags::empty();
        mount(Some(device.path()), mountpoint, Some(fstype), flags, NONE).expect("mount");
        Self {
            root: Some(File::open(mountpoint).expect("root")),
            mountpoint: mountpoint.to_owned(),
            device,
        }
    }

    /// Keeps it open no longer, so that it can be unmounted.
    pub fn close(&mut self) {
        self.root = None;
    }

    /// Unmounts it; its device stays.
    pub fn unmount(&mut self) {
        self.close();
        umount2(&self.mountpoint, MntFlags::empty()).expect("umount");
    }

    /// Whether it is mounted, once it is no longer kept open.
    pub fn is_mounted(&self) -> bool {
        self.root().is_ok()
    }

    /// Its root directory.
    fn root(&self) -> io::Result<File> {
        if let Some(root) = &self.root {
            return root.try_clone();
        }
        let root = File::open(&self.mountpoint)?;
        // Without the mount this is a directory of another filesystem.
        let is_own = major(root.metadata()?.dev()) == u64::from(LOOP_MAJOR);
        is_own.then_some(root).ok_or(io::ErrorKind::NotFound.into())
    }

    /// `/dev/loopN`.
    pub fn device(&self) -> &str {
        self.device.path().to_str().expect("text")
    }

    pub fn mountpoint(&self) -> &str {
        self.mountpoint.to_str().expect("text")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.mountpoint.join(name)
    }

    /// FIFREEZE by this test, behind the agent's back.
    pub fn freeze(&self) {
        fsfreeze::freeze(self.root().expect("root")).expect("freeze");
    }

    /// FITHAW by this test.
    pub fn thaw(&self) -> io::Result<()> {
        fsfreeze::thaw(&self.root()?)
    }

    /// Thaws when dropped: what another filesystem stands on has to thaw before that one.
    pub fn thaw_first(&self) -> impl Drop + use<> {
        struct Guard(File);
        impl Drop for Guard {
            fn drop(&mut self) {
                // Not frozen is what it should be.
                fsfreeze::thaw(&self.0).ok();
            }
        }
        Guard(self.root().expect("root"))
    }

    /// Whether it is frozen: asked by freezing it, and undone.
    pub fn is_frozen(&self) -> bool {
        match fsfreeze::freeze(self.root().expect("root")) {
            Ok(()) => {
                // A guardian that undoes a freeze may have done that already.
                let thawed = self.thaw();
                assert!(thawed.map_or_else(|error| error.raw_os_error() == Some(22), |()| true));
                false
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{error}");
                true
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What is not frozen, or not mounted any more, is as it should be.
        self.thaw().ok();
        umount2(&self.mountpoint, MntFlags::MNT_DETACH).ok();
    }
}
