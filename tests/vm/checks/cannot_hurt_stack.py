"""ext4 on a loop device on ext4 on LVM, under write load, frozen and thawed over and over: no deadlock, no lost line, clean afterwards."""
import contextlib
import os
import subprocess
import time

from lib import harm, image
from lib.report import check, equal, holds

CYCLES = int(os.environ.get("QGA_VM_CYCLES", "30"))
FOLDERS = ("/root", "/data", "/mnt/lv", "/mnt/inner")
HUNG = 10


@contextlib.contextmanager
def stack(g):
    """The two further filesystems, on the third disk."""
    g.oob.run("modprobe loop; modprobe dm-mod; pvcreate -q -ff -y /dev/vdc && vgcreate -q vg /dev/vdc && lvcreate -q -y -n lv -L 600M vg && "
              "mkfs.ext4 -q /dev/vg/lv && mkdir -p /mnt/lv /mnt/inner && mount /dev/vg/lv /mnt/lv && "
              "truncate -s 256M /mnt/lv/image && mkfs.ext4 -q /mnt/lv/image && mount -o loop /mnt/lv/image /mnt/inner", timeout=120)
    try:
        yield
    finally:
        g.oob.run("umount /mnt/inner; umount /mnt/lv; vgremove -q -y vg; pvremove -q -y /dev/vdc; wipefs -qa /dev/vdc", timeout=120, check=False)


def root_is_clean(g):
    """e2fsck of a copy of the root that is taken while it is frozen."""
    harm.settle(g)
    copy = g.work / "root-copy.img"
    with g.agent() as agent:
        agent.ask("guest-fsfreeze-freeze")
        try:
            image.copy(g.work / "root.img", copy)
        finally:
            agent.ask("guest-fsfreeze-thaw")
    done = subprocess.run(["e2fsck", "-fn", str(copy)], capture_output=True, text=True)
    copy.unlink()
    equal(done.returncode, 0, f"e2fsck -fn of the frozen root ({done.stdout}{done.stderr})")


def data_is_clean(g):
    """xfs_repair of the unmounted data disk."""
    g.oob.run("umount /data && { xfs_repair -n /dev/vdb >/run/oob/repair 2>&1; status=$?; mount /data; [ $status = 0 ] || "
              "{ cat /run/oob/repair; exit 1; }; }", timeout=120)


@check("harm")
def stacked_filesystems_survive_cycles_under_load(g):
    harm.only_light_hooks(g)
    harm.settle(g)
    g.oob.run(f"echo {HUNG} >/proc/sys/kernel/hung_task_timeout_secs")
    booted_for = harm.uptime(g)
    with stack(g):
        # The writing hook flushes both disks each time: here the two others are enough.
        g.oob.run(f"mv {harm.HOOKS}/20-writes /run/; rm -f {harm.STAMPS}")
        writers = harm.Writers(g, *(f"{folder}/lines" for folder in FOLDERS))
        try:
            times = []
            with g.agent() as agent:
                for turn in range(1, CYCLES + 1):
                    started = time.monotonic()
                    equal(agent.ask("guest-fsfreeze-freeze", timeout=60), 4, f"filesystems frozen in cycle {turn}")
                    equal(agent.ask("guest-fsfreeze-thaw", timeout=60), 4, f"filesystems thawed in cycle {turn}")
                    times.append(time.monotonic() - started)
                order = [f["mountpoint"] for f in agent.ask("x-guest-fsfreeze-report")["reports"][0]["filesystems"]]
            holds(order.index("/mnt/inner") < order.index("/mnt/lv"), f"what stands on a filesystem is frozen before it: {order}")
        finally:
            result = writers.end()
            g.oob.run(f"mv /run/20-writes {harm.HOOKS}/; echo 120 >/proc/sys/kernel/hung_task_timeout_secs")
        harm.hooks_are_paired(g, CYCLES)
        g.oob.run("umount /mnt/inner && e2fsck -fn /mnt/lv/image && umount /mnt/lv && e2fsck -fn /dev/vg/lv", timeout=120)
    harm.no_kernel_warnings(g, booted_for)
    times.sort()
    lines = sum(found["lines"] for found in result.values())
    print(f"     ({CYCLES} cycles of {times[len(times) // 2] * 1000:.0f} ms, at most {times[-1] * 1000:.0f} ms; {lines} lines, none lost)", flush=True)
