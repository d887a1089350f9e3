"""Copies that say what they are: a machine that is started from a copy taken while frozen runs its restore hooks, once; the original, a
copy taken without a freeze and a machine that died do not."""
import contextlib
import json
import types

from lib import channel, guest, image
from lib.report import check, equal, holds

HOOK = "/etc/qemu/restore-hook.d/10-tell"
CALLS = "/var/lib/restored-calls"
UUID = "5ac4f6d2-8b1f-4a55-9d0c-0123456789ab"
GENERATION = "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87"
FW_CFG = "/sys/firmware/qemu_fw_cfg/by_name/etc/vmgenid_guid/raw"


def prepare(g):
    """What the packages make, and a hook that notes that it was called."""
    script = f'#!/bin/sh\\necho "$1 $QGA_RESTORE_ORIGIN $QGA_RESTORE_LEVEL" >>{CALLS}\\n'
    g.oob.run(f"mkdir -p /var/lib/qemu-ga {HOOK.rpartition('/')[0]}; printf '{script}' >{HOOK}; chmod 755 {HOOK}; sync")


def take(g, name):
    """Copies of both disks, with the kernel to boot them."""
    work = g.work / name
    work.mkdir()
    copy = types.SimpleNamespace(kernel=g.disks.kernel, initrd=g.disks.initrd, root=work / "root.img", data=work / "data.img")
    image.copy(g.disks.root, copy.root)
    image.copy(g.disks.data, copy.data)
    return copy


@contextlib.contextmanager
def booted(disks, *extra):
    """A guest of these disks."""
    machine = guest.RawGuest(disks, disks.root.parent, memory=768, extra=extra)
    try:
        machine.wait_booted()
        channel.wait_for_agent(machine.agent_path, guest.BOOT_SECONDS)
        yield machine
    finally:
        machine.save_logs()
        machine.stop()


def calls(g):
    return g.oob.run(f"cat {CALLS} 2>/dev/null; true").splitlines()


def restored(g):
    """What the agent answers; it has run the hooks by then."""
    with g.agent() as agent:
        return agent.ask("x-guest-fsfreeze-report").get("restored")


@check("raw")
def restore_hooks_run_once_in_the_copy_alone(g):
    prepare(g)
    with g.agent() as agent:
        equal(agent.ask("guest-fsfreeze-freeze", timeout=120), 2, "filesystems frozen")
        frozen = take(g, "frozen")
        equal(agent.ask("guest-fsfreeze-thaw", timeout=120), 2, "filesystems thawed")
    g.oob.run("sync")
    plain = take(g, "plain")
    g.oob.run("systemctl restart qemu-guest-agent")
    channel.wait_for_agent(g.agent_path, 60)
    equal((restored(g), calls(g)), (None, []), "what the original says, and its restore hooks")
    with booted(frozen, "-uuid", UUID, "-device", f"vmgenid,guid={GENERATION}") as copy:
        found = restored(copy)
        equal((found["origin"], found["complete"]), ("copy", True), f"what the copy says: {found}")
        level = found["run"]["level"]
        equal(calls(copy), [f"restored copy {level}"], "calls of the restore hook in the copy")
        log = copy.oob.run("journalctl -b -u qemu-guest-agent --no-pager -o cat")
        equal(log.count("this machine was started from a copy"), 1, f"lines of the log: {log}")
        copy.oob.run("systemctl restart qemu-guest-agent")
        channel.wait_for_agent(copy.agent_path, 60)
        equal((restored(copy), len(calls(copy))), (found, 1), "the same after a restart, and nothing runs twice")
        shown = json.loads(copy.oob.run("qemu-ga report --restored --json"))
        equal(shown["run"]["id"], found["run"]["id"], "the run that the tool shows")
        a_machine_that_died_says_so(copy)
    with booted(plain) as copy:
        equal((restored(copy), calls(copy)), (None, []), "what a copy taken without a freeze says, and its restore hooks")


def a_machine_that_died_says_so(copy):
    before = calls(copy)
    knows_generation = copy.oob.run(f"modprobe qemu_fw_cfg; echo qemu_fw_cfg >/etc/modules-load.d/fw_cfg.conf; sync; [ -r {FW_CFG} ] && echo yes; true").strip()
    with copy.agent() as agent:
        equal(agent.ask("guest-fsfreeze-freeze", timeout=120), 2, "filesystems frozen")
    copy.oob.close()
    copy.qmp.ask("system_reset")
    copy.wait_booted()
    channel.wait_for_agent(copy.agent_path, guest.BOOT_SECONDS)
    found = restored(copy)
    if knows_generation:
        equal((found["origin"], calls(copy)), ("died", before), f"what a machine that died says: {found}")
    else:
        equal(found["origin"], "unknown", f"what a machine that may have died says: {found}")
        holds(calls(copy)[-1].startswith("restored unknown"), "its hooks learn that")
