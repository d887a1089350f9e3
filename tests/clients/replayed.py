"""Proxmox's way a thousand times: a new connection for each command, sync-delimited and command in one write."""
import base64
import hashlib

from lib.channel import Agent
from lib.report import check, equal, holds
from .channel import one_shot

COMMANDS = ("guest-ping", "guest-get-host-name", "guest-fsfreeze-status", "guest-get-timezone", "guest-get-vcpus")


@check("raw")
def a_thousand_connections_with_a_command_each(g):
    pid, open_files = g.agent_pid(), "ls /proc/{}/fd | wc -l"
    before = g.oob.run(open_files.format(pid))
    first = {command: one_shot(g, number, command) for number, command in enumerate(COMMANDS)}
    for number in range(1000):
        command = COMMANDS[number % len(COMMANDS)]
        equal(one_shot(g, 1_000_000 + number, command), first[command], f"{command} on connection {number}")
    equal(g.agent_pid(), pid, "the agent's process id (it was not restarted)")
    equal(g.oob.run(open_files.format(pid)), before, "open files of the agent")


@check("raw")
def three_hundred_connections_while_frozen(g):
    equal(one_shot(g, 1, "guest-fsfreeze-freeze"), b'{"return": 2}', "freeze")
    for number in range(300):
        command, wanted = (("guest-ping", b'{"return": {}}'), ("guest-fsfreeze-status", b'{"return": "frozen"}'))[number % 2]
        equal(one_shot(g, 2_000_000 + number, command), wanted, f"{command} on connection {number}")
    for command in ("guest-file-open", "guest-shutdown", "guest-exec", "guest-get-disks"):
        answer = one_shot(g, 3, command)
        holds(b"has been disabled: the command is not allowed" in answer, f"{command} is refused while frozen, not {answer!r}")
    equal(one_shot(g, 4, "guest-fsfreeze-thaw"), b'{"return": 2}', "thaw")


@check("raw")
def sixteen_mebibytes_in_one_answer_and_wrapped_base64(g):
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
