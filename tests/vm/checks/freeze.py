"""What a freeze does inside the guest, and what the agent answers meanwhile."""
from lib.report import check, equal, holds

ALLOWED = ("guest-ping", "guest-info", "guest-fsfreeze-status")
REFUSED = ("guest-get-osinfo", "guest-get-fsinfo", "guest-get-host-name", "guest-get-time", "guest-fsfreeze-freeze",
           "guest-fsfreeze-freeze-list")


def state(g, job):
    """The scheduler state of a job's process: D is asleep until the thaw."""
    return g.oob.run(f"awk '{{print $3}}' /proc/{job.pid}/stat").strip()


@check("libvirt")
def frozen_root_and_data_block_writes_until_the_thaw(g):
    g.oob.run("rm -f /root/late /data/late; sync")
    equal(g.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen")
    jobs = {where: g.oob.start(f"echo late >{where}/late") for where in ("/root", "/data")}
    for where, job in jobs.items():
        holds(job.wait(1)[0] is None, f"a write to {where} waits while frozen")
        equal(state(g, job), "D", f"state of the writer on {where}")
    equal(g.oob.run("cat /root/late /data/late 2>&1 | grep -c 'No such'", check=False).strip(), "2", "files not there yet")
    equal(g.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed")
    for where, job in jobs.items():
        equal(job.wait(20)[0], 0, f"the held write to {where}")
    equal(g.oob.run("cat /root/late /data/late"), "late\nlate\n", "what was written")


@check("libvirt")
def frozen_refuses_all_but_the_safe_commands(g):
    equal(g.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen")
    equal(g.ask("guest-fsfreeze-status"), "frozen", "status")
    for name in ALLOWED:
        g.ask(name)
    equal(g.ask("guest-sync", {"id": 42}), 42, "guest-sync while frozen")
    for name in REFUSED:
        text = g.refused(name)
        holds(f"Command {name} has been disabled: the command is not allowed" in text, f"the documented refusal, not: {text}")
    info = {c["name"]: c["enabled"] for c in g.ask("guest-info")["supported_commands"]}
    holds(info["guest-fsfreeze-thaw"] and not info["guest-get-osinfo"], "guest-info shows what is disabled")
    equal(g.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed")
    equal(g.ask("guest-get-host-name"), {"host-name": "freeze-me"}, "a command after the thaw")


@check("libvirt")
def freeze_counts_a_bind_mount_once(g):
    g.oob.run("mkdir -p /mnt/again && mount --bind /data /mnt/again")
    try:
        equal(g.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen")
        equal(g.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed")
    finally:
        g.oob.run("umount /mnt/again", timeout=20)


@check("libvirt")
def freeze_of_a_loop_mount_on_the_root(g):
    # Its image lies on the root: frozen in the wrong order the freeze would never end.
    g.oob.run("modprobe loop; truncate -s 64M /var/tmp/loop.img && mkfs.ext4 -q /var/tmp/loop.img && mkdir -p /mnt/loop "
              "&& mount -o loop /var/tmp/loop.img /mnt/loop && dd if=/dev/zero of=/mnt/loop/fill bs=1M count=20 2>/dev/null")
    try:
        equal(g.ask("guest-fsfreeze-freeze"), 3, "filesystems frozen")
        held = g.oob.start("echo x >/mnt/loop/late")
        holds(held.wait(1)[0] is None, "a write to the loop mount waits")
        equal(g.ask("guest-fsfreeze-thaw"), 3, "filesystems thawed")
        equal(held.wait(20)[0], 0, "the held write")
    finally:
        g.oob.run("umount /mnt/loop; rm -f /var/tmp/loop.img", timeout=20)
