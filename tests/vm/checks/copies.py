"""The point of it all: a copy of the disks taken while frozen needs no journal replay, one taken under load does."""
import re
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


def ext4_needs_replay(root):
    """Whether the journal would be replayed at the next mount."""
    _, header = read_only(["dumpe2fs", "-h", root])
    holds("Filesystem features:" in header, f"dumpe2fs reads the copy: {header}")
    return "needs_recovery" in header


def xfs_needs_replay(data):
    """Whether the log holds more than records of the superblock.

    Those are no loss: xfs writes them itself as the last step of every freeze, to have its log looked at after a crash.
    """
    _, log = read_only(["xfs_logprint", "-t", data])
    holds("log tail:" in log, f"xfs_logprint reads the copy: {log[:300]}")
    buffers = set(re.findall(r"start blkno:(0x[0-9a-f]+)", log))
    return "<CLEAN>" not in log and ("INODE:" in log or not buffers <= {"0x0"})


# xfs_repair -n says no more than this where nothing but those superblock records is in the log.
XFS_REPAIR_QUIET = re.compile(r"\s+- |Phase \d|Cannot get host|Repair may fail|the image and the host|ALERT: The filesystem has val"
                              r"|ignored because the -n|which may be resolved by first|sb_fdblocks \d+, counted|No modify flag set|$")


def names_on_disk(root, data):
    """(ext4, xfs): the churned files as the bare structures of the copies have them, no journal and no log applied."""
    listing = "".join(f"ls -p /root/churn/{i}\n" for i in range(20))
    done = subprocess.run(["debugfs", "-f", "-", str(root)], input=listing, capture_output=True, text=True)
    ext4 = {part.split("/")[5] for part in done.stdout.splitlines() if part.count("/") >= 7}
    commands = [word for i in range(20) for word in ("-c", f"path /churn/{i}", "-c", "ls")]
    _, text = read_only(["xfs_db", *commands, data])
    xfs = {fields[5] for fields in map(str.split, text.splitlines()) if len(fields) >= 6}
    return [{name for name in names if name.startswith("file-")} for names in (ext4, xfs)]


def names_in_guest(g):
    """(ext4, xfs): the same as the guest itself sees them."""
    return [set(g.oob.run(f"find {where}/churn -type f -printf '%f\\n'").split()) for where in ("/root", "/data")]


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
        # A journal may have been committed just before a copy: then it shows nothing, and the next one is looked at.
        for _ in range(5):
            before = names_in_guest(g)
            loaded = take(g, "loaded")
            throughout = [older & newer for older, newer in zip(before, names_in_guest(g))]
            missing = [len(there - bare) for there, bare in zip(throughout, names_on_disk(*loaded))]
            if all(missing):
                break
        equal(g.ask("guest-fsfreeze-freeze", timeout=120), 2, "filesystems frozen")
        frozen = take(g, "frozen")
        seen = names_in_guest(g)
        equal(g.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed")
    finally:
        settle(g, jobs)
    for name, number in (("ext4", 0), ("xfs", 1)):
        replay = (ext4_needs_replay, xfs_needs_replay)[number]
        holds(replay(loaded[number]), f"{name}: the copy taken under load needs a replay (else this check proves nothing)")
        holds(not replay(frozen[number]), f"{name}: the copy taken while frozen needs no replay")
        holds(len(seen[number]) > 100, f"{name}: the writers were at work: {len(seen[number])} files")
        holds(missing[number] > 0, f"{name}: the copy taken under load lacks files until the replay (else this check proves nothing)")
        difference = names_on_disk(*frozen)[number] ^ seen[number]
        equal(difference, set(), f"{name}: files that differ between the guest's view while frozen and the bare copy")
    status, text = read_only(["e2fsck", "-fn", frozen[0]])
    equal(status, 0, f"e2fsck -fn of the frozen copy: {text}")
    _, text = read_only(["xfs_repair", "-n", "-f", frozen[1]])
    equal([line for line in text.splitlines() if not XFS_REPAIR_QUIET.match(line)], [], "what xfs_repair -n finds in the frozen copy")
    for copy in (*loaded, *frozen):
        copy.unlink()
