"""A namespace whose root filesystem may be frozen: ext4 on a loop device, with its image in memory.

`run` calls a function inside it. No filesystem of the machine can be frozen from there: the machine's directories are overlays
with their changes in memory, and `refuse_real_filesystems`, to be called before every freeze, reads the mount table back.
A keeper process outside the process namespace thaws everything and restores the machine's settings when the function ends, also
if it was killed. Used by matrix.py only.
"""
import contextlib
import ctypes
import fcntl
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
import traceback

from lib import paths, sandbox

# sys/mount.h
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 0x1000, 0x4000, 0x40000, 2
FITHAW = 0xC0045878
# linux/loop.h
LOOP_MAJOR, LOOP_GET_STATUS64, LOOP_INFO_SIZE = 7, 0x4C05, 232
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Filesystems without a block device, that cannot be frozen; an overlay's layers are out of a freeze's reach.
NOT_FREEZABLE = ("overlay", "tmpfs", "proc", "sysfs", "devtmpfs", "devpts", "mqueue", "hugetlbfs", "ramfs")
# What programs need of the machine.
SHOWN = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc")
ROOT_SIZE = 3 << 30
WORKER_EXIT_TIMEOUT = 20
# The tmpfs with the images, inside the namespace. Nothing in it ever freezes.
HOLD = pathlib.Path("/hold")
EXPEDITED = pathlib.Path("/sys/kernel/rcu_expedited")
SETTINGS = [pathlib.Path("/proc/sys/vm") / name for name in
            ("dirty_ratio", "dirty_bytes", "dirty_background_ratio", "dirty_background_bytes", "dirty_expire_centisecs",
             "dirty_writeback_centisecs")] + [EXPEDITED]

libc = ctypes.CDLL(None, use_errno=True)


class SealedError(Exception):
    """The namespace cannot be made, shows a real filesystem, or what ran in it has failed."""


def run(body, folder, prepare):
    """Calls `body` in a new namespace; returns (what body.value() is then, whether `body` returned). JSON must be able to hold the value.

    `folder` is where the namespace is built, `prepare` a shell command to run before; what it does to SETTINGS is undone.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    keeper = os.fork()
    if keeper == 0:
        os.close(reader)
        _end(_keep, body, pathlib.Path(folder), prepare, writer)
    os.close(writer)
    try:
        with open(reader, "rb") as answer:
            text = answer.read()
    except BaseException:
        os.kill(keeper, signal.SIGTERM)
        raise
    finally:
        status = os.waitstatus_to_exitcode(os.waitpid(keeper, 0)[1])
    if not text:
        raise SealedError(f"the namespace could not be made, or was ended (status {status})")
    return json.loads(text), status == 0


def _end(function, *arguments):
    """Calls the function and ends this process, without the clean-up that belongs to its parent."""
    status = 1
    try:
        function(*arguments)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:  # whatever it was, this process must not go on in its parent's place
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


# --- the keeper

def _keep(body, folder, prepare, writer):
    libc.prctl(sandbox.PR_SET_PDEATHSIG, signal.SIGTERM)
    _end_once_on_signals()
    settings = {path: path.read_text() for path in SETTINGS}
    _check(libc.unshare(sandbox.CLONE_NEWNS), "unshare")
    _build(folder)
    # The worker covers /proc with that of its process namespace; what is open stays readable.
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        refuse_real_filesystems(table)
        # Its end says that the worker has ended, also while a writer on a frozen filesystem keeps the process namespace alive.
        alive, held = os.pipe()
        worker = None
        try:
            subprocess.run(["sh", "-c", prepare], check=True)
            worker = os.fork()
            if worker == 0:
                os.close(alive)
                _end(_work, body, writer, held)
            os.close(held)
            os.close(writer)
            os.read(alive, 1)
        finally:
            _ignore_signals()
            if worker and not _readable(alive, 0):
                os.kill(worker, signal.SIGTERM)
                # Its own way out thaws, too.
                if not _readable(alive, WORKER_EXIT_TIMEOUT):
                    os.kill(worker, signal.SIGKILL)
            status = _thaw_until_ended(worker, table) if worker else 1
            restore(settings)
    sys.exit(os.waitstatus_to_exitcode(status))


def _thaw_until_ended(worker, table):
    """Returns the worker's status. A killed agent ends only after the freeze it was in, and a writer only after a thaw."""
    while True:
        ended, status = os.waitpid(worker, os.WNOHANG)
        thaw_all(table)
        if ended:
            return status
        time.sleep(0.1)


def _readable(descriptor, timeout):
    return bool(select.select([descriptor], [], [], timeout)[0])


def _work(body, writer, held):
    """In the process namespace: calls `body` and sends its value."""
    sandbox.fork_into(sandbox.CLONE_NEWPID, own=(writer, held))
    _end_once_on_signals()
    _mount("proc", "/proc", "proc")
    try:
        body()
    finally:
        # Also of a run that was cut short: what has been measured is worth seeing.
        _ignore_signals()
        thaw_all()
        # The run itself may have been killed.
        with contextlib.suppress(BrokenPipeError), open(writer, "w", encoding="utf-8") as answer:
            json.dump(body.value(), answer)


def _end_once_on_signals():
    """The first signal ends this process through its `finally` clauses, a second one does not cut these short."""
    def end(*_):
        _ignore_signals()
        sys.exit(143)
    for number in ENDING:
        signal.signal(number, end)


def _ignore_signals():
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def restore(settings):
    """Writes back what the run, or an agent in it, has changed; a ratio and its number of bytes exclude each other."""
    for path, value in settings.items():
        if path.read_text() != value and not (path.name.endswith(("_bytes", "_ratio")) and int(value) == 0):
            path.write_text(value)


# --- the namespace

def _build(folder):
    """Makes the namespace's root and moves this process there; `folder` becomes the mountpoint of the tmpfs."""
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    folder.mkdir(parents=True, exist_ok=True)
    _mount("none", folder, "tmpfs", options="mode=755,size=80%")
    root = folder / "root"
    for path in (root, folder / "images", folder / "bin", folder / "run"):
        path.mkdir()
    mount_image(folder / "images" / "root", ROOT_SIZE, root)
    for name in ("proc", "sys", "dev", "run", "tmp", "var/log", "m", "old-root", HOLD.name):
        (root / name).mkdir(parents=True)
    for name in SHOWN:
        there = pathlib.Path("/", name)
        if there.is_symlink():
            (root / name).symlink_to(there.readlink())
        elif there.is_dir():
            _overlay(there, root / name, folder)
    _overlay(paths.ROOT, root / paths.ROOT.relative_to("/"), folder)
    for name in ("run", "tmp", "var/log"):
        _mount("none", root / name, "tmpfs", options="mode=755")
    _mount("/dev", root / "dev", None, MS_BIND | MS_REC)
    _mount("sysfs", root / "sys", "sysfs")
    _mount("proc", root / "proc", "proc")
    _mount(folder, root / HOLD.name, None, MS_BIND)
    os.chdir(root)
    _check(libc.pivot_root(b".", b"old-root"), "pivot_root")
    os.chdir("/")
    _check(libc.umount2(b"/old-root", MNT_DETACH), "umount of the old root")
    os.rmdir("/old-root")


def mount_image(image, size, mountpoint):
    """A new ext4 filesystem in a sparse image, mounted over a loop device that goes with its mount."""
    with open(image, "wb") as file:
        file.truncate(size)
    # Initialized now: the kernel would do it in the background, during the measurement.
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image)], check=True)
    mountpoint.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "ext4", "-o", "loop", str(image), str(mountpoint)], check=True)


def _overlay(lower, target, folder):
    """Shows `lower` at `target`; writes go to the tmpfs."""
    name = str(lower).strip("/").replace("/", "-")
    upper, work = folder / "changes" / name, folder / "changes.work" / name
    for path in (upper, work, target):
        path.mkdir(parents=True, exist_ok=True)
    _mount("overlay", target, "overlay", options=f"lowerdir={lower},upperdir={upper},workdir={work}")


def _mount(source, target, kind, flags=0, options=None):
    words = [None if word is None else str(word).encode() for word in (source, target, kind)]
    _check(libc.mount(*words, flags, options and options.encode()), f"mount of {target}")


def _check(returned, what):
    if returned != 0:
        raise SealedError(f"{what}: {os.strerror(ctypes.get_errno())}")


# --- what is mounted

def devices(table=None):
    """(device, mountpoint, filesystem type) of every mount in sight, in the order of the mount table."""
    with contextlib.ExitStack() as stack:
        table = table or stack.enter_context(open("/proc/self/mountinfo", encoding="utf-8"))
        table.seek(0)
        lines = table.read().splitlines()
    fields = [(line.split(" "), line.split(" - ")[1].split(" ")) for line in lines]
    return [(first[2], first[4], last[0]) for first, last in fields]


def refuse_real_filesystems(table=None):
    """Raises unless all that is mounted is one of our loop devices or cannot be frozen. Call it before every freeze."""
    for device, mountpoint, kind in devices(table):
        major, minor = map(int, device.split(":"))
        own = _is_own(minor) if major == LOOP_MAJOR else major == 0 and kind in NOT_FREEZABLE
        if not own:
            raise SealedError(f"the namespace shows {mountpoint} on device {device} ({kind}): nothing may be frozen in it")


def _is_own(loop):
    """Whether the image of that loop device lies on our tmpfs."""
    status = bytearray(LOOP_INFO_SIZE)
    with open(f"/dev/loop{loop}", "rb") as device:
        fcntl.ioctl(device, LOOP_GET_STATUS64, status)
    # struct loop_info64 begins with lo_device, where the image lies.
    return int.from_bytes(status[:8], sys.byteorder) == os.stat(HOLD).st_dev


def own_filesystems(table=None):
    """Mountpoints on loop devices, in the order of their mounts."""
    return [mountpoint for device, mountpoint, _ in devices(table) if device.startswith(f"{LOOP_MAJOR}:")]


def thaw_all(table=None):
    """FITHAW of everything on a loop device in sight; what is not frozen says EINVAL."""
    for mountpoint in own_filesystems(table):
        with contextlib.suppress(OSError):
            file = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.ioctl(file, FITHAW, 0)
            finally:
                os.close(file)
