"""The world of one case: namespaces of its own below the private namespace of `qemu-ga selftest --run`.

What always holds: the root is the selftest's tmpfs; no filesystem with a block device is in sight but loop devices that
the case mounted; /run, /mnt, /tmp, /home are empty; processors, memory and power of /sys are files on a tmpfs; helpers
(shutdown, hwclock, chpasswd ...) are stubs; the agent has no right to set the clock or to reboot. So no case can touch the
machine, whatever it asks for. It ends with everything thawed and, since its process namespace ends, nothing left running.
"""
import ctypes
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

from . import cases, original

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x4000000, 0x8000000, 0x20000000, 0x40000000
PR_CAPBSET_DROP = 24
CAPABILITIES = {"sys_admin": 21, "sys_boot": 22, "sys_time": 25}
FITHAW = 0xC0045878
SOCKET = "/run/qga.sock"
AGENT = "/usr/local/sbin/qemu-ga"
SBIN_STUBS = ("shutdown", "poweroff", "halt", "reboot", "hwclock", "chpasswd")
BIN_STUBS = ("systemctl", "pm-is-supported", "pm-suspend", "pm-hibernate", "pm-suspend-hybrid")
# What a stub does besides telling its arguments is up to the case: /run/stub-NAME is run if it is there.
STUB = """#!/bin/sh
name=${0##*/}
printf '%s' "$name" >>/run/calls
for argument; do printf ' [%s]' "$argument" >>/run/calls; done
echo >>/run/calls
[ -e "/run/stub-$name" ] || exit 0
. "/run/stub-$name"
"""
HARDWARE = ("/sys/devices/system/cpu", "/sys/devices/system/memory", "/sys/power")
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C"}
TOOLS = "/usr/local/lib/compliance"
DEADLINE = 30


def prepare(binary, libraries):
    """Once for each side, inside the selftest's namespace: what is put into its throw-away /usr and /etc."""
    refuse_real_filesystems()
    os.makedirs("/usr/local/sbin", exist_ok=True)
    shutil.copy(binary, AGENT)
    # The cases' own tools: the checkout may lie where the cases see an empty directory.
    os.makedirs(TOOLS, exist_ok=True)
    for tool in (cases.HERE / "hooks").iterdir():
        shutil.copy(tool, TOOLS)
    os.makedirs(original.LIBRARIES, exist_ok=True)
    for library in libraries:
        shutil.copy(library, original.LIBRARIES)
    for folder, names in (("/usr/sbin", SBIN_STUBS), ("/usr/bin", BIN_STUBS)):
        for name in names:
            stub = pathlib.Path(folder, name)
            stub.unlink(missing_ok=True)  # often a link to another program
            stub.write_text(STUB)
            stub.chmod(0o755)
    with open("/etc/passwd", "a") as passwd, open("/etc/group", "a") as group:
        passwd.write("tu:x:4242:4243::/home/tu:/bin/sh\n")
        group.write("tu:x:4243:\n")


def _mounts():
    return os.fsdecode(pathlib.Path("/proc/self/mountinfo").read_bytes()).split("\n")[:-1]


def refuse_real_filesystems():
    """Fails unless this is the selftest's namespace and only loop devices could be frozen in it."""
    root = None
    for line in _mounts():
        fields, _, rest = line.partition(" - ")
        device, mountpoint = fields.split(" ")[2], fields.split(" ")[4]
        fstype, source = rest.split(" ")[:2]
        root = fstype if mountpoint == "/" else root
        if not device.startswith(("0:", "7:")) or (fstype == "btrfs" and not source.startswith("/dev/loop")):
            raise SystemExit(f"{mountpoint} is a real filesystem ({device}): nothing was done")
    if root != "tmpfs":
        raise SystemExit("the root is no private tmpfs: run this through tests/compliance/run")


def run(case):
    """Runs `case` in its world; the list of what came of each step, or a text if it could not be run to its end."""
    return within(lambda: _Run(case).steps())


def within(body):
    """What `body` returns (its JSON) in a world of its own, or a text if it did not come to its end."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _check(LIBC.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET), "unshare")
            first = os.fork()
            if first == 0:
                _first_process(body, writer)
            else:
                os.waitpid(first, 0)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        outcome = pipe.read()
    os.waitpid(child, 0)
    return json.loads(outcome) if outcome else "its world ended without a word"


def _first_process(body, writer):
    """Process 1 of the new namespace: with it, all that the case started ends."""
    def expired(*_):
        raise TimeoutError(f"not done within {DEADLINE} s")
    try:
        signal.signal(signal.SIGALRM, expired)
        signal.alarm(DEADLINE)
        _furnish()
        outcome = body()
    except BaseException as error:  # whatever it is, the other side of the pipe tells it
        outcome = f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        _thaw_all()
    with os.fdopen(writer, "w") as pipe:
        json.dump(outcome, pipe)


def _check(result, what):
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _mount(fstype, target):
    _check(LIBC.mount(b"none", target.encode(), fstype.encode(), 0, None), f"mount {target}")


def _furnish():
    _check(LIBC.mount(None, b"/", None, 0x44000, None), "private mounts")  # MS_REC | MS_PRIVATE
    refuse_real_filesystems()
    for folder in ("/run", "/mnt", "/tmp", "/home"):
        _mount("tmpfs", folder)
        os.chmod(folder, 0o755)
    _mount("proc", "/proc")
    os.mkdir("/home/tu")
    os.chown("/home/tu", 4242, 4243)
    LIBC.sethostname(b"guest", 5)
    pathlib.Path("/run/calls").touch()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for folder in HARDWARE:
        if os.path.isdir(folder):
            _mount("tmpfs", folder)
    _fake_system()


def _refuse_real_hardware():
    for folder in HARDWARE:
        if os.path.isdir(folder) and os.stat(folder).st_dev == os.stat("/sys/kernel").st_dev:
            raise RuntimeError(f"{folder} is the machine's own: nothing was asked")


def _fake_system():
    """Two processors, of which the first cannot be taken off, and three blocks of memory."""
    cpu, memory = pathlib.Path("/sys/devices/system/cpu"), pathlib.Path("/sys/devices/system/memory")
    for folder in (cpu / "cpu0", cpu / "cpu1", cpu / "cpufreq", memory / "memory0", memory / "memory1", memory / "memory2"):
        folder.mkdir()
    (cpu / "online").write_text("0-1\n")
    (cpu / "cpu1/online").write_text("1\n")
    (memory / "block_size_bytes").write_text("8000000\n")
    for block, state, removable in ((0, "online", 0), (1, "online", 1), (2, "offline", 1)):
        (memory / f"memory{block}/state").write_text(state + "\n")
        (memory / f"memory{block}/removable").write_text(f"{removable}\n")


def _thaw_all():
    """No superblock may stay frozen behind a namespace that is gone."""
    for line in _mounts():
        fields = line.split(" ")
        if fields[2].startswith("7:") or " btrfs " in line:
            path = re.sub(rb"\\(\d{3})", lambda m: bytes([int(m[1], 8)]), os.fsencode(fields[4]))
            try:
                folder = os.open(path, os.O_RDONLY)
                while True:
                    fcntl.ioctl(folder, FITHAW, 0)
            except OSError:
                pass  # EINVAL: it is not frozen (any more)


def start(arguments, environment=(), without=()):
    """Starts the agent, as far as it can do no harm, and waits for its socket."""
    refuse_real_filesystems()
    _refuse_real_hardware()
    dropped = ["sys_time", "sys_boot", *without]

    def drop():
        for name in dropped:
            _check(LIBC.prctl(PR_CAPBSET_DROP, CAPABILITIES[name], 0, 0, 0), "prctl")
    command = f"exec qemu-ga -m unix-listen -p {SOCKET} -t /run -f /run/qga.pid {arguments}"
    with open("/run/stderr", "w") as stderr:
        agent = subprocess.Popen(["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=stderr, cwd="/", env=dict(ENVIRONMENT, **dict(environment)), preexec_fn=drop)
    while not os.path.exists(SOCKET):
        alive(agent)
        time.sleep(0.002)
    rights = int(re.search(r"CapEff:\s*(\w+)", pathlib.Path(f"/proc/{agent.pid}/status").read_text())[1], 16)
    if any(rights >> CAPABILITIES[name] & 1 for name in dropped):
        raise RuntimeError("the agent has rights that were to be taken from it: nothing was asked")
    return agent


def alive(agent):
    """Fails with what it said if the agent has ended."""
    if agent.poll() is not None:
        said = pathlib.Path("/run/stderr").read_text().strip()
        raise RuntimeError(f"the agent ended with {agent.returncode}: {said}")


class _Run:
    """A case under way."""

    def __init__(self, case):
        self.case, self.agent, self.pid = case, None, "0"

    def steps(self):
        outcome = []
        for step in self.case.steps:
            if step.kind == "$":
                outcome.append(self.shell(step.text))
                continue
            if self.agent is None:
                self.start()
            outcome.append(self.ask(step))
        if self.agent is not None:
            self.agent.kill()
            self.agent.wait()
        return outcome

    def start(self):
        environment = dict(line.split("=", 1) for line in self.case.headers["env"])
        self.agent = start(" ".join(self.case.headers["args"]), environment, self.case.headers["without"])

    def ask(self, step):
        request = cases.encode(step.text.replace("<PID>", self.pid))
        if self.case.raw:
            # Leaves the parser clean: the line feed ends the skipping that follows an error.
            self.exchange(b"\xff\n")
        else:
            request += b"\n"
        reply = self.exchange(request)
        while step.kind == "?" and b'"exited": false' in reply:
            time.sleep(0.01)
            reply = self.exchange(request)
        if match := re.search(rb'\{"pid": (\d+)\}', reply):
            self.pid = match[1].decode()
        if not self.case.raw and reply.endswith(b"\n"):
            reply = reply[:-1]
        return cases.decode(reply)

    def exchange(self, request):
        """One connection: sends, says that nothing more comes, and reads to the end."""
        with socket.socket(socket.AF_UNIX) as client:
            while True:
                try:
                    client.connect(SOCKET)
                    break
                except (ConnectionRefusedError, BlockingIOError):
                    alive(self.agent)
                    time.sleep(0.002)
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            reply = bytearray()
            while piece := client.recv(1 << 20):
                reply += piece
        alive(self.agent)
        return bytes(reply)

    def shell(self, command):
        path = f"{TOOLS}:{ENVIRONMENT['PATH']}"
        done = subprocess.run(["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, cwd="/", errors="backslashreplace",
                              env=dict(ENVIRONMENT, PATH=path, PYTHONDONTWRITEBYTECODE="1", AGENT=str(self.agent.pid if self.agent else 0)))
        output = done.stdout.rstrip("\n")
        return output if done.returncode == 0 else f"{output}\n(status {done.returncode})".lstrip("\n")
