//! `qemu-ga inspect`: what a copy of a disk says of the freeze in which it was taken.
//!
//! An image is mounted read-only and without a replay of its journal, through a read-only loop device, in a mount
//! namespace of the tool's own: it is not changed, and nobody else sees the mount. No symbolic link in the copy is
//! followed.

use super::args::{JSON, ParsedArgs, Tool, ToolError};
use super::output::{self, Style, escape_control};
use super::report::{report_value, show_run};
use super::time;
use crate::cli::{Arg, Operand, OptionSpec, Usage, ValueKind};
use crate::freeze::snapshot::{DEFAULT_PATH, Snapshot, SnapshotState, open_error, parse};
use crate::probe::partitions::{Extent, ImageFilesystem, extents, filesystem_at};
use crate::sys::loopdev::LoopDevice;
use crate::sys::strerror;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

/// Not a copy that was taken while frozen.
const NOT_FROZEN_STATUS: u8 = 3;
const NO_FILE_STATUS: u8 = 4;

/// Where a root filesystem begins in a filesystem, for distributions that have it in a subvolume of Btrfs.
const ROOTS: [&str; 4] = ["", "root", "@", "@rootfs"];

/// First bytes of images that are not raw, with their name.
const FORMATS: [(&[u8], &str); 4] = [
    (b"QFI\xfb", "qcow2"),
    (b"KDMV", "VMDK"),
    (b"vhdxfile", "VHDX"),
    (b"conectix", "VHD"),
];

pub(crate) const TOOL: Tool = Tool {
    usage: Usage {
        name: "inspect",
        summary: "what a copy of a disk says of its freeze",
        about: "Reads the snapshot file in a copy of a root filesystem: whether the copy was taken while \
                it was frozen, in which run, and what it is worth. WHERE is the directory at which the \
                copy is mounted, or, for root, a raw image or a block device. That is not changed.",
        operand: Some(Operand {
            name: "WHERE",
            kind: ValueKind::File,
            help: "a mount point, an image or a block device",
            required: true,
            max: 1,
        }),
        options: &[&[
            OptionSpec::new(
                "file",
                Arg::Value("PATH", ValueKind::Text),
                "the agent's snapshot-file, as the copied machine names it",
            )
            .default(DEFAULT_PATH),
            JSON,
        ]],
        exit: &[
            (0, "the copy was taken while frozen"),
            (1, "the copy or its file cannot be read"),
            (
                NOT_FROZEN_STATUS,
                "the file says that nothing was frozen any more",
            ),
            (NO_FILE_STATUS, "there is no snapshot file"),
        ],
    },
    subcommands: &[],
    run,
};

/// What was found, and where.
struct Found {
    path: PathBuf,
    snapshot: Snapshot,
    /// The journal would be replayed; `None`: not known of a mounted copy, or of this type.
    needs_recovery: Option<bool>,
}

fn run(args: &ParsedArgs) -> Result<u8, ToolError> {
    let Some(place) = args.operands.first().map(Path::new) else {
        return Err(ToolError::Mistake("missing argument: WHERE".into()));
    };
    let file = args
        .value("--file")
        .map_or(DEFAULT_PATH.as_ref(), Path::new);
    let failed = |why: String| format!("cannot inspect {}: {why}", place.display());
    let found = find(place, file).map_err(failed)?;
    let Some(found) = found else {
        output::print_error(&format!(
            "qemu-ga inspect: no snapshot file {} in {}: the copy was not taken in a freeze of qemu-ga, or /var is another filesystem\n",
            file.display(),
            place.display()
        ));
        return Ok(NO_FILE_STATUS);
    };
    let printed = match args.has("--json") {
        true => output::print_json(&found.value()),
        false => output::print(&found.render(Style::of_stdout())),
    };
    let status = match found.is_frozen() {
        true => 0,
        false => NOT_FROZEN_STATUS,
    };
    Ok(printed.max(status))
}

fn find(place: &Path, file: &Path) -> Result<Option<Found>, String> {
    let opened = File::open(place).map_err(|error| strerror(&error))?;
    let kind = opened.metadata().map_err(|error| strerror(&error))?;
    if kind.is_dir() {
        return find_below(&opened, file, None);
    }
    if !kind.is_file() && !kind.file_type().is_block_device() {
        return Err("it is no directory, image or block device".into());
    }
    find_in_image(opened, file)
}

fn find_in_image(mut image: File, file: &Path) -> Result<Option<Found>, String> {
    let mut head = [0; 8];
    let length = image
        .seek(SeekFrom::End(0))
        .and_then(|length| image.rewind().map(|()| length))
        .map_err(|error| strerror(&error))?;
    // A shorter one has no filesystem either.
    let read = image.read(&mut head).unwrap_or_default();
    if let Some((_, format)) = FORMATS
        .iter()
        .find(|(magic, _)| head[..read].starts_with(magic))
    {
        return Err(format!(
            "it is a {format} image; attach it with qemu-nbd --read-only and give the device"
        ));
    }
    let extents = extents(&image, length).into_iter();
    let known = extents.filter_map(|extent| Some((extent, filesystem_at(&image, extent.start)?)));
    let known: Vec<_> = known.collect();
    if known.is_empty() {
        return Err(
            "no ext4, XFS or Btrfs filesystem found; activate LVM, RAID or encryption, mount it read-only and give the mount point"
                .into(),
        );
    }
    enter_namespace()?;
    let mut failure = None;
    for (extent, kind) in known {
        let found = mount_extent(&image, extent, kind)
            .and_then(|(root, needs_recovery)| find_below(&root, file, needs_recovery));
        match found {
            Ok(None) => {}
            Ok(found) => return Ok(found),
            Err(why) => failure = failure.or(Some(why)),
        }
    }
    failure.map_or(Ok(None), Err)
}

fn enter_namespace() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("an image needs root; or mount it read-only and give the mount point".into());
    }
    let no_source: Option<&str> = None;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(no_source, "/", no_source, private, no_source))
        .map_err(|errno| {
            let why = strerror(&errno.into());
            format!(
                "cannot make a mount namespace: {why}; mount it read-only and give the mount point"
            )
        })
}

/// Its root directory, open, and whether its journal would be replayed.
fn mount_extent(
    image: &File,
    extent: Extent,
    kind: ImageFilesystem,
) -> Result<(File, Option<bool>), String> {
    let place = "at byte ".to_owned() + &extent.start.to_string();
    let failed = |why: String| format!("the filesystem {place} cannot be mounted: {why}");
    let device = LoopDevice::attach_read_only(image, extent.start, extent.length)
        .map_err(|error| failed(strerror(&error)))?;
    let (fstype, options, needs_recovery): (_, &[&str], _) = match kind {
        ImageFilesystem::Ext { needs_recovery } => ("ext4", &["noload"], Some(needs_recovery)),
        ImageFilesystem::Xfs => ("xfs", &["norecovery,nouuid"], None),
        // The second is the older name.
        ImageFilesystem::Btrfs => ("btrfs", &["rescue=nologreplay", "norecovery"], None),
    };
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // Any directory that exists and that nothing here reads; each mount covers the one before.
    let target = Path::new("/sys");
    let mut mounted = Err(Errno::EINVAL);
    for &options in options {
        if mounted.is_err() {
            mounted = mount(
                Some(device.path()),
                target,
                Some(fstype),
                flags,
                Some(options),
            );
        }
    }
    mounted.map_err(|errno| failed(strerror(&errno.into())))?;
    let root = File::open(target).map_err(|error| failed(strerror(&error)))?;
    Ok((root, needs_recovery))
}

fn find_below(
    root: &File,
    file: &Path,
    needs_recovery: Option<bool>,
) -> Result<Option<Found>, String> {
    for path in candidates(file) {
        let refused = |why: String| format!("cannot use /{}: {why}", path.display());
        if let Some(opened) = open_below(root, &path).map_err(refused)? {
            return Ok(Some(Found {
                snapshot: parse(opened).map_err(refused)?,
                path,
                needs_recovery,
            }));
        }
    }
    Ok(None)
}

/// In a root filesystem, a subvolume of one, or a filesystem that is mounted at one of the directories.
fn candidates(file: &Path) -> Vec<PathBuf> {
    let names = |component| match component {
        Component::Normal(name) => Some(name),
        _ => None,
    };
    let names: Vec<_> = file.components().filter_map(names).collect();
    if names.is_empty() {
        return Vec::new();
    }
    let whole: PathBuf = names.iter().collect();
    let mut paths: Vec<_> = ROOTS
        .iter()
        .map(|root| Path::new(root).join(&whole))
        .collect();
    paths.extend((1..names.len()).map(|from| names[from..].iter().collect()));
    paths
}

/// `None` if it does not exist. Follows no link.
fn open_below(root: &File, path: &Path) -> Result<Option<File>, String> {
    let directory = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut here = root.try_clone().map_err(|error| strerror(&error))?;
    let mut names = path.components().peekable();
    while let Some(name) = names.next() {
        let is_last = names.peek().is_none();
        let flags = match is_last {
            false => directory,
            true => OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC,
        };
        let opened = match openat(&here, name.as_os_str(), flags, Mode::empty()) {
            Ok(opened) => File::from(opened),
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(open_error(&errno.into())),
        };
        let kind = opened.metadata().map_err(|error| strerror(&error))?;
        let name = name.as_os_str().to_string_lossy();
        match is_last {
            false if kind.is_symlink() => return Err(format!("{name} is a symbolic link")),
            false if !kind.is_dir() => return Ok(None),
            true if !kind.is_file() => return Err("it is not a regular file".into()),
            _ => {}
        }
        here = opened;
    }
    Ok(Some(here))
}

impl Found {
    fn is_frozen(&self) -> bool {
        self.snapshot.state == SnapshotState::Frozen && self.needs_recovery != Some(true)
    }

    fn verdict(&self) -> &'static str {
        match self.snapshot.state {
            SnapshotState::Frozen if self.is_frozen() => "taken while frozen",
            SnapshotState::Frozen => {
                "taken right before the freeze or without it: the journal has to be replayed"
            }
            SnapshotState::Finished => "not taken in a freeze; the last run was over",
            SnapshotState::Restored => {
                "not taken in a freeze; the machine was started from a copy itself"
            }
        }
    }

    fn render(&self, style: Style) -> String {
        let mut text = style.wrap("Copy    ", self.verdict());
        let machine = &self.snapshot.machine;
        let ids = [&machine.product_uuid, &machine.machine_id];
        if let Some(id) = ids.into_iter().flatten().next() {
            text += &style.wrap("Machine ", &escape_control(id));
        }
        if let Some(restored) = &self.snapshot.restored {
            let line = format!("started from a copy of run {}", restored.run.id);
            text += &style.wrap("Origin  ", &escape_control(&line));
        }
        if let Some(run) = &self.snapshot.run {
            text += "\n";
            text += &show_run(run, style);
        }
        text
    }

    fn value(&self) -> Value {
        let snapshot = &self.snapshot;
        let mut value = json!({
            "path": format!("/{}", self.path.display()),
            "state": output::value(&snapshot.state),
            "frozen": self.is_frozen(),
            "boot-id": snapshot.boot_id,
            "machine": output::value(&snapshot.machine),
        });
        if let Some(needs_recovery) = self.needs_recovery {
            value["needs-recovery"] = needs_recovery.into();
        }
        if let Some(run) = &snapshot.run {
            value["run"] = report_value(run);
        }
        if let Some(restored) = &snapshot.restored {
            value["started-from"] = json!({
                "run": restored.run.id,
                "found": time::rfc3339(restored.found),
            });
        }
        value
    }
}

#[cfg(test)]
pub(super) fn sample() -> Value {
    Found {
        path: "var/lib/qemu-ga/snapshot.json".into(),
        snapshot: crate::freeze::snapshot::sample(),
        needs_recovery: Some(false),
    }
    .value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_file_is_looked_for_in_subvolumes_and_filesystems_of_its_directories() {
        let paths = candidates(Path::new("/var/../lib/s.json"));
        let expected = [
            "var/lib/s.json",
            "root/var/lib/s.json",
            "@/var/lib/s.json",
            "@rootfs/var/lib/s.json",
            "lib/s.json",
            "s.json",
        ];
        assert_eq!(paths, expected.map(PathBuf::from));
        assert!(candidates(Path::new("/")).is_empty());
    }

    #[test]
    fn no_link_leads_out_of_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let (outside, copy) = (dir.path().join("outside"), dir.path().join("copy"));
        fs::create_dir_all(outside.join("lib")).unwrap();
        fs::write(outside.join("lib/s.json"), "{}").unwrap();
        fs::create_dir_all(&copy).unwrap();
        let file = Path::new("/var/lib/s.json");
        assert!(find(&copy, file).unwrap().is_none());
        symlink(&outside, copy.join("var")).unwrap();
        let refusal = || find(&copy, file).err().unwrap();
        assert_eq!(
            refusal(),
            "cannot use /var/lib/s.json: var is a symbolic link"
        );
        fs::remove_file(copy.join("var")).unwrap();
        fs::create_dir_all(copy.join("var/lib")).unwrap();
        symlink(outside.join("lib/s.json"), copy.join("var/lib/s.json")).unwrap();
        assert_eq!(
            refusal(),
            "cannot use /var/lib/s.json: it is a symbolic link"
        );
        fs::remove_file(copy.join("var/lib/s.json")).unwrap();
        nix::unistd::mkfifo(&copy.join("var/lib/s.json"), Mode::S_IRUSR).unwrap();
        assert!(refusal().contains("not a regular file"));
    }

    #[test]
    fn other_formats_of_images_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let refusal = |content: &[u8]| {
            fs::write(&path, content).unwrap();
            find(&path, Path::new("/s")).err().unwrap()
        };
        assert!(
            refusal(b"QFI\xfb\0\0").starts_with("it is a qcow2 image; attach it with qemu-nbd")
        );
        assert!(refusal(b"vhdxfile").contains("VHDX"));
        assert!(refusal(b"").starts_with("no ext4, XFS or Btrfs"));
        assert!(refusal(&[0; 4096]).starts_with("no ext4, XFS or Btrfs"));
    }

    #[test]
    fn what_a_copy_says_cannot_control_the_terminal() {
        let mut snapshot = crate::freeze::snapshot::sample();
        snapshot.machine.product_uuid = Some("\x1b[2J".into());
        if let Some(run) = &mut snapshot.run {
            run.id = "\x1b[2J".into();
        }
        let found = Found {
            path: "s.json".into(),
            snapshot,
            needs_recovery: Some(true),
        };
        let text = found.render(Style::default());
        assert!(!text.contains('\x1b'), "{text}");
        assert!(
            text.starts_with(
                "Copy    not taken in a freeze; the machine was started from a copy itself\n"
            ),
            "{text}"
        );
    }
}
