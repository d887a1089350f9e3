//! The filesystems, hooks and agent of the selftest.
//!
//! Dropping them thaws the filesystems and ends the agent, whatever failed before. [`super::script`] calls this, inside
//! the namespace only.

use super::sandbox;
use crate::freeze::history;
use crate::freeze::report::Report;
use crate::state::StateDir;
use crate::sys::fsfreeze;
use crate::sys::loopdev::LoopDevice;
use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The directory of everything but the mount points.
const HOME: &str = "/selftest";
/// The second is below the first, so that the order of freezing shows.
pub(super) const MOUNTPOINTS: [&str; 2] = ["/srv/data", "/srv/data/db"];
/// Size of each filesystem. The images are sparse files in memory.
const IMAGE_BYTES: u64 = 64 << 20;
/// The default log of the hook master, in the namespace.
pub(super) const HOOK_LOG: &str = "/var/log/qga-fsfreeze-hook.log";

const MASTER: &str = include_str!("../../../hooks/fsfreeze-hook");
const HOOKS: [(&str, &str); 2] = [
    (
        "10-application.sh",
        "#!/bin/sh\ncase $1 in\nfreeze) echo application quiesced ;;\nthaw) echo application released ;;\nesac\n",
    ),
    (
        "20-still-writable.sh",
        "#!/bin/sh\necho \"$1 hook\" >>/srv/data/hook-wrote && echo wrote to /srv/data at $1\n",
    ),
];

/// The mounted filesystems, held open so that they can be thawed.
pub(super) struct Filesystems {
    roots: Vec<File>,
    _devices: Vec<LoopDevice>,
}

impl Filesystems {
    /// Creates and mounts them.
    pub(super) fn make() -> anyhow::Result<Self> {
        let (mut roots, mut devices) = (Vec::new(), Vec::new());
        fs::create_dir_all(HOME)?;
        for (number, mountpoint) in MOUNTPOINTS.iter().enumerate() {
            let image = PathBuf::from(format!("{HOME}/disk{number}.img"));
            File::create(&image)?.set_len(IMAGE_BYTES)?;
            // A root shell of su(1) may lack the directories of system programs.
            let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
            let made = Command::new("mkfs.ext4")
                .env("PATH", path)
                .args(["-q", "-F"])
                .arg(&image)
                .stdin(Stdio::null())
                .output()
                .context("cannot run mkfs.ext4: install e2fsprogs")?;
            if !made.status.success() {
                bail!(
                    "mkfs.ext4 failed: {}",
                    String::from_utf8_lossy(&made.stderr).trim()
                );
            }
            let device = LoopDevice::attach(&image).context("cannot attach a loop device")?;
            fs::create_dir_all(mountpoint)?;
            let no_options: Option<&str> = None;
            mount(
                Some(device.path()),
                *mountpoint,
                Some("ext4"),
                MsFlags::empty(),
                no_options,
            )
            .with_context(|| format!("cannot mount {} as ext4", device.path().display()))?;
            roots.push(File::open(mountpoint)?);
            devices.push(device);
        }
        sandbox::check(&MOUNTPOINTS)?;
        Ok(Self {
            roots,
            _devices: devices,
        })
    }
}

impl Drop for Filesystems {
    fn drop(&mut self) {
        for root in &self.roots {
            // Normally it is not frozen, and this fails. Nothing can be done about another error here.
            fsfreeze::thaw(root).ok();
        }
    }
}

/// A running agent.
pub(super) struct Agent {
    child: Child,
}

impl Agent {
    /// The path of its socket.
    pub(super) fn socket() -> &'static Path {
        Path::new("/run/qga.sock")
    }

    /// Installs the binary, the hook master and the hooks, and starts the agent as a service does.
    pub(super) fn start() -> anyhow::Result<Self> {
        let path = |name: &str| Path::new(HOME).join(name);
        fs::copy("/proc/self/exe", path("qemu-ga")).context("cannot copy the agent")?;
        fs::create_dir(path("fsfreeze-hook.d"))?;
        let mut executables = vec![path("qemu-ga")];
        for (name, text) in HOOKS.map(|(name, text)| (format!("fsfreeze-hook.d/{name}"), text)) {
            fs::write(path(&name), text)?;
            executables.push(path(&name));
        }
        fs::write(path("fsfreeze-hook"), MASTER)?;
        executables.push(path("fsfreeze-hook"));
        for executable in executables {
            fs::set_permissions(executable, fs::Permissions::from_mode(0o755))?;
        }
        fs::write(path("qemu-ga.conf"), "[general]\n")?;
        let child = Command::new(path("qemu-ga"))
            .arg("--config")
            .arg(path("qemu-ga.conf"))
            .args(["--method", "unix-listen", "--statedir", "/run", "--path"])
            .arg(Self::socket())
            .arg("--logfile")
            .arg(Self::log())
            .arg(format!("--fsfreeze-hook={HOME}/fsfreeze-hook"))
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start the agent")?;
        Ok(Self { child })
    }

    /// The agent's own log.
    pub(super) fn log() -> &'static Path {
        Path::new("/var/log/qemu-ga.log")
    }

    /// The report that the agent stored about its last freeze.
    pub(super) fn report() -> anyhow::Result<Report> {
        let (reports, error) = history::read(&StateDir::new("/run"));
        if let Some(text) = error {
            bail!(text);
        }
        reports
            .into_iter()
            .next()
            .context("the agent stored no report")
    }

    /// Ends it as a service manager does.
    ///
    /// # Errors
    /// Its exit status is not 0, or it does not end.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            Signal::SIGTERM,
        )?;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) {
            if let Some(status) = self.child.try_wait()? {
                if !status.success() {
                    bail!("the agent ended with {status}");
                }
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("the agent did not end on SIGTERM");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Both fail only for a child that has been waited for.
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}
