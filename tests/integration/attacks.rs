//! What an ordinary user of the guest tries against a freeze (SECURITY.md).

use crate::support::{
    Disk, FuseWriter, Place, StuckWriter, failed, in_namespace, is_ours, not_run, returned,
    wait_until,
};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Exchanges a directory with a link, over and over, until it is dropped; then the directory is back.
struct Swapper {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Swapper {
    fn start(directory: PathBuf, link: PathBuf) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let (told, counted) = (is_over.clone(), count.clone());
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) || !directory.is_dir_itself() {
                exchange(&directory, &link);
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        wait_until("the first exchanges", || count.load(Ordering::Relaxed) > 10);
        Self {
            is_over,
            thread: Some(thread),
        }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the swapper");
        }
    }
}

/// renameat2(2) with RENAME_EXCHANGE, which nix has for glibc alone.
fn exchange(one: &Path, other: &Path) {
    let c_string = |path: &Path| CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    let (one, other) = (c_string(one), c_string(other));
    let (cwd, flags) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
    // SAFETY: both names end in a NUL and outlive the call.
    let result = unsafe { libc::renameat2(cwd, one.as_ptr(), cwd, other.as_ptr(), flags) };
    assert_eq!(result, 0, "exchange: {}", std::io::Error::last_os_error());
}

trait IsDirItself {
    /// Whether this is a directory and no link to one.
    fn is_dir_itself(&self) -> bool;
}

impl IsDirItself for PathBuf {
    fn is_dir_itself(&self) -> bool {
        fs::symlink_metadata(self).is_ok_and(|found| found.is_dir())
    }
}

/// Counts how often a file is opened; a descriptor that acts on nothing (O_PATH) does not count.
struct Opens(Inotify);

impl Opens {
    fn of(path: &Path) -> Self {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK).expect("inotify");
        inotify
            .add_watch(path, AddWatchFlags::IN_OPEN)
            .expect("watch");
        Self(inotify)
    }

    fn count(&self) -> usize {
        self.0.read_events().map_or(0, |events| events.len())
    }
}

/// `user/way/m` is a mountpoint; `user/link` leads to a directory in which `m` is `bait`.
fn way(place: &Place, bait: &Path) -> (Disk, PathBuf, PathBuf) {
    for directory in ["user", "user/way", "user/decoy"] {
        fs::create_dir(place.path(directory)).expect("dir");
    }
    let disk = Disk::ext4_in(&place.path("m.img"), &place.path("user/way/m"));
    symlink(bait, place.path("user/decoy/m")).expect("link");
    symlink(place.path("user/decoy"), place.path("user/link")).expect("link");
    (disk, place.path("user/way"), place.path("user/link"))
}

#[test]
fn directories_above_a_mountpoint_that_are_exchanged_by_links_keep_nothing_from_the_freeze() {
    if !is_ours() {
        return; // it follows the links
    }
    in_namespace(|| {
        let place = Place::new();
        let device = Path::new("/dev/ptmx");
        let (disk, directory, link) = way(&place, device);
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        let opens = Opens::of(device);
        let swapper = Swapper::start(directory, link);
        let (mut frozen, rounds) = (0, 60);
        for _ in 0..rounds {
            let reply = client.call("guest-fsfreeze-freeze");
            if reply == returned(1) {
                frozen += 1;
                assert!(disk.is_frozen());
                assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
            } else {
                assert!(reply.contains("failed to open "), "{reply}");
            }
            assert!(!disk.is_frozen());
        }
        drop(swapper);
        assert_eq!(opens.count(), 0, "the device was opened");
        assert_eq!(frozen, rounds, "not all were frozen");
    });
}

#[test]
fn trim_follows_no_link_on_the_way_to_a_mountpoint() {
    if !is_ours() {
        return; // it follows the links
    }
    in_namespace(|| {
        let place = Place::new();
        let device = Path::new("/dev/ptmx");
        let (_disk, directory, link) = way(&place, device);
        let agent = place.agent(&[]);
        let opens = Opens::of(device);
        let swapper = Swapper::start(directory, link);
        for _ in 0..60 {
            let reply = agent.call("guest-fstrim");
            assert!(!reply.contains("not supported"), "{reply}");
        }
        drop(swapper);
        assert_eq!(opens.count(), 0, "the device was opened");
    });
}

/// Makes FUSE connections visible in this namespace; false if there is no FUSE here.
fn has_fuse() -> bool {
    let none: Option<&str> = None;
    let mounted = mount(
        none,
        "/sys/fs/fuse/connections",
        Some("fusectl"),
        MsFlags::empty(),
        none,
    );
    let has = mounted.is_ok() && Path::new("/dev/fuse").exists();
    if !has {
        not_run("writes that wait for a FUSE server: no FUSE here");
    }
    has
}

#[test]
fn a_write_that_waits_for_its_users_fuse_server_stops_no_freeze() {
    if !is_ours() {
        return; // it waits for the server
    }
    in_namespace(|| {
        if !has_fuse() {
            return;
        }
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let agent = place.agent(&["--fsfreeze-step-limit=1"]);
        let mut client = agent.connect();
        let writer = FuseWriter::on(&disk, &place.path("fuse"));
        assert!(writer.is_writing());
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(1));
        assert!(disk.is_frozen());
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        wait_until("the write to end", || !writer.is_writing());
        fs::write(disk.path("after"), "written").expect("write");
        let line = " of user 1000: a freeze waits for";
        wait_until("the log", || place.read("log").contains(line));
    });
}

#[test]
fn a_writer_that_cannot_be_stopped_is_named_until_it_ends() {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let agent = place.agent(&["--fsfreeze-step-limit=1"]);
        let writer = StuckWriter::on(&disk);
        // Only waits, as all others do.
        let blocked = disk.path("blocked");
        let waiting = || std::thread::spawn(move || fs::write(blocked, "later"));
        let mut client = agent.connect();
        let reply = client.call("guest-fsfreeze-freeze");
        let culprit = format!(
            "failed to freeze {}: no answer within 1 s; held up by process {} (python3) of user 0; \
             writes may block until it ends",
            disk.mountpoint(),
            writer.pid()
        );
        assert!(reply.contains(&culprit), "{reply}");
        let waiting = waiting();
        let status = || {
            let told = place.run(&["status", "-t", &place.name("state")]);
            String::from_utf8(told.stdout).expect("text")
        };
        let line = format!("  blocked      writes to {}:", disk.mountpoint());
        assert!(status().contains(&line), "{}", status());
        assert_eq!(
            client.call("guest-fsfreeze-status"),
            r#"{"return": "thawed"}"#
        );
        let again = client.call("guest-fsfreeze-freeze");
        assert!(again.contains(&writer.pid().to_string()), "{again}");
        drop(writer);
        wait_until("the blocked write", || waiting.is_finished());
        wait_until("the end of the freeze", || !status().contains("  blocked"));
        assert!(!disk.is_frozen());
    });
}

#[test]
fn a_master_that_others_may_change_is_not_run() {
    if !is_ours() {
        return; // it runs it
    }
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let calls = place.path("calls");
        let master = place.script("hook", &format!("echo $1 >>{}", calls.display()));
        let agent = place.agent(&[&format!("-F{}", place.name("hook"))]);
        let mut client = agent.connect();
        let mut is_refused = |why: &str, remedy: &str| {
            let reply = client.call("guest-fsfreeze-freeze");
            let line = format!(
                "refusing to run hooks: {0} {why}; after checking its content, fix it with: {remedy} {0}",
                master.display()
            );
            assert_eq!(reply, failed(&line));
            assert!(!disk.is_frozen());
            assert_eq!(place.read("calls"), "");
        };
        let mode = |mode| fs::set_permissions(&master, fs::Permissions::from_mode(mode));
        mode(0o777).expect("mode");
        is_refused("is writable by all users (mode 0777)", "chmod go-w");
        mode(0o755).expect("mode");
        chown(&master, Some(1000), None).expect("chown");
        is_refused(
            "is owned by user 1000, not by root (mode 0755)",
            "chown root:",
        );
        chown(&master, Some(0), None).expect("chown");
        let acl = "import os, struct, sys\n\
            entry = lambda tag, rights, id=0xffffffff: struct.pack('<HHI', tag, rights, id)\n\
            entries = entry(1, 7) + entry(2, 7, 1000) + entry(4, 5) + entry(16, 7) + entry(32, 5)\n\
            os.setxattr(sys.argv[1], 'system.posix_acl_access', struct.pack('<I', 2) + entries)";
        let set = Command::new("python3")
            .args(["-c", acl])
            .arg(&master)
            .status();
        assert!(set.expect("python3").success());
        is_refused(
            "has an ACL that lets user 1000 write (mode 0775)",
            "setfacl -b",
        );
        // Only what the mask lets through counts.
        mode(0o755).expect("mode");
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(1));
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        assert_eq!(place.read("calls"), "freeze\nthaw\n");
    });
}
