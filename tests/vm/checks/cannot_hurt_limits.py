"""Filesystems and hooks that do not answer: the freeze gives them up in time, names them, undoes everything, and the agent goes on."""
import contextlib
import time

from lib import harm
from lib.report import check, equal, holds

STEP = 3
TARGETS = ("/root", "/data")


@contextlib.contextmanager
def mapped_ext4(g, where, name="sleepy"):
    """An ext4 on a device-mapper device."""
    g.oob.run(f"modprobe loop; truncate -s 64M /run/{name}.img; loop=$(losetup -f --show /run/{name}.img); "
              f"dmsetup create {name} --table \"0 131072 linear $loop 0\" && mkfs.ext4 -q -E lazy_itable_init=0 /dev/mapper/{name} && mkdir -p {where} && "
              f"mount /dev/mapper/{name} {where}")
    try:
        yield
    finally:
        g.oob.run(f"dmsetup resume {name}; umount {where}; dmsetup remove {name}; losetup -j /run/{name}.img | cut -d: -f1 | "
                  f"xargs -r losetup -d; rm -f /run/{name}.img", timeout=60)


@check("harm")
def a_filesystem_on_a_suspended_device_is_given_up(g):
    harm.only_light_hooks(g)
    harm.settle(g, fsfreeze_step_limit=STEP)
    with mapped_ext4(g, "/mnt/sleepy"), g.agent() as agent:
        g.oob.run(f"rm -f {harm.STAMPS}; dd if=/dev/zero of=/mnt/sleepy/fill bs=1M count=4 2>/dev/null; "
                  "dmsetup suspend --noflush --nolockfs sleepy")
        # Written after the suspension: the flush has to wait for it.
        late = g.oob.start("echo late >/mnt/sleepy/late; sync /mnt/sleepy/late")
        started = time.monotonic()
        answer = agent.command("guest-fsfreeze-freeze", timeout=60)
        took = time.monotonic() - started
        text = answer.get("error", {}).get("desc", "")
        holds("/mnt/sleepy" in text and "within 3 s" in text, f"an error that names the filesystem and the limit, not: {answer}")
        holds(took < 2 * STEP + 6, f"an answer in time, not after {took:.1f} s")
        print(f"     (answered after {took:.1f} s: {text})", flush=True)
        agent.sync()
        equal(agent.ask("guest-ping"), {}, "guest-ping with a filesystem that hangs")
        equal(agent.ask("guest-fsfreeze-status"), "thawed", "status")
        harm.writable(g, *TARGETS)
        g.oob.run("dmsetup resume sleepy")
        equal(late.wait(30)[0], 0, "the write that waited for the device")
        # A FIFREEZE that came through late is undone where it ran.
        harm.writable(g, "/mnt/sleepy", *TARGETS)
        equal(agent.ask("guest-fsfreeze-thaw"), 0, "filesystems that had stayed frozen")
        counts = harm.stamps(g)
        holds(all(counts.get(("freeze", name), 0) == counts.get(("thaw", name), 0) for name in ("10-stamp", "30-stamp")),
              f"each hook that began has thawed: {counts}")
        equal(agent.ask("guest-fsfreeze-freeze"), 3, "filesystems frozen once the device is back")
        equal(agent.ask("guest-fsfreeze-thaw"), 3, "filesystems thawed")
    equal(harm.reports(g)[1]["level"], "none", "the consistency level of the freeze that failed")


@check("harm")
def a_device_that_is_suspended_while_hooks_run_is_given_up(g):
    # A hook suspends the device after the first flush: the hooks have run when the second flush, or FIFREEZE itself, hangs.
    harm.settle(g, fsfreeze_step_limit=STEP)
    suspend = "[ $1 = freeze ] && { sync; dmsetup suspend --noflush --nolockfs sleepy; }; exit 0"
    with mapped_ext4(g, "/mnt/sleepy"), harm.hook(g, "90-suspend", suspend), g.agent() as agent:
        g.oob.run(f"rm -f {harm.STAMPS}")
        started = time.monotonic()
        answer = agent.command("guest-fsfreeze-freeze", timeout=60)
        took = time.monotonic() - started
        text = answer.get("error", {}).get("desc", "")
        holds(text.endswith(" /mnt/sleepy: no answer within 3 s"), f"an error that names the filesystem and the limit, not: {answer}")
        holds(took < 3 * STEP + 6, f"an answer in time, not after {took:.1f} s")
        agent.sync()
        harm.hooks_are_paired(g)
        harm.writable(g, *TARGETS)
        g.oob.run("dmsetup resume sleepy")
        harm.writable(g, "/mnt/sleepy", timeout=30)
        equal(agent.ask("guest-fsfreeze-thaw"), 0, "filesystems that had stayed frozen")


@check("harm")
def a_thaw_of_a_suspended_device_keeps_no_hook_from_its_thaw(g):
    harm.only_light_hooks(g)
    harm.settle(g, fsfreeze_step_limit=STEP)
    with mapped_ext4(g, "/mnt/sleepy"), g.agent() as agent:
        g.oob.run(f"rm -f {harm.STAMPS}")
        equal(agent.ask("guest-fsfreeze-freeze", timeout=30), 3, "filesystems frozen")
        g.oob.run("dmsetup suspend --noflush --nolockfs sleepy")
        started = time.monotonic()
        answer = agent.command("guest-fsfreeze-thaw", timeout=60)
        took = time.monotonic() - started
        text = answer.get("error", {}).get("desc", "")
        holds("/mnt/sleepy" in text and "within 3 s" in text, f"an error that names the filesystem and the limit, not: {answer}")
        holds(took < STEP + 6, f"an answer in time, not after {took:.1f} s")
        # The others and the hooks do not wait for it.
        harm.writable(g, *TARGETS)
        harm.hooks_are_paired(g)
        g.oob.run("dmsetup resume sleepy")
        harm.writable(g, "/mnt/sleepy", *TARGETS, timeout=30)
        equal(agent.ask("guest-fsfreeze-freeze"), 3, "filesystems frozen once the device is back")
        equal(agent.ask("guest-fsfreeze-thaw"), 3, "filesystems thawed")


@check("harm")
def a_thaw_without_a_process_to_be_had_is_finished_by_the_next(g):
    harm.only_light_hooks(g)
    harm.settle(g)
    pids = "/sys/fs/cgroup/system.slice/qemu-guest-agent.service/pids.max"
    with g.agent() as agent:
        g.oob.run(f"rm -f {harm.STAMPS}")
        equal(agent.ask("guest-fsfreeze-freeze", timeout=30), 2, "filesystems frozen")
        g.oob.run(f"echo 1 >{pids}")
        answer = agent.command("guest-fsfreeze-thaw", timeout=60)
        text = answer.get("error", {}).get("desc", "")
        holds("Resource temporarily unavailable" in text, f"an error that says what was not to be had, not: {answer}")
        # The filesystems are thawed all the same, and what the hooks are owed is known.
        harm.writable(g, *TARGETS)
        equal(agent.ask("guest-fsfreeze-status"), "thawed", "status")
        g.oob.run(f"echo max >{pids}")
        agent.command("guest-fsfreeze-thaw", timeout=60)
        harm.hooks_are_paired(g)
        equal(agent.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen again")
        equal(agent.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed again")


@check("harm")
def a_clock_that_is_set_back_while_frozen_changes_no_time(g):
    harm.only_light_hooks(g)
    harm.settle(g)
    with g.agent() as agent:
        equal(agent.ask("guest-fsfreeze-freeze", timeout=30), 2, "filesystems frozen")
        g.oob.run("date -s '1 hour ago' >/dev/null")
        try:
            time.sleep(1)
            equal(agent.ask("guest-fsfreeze-thaw", timeout=30), 2, "filesystems thawed")
        finally:
            g.oob.run("date -s '1 hour' >/dev/null")
    held = harm.reports(g)[0]["stages"]["held"]
    holds(0.5 < held < 30, f"a hold of about a second, not of {held} s")


@check("harm")
def a_deaf_fuse_filesystem_holds_up_nothing(g):
    harm.only_light_hooks(g)
    harm.settle(g, fsfreeze_step_limit=STEP)
    harm.send(g, "deaf_fuse.py")
    g.oob.run("modprobe fuse; mkdir -p /mnt/deaf")
    server = g.oob.start("exec python3 -B /run/oob/deaf_fuse.py /mnt/deaf")
    try:
        g.oob.run("until grep -q ' /mnt/deaf ' /proc/mounts; do sleep 0.1; done", timeout=20)
        stuck = g.oob.start("ls /mnt/deaf")
        holds(stuck.wait(1)[0] is None, "whoever looks into it waits (else this check proves nothing)")
        with g.agent() as agent:
            holds(any(f["mountpoint"] == "/data" for f in agent.ask("guest-get-fsinfo", timeout=10)), "guest-get-fsinfo answers")
            equal(agent.ask("guest-fsfreeze-freeze", timeout=20), 2, "filesystems frozen")
            equal(agent.ask("guest-fsfreeze-thaw", timeout=20), 2, "filesystems thawed")
    finally:
        g.oob.run(f"kill -9 {server.pid}; umount -l /mnt/deaf", timeout=30, check=False)


@check("harm")
def guest_sync_is_answered_during_a_long_hook(g):
    harm.only_light_hooks(g)
    harm.settle(g)
    with harm.hook(g, "15-slow", "[ $1 = freeze ] && sleep 4; exit 0"), g.agent() as agent:
        agent.send(b'{"execute":"guest-fsfreeze-freeze"}\n')
        time.sleep(1)
        started = time.monotonic()
        agent.sync(3)
        holds(time.monotonic() - started < 2, "guest-sync is answered while the hook runs")
        # The freeze goes on; its own answer is not sent to one who gave up waiting.
        end = time.monotonic() + 30
        while agent.ask("guest-fsfreeze-status") != "frozen" or g.oob.run("ls /run/qga.state.isfrozen 2>/dev/null", check=False) == "":
            holds(time.monotonic() < end, "the freeze comes to its end")
            time.sleep(0.3)
        equal(agent.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed")
