"""Clients that no registry has, replayed by the requests that they send and the rules that they hold replies to: Proxmox VE, KubeVirt,
oVirt's vdsm and avocado-vt. tests/clients/run replays them on a unix socket, and the VM tier on a virtio port.
"""
import base64
import hashlib
import json
import re
import time

from lib.channel import Agent, ChannelError
from lib.report import check, equal, holds

PROXMOX_ASKS = ("guest-ping", "guest-get-host-name", "guest-fsfreeze-status", "guest-get-timezone", "guest-get-vcpus")
HOOK = "/etc/qemu/fsfreeze-hook.d/05-replayed"


def one_shot(g, number, command):
    """As Proxmox does it: a new connection, one write of sync and command, two lines back."""
    with Agent(g.agent_path) as agent:
        agent.send(b'{"execute":"guest-sync-delimited","arguments":{"id":%d}}\n{"execute":"%s","arguments":{}}\n'
                   % (number, command.encode()))
        first, second = agent.line(10), agent.line(10)
    equal(first, b'\xff{"return": %d}' % number, f"the sync line of connection {number}")
    return second


def open_files(g, pid):
    """How many files the process has open."""
    return int(g.oob.run(f"ls /proc/{pid}/fd | wc -l"))


@check("raw", "socket")
def proxmox_connects_a_thousand_times(g):
    pid = g.agent_pid()
    # Not before an answer: an agent that has just started has not opened all its files.
    first = {command: one_shot(g, number, command) for number, command in enumerate(PROXMOX_ASKS)}
    before = open_files(g, pid)
    for number in range(1000):
        command = PROXMOX_ASKS[number % len(PROXMOX_ASKS)]
        equal(one_shot(g, 1_000_000 + number, command), first[command], f"{command} on connection {number}")
    equal(g.agent_pid(), pid, "the agent's process id (it was not restarted)")
    # The agent may not have seen the end of the last connection yet.
    end = time.monotonic() + 20
    while (after := open_files(g, pid)) > before:
        holds(time.monotonic() < end, f"the agent keeps no files open: {before} before, {after} afterwards")


@check("raw", "socket")
def proxmox_connects_three_hundred_times_while_frozen(g):
    equal(one_shot(g, 1, "guest-fsfreeze-freeze"), b'{"return": 2}', "freeze")
    for number in range(300):
        command, wanted = (("guest-ping", b'{"return": {}}'), ("guest-fsfreeze-status", b'{"return": "frozen"}'))[number % 2]
        equal(one_shot(g, 2_000_000 + number, command), wanted, f"{command} on connection {number}")
    for command in ("guest-file-open", "guest-shutdown", "guest-exec", "guest-get-disks"):
        answer = one_shot(g, 3, command)
        holds(b"has been disabled: the command is not allowed" in answer, f"{command} is refused while frozen, not {answer!r}")
    equal(one_shot(g, 4, "guest-fsfreeze-thaw"), b'{"return": 2}', "thaw")


@check("raw")
def proxmox_reads_sixteen_mebibytes_and_wraps_base64(g):
    g.oob.run("head -c 20000000 /dev/urandom >/root/large")
    try:
        with g.agent() as agent:
            handle = agent.ask("guest-file-open", {"path": "/root/large"})
            answer = agent.ask("guest-file-read", {"handle": handle, "count": 16 << 20}, timeout=60)
            got = base64.b64decode(answer["buf-b64"], validate=True)
            equal((answer["count"], len(got), answer["eof"]), (16 << 20, 16 << 20, False), "a read of 16 MiB")
            equal(hashlib.sha256(got).hexdigest(), g.oob.run("head -c 16777216 /root/large | sha256sum").split()[0], "what was read")
            agent.ask("guest-file-close", {"handle": handle})
            data = bytes(range(256)) * 200
            handle = agent.ask("guest-file-open", {"path": "/root/wrapped", "mode": "w"})
            equal(agent.ask("guest-file-write", {"handle": handle, "buf-b64": base64.encodebytes(data).decode()})["count"], len(data), "bytes written")
            agent.ask("guest-file-close", {"handle": handle})
            equal(g.oob.run("sha256sum </root/wrapped").split()[0], hashlib.sha256(data).hexdigest(), "what wrapped base64 wrote")
    finally:
        g.oob.run("rm -f /root/large /root/wrapped")


def line_within(agent, seconds):
    """The next line, or None if none comes."""
    try:
        return agent.line(seconds)
    except ChannelError:
        return None


def install_hook(g, text):
    """A shell script as a hook; $1 is freeze or thaw."""
    g.oob.run(f"cat >{HOOK} <<'EOF'\n#!/bin/sh\n{text}\nEOF\nchmod 755 {HOOK}; rm -f /run/calls /run/at-work /run/go-on")


@check("raw", "socket")
def proxmox_asks_for_the_status_of_a_freeze_past_its_limit(g):
    install_hook(g, "echo $1 >>/run/calls\ntouch /run/at-work\nuntil [ -e /run/go-on ]; do sleep 0.1; done")
    try:
        with Agent(g.agent_path) as first:
            first.send(b'{"execute":"guest-sync-delimited","arguments":{"id":7}}\n{"execute":"guest-fsfreeze-freeze","arguments":{}}\n')
            equal(first.line(10), b'\xff{"return": 7}', "the sync line before the freeze")
            g.oob.run("until [ -e /run/at-work ]; do sleep 0.1; done")
        # The ten minutes have passed.
        with Agent(g.agent_path) as second:
            second.send(b'{"execute":"guest-sync-delimited","arguments":{"id":8}}\n{"execute":"guest-fsfreeze-status","arguments":{}}\n')
            equal(second.line(10), b'\xff{"return": 8}', "the sync line during the freeze")
            equal(line_within(second, 1), None, "the status before the end of the freeze")
            g.oob.run("touch /run/go-on")
            equal(second.line(60), b'{"return": "frozen"}', "the status, and no answer to the freeze before it")
        equal(one_shot(g, 9, "guest-fsfreeze-thaw"), b'{"return": 2}', "thaw")
        equal(one_shot(g, 10, "guest-fsfreeze-status"), b'{"return": "thawed"}', "status after the thaw")
        equal(g.oob.run("cat /run/calls"), "freeze\nthaw\n", "calls of the hook")
    finally:
        g.oob.run("touch /run/go-on")
        g.thaw_anyway()
        g.oob.run(f"rm -f {HOOK}")


@check("raw", "socket")
def proxmox_thaws_after_a_freeze_that_failed(g):
    install_hook(g, "# qga-hook: on-failure = abort\necho $1 >>/run/calls\n[ $1 = thaw ]")
    try:
        holds(one_shot(g, 1, "guest-fsfreeze-freeze").startswith(b'{"error": '), "the freeze fails")
        calls = g.oob.run("cat /run/calls")
        equal(one_shot(g, 2, "guest-fsfreeze-thaw"), b'{"return": 0}', "a thaw of what is not frozen")
        equal(g.oob.run("cat /run/calls"), calls, "calls of the hook")
    finally:
        g.oob.run(f"rm -f {HOOK}")


KUBEVIRT_NEEDS = {f"guest-{name}" for name in """ping get-time info shutdown network-get-interfaces get-fsinfo get-host-name get-users
    get-timezone get-osinfo ssh-get-authorized-keys ssh-add-authorized-keys ssh-remove-authorized-keys set-user-password exec
    exec-status""".split()}


def kubevirt_asks(agent, command):
    """The value in a reply, found as KubeVirt does it, which does not parse the outer object."""
    agent.post({"execute": command})
    match = re.fullmatch(rb'\{\s*"return":\s*(.*)\}', agent.line(30))
    holds(match, f"the reply to {command} begins with return")
    return json.loads(match[1])


@check("raw", "socket")
def kubevirt_polls_and_freezes(g):
    with g.agent() as agent:
        listed = {one["name"] for one in kubevirt_asks(agent, "guest-info")["supported_commands"] if one["enabled"] is True}
        equal(KUBEVIRT_NEEDS - listed, set(), "commands that KubeVirt needs and guest-info lacks")
        for one in kubevirt_asks(agent, "guest-get-fsinfo"):
            for name in ("used-bytes", "total-bytes"):
                holds(type(one.get(name, 0)) is int, f"{name} of {one['mountpoint']} is an integer")
        equal(kubevirt_asks(agent, "guest-fsfreeze-status"), "thawed", "status before the freeze")
        equal(kubevirt_asks(agent, "guest-fsfreeze-freeze"), 2, "freeze")
        equal(kubevirt_asks(agent, "guest-fsfreeze-status"), "frozen", "status")
        equal(kubevirt_asks(agent, "guest-fsfreeze-thaw"), 2, "thaw")
        # Go's decoder takes the standard alphabet without line ends.
        pid = agent.ask("guest-exec", {"path": "sh", "arg": ["-c", "head -c 3000 /dev/zero | tr '\\0' '\\377'"], "capture-output": True})["pid"]
        while not (status := agent.ask("guest-exec-status", {"pid": pid}))["exited"]:
            pass
        equal(status["out-data"], "/" * 4000, "output of a program")


VDSM_POLLS = [f"guest-{name}" for name in "get-users network-get-interfaces get-fsinfo get-osinfo get-timezone get-host-name get-disks get-devices".split()]


@check("raw", "socket")
def vdsm_polls_what_is_listed(g):
    with g.agent() as agent:
        enabled = {one["name"] for one in agent.ask("guest-info")["supported_commands"] if one["enabled"]}
        equal([name for name in VDSM_POLLS if name not in enabled], ["guest-get-devices"], "what is not listed")
        for name in set(VDSM_POLLS) & enabled:
            # One failure loses the whole poll.
            agent.ask(name)


@check("raw", "socket")
def avocado_synchronises_and_checks_what_is_listed(g):
    with Agent(g.agent_path) as agent:
        for number in range(1, 5):
            equal(agent.ask("guest-sync", {"id": number}), number, "guest-sync")
        info = agent.ask("guest-info")
        holds(re.fullmatch(r"\d+\.\d+\.\d+", info["version"]), f"a version that can be compared, not {info['version']}")
        equal(agent.command("guest-not-listed")["error"]["class"], "CommandNotFound", "class of the error")
        for link in agent.ask("guest-network-get-interfaces"):
            holds(re.fullmatch("([0-9a-f]{2}:){5}[0-9a-f]{2}", link.get("hardware-address", "")), f"a hardware address of {link['name']}")
