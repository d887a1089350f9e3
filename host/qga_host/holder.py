"""The holder: a process of its own that freezes a domain, and thaws it on request, at its time limit, or when its parent ends.

It is forked before the first connection to libvirt and does both itself, so it always knows whether a thaw is due: a parent that is killed
at any moment leaves a hang-up behind, and the holder then waits for the end of its own freeze request and thaws. Parent and holder exchange
JSON over a socket pair, one object a line.
"""
import json
import os
import select
import signal
import socket
import sys
import time

import libvirt

from . import agent
from .connection import ConnectionFailure, DomainLink, silence_libvirt

# Seconds for one request that needs no hook and no disk.
QUICK_TIMEOUT = 10
# For one thaw request: thaw hooks run in it.
THAW_TIMEOUT = 300
RETRY_SECONDS = 1
# How long the holder tries to thaw. By then the agent's own hold limit (900 s, unless configured) has passed.
THAW_PATIENCE = 1800
# A freeze that was given up may still begin if the daemon held its request: seconds of silence that show it did not.
SETTLE_SECONDS = 3
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Line:
    """One end of the socket pair."""

    def __init__(self, end):
        self.socket, self.pending = end, b""

    def send(self, **members):
        """False if the other process has ended."""
        try:
            self.socket.sendall(json.dumps(members).encode() + b"\n")
            return True
        except OSError:
            return False

    def receive(self, deadline=None):
        """The next object; None if none comes by the deadline; EOFError if the other process has ended."""
        while b"\n" not in self.pending:
            left = None if deadline is None else max(0, deadline - time.monotonic())
            if not select.select([self.socket], [], [], left)[0]:
                return None
            try:
                read = self.socket.recv(1 << 20)
            except ConnectionError:
                read = b""
            if not read:
                raise EOFError
            self.pending += read
        line, _, self.pending = self.pending.partition(b"\n")
        return json.loads(line)


class Freeze:
    """A domain's freeze and thaw."""

    def __init__(self, link):
        self.link = link
        # From the moment at which a freeze may have begun.
        self.is_due = False
        # The freeze request was given up, so when it took effect is not known.
        self.is_unsure = False

    def freeze(self, timeout):
        """What the agent did: its count, whose agent it is, and the report of this run. Raises AgentFailure, with nothing frozen
        unless `is_due`."""
        domain = self.link.domain()
        info = agent.read_info(domain, QUICK_TIMEOUT)
        if agent.read_status(domain, QUICK_TIMEOUT) == "frozen":
            raise agent.AgentFailure("frozen", "already frozen by another client")
        self.is_due = self.is_unsure = True
        try:
            count = agent.ask(domain, "guest-fsfreeze-freeze", timeout)
        except agent.AgentFailure as error:
            # The agent undoes a freeze that fails.
            self.is_due = self.is_unsure = error.kind in (agent.SILENT, agent.LOST)
            raise
        self.is_unsure = False
        return {"count": agent.number(count), "version": info.version, "is_ours": info.is_ours(), **self.run(domain, info)}

    def run(self, domain, info):
        """The run as the agent reports it while frozen."""
        if not info.has_reports():
            return {"report": None}
        try:
            own_version, reports = agent.read_reports(domain, QUICK_TIMEOUT)
        except agent.AgentFailure:
            return {"report": None}
        # A run that has ended is another one, or was ended early.
        report = reports[0] if reports and "end" not in reports[0] else None
        return {"report": report, "own_version": own_version}

    def thaw(self):
        """Thaws until the agent confirms it, or there is no guest any more. Returns the last error as a text, or None."""
        deadline, quiet_since, trouble = time.monotonic() + THAW_PATIENCE, None, None
        while self.is_due:
            try:
                if self.thaw_once(self.link.domain(deadline)):
                    quiet_since = quiet_since or time.monotonic()
                    # The request of a freeze that was given up may still be on its way.
                    if not self.is_unsure or time.monotonic() - quiet_since >= SETTLE_SECONDS:
                        self.is_due = self.is_unsure = False
                        break
                else:
                    quiet_since = None
            except agent.AgentFailure as error:
                trouble, quiet_since = str(error), None
                if error.kind == agent.STOPPED:
                    self.is_due = False
            except libvirt.libvirtError as error:
                trouble = str(error)
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    self.is_due = False
            except ConnectionFailure as error:
                trouble = str(error)
            if self.is_due and time.monotonic() > deadline:
                break
            if self.is_due:
                time.sleep(RETRY_SECONDS)
        return trouble

    @staticmethod
    def thaw_once(domain):
        """Whether nothing was frozen any more afterwards."""
        try:
            agent.ask(domain, "guest-fsfreeze-thaw", THAW_TIMEOUT)
        except agent.AgentFailure as error:
            if error.kind != agent.REFUSED:
                raise
            # A thaw after the hold limit is an error, and nothing is frozen.
            if agent.read_status(domain, QUICK_TIMEOUT) != "thawed":
                raise
            return True
        return agent.read_status(domain, QUICK_TIMEOUT) == "thawed"


def hold(line, uri, name):
    """The holder's work: one freeze, one thaw."""
    freeze = Freeze(DomainLink(uri, name))
    try:
        request = line.receive()
        try:
            done = freeze.freeze(request["timeout"])
        except agent.AgentFailure as error:
            freeze.thaw()
            line.send(event="failed", kind=error.kind, text=str(error), is_due=freeze.is_due)
            return
        except (ConnectionFailure, libvirt.libvirtError) as error:
            line.send(event="failed", kind=agent.LOST, text=str(error), is_due=False)
            return
        line.send(event="frozen", **done)
        # The parent asks for the thaw by any object.
        is_early = line.receive(time.monotonic() + request["hold"]) is None
        trouble = freeze.thaw()
        line.send(event="thawed", is_early=is_early, text=trouble, is_due=freeze.is_due)
    except EOFError:
        # The parent has ended.
        pass
    finally:
        # Whatever happened.
        if freeze.is_due:
            freeze.thaw()


def start(uri, name):
    """Forks the holder. Returns its process id and the parent's end of the line. To be called before any thread or connection is made."""
    parent, child = socket.socketpair()
    pid = os.fork()
    if pid:
        child.close()
        return pid, Line(parent)
    parent.close()
    # What ends the parent, or a terminal, must not end the holder.
    os.setsid()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    status = 1
    try:
        silence_libvirt()
        hold(Line(child), uri, name)
        status = 0
    finally:
        # Not sys.exit: the parent's code above this call is not the holder's. A holder that fails closes its line.
        sys.stderr.flush()
        os._exit(status)
