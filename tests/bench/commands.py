"""Single commands at size: many interfaces, filesystems and disks, large files, many programs, memory over ten thousand commands.

Interfaces, files and programs are measured on this machine, in the run's own network namespace; what needs hundreds of mounts and
loop devices is measured in the guest.
"""
import base64
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import time

from lib import channel, paths

SIDES = ("ours", "original")
MIB = 1 << 20
INTERFACES, FILESYSTEMS, LOOPS, PROGRAMS, MIXED = 1000, 300, 100, 500, 10_000
# Runs in the guest: the best time of COUNT requests, the answer read to its end but not parsed.
IN_GUEST_CLIENT = """
import socket, sys, time
path, request, count = sys.argv[1], sys.argv[2].encode() + b'\\n', int(sys.argv[3])
s = socket.socket(socket.AF_UNIX)
for _ in range(200):
    try:
        s.connect(path); break
    except OSError:
        time.sleep(0.05)
buffer, times = bytearray(1 << 22), []
for _ in range(count):
    started = time.perf_counter_ns(); s.sendall(request); n = 0
    while not n or buffer[n - 1] != 10:
        n += s.recv_into(memoryview(buffer)[n:])
    times.append((time.perf_counter_ns() - started) / 1e6)
print(min(times), buffer[:n].count(b'"type"'), buffer[:n].count(b'"name"'), buffer[:9])
"""


class Raw:
    """A connection that reads long lines without looking at each byte: the client must not be what is measured."""

    def __init__(self, path):
        self.sock = channel.connect(path)
        self.sock.settimeout(120)
        self.buffer = memoryview(bytearray(64 * MIB))

    def ask(self, line):
        """The raw answer to one raw request."""
        self.sock.sendall(line)
        length = 0
        while not length or self.buffer[length - 1] != 10:
            got = self.sock.recv_into(self.buffer[length:])
            if not got:
                raise channel.ChannelError("the agent closed the connection")
            length += got
        answer = self.buffer[:length]
        if bytes(answer[:11]) != b'{"return": ':
            raise channel.ChannelError(f"{line[:100]!r} was answered by {bytes(answer[:300])!r}")
        return answer

    def value(self, name, **arguments):
        """The value a command returns."""
        words = {key.replace("_", "-"): value for key, value in arguments.items()}
        return json.loads(bytes(self.ask(json.dumps({"execute": name, "arguments": words}).encode() + b"\n")))["return"]


def request(name, **arguments):
    """A request line."""
    return json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n"


@contextlib.contextmanager
def agent_here(work, side):
    """A fresh agent on this machine; it is never asked for more than it takes to read, files of our own, and /bin/true."""
    state, path = work / "state", work / "here.sock"
    state.mkdir(exist_ok=True)
    binary = {"ours": paths.binary_under_test, "original": paths.original_binary}[side]()
    allowed = "guest-ping,guest-info,guest-network-get-interfaces,guest-get-osinfo,guest-get-host-name,guest-get-vcpus,guest-get-time," \
              "guest-file-open,guest-file-close,guest-file-read,guest-file-write,guest-file-flush,guest-exec,guest-exec-status"
    process = subprocess.Popen([str(binary), "-m", "unix-listen", "-p", str(path), "-t", str(state), "-a", allowed],
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        client = Raw(path)
        client.ask(request("guest-ping"))
        yield client, process.pid
    finally:
        process.kill()
        process.wait()
        path.unlink(missing_ok=True)


def timed(function):
    """Milliseconds that `function` took."""
    started = time.perf_counter_ns()
    function()
    return (time.perf_counter_ns() - started) / 1e6


def interfaces(new_row, alternate, say, work, rounds):
    """guest-network-get-interfaces with a thousand veth interfaces, each with an address."""
    lines = ["link set lo up"]
    for i in range(INTERFACES // 2):
        lines.append(f"link add v{i} type veth peer name w{i}")
        lines += [f"addr add 10.{net}{i // 250}.{i % 250}.1/24 dev {end}{i}" for end, net in (("v", ""), ("w", "1"))]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)
    row = new_row(f"get-interfaces, {INTERFACES} of them", "ms", ratio=1 / 5)
    try:
        for turn, side in alternate(rounds):
            with agent_here(work, side) as (client, _):
                answer = json.loads(bytes(client.ask(request("guest-network-get-interfaces"))))["return"]
                if len(answer) < INTERFACES or "ip-addresses" not in answer[-1]:
                    raise RuntimeError(f"{side} listed {len(answer)} interfaces")
                row.add(side, min(timed(lambda: client.ask(request("guest-network-get-interfaces"))) for _ in range(5)))
            say(f"interfaces, run {turn}, {side}: {row.runs[side][-1]:.1f} ms")
    finally:
        subprocess.run(["ip", "-batch", "-"], input="".join(f"link del v{i}\n" for i in range(INTERFACES // 2)), text=True, check=False)
    return [row]


def files(new_row, alternate, say, work, rounds, mebibytes=64):
    """guest-file-read and guest-file-write of 64 MiB in pieces of one."""
    read, write = (new_row(f"file-{what}, {mebibytes} MiB in 1 MiB pieces", "ms", ratio=1 / 2) for what in ("read", "write"))
    data = os.urandom(MIB)
    source, target = pathlib.Path("/run/bench-source"), pathlib.Path("/run/bench-target")
    source.write_bytes(data * mebibytes)
    encoded = base64.b64encode(data).decode()
    try:
        for turn, side in alternate(rounds):
            with agent_here(work, side) as (client, _):
                handle = client.value("guest-file-open", path=str(source))
                line = request("guest-file-read", handle=handle, count=MIB)
                read.add(side, timed(lambda: [client.ask(line) for _ in range(mebibytes)]))
                client.value("guest-file-close", handle=handle)
                handle = client.value("guest-file-open", path=str(target), mode="w")
                line = json.dumps({"execute": "guest-file-write", "arguments": {"handle": handle, "buf-b64": encoded}}).encode() + b"\n"
                write.add(side, timed(lambda: [client.ask(line) for _ in range(mebibytes)]))
                client.value("guest-file-close", handle=handle)
                if target.read_bytes() != data * mebibytes:
                    raise RuntimeError(f"{side} wrote something else")
            say(f"files, run {turn}, {side}: read {read.runs[side][-1]:.0f} ms, write {write.runs[side][-1]:.0f} ms")
    finally:
        source.unlink()
        target.unlink(missing_ok=True)
    return [read, write]


def programs(new_row, alternate, say, work, rounds):
    """guest-exec of /bin/true and its status, asked until the program has ended."""
    row = new_row(f"exec of /bin/true with status, {PROGRAMS} times", "ms", ratio=1)

    def run(client):
        for _ in range(PROGRAMS):
            pid = client.value("guest-exec", path="/bin/true")["pid"]
            while not client.value("guest-exec-status", pid=pid)["exited"]:
                pass

    for turn, side in alternate(rounds):
        with agent_here(work, side) as (client, _):
            row.add(side, timed(lambda: run(client)))
        say(f"programs, run {turn}, {side}: {row.runs[side][-1]:.0f} ms")
    return [row]


def resident(pid):
    """KiB of memory that the process has resident."""
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1])
    raise RuntimeError(f"no Rss of process {pid}")


def mixed(new_row, alternate, say, work, rounds):
    """How much memory grows over ten thousand mixed commands, after a thousand have warmed the process up."""
    row = new_row(f"growth of Rss over {MIXED} mixed commands", "KiB", most=100)
    path = pathlib.Path("/run/bench-mixed")
    path.write_bytes(os.urandom(100_000))
    queries = [request(name) for name in ("guest-ping", "guest-info", "guest-get-osinfo", "guest-network-get-interfaces",
                                          "guest-get-vcpus", "guest-get-host-name", "guest-get-time")]

    def run(client, count):
        for turn in range(count // 10):
            for line in queries:
                client.ask(line)
            handle = client.value("guest-file-open", path=str(path))
            client.value("guest-file-read", handle=handle, count=100_000)
            client.value("guest-file-close", handle=handle)
            if turn % 50 == 0:
                pid = client.value("guest-exec", path="/bin/true")["pid"]
                while not client.value("guest-exec-status", pid=pid)["exited"]:
                    time.sleep(0.001)

    try:
        for turn, side in alternate(min(rounds, 2)):
            with agent_here(work, side) as (client, pid):
                run(client, 1000)
                before = resident(pid)
                run(client, MIXED)
                row.add(side, resident(pid) - before)
            say(f"mixed commands, run {turn}, {side}: Rss grew by {row.runs[side][-1]} KiB from {before} KiB")
    finally:
        path.unlink()
    return [row]


def storage(new_row, alternate, say, machine, rounds, in_guest):
    """In the guest: get-disks with a hundred loop devices, then get-fsinfo with three hundred mounted filesystems."""
    disks, mounts = (new_row(name, "ms", ratio=1 / 3) for name in
                     (f"get-disks, {LOOPS} loop devices", f"get-fsinfo, {FILESYSTEMS} filesystems"))
    machine.oob.run(f"cat >/run/oob/timed.py <<'EOF'\n{IN_GUEST_CLIENT}\nEOF")
    machine.oob.run("mkdir -p /many/images /many/mounts /run/many && mount -t tmpfs tmpfs /many/images && mount -t tmpfs tmpfs /many/mounts && "
                    "modprobe loop && truncate -s 512K /many/images/0 && mkfs.ext2 -q /many/images/0")

    def loops(first, last, mounted):
        extra = "mkdir /many/mounts/$i && mount $d /many/mounts/$i || exit 1; " if mounted else ""
        machine.oob.run(f"for i in $(seq {first} {last}); do cp /many/images/0 /many/images/$i; d=$(losetup -f --show /many/images/$i) || exit 1; "
                        f"{extra}done; udevadm settle", timeout=400)

    def measure(row, command, least):
        for turn, side in alternate(rounds):
            machine.oob.run(f"systemd-run -q --unit=many {in_guest[side]} -m unix-listen -p /run/many/sock -t /run/many")
            try:
                out = machine.oob.run(f"python3 /run/oob/timed.py /run/many/sock '{{\"execute\":\"{command}\"}}' 15", timeout=300).split(maxsplit=3)
            finally:
                machine.oob.run("systemctl stop many; rm -f /run/many/sock", check=False)
            if "return" not in out[3] or int(out[2]) < least:
                raise RuntimeError(f"{command} of {side} listed {out[2]}: {out[3]}")
            row.add(side, float(out[0]))
            say(f"{command}, run {turn}, {side}: {row.runs[side][-1]:.1f} ms")

    try:
        loops(1, LOOPS, False)
        measure(disks, "guest-get-disks", LOOPS)
        machine.oob.run("losetup -D; udevadm settle", timeout=100)
        loops(1, FILESYSTEMS, True)
        measure(mounts, "guest-get-fsinfo", FILESYSTEMS)
    finally:
        machine.oob.run("umount /many/mounts/*; losetup -D; umount /many/mounts /many/images", timeout=200, check=False)
    return [disks, mounts]
