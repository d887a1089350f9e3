//! Processes that keep a FIFREEZE from returning, and FIFREEZE calls that have not returned, found by the system calls of
//! all tasks (proc_pid_syscall(5)). Floor 1.
//!
//! FIFREEZE waits for every write that has begun, and blocks those after it. A write whose data come from a FUSE page or
//! from userfaultfd(2) ends when the user who owns these likes; its task is in write(2) and waits for no lock of the kernel.
//! Nothing here asks the filesystem of a file, because that may block. What cannot be read is left out. The engine names
//! these writers when a freeze does not succeed; the tools name the calls.

use super::System;
use super::mountinfo::{DeviceNumber, Mount, device_of};
use nix::libc;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

const FIFREEZE: u32 = nix::request_code_readwrite!(b'X', 119, size_of::<libc::c_int>()) as u32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    pub pid: u32,
    /// With `?` for unprintable characters.
    pub name: String,
    /// The real one.
    pub uid: String,
    /// Minor numbers of the filesystems without a device (FUSE, for example) whose files it has mapped.
    pub maps: Vec<u32>,
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, name, uid, .. } = self;
        write!(f, "process {pid} ({name}) of user {uid}")
    }
}

struct Task {
    dir: PathBuf,
    pid: u32,
    number: libc::c_long,
    arguments: [u64; 3],
}

impl Task {
    /// Parses `NUMBER ARGUMENT…`, in hexadecimal. `None` for a task that is not in a system call.
    fn parse(dir: PathBuf, pid: u32, line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let number = words.next()?.parse().ok()?;
        let mut argument = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
        let arguments = [argument()?, argument()?, argument()?];
        Some(Self {
            dir,
            pid,
            number,
            arguments,
        })
    }

    fn written_descriptor(&self) -> Option<u64> {
        let [first, _, third] = self.arguments;
        match self.number {
            libc::SYS_write
            | libc::SYS_writev
            | libc::SYS_pwrite64
            | libc::SYS_pwritev
            | libc::SYS_pwritev2
            | libc::SYS_sendfile => Some(first),
            // The first one is read.
            libc::SYS_splice | libc::SYS_copy_file_range => Some(third),
            _ => None,
        }
    }
}

fn read_numbers(dir: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let number =
        |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    entries.filter_map(number).collect()
}

/// After `until` the rest is left out.
fn find_tasks(system: &System, until: Instant) -> Vec<Task> {
    let mut found = Vec::new();
    for pid in read_numbers(&system.path("/proc")) {
        if Instant::now() > until {
            break;
        }
        let tasks = PathBuf::from(format!("/proc/{pid}/task"));
        for tid in read_numbers(&system.path(&tasks)) {
            let dir = tasks.join(tid.to_string());
            let line = system.attribute(&dir.join("syscall"));
            found.extend(Task::parse(dir, pid, &line));
        }
    }
    found
}

/// Processes that have begun to write to the filesystem and do not wait for its thaw.
pub fn find_writers(system: &System, device: DeviceNumber, until: Instant) -> Vec<Writer> {
    let mut found: Vec<Writer> = Vec::new();
    for task in find_tasks(system, until) {
        let Some(descriptor) = task.written_descriptor() else {
            continue;
        };
        // A task that waits for the thaw (sb_start_write), or for another writer of the same file, waits for a semaphore,
        // whose functions have these names.
        let kernel_function = system.attribute(&task.dir.join("wchan"));
        let waits = kernel_function.contains("rwsem") || kernel_function.contains("percpu");
        let is_known = found.last().is_some_and(|last| last.pid == task.pid);
        if !waits
            && !is_known
            && device_of(system, &task.dir, &descriptor.to_string()) == Some(device)
        {
            found.push(writer(system, &task));
        }
    }
    found
}

fn writer(system: &System, task: &Task) -> Writer {
    let status = system.text(task.dir.join("status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim_start()
    };
    let shown = |c: char| if c.is_ascii_graphic() { c } else { '?' };
    let maps = system.text(task.dir.join("maps")).unwrap_or_default();
    let minor = |line: &str| {
        let device = line.split(' ').nth(3)?.strip_prefix("00:")?;
        u32::from_str_radix(device, 16)
            .ok()
            .filter(|&minor| minor != 0)
    };
    Writer {
        pid: task.pid,
        name: field("Name:").chars().map(shown).collect(),
        uid: field("Uid:")
            .split('\t')
            .next()
            .unwrap_or_default()
            .to_owned(),
        maps: maps.lines().filter_map(minor).collect(),
    }
}

/// Whether a FIFREEZE of this process waits for writers, not for a disk.
pub fn is_freeze_waiting(system: &System) -> bool {
    let tasks = Path::new("/proc/self/task");
    let mut names = read_numbers(&system.path(tasks))
        .into_iter()
        .map(|tid| system.attribute(&tasks.join(tid.to_string()).join("wchan")));
    // Since Linux 6 the first is inlined in the second.
    names.any(|name| name.contains("percpu_down_write") || name.contains("freeze_super"))
}

/// The mount points with a FIFREEZE in progress, by any process.
pub fn find_freezing(system: &System, mounts: &[Mount], until: Instant) -> Vec<Vec<u8>> {
    let is_freeze =
        |task: &Task| task.number == libc::SYS_ioctl && task.arguments[1] as u32 == FIFREEZE;
    find_in_call(system, mounts, until, &is_freeze)
}

/// The mount points for which one of these processes is in syncfs(2).
pub fn find_flushing(
    system: &System,
    mounts: &[Mount],
    until: Instant,
    pids: &[i32],
) -> Vec<Vec<u8>> {
    let is_flush =
        |task: &Task| task.number == libc::SYS_syncfs && pids.contains(&(task.pid as i32));
    find_in_call(system, mounts, until, &is_flush)
}

/// The mount points of which a descriptor is the first argument of such a call.
fn find_in_call(
    system: &System,
    mounts: &[Mount],
    until: Instant,
    is_meant: &dyn Fn(&Task) -> bool,
) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for task in find_tasks(system, until) {
        let [descriptor, ..] = task.arguments;
        if !is_meant(&task) {
            continue;
        }
        let device = device_of(system, &task.dir, &descriptor.to_string());
        let mut own = mounts.iter().filter(|mount| Some(mount.device()) == device);
        let own = own.next().map(|mount| mount.mountpoint.clone());
        found.extend(own.filter(|own| !found.contains(own)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Duration;

    struct Proc(tempfile::TempDir);

    impl Proc {
        fn add(&self, pid: u32, syscall: &str, wchan: &str) {
            let dir = self.0.path().join(format!("proc/{pid}/task/{pid}"));
            fs::create_dir_all(dir.join("fdinfo")).unwrap();
            let files = [
                ("syscall", syscall),
                ("wchan", wchan),
                (
                    "fdinfo/4",
                    "pos:\t0\nflags:\t0100001\nmnt_id:\t30\nino:\t12\n",
                ),
                (
                    "fdinfo/5",
                    "pos:\t0\nflags:\t0100001\nmnt_id:\t31\nino:\t12\n",
                ),
                (
                    "mountinfo",
                    "30 1 7:1 / /d rw - ext4 /dev/loop1 rw\n31 1 7:2 / /e rw - ext4 /dev/loop2 rw\n",
                ),
                (
                    "status",
                    "Name:\tpyt\u{7}hon 3\nUmask:\t0022\nUid:\t1000\t0\t0\t0\n",
                ),
                (
                    "maps",
                    "7f-80 rw-s 00000000 00:2f 12   /x 00:30 y\n80-81 r--p 00000000 08:31 1 /z\n\
                     81-82 rw-p 00000000 00:00 0 \n",
                ),
            ];
            for (name, text) in files {
                fs::write(dir.join(name), text).unwrap();
            }
        }
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_writer_that_waits_for_no_semaphore_is_found() {
        let proc = Proc(tempfile::tempdir().unwrap());
        let system = System::at(proc.0.path()).unwrap();
        let call = |number: libc::c_long, first: u64, third: u64| {
            format!("{number} {first:#x} 0x7fd1 {third:#x} 0x0 0x0 0x0 0x7ffd 0x7fd2\n")
        };
        proc.add(10, &call(libc::SYS_write, 4, 5), "handle_userfault");
        proc.add(11, &call(libc::SYS_write, 4, 5), "percpu_rwsem_wait");
        proc.add(12, &call(libc::SYS_write, 5, 4), "0");
        proc.add(13, &call(libc::SYS_splice, 5, 4), "pipe_wait");
        proc.add(14, &call(libc::SYS_read, 4, 4), "0");
        proc.add(15, "running\n", "0");
        proc.add(16, "-1 0x7ffd 0x7fd2\n", "0");
        let mut found = find_writers(&system, (7, 1), later());
        found.sort_by_key(|writer| writer.pid);
        let pids: Vec<u32> = found.iter().map(|writer| writer.pid).collect();
        assert_eq!(pids, [10, 13]);
        assert_eq!(found[0].to_string(), "process 10 (pyt?hon?3) of user 1000");
        assert_eq!(found[0].maps, [0x2f]);
        assert_eq!(find_writers(&system, (7, 3), later()), []);
        let past = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        assert_eq!(find_writers(&system, (7, 1), past), []);
    }

    #[test]
    fn a_freeze_in_progress_is_found_by_its_request() {
        let proc = Proc(tempfile::tempdir().unwrap());
        let system = System::at(proc.0.path()).unwrap();
        let ioctl = libc::SYS_ioctl;
        proc.add(10, &format!("{ioctl} 0x4 {FIFREEZE:#x} 0x0 0x0\n"), "0");
        proc.add(12, &format!("{ioctl} 0x4 {FIFREEZE:#x} 0x0 0x0\n"), "0");
        proc.add(11, &format!("{ioctl} 0x5 0x5401 0x0 0x0\n"), "0");
        let mounts = crate::probe::mountinfo::parse(
            b"41 1 7:1 / /data rw - ext4 /dev/loop1 rw\n42 1 7:1 / /bind rw - ext4 /dev/loop1 rw\n",
        );
        assert_eq!(
            find_freezing(&system, &mounts, later()),
            [b"/data".to_vec()]
        );
        assert_eq!(find_freezing(&system, &[], later()), Vec::<Vec<u8>>::new());
        proc.add(13, &format!("{} 0x4 0x0 0x0 0x0\n", libc::SYS_syncfs), "0");
        let of = |pids: &[i32]| find_flushing(&system, &mounts, later(), pids);
        assert_eq!((of(&[13]).len(), of(&[10]).len()), (1, 0));
    }
}
