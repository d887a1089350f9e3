"""Proxmox's way a thousand times: a new connection for each command, sync-delimited and command in one write."""
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
