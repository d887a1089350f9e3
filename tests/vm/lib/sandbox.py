"""A private corner of this machine for QEMU and libvirt.

`enter` moves the program into new mount, process and network namespaces: /run, libvirt's folders and the user database are
its own, the user's libvirt is out of sight, and when it ends, however it ends, the kernel kills every QEMU and libvirtd that
it had started.
"""
import ctypes
import fcntl
import os
import pathlib
import signal
import subprocess
import sys

# linux/sched.h, linux/prctl.h; os.unshare came with Python 3.12 only
CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG = 1
LIBVIRT_USERS = ("libvirt-qemu:x:64055:64055:::/usr/sbin/nologin",)
LIBVIRT_GROUPS = ("kvm:x:64053:", "libvirt:x:64054:", "libvirt-qemu:x:64055:")


def only_one(lock):
    """Waits until no other run uses the cache; the lock is kept until this run and all it started have ended."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(file, True)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for another run to end ({lock} is locked)", flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)


def enter(private, network=CLONE_NEWNET):
    """Returns inside the sandbox, in a grandchild. `private` is a directory for its files. With `network` 0 it has this machine's."""
    fork_into(CLONE_NEWNS | CLONE_NEWPID | network)
    _mount(private, bool(network))


def fork_into(namespaces, own=()):
    """Returns in a grandchild inside new `namespaces`, which include CLONE_NEWPID; the caller waits for it and ends as it does.

    The descriptors in `own` stay open in the grandchild only.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    sys.stdout.flush()
    if libc.unshare(namespaces) != 0:
        sys.exit(f"no namespaces of its own: {os.strerror(ctypes.get_errno())} (root of the machine is needed, not of a container)")
    first = os.fork()
    if first:
        _stand_for(first, own)
    # Process 1 of the namespace dies with its parent, and all others with process 1.
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    worker = os.fork()
    if worker:
        _stand_for(worker, own)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def _stand_for(child, own):
    """Waits for `child` and ends as it does; hands signals on, and reaps what others leave behind (libvirt waits for that)."""
    for descriptor in own:
        os.close(descriptor)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: os.kill(child, signal.SIGTERM))
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _mount(private, has_network):
    private = pathlib.Path(private)
    private.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
    for folder in ("/run", "/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt"):
        os.makedirs(folder, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", folder], check=True)
    os.makedirs("/run/lock", exist_ok=True)
    # A /sys of the new network namespace, if there is one, and without control groups: libvirt is to leave both of the machine's alone.
    own = ["sysfs", "/sys"] if has_network else ["tmpfs", "/sys/fs/cgroup"]
    subprocess.run(["mount", "-t", own[0], *own], check=True)
    for database, entries in (("/etc/passwd", LIBVIRT_USERS), ("/etc/group", LIBVIRT_GROUPS)):
        text = pathlib.Path(database).read_text()
        known = {line.split(":")[0] for line in text.splitlines()}
        text += "".join(entry + "\n" for entry in entries if entry.split(":")[0] not in known)
        file = private / pathlib.Path(database).name
        file.write_text(text)
        subprocess.run(["mount", "--bind", str(file), database], check=True)
