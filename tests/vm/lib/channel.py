"""Clients of the guest's two virtio ports: the agent's own, and the out-of-band server of the tests."""
import json
import socket
import time


class ChannelError(Exception):
    """No (or no sensible) answer came."""


def connect(path, timeout=10):
    """Connects to QEMU's socket, which exists a moment after QEMU has started."""
    end = time.monotonic() + timeout
    while True:
        sock = socket.socket(socket.AF_UNIX)
        # QEMU accepts none while it still holds one whose end it has not seen.
        sock.settimeout(timeout)
        try:
            sock.connect(str(path))
            sock.settimeout(None)
            return sock
        except OSError as error:
            sock.close()
            if time.monotonic() > end:
                raise ChannelError(f"cannot connect to {path}: {error}") from error
            time.sleep(0.05)


class Lines:
    """A line-wise JSON connection."""

    def __init__(self, path, timeout=10):
        self.sock = connect(path, timeout)
        self.pending = b""

    def close(self):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def post(self, value):
        """Sends a value as one line."""
        self.send(json.dumps(value).encode() + b"\n")

    def line(self, timeout):
        """The next line, raw and without its LF."""
        end = time.monotonic() + timeout
        while b"\n" not in self.pending:
            left = end - time.monotonic()
            if left <= 0:
                raise ChannelError(f"no answer within {timeout} s (had {self.pending!r})")
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(65536)
            except TimeoutError:
                continue
            if not data:
                raise ChannelError(f"the channel was closed (had {self.pending!r})")
            self.pending += data
        line, self.pending = self.pending.split(b"\n", 1)
        return line

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Agent(Lines):
    """The agent's port: requests in order, one answer each."""

    def command(self, name, arguments=None, timeout=30):
        """The whole answer to one command: {"return": …} or {"error": …}."""
        request = {"execute": name}
        if arguments is not None:
            request["arguments"] = arguments
        self.post(request)
        return json.loads(self.line(timeout).lstrip(b"\xff"))

    def ask(self, name, arguments=None, timeout=30):
        """The value a command returns; an error answer is a ChannelError."""
        answer = self.command(name, arguments, timeout)
        if "return" not in answer:
            raise ChannelError(f"{name}: {answer}")
        return answer["return"]

    def sync(self, timeout=5):
        """guest-sync-delimited, dropping whatever older answers still come in before it."""
        number = time.monotonic_ns() & 0x7FFFFFFF
        self.post({"execute": "guest-sync-delimited", "arguments": {"id": number}})
        end = time.monotonic() + timeout
        while True:
            line = self.line(max(0.01, end - time.monotonic()))
            if line.startswith(b"\xff") and json.loads(line[1:]) == {"return": number}:
                return


def wait_for_agent(path, timeout):
    """Waits until the agent behind QEMU's socket answers, each try on a connection of its own; returns the seconds it took."""
    started = time.monotonic()
    while True:
        try:
            with Agent(path, 5) as agent:
                agent.sync(1)
                agent.ask("guest-ping", timeout=5)
                return time.monotonic() - started
        except (ChannelError, OSError, ValueError) as error:
            if time.monotonic() - started > timeout:
                raise ChannelError(f"the agent did not answer within {timeout} s: {error}") from error
            time.sleep(0.1)


class Job:
    """A command at work inside the guest."""

    def __init__(self, oob, number, pid):
        self.oob, self.number, self.pid = oob, number, pid

    def wait(self, timeout):
        """(status, output, errors); a status of None says that it still runs."""
        answer = self.oob.request({"op": "wait", "job": self.number, "timeout": timeout}, timeout + 20)
        return answer["rc"], answer["out"], answer["err"]


class Oob(Lines):
    """The out-of-band server inside the guest: works while every disk of the guest is frozen."""

    def request(self, request, timeout=20):
        # The number tells its answer from that to a request which an earlier connection gave up, as happens during a boot.
        number, end = time.monotonic_ns(), time.monotonic() + timeout
        self.post({"id": number, **request})
        while True:
            answer = json.loads(self.line(max(0.01, end - time.monotonic())))
            if "error" in answer or answer["id"] == number:
                break
        if "error" in answer:
            raise ChannelError(f"out-of-band {request}: {answer['error']}")
        return answer

    def start(self, script):
        """Starts a shell script in the guest and returns at once."""
        answer = self.request({"op": "start", "sh": script})
        return Job(self, answer["job"], answer["pid"])

    def run(self, script, timeout=60, check=True):
        """The output of a shell script in the guest; its failure is an error unless `check` is off."""
        status, out, err = self.start(script).wait(timeout)
        if status is None:
            raise ChannelError(f"still running after {timeout} s in the guest: {script}")
        if check and status != 0:
            raise ChannelError(f"status {status} in the guest from: {script}\n{out}{err}")
        return out


def wait_for_oob(path, timeout):
    """An Oob connection once the guest has booted far enough to answer on it."""
    started = time.monotonic()
    oob = Oob(path)
    while True:
        try:
            oob.request({"op": "start", "sh": "true"}, 2)
            break
        except ChannelError as error:
            oob.close()
            if time.monotonic() - started > timeout:
                raise ChannelError(f"the guest's out-of-band server did not answer within {timeout} s") from error
            time.sleep(0.2)
            oob = Oob(path)
    return oob
