"""Hosts that come and go as they like (plain QEMU: the test owns the agent's socket), and the other transports."""
import time

from lib import channel
from lib.report import check, equal, holds
from lib.channel import Agent

CLIENT = """
import json, socket, sys
family, address = {family}
s = socket.socket(family); s.settimeout(10); s.connect(address)
s.sendall(b'{{"execute":"guest-sync-delimited","arguments":{{"id":5}}}}\\n{{"execute":"guest-ping"}}\\n')
got = b''
while got.count(b'\\n') < 2: got += s.recv(4096)
print(repr(got))
"""
# Two clients of one vsock, and a third while frozen. Its last line is what it has seen.
VSOCK_CLIENTS = """
import os, select, socket, time
class Client:
    def __init__(self):
        self.socket = socket.socket(socket.AF_VSOCK); self.socket.settimeout(60); self.socket.connect((1, 4711)); self.got = b''
    def line(self):
        while b'\\n' not in self.got:
            data = self.socket.recv(4096)
            if not data: return 'closed'
            self.got += data
        line, _, self.got = self.got.partition(b'\\n')
        return line.decode()
    def ask(self, command, arguments='{}'):
        self.socket.sendall(b'{"execute":"%s","arguments":%s}' % (command.encode(), arguments.encode()))
        return self.line()
    def silent(self):
        return not self.got and not select.select([self.socket], [], [], 0)[0]
    def authenticate(self):
        return self.ask('x-guest-authenticate', '{"token":"0123456789abcdef"}')
first, second = Client(), Client()
seen = ['required' in first.ask('guest-fsfreeze-freeze'), first.authenticate(), second.authenticate()]
first.socket.sendall(b'{"execute":"guest-fsfreeze-freeze"}')
while not os.path.exists('/run/qga-vsock/at-work'): time.sleep(0.1)
seen += [second.ask('guest-sync', '{"id":9}'), first.silent()]
open('/run/qga-vsock/go', 'w').close()
seen += [first.line(), second.ask('guest-fsfreeze-status')]
third = Client()
seen += ['required' in third.ask('guest-fsfreeze-thaw'), third.authenticate(), third.ask('guest-fsfreeze-thaw'), first.ask('guest-ping')]
print(seen)
"""
SERVED = [True, '{"return": {}}', '{"return": {}}', '{"return": 9}', True, '{"return": 2}', '{"return": "frozen"}',
          True, '{"return": {}}', '{"return": 2}', '{"return": {}}']
PINGED = repr(b'\xff{"return": 5}\n{"return": {}}\n')


@check("raw")
def hang_up_in_the_middle_of_a_request(g):
    for piece in (b'{"execute":"guest-pi', b'{"execute":', b'{"execute":"guest-sync","arguments":{"id":"', b'[[[['):
        with Agent(g.agent_path) as agent:
            agent.send(piece)
            time.sleep(0.1)
        with Agent(g.agent_path) as agent:
            agent.send(b"\xff")
            agent.sync(10)
            equal(agent.ask("guest-ping"), {}, "guest-ping after the hang-up")


@check("raw")
def hang_up_before_the_answer(g):
    for _ in range(20):
        with Agent(g.agent_path) as agent:
            agent.send(b'{"execute":"guest-get-fsinfo"}\n')
    # Of many comings and goings in a blink the guest may miss the last arrival (QEMU then has no buffer to tell it in); it knows no
    # host, with the original agent too, until that host connects anew.
    channel.wait_for_agent(g.agent_path, 20)


@check("raw")
def disconnected_host_costs_no_wakeups(g):
    pid = g.agent_pid()
    with g.agent() as agent:
        agent.ask("guest-ping")
    woken = g.wakeups(pid, 5)
    with g.agent() as agent:
        equal(agent.ask("guest-ping"), {}, "guest-ping when the host is back")
    equal(g.agent_pid(), pid, "the agent's process id (it was not restarted)")
    holds(woken <= 1, f"no wakeups while the host is gone, not {woken} in 5 s")


@check("raw")
def disconnected_host_costs_no_wakeups_while_frozen(g):
    with g.agent() as agent:
        equal(agent.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen")
    try:
        woken = g.wakeups(g.agent_pid(), 5)
    finally:
        with g.agent() as agent:
            equal(agent.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed")
    holds(woken <= 1, f"no wakeups while frozen and the host is gone, not {woken} in 5 s")


@check("raw")
def a_large_garbage_stream_is_survived(g):
    with g.agent() as agent:
        agent.send(b"\x00\x01garbage}}]]" * 100 + b"\n")
        agent.send(b"\xff")
        agent.sync(20)
        equal(agent.ask("guest-ping"), {}, "guest-ping after garbage")


@check("raw")
def a_port_without_a_link_of_udev_is_found_by_its_name(g):
    # As under mdev: the device node alone, which the kernel itself makes.
    link = "/dev/virtio-ports/org.qemu.guest_agent.0"
    node = g.oob.run(f"readlink -f {link}").strip()
    old = g.agent_pid()
    g.oob.run(f"rm {link}; systemctl restart qemu-guest-agent")
    try:
        channel.wait_for_agent(g.agent_path, 60)
        holds(g.agent_pid() not in (0, old), "the agent was started again")
        equal(g.oob.run(f"ls -l /proc/{g.agent_pid()}/fd | grep -c ' {node}$'").strip(), "1", f"{node} is open")
        equal(g.oob.run(f"ls {link} 2>&1; true").count("No such file"), 1, "and no link came back")
    finally:
        g.oob.run("udevadm trigger --action=change --subsystem-match=virtio-ports; udevadm settle", check=False)
    holds("virtio-ports" in g.oob.run(f"ls {link}"), "the link is back")


def vsock_agent(g, *options):
    """Starts an agent on the guest's own vsock, and waits until it listens. Whether the guest's kernel has such a loopback."""
    if "yes" not in g.oob.run("modprobe vsock_loopback 2>/dev/null && [ -e /dev/vsock ] && echo yes", check=False):
        print("     (the guest's kernel has no vsock loopback: nothing to see)")
        return False
    g.oob.run("rm -rf /run/qga-vsock; mkdir -p /run/qga-vsock; systemctl stop qga-vsock 2>/dev/null; systemctl reset-failed; "
              f"systemd-run -q --unit=qga-vsock /usr/sbin/qemu-ga -m vsock-listen -p 1:4711 -t /run/qga-vsock {' '.join(options)}")
    listens = "import socket; s = socket.socket(socket.AF_VSOCK); s.connect((1, 4711))"
    g.oob.run(f"for i in $(seq 100); do python3 -c '{listens}' 2>/dev/null && exit; sleep 0.2; done; exit 1", timeout=60)
    return True


@check("raw")
def vsock_listen_answers_inside_the_guest(g):
    if not vsock_agent(g, "--vsock-allow-cid=1"):
        return
    try:
        program = CLIENT.format(family="socket.AF_VSOCK, (1, 4711)")
        g.oob.run(f"cat >/run/oob/vsock.py <<'EOF'\n{program}\nEOF")
        for turn in range(3):
            out = g.oob.run("python3 /run/oob/vsock.py")
            equal(out.strip().splitlines()[-1], PINGED, f"vsock connection {turn + 1}")
    finally:
        g.oob.run("systemctl stop qga-vsock", check=False)


@check("raw")
def vsock_serves_several_clients(g):
    if not vsock_agent(g):
        return
    try:
        refused = "import socket; s = socket.socket(socket.AF_VSOCK); s.settimeout(60); s.connect((1, 4711)); print(s.recv(1))"
        said = g.oob.run(f"python3 -c '{refused}' 2>&1 | tail -1").strip()
        holds(said == "b''" or "reset" in said, f"a process of the guest is disconnected: {said}")
        holds("from vsock CID 1: not in vsock-allow-cid" in g.oob.run("journalctl -q -o cat -u qga-vsock"), "the log says so")
        g.oob.run("printf '#!/bin/sh\\n[ $1 = thaw ] && exit\\ntouch /run/qga-vsock/at-work\\nuntil [ -e /run/qga-vsock/go ]; do sleep 0.1; done\\n' "
                  ">/root/vsock-hook; chmod 755 /root/vsock-hook; (umask 077; echo 0123456789abcdef >/root/vsock-token)")
        vsock_agent(g, "--vsock-allow-cid=1", "--vsock-token-file=/root/vsock-token", "--fsfreeze-hook=/root/vsock-hook")
        g.oob.run(f"cat >/run/oob/vsock.py <<'EOF'\n{VSOCK_CLIENTS}\nEOF")
        equal(g.oob.run("python3 /run/oob/vsock.py", timeout=120).strip().splitlines()[-1], repr(SERVED), "what the clients saw")
        pid = int(g.oob.run("systemctl show -p MainPID --value qga-vsock"))
        woken = g.wakeups(pid, 5)
        holds(woken <= 1, f"no wakeups without clients, not {woken} in 5 s")
    finally:
        g.thaw_anyway()
        g.oob.run("systemctl stop qga-vsock; rm -f /root/vsock-hook /root/vsock-token", check=False)


@check("raw")
def socket_activation_answers_inside_the_guest(g):
    g.oob.run("mkdir -p /run/qga-act; cd /run/systemd/system; "
              "printf '[Socket]\\nListenStream=/run/qga-act/sock\\n' >qga-act.socket; "
              "printf '[Service]\\nExecStart=/usr/sbin/qemu-ga -t /run/qga-act\\n' >qga-act.service; "
              "systemctl daemon-reload; systemctl start qga-act.socket")
    try:
        equal(g.oob.run("systemctl is-active qga-act.service", check=False).strip(), "inactive", "the service before a client came")
        program = CLIENT.format(family="socket.AF_UNIX, '/run/qga-act/sock'")
        g.oob.run(f"cat >/run/oob/act.py <<'EOF'\n{program}\nEOF")
        for turn in range(3):
            equal(g.oob.run("python3 /run/oob/act.py").strip(), PINGED, f"connection {turn + 1}")
        equal(g.oob.run("systemctl is-active qga-act.service").strip(), "active", "the service afterwards")
    finally:
        g.oob.run("systemctl stop qga-act.socket qga-act.service", check=False)
