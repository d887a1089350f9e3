//! A writable filesystem with a block device that cannot be frozen, as vfat: fuseblk, served by this test.

use super::disk::in_image;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use qemu_ga::sys::loopdev::LoopDevice;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Unmounted when dropped.
pub struct FuseDisk {
    mountpoint: PathBuf,
    device: LoopDevice,
}

impl FuseDisk {
    /// At `mountpoint`, in an image beside it; `None` without FUSE.
    pub fn new(mountpoint: &Path, flags: MsFlags) -> Option<Self> {
        let both = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let server = both.ok()?;
        let device = in_image(&mountpoint.with_extension("img"), 4);
        fs::create_dir_all(mountpoint).expect("mountpoint");
        let options = format!(
            "fd={},rootmode=40755,user_id=0,group_id=0,allow_other",
            server.as_raw_fd()
        );
        let (kind, options) = (Some("fuseblk"), Some(options.as_str()));
        mount(Some(device.path()), mountpoint, kind, flags, options).expect("fuseblk");
        std::thread::spawn(move || serve(server));
        let this = Self {
            mountpoint: mountpoint.to_owned(),
            device,
        };
        // As the driver of vfat does when it mounts.
        this.write();
        Some(this)
    }

    pub fn mountpoint(&self) -> &str {
        self.mountpoint.to_str().expect("text")
    }

    /// Writes to its device.
    pub fn write(&self) {
        let device = OpenOptions::new().write(true).open(self.device.path());
        let device = device.expect("device");
        device.write_all_at(&[1; 4096], 0).expect("write");
        device.sync_all().expect("sync");
    }
}

impl Drop for FuseDisk {
    fn drop(&mut self) {
        umount2(&self.mountpoint, MntFlags::MNT_DETACH).ok();
    }
}

/// Answers as an empty directory (linux/fuse.h), until it is unmounted.
fn serve(mut server: File) {
    let mut request = vec![0; 1 << 20];
    while let Ok(length) = server.read(&mut request) {
        if length < 40 {
            return;
        }
        let opcode = u32::from_ne_bytes(request[4..8].try_into().expect("four"));
        let (error, body) = match opcode {
            // FORGET, INTERRUPT: no answer.
            2 | 36 | 42 => continue,
            // GETATTR: valid for ever; a directory with number 1.
            3 => {
                let mut body = vec![0; 104];
                body[16] = 1;
                body[76..80].copy_from_slice(&0o40755_u32.to_ne_bytes());
                body[80] = 2;
                (0, body)
            }
            // STATFS.
            17 => (0, vec![0; 80]),
            // INIT: version 7.31.
            26 => {
                let mut body = vec![0; 64];
                body[0] = 7;
                body[4] = 31;
                body[20..24].copy_from_slice(&4096_u32.to_ne_bytes());
                (0, body)
            }
            // OPENDIR.
            27 => (0, vec![0; 16]),
            // RELEASEDIR, DESTROY, SYNCFS.
            29 | 38 | 50 => (0, Vec::new()),
            _ => (-38_i32, Vec::new()),
        };
        let mut answer = Vec::new();
        answer.extend((16 + body.len() as u32).to_ne_bytes());
        answer.extend(error.to_ne_bytes());
        answer.extend(&request[8..16]);
        answer.extend(body);
        if server.write_all(&answer).is_err() {
            return;
        }
    }
}
