"""The point of it all: a copy of the disks taken while frozen needs no journal replay, one taken under load does."""
import subprocess

from lib.report import check, equal, holds
from lib import image


def read_only(command):
    """(status, output) of a checker that changes nothing."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def take(g, name):
    """Copies both disks as a storage snapshot would see them."""
    copies = g.work / f"{name}-root.img", g.work / f"{name}-data.img"
    for source, target in zip((g.disks.root, g.disks.data), copies):
        image.copy(source, target)
    return copies


def needs_replay(root, data):
    """Whether ext4's journal and xfs's log would be replayed at the next mount."""
    _, header = read_only(["dumpe2fs", "-h", root])
    holds("Filesystem features:" in header, f"dumpe2fs reads the copy: {header}")
    _, log = read_only(["xfs_logprint", "-t", data])
    holds("tail:" in log or "log tail" in log.lower(), f"xfs_logprint reads the copy: {log[:300]}")
    return "needs_recovery" in header, "<CLEAN>" not in log


def churn(g):
    """Starts writers on both filesystems and waits until they have written."""
    g.oob.run("rm -rf /run/oob/churn.stop /root/churn /data/churn")
    jobs = [g.oob.start(f"python3 /run/oob/churn.py {where}/churn") for where in ("/root", "/data")]
    g.oob.run("until [ -e /root/churn/19 ] && [ -e /data/churn/19 ]; do sleep 0.1; done; sleep 1")
    return jobs


def settle(g, jobs):
    """Stops the writers; none of them may have failed."""
    g.oob.run("touch /run/oob/churn.stop")
    for job in jobs:
        status, _, err = job.wait(60)
        equal(status, 0, f"a writer's status ({err})")
    g.oob.run("rm -rf /run/oob/churn.stop /root/churn /data/churn")


@check("libvirt")
def copy_while_frozen_is_clean_and_copy_under_load_is_not(g):
    jobs = churn(g)
    try:
        loaded = take(g, "loaded")
        equal(g.ask("guest-fsfreeze-freeze", timeout=120), 2, "filesystems frozen")
        frozen = take(g, "frozen")
        equal(g.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed")
    finally:
        settle(g, jobs)
    equal(needs_replay(*loaded), (True, True), "(ext4, xfs) need a replay in the copy taken under load")
    equal(needs_replay(*frozen), (False, False), "(ext4, xfs) need a replay in the copy taken while frozen")
    root, data = frozen
    status, text = read_only(["e2fsck", "-fn", root])
    equal(status, 0, f"e2fsck -fn of the frozen copy: {text}")
    status, text = read_only(["xfs_repair", "-n", "-f", data])
    equal(status, 0, f"xfs_repair -n of the frozen copy: {text}")
    for copy in (*loaded, *frozen):
        copy.unlink()
