"""Disks that the guest exports to itself: their backing file is on the root filesystem, and sysfs does not show that.

Such a disk must be frozen before the root filesystem, as the original does (reverse mount order, one after another): its FIFREEZE
writes to the backing file, and that write blocks once the root filesystem is frozen. Freezing both at once is a deadlock, or, with the
NVMe target, a write to a frozen filesystem.
"""
import contextlib
import statistics
import time

from lib import harm
from lib.channel import ChannelError
from lib.guest import ORIGINAL_IN_GUEST
from lib.report import check, equal, holds

BACKING_FILE = "/var/hidden.img"
MOUNT_POINT = "/mnt/hidden"
FOLDERS = (MOUNT_POINT, "/data", "/root")
ORIGINAL_FREEZES = 3
FREEZES = 9
# A freeze takes a few tenths of a second; this only bounds the time that a deadlock costs.
STEP_LIMIT = 10
FREEZE_TIMEOUT = 40
ALLOWED_DELAY = 1.0

# The shell commands that export BACKING_FILE and attach the disk, and those that undo this, however far it came.
SCSI_TARGET = "/sys/kernel/config/target"
SCSI_BACKEND = f"{SCSI_TARGET}/core/fileio_0/hidden"
SCSI_WWN = f"{SCSI_TARGET}/loopback/naa.5001405000000001"
SCSI_UP = f"""modprobe -a configfs target_core_mod target_core_file tcm_loop sd_mod
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
mkdir -p {SCSI_BACKEND} {SCSI_WWN}/tpgt_1/lun/lun_0
echo fd_dev_name={BACKING_FILE},fd_dev_size=$(stat -c %s {BACKING_FILE}) >{SCSI_BACKEND}/control
echo 1 >{SCSI_BACKEND}/enable
echo naa.5001405000000002 >{SCSI_WWN}/tpgt_1/nexus
ln -s {SCSI_BACKEND} {SCSI_WWN}/tpgt_1/lun/lun_0/hidden"""
SCSI_DOWN = f"""rm -f {SCSI_WWN}/tpgt_1/lun/lun_0/hidden
rmdir {SCSI_WWN}/tpgt_1/lun/lun_0 {SCSI_WWN}/tpgt_1 {SCSI_WWN} {SCSI_BACKEND}"""

# Not by nbd-server, which computes Diffie-Hellman parameters before it answers: up to 20 s under TCG.
NBD_UP = f"""modprobe nbd
nbdkit -i 127.0.0.1 -P /run/nbd.pid file {BACKING_FILE}
nbd-client -N '' 127.0.0.1 10809 /dev/nbd0"""
NBD_DOWN = "nbd-client -d /dev/nbd0; kill $(cat /run/nbd.pid)"

NVME_TARGET = "/sys/kernel/config/nvmet"
NVME_SUBSYSTEM = f"{NVME_TARGET}/subsystems/hidden"
NVME_PORT = f"{NVME_TARGET}/ports/1"
NVME_UP = f"""modprobe -a configfs nvmet nvmet-tcp nvme-fabrics nvme-tcp
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
mkdir -p {NVME_SUBSYSTEM}/namespaces/1 {NVME_PORT}
echo 1 >{NVME_SUBSYSTEM}/attr_allow_any_host
echo -n {BACKING_FILE} >{NVME_SUBSYSTEM}/namespaces/1/device_path
echo 1 >{NVME_SUBSYSTEM}/namespaces/1/enable
echo tcp >{NVME_PORT}/addr_trtype
echo ipv4 >{NVME_PORT}/addr_adrfam
echo 127.0.0.1 >{NVME_PORT}/addr_traddr
echo 4420 >{NVME_PORT}/addr_trsvcid
ln -s {NVME_SUBSYSTEM} {NVME_PORT}/subsystems/hidden
echo transport=tcp,traddr=127.0.0.1,trsvcid=4420,nqn=hidden >/dev/nvme-fabrics"""
NVME_DOWN = f"""echo 1 >/sys/class/nvme/nvme0/delete_controller
rm -f {NVME_PORT}/subsystems/hidden; rmdir {NVME_PORT} {NVME_SUBSYSTEM}/namespaces/1 {NVME_SUBSYSTEM}"""


@contextlib.contextmanager
def exported_disk(g, up, down, device):
    """An ext4 on `device`, which the script `up` makes of a file on the root filesystem, mounted at MOUNT_POINT."""
    holds(g.process.poll() is None, "the guest was ended after an earlier check")
    try:
        g.oob.run(f"""set -e
truncate -s 256M {BACKING_FILE}
{up}
udevadm settle -t 20 -E {device}
[ $(blockdev --getsize64 {device}) = $(stat -c %s {BACKING_FILE}) ]
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 {device}
mkdir -p {MOUNT_POINT}
mount {device} {MOUNT_POINT}""")
        # Else the checks prove nothing: device mapper lists the devices below one, a loop device its backing file.
        shown = g.oob.run(f"cd /sys/class/block/{device.rpartition('/')[2]} && ls slaves && cat loop/backing_file 2>/dev/null", check=False)
        equal(shown, "", "what sysfs shows below the disk")
        yield
    finally:
        remove(g, down)


def remove(g, down):
    """Takes the disk away; a guest in which this blocks is ended, so that the checks after this one fail at once."""
    try:
        g.oob.run(f"umount {MOUNT_POINT}; {{ {down}\n}}; rm -f {BACKING_FILE}", timeout=30, check=False)
    except ChannelError:
        g.save_logs()
        g.stop()
        g.oob = None


def measure_freezes(g, program, count):
    """How long each of `count` freezes took, in seconds, all filesystems being written to meanwhile."""
    g.run_agent(program)
    times = []
    with g.agent() as agent:
        for turn in range(1, count + 1):
            # Unwritten data for the freeze to flush.
            g.oob.run(f"dd if=/dev/zero of={MOUNT_POINT}/fill bs=1M count=8 2>/dev/null")
            started = time.monotonic()
            answer = agent.command("guest-fsfreeze-freeze", timeout=FREEZE_TIMEOUT)
            times.append(time.monotonic() - started)
            equal(answer, {"return": len(FOLDERS)}, f"freeze {turn} of {count} by {program}, answered after {times[-1]:.1f} s")
            equal(agent.ask("guest-fsfreeze-thaw"), len(FOLDERS), f"thaw {turn} of {count} by {program}")
    return times


def freezes_as_fast_as_with_the_original(g):
    """The freezes of both agents beside the same writers."""
    harm.settle(g, fsfreeze_step_limit=STEP_LIMIT)
    booted_for = harm.uptime(g)
    writers = harm.Writers(g, *(f"{folder}/lines" for folder in FOLDERS))
    try:
        originals = measure_freezes(g, ORIGINAL_IN_GUEST, ORIGINAL_FREEZES)
        ours = measure_freezes(g, "/usr/sbin/qemu-ga", FREEZES)
        harm.writable(g, *FOLDERS)
    except BaseException:
        # A writer at work would keep the disk busy.
        g.thaw_anyway()
        g.oob.run("touch /run/oob/stall.stop")
        writers.job.wait(20)
        raise
    result = writers.end()
    # The NVMe target's writes do not wait for the thaw: ext4 logs a warning for each that changes a frozen filesystem.
    harm.no_kernel_warnings(g, booted_for)
    limit = statistics.median(originals) + ALLOWED_DELAY
    slow = [f"{seconds:.2f} s" for seconds in ours if seconds > limit]
    holds(not slow, f"freezes that took longer than {limit:.2f} s, the original's median and {ALLOWED_DELAY:.0f} s more: {slow}")
    order = [filesystem["mountpoint"] for filesystem in harm.reports(g)[0]["filesystems"]]
    equal(order, [MOUNT_POINT, "/data", "/"], "the order of the freeze, the root filesystem last")
    lines = sum(found["lines"] for found in result.values())
    print(f"     (original {summary(originals)}, ours {summary(ours)}; {lines} lines, none lost)", flush=True)


def summary(times):
    """Median and longest of some times."""
    return f"{statistics.median(times) * 1000:.0f} ms, at most {max(times) * 1000:.0f} ms"


@check("hidden")
def a_disk_exported_over_scsi_to_oneself_freezes_as_fast_as_with_the_original(g):
    with exported_disk(g, SCSI_UP, SCSI_DOWN, "/dev/sda"):
        freezes_as_fast_as_with_the_original(g)


@check("hidden")
def a_disk_exported_over_nbd_to_oneself_freezes_as_fast_as_with_the_original(g):
    with exported_disk(g, NBD_UP, NBD_DOWN, "/dev/nbd0"):
        freezes_as_fast_as_with_the_original(g)


# Over TCP: Debian 12's kernels are built without nvme-loop.
@check("hidden")
def a_disk_exported_over_nvme_to_oneself_freezes_as_fast_as_with_the_original(g):
    with exported_disk(g, NVME_UP, NVME_DOWN, "/dev/nvme0n1"):
        freezes_as_fast_as_with_the_original(g)
