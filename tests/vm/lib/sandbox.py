"""A private corner of this machine for QEMU and libvirt.

`enter` starts the program again as the first process of new mount, process and network namespaces: /run, libvirt's folders
and the user database are its own, the user's libvirt is out of sight, and when it ends, however it ends, the kernel
kills every QEMU and libvirtd it had started.
"""
import fcntl
import os
import pathlib
import signal
import subprocess
import sys

MARK = "QGA_VM_SANDBOX"
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


def inside():
    """Whether this process was started by `enter`."""
    return os.environ.get(MARK) == "1"


def enter(private):
    """Returns inside the sandbox, in a child of its first process. `private` is an empty directory for its files."""
    if not inside():
        os.environ[MARK] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", "--net", "--pid", "--fork", "--kill-child",
                              "--mount-proc", "/usr/bin/python3", "-B", *sys.argv])
    _become_init()
    _mount(private)


def _become_init():
    """Stays as process 1 to reap what others leave behind (libvirt waits for a QEMU to vanish); goes on in a child."""
    child = os.fork()
    if child == 0:
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda n, _: os.kill(child, n))
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            os._exit(1)
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _mount(private):
    # A shell's Ctrl-C reaches this process through its parent or the terminal; SIGTERM should clean up just the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    private = pathlib.Path(private)
    private.mkdir(parents=True, exist_ok=True)
    for folder in ("/run", "/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt"):
        os.makedirs(folder, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", folder], check=True)
    os.makedirs("/run/lock", exist_ok=True)
    # A /sys of this network namespace, and without control groups: libvirt is to leave both of the machine's alone.
    subprocess.run(["mount", "-t", "sysfs", "sysfs", "/sys"], check=True)
    for database, entries in (("/etc/passwd", LIBVIRT_USERS), ("/etc/group", LIBVIRT_GROUPS)):
        text = pathlib.Path(database).read_text()
        known = {line.split(":")[0] for line in text.splitlines()}
        text += "".join(entry + "\n" for entry in entries if entry.split(":")[0] not in known)
        own = private / pathlib.Path(database).name
        own.write_text(text)
        subprocess.run(["mount", "--bind", str(own), database], check=True)
