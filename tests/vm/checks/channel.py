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


@check("raw")
def vsock_listen_answers_inside_the_guest(g):
    if "yes" not in g.oob.run("modprobe vsock_loopback 2>/dev/null && [ -e /dev/vsock ] && echo yes", check=False):
        print("     (the guest's kernel has no vsock loopback: nothing to see)")
        return
    g.oob.run("mkdir -p /run/qga-vsock; systemd-run -q --unit=qga-vsock /usr/sbin/qemu-ga -m vsock-listen -p 1:4711 -t /run/qga-vsock")
    try:
        program = CLIENT.format(family="socket.AF_VSOCK, (1, 4711)")
        g.oob.run(f"cat >/run/oob/vsock.py <<'EOF'\n{program}\nEOF")
        for turn in range(3):
            out = g.oob.run("for i in 1 2 3 4 5 6 7 8 9 10; do python3 /run/oob/vsock.py && exit 0; sleep 0.3; done; exit 1")
            equal(out.strip().splitlines()[-1], PINGED, f"vsock connection {turn + 1}")
    finally:
        g.oob.run("systemctl stop qga-vsock", check=False)


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
