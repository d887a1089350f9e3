"""qga-snapshot: a snapshot or backup of a running domain, and what it is worth.

The domain is frozen and thawed by the agent in it, in the holder's process (holder.py). The level is the agent's own (docs/consistency.md),
of the run in which the snapshot was taken, as it was reported after the thaw. Without such a report it is `unknown`, and without a
freeze `crash`.
"""
import argparse
import datetime
import json
import os
import signal
import sys
import time
from xml.sax.saxutils import escape

import libvirt

from . import UNKNOWN, VERSION, agent, holder, label, number_to, rank
from .connection import ConnectionFailure, DomainLink, silence_libvirt

NAME = "qga-snapshot"
DONE, FAILED, BELOW, UNLABELED, FROZEN = 0, 1, 3, 4, 5
RECONNECT_SECONDS = 60
# The report is complete soon after the thaw's answer.
REPORT_SECONDS = 10
REPORT_INTERVAL = 0.2
JOB_INTERVAL = 0.5
DEFAULT_FREEZE_TIMEOUT, DEFAULT_HOLD, THAW_WAIT = 660, 60, 120

EPILOG = """\
The level is one of crash, filesystem and application, or unknown for an agent that gives no report. A guest that cannot be frozen is
snapshotted all the same, at the level crash, unless --require asks for more: then no snapshot is taken. If the level turns out lower
only at the thaw, the snapshot is kept, with its true level, and the exit status is 3.

exit status: 0 taken and labeled, 1 failed, 2 wrong usage, 3 the level is below --require, 4 taken, but the label cannot be
written, 5 the guest may still be frozen, 128 plus the number of a signal that ended it
"""


class Failure(Exception):
    """Ends the run: a line for people, and the exit status."""

    def __init__(self, text, status=FAILED):
        super().__init__(text)
        self.status = status


class Interrupted(BaseException):
    """A signal asked for the end."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


def parse(words):
    """The command line."""
    parser = argparse.ArgumentParser(prog=NAME, description="Takes a snapshot of a running domain while its guest is frozen, and records "
                                     "its consistency level.", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domain", metavar="DOMAIN", help="name or UUID")
    parser.add_argument("-c", "--connect", metavar="URI", help="libvirt's URI; libvirt's default if not given")
    parser.add_argument("--require", choices=("crash", "filesystem", "application"), default="crash",
                        help="take no snapshot that is worth less (default: crash)")
    parser.add_argument("--backup", action="store_true", help="begin a backup instead of a snapshot, and wait for its end")
    parser.add_argument("--name", help="name of the snapshot or backup (default: qga- and the time)")
    parser.add_argument("--xml", metavar="FILE", help="definition of the snapshot (domainsnapshot) or backup (domainbackup)")
    parser.add_argument("--freeze-timeout", metavar="SECONDS", type=number_to(86400), default=DEFAULT_FREEZE_TIMEOUT,
                        help="give up a freeze that takes longer; freeze hooks run in it (default: %(default)s)")
    parser.add_argument("--max-hold", metavar="SECONDS", type=number_to(86400), default=DEFAULT_HOLD,
                        help="thaw after this time even if the snapshot is not taken yet (default: %(default)s)")
    parser.add_argument("--version", action="version", version=f"{NAME} {VERSION}")
    return parser.parse_args(words)


def print_line(text):
    """A line for people, with what the guest sent made harmless."""
    print(f"{NAME}: {''.join(c if c.isprintable() else ' ' for c in text)}", file=sys.stderr, flush=True)


class Run:
    """One snapshot."""

    def __init__(self, options, line, link):
        self.options, self.line, self.link = options, line, link
        self.name = options.name or time.strftime("qga-%Y%m%dT%H%M%SZ", time.gmtime())
        self.kind = "backup" if options.backup else "snapshot"
        self.definition = None
        # What is reported in the end.
        self.result = {"version": 1, "result": "failed", "domain": options.domain, "kind": self.kind, "name": self.name,
                       "required": options.require, "level": UNKNOWN, "hooks": [], "reasons": [], "labeled": False}
        self.report = None
        # The holder's: asked to freeze, and not known to have thawed.
        self.is_frozen = False

    def take(self):
        """All of it; returns the exit status, raises Failure."""
        self.definition = self.read_definition()
        domain = self.find()
        self.result.update(domain=domain.name(), uuid=domain.UUIDString())
        try:
            self.freeze()
            self.refuse_below_requirement()
            taken = datetime.datetime.now(datetime.timezone.utc)
            self.begin()
        finally:
            # Signals and errors too.
            is_early = self.thaw()
        self.result["taken"] = taken.isoformat(timespec="seconds").replace("+00:00", "Z")
        self.judge(is_early)
        if self.options.backup:
            self.wait_for_backup()
        self.result["result"] = "taken"
        status = self.write_label()
        required = self.options.require
        if rank(self.result["level"]) < rank(required):
            print_line(f"level {self.result['level']}: {self.kind} {self.name} of {self.result['domain']}: {self.why()}; {required} is "
                       "required: the snapshot is kept, with this level")
            return BELOW
        return status

    def read_definition(self):
        """The XML for libvirt."""
        if not self.options.xml:
            root, attributes = ("domainbackup", " mode='push'") if self.options.backup else ("domainsnapshot", "")
            name = "" if self.options.backup else f"<name>{escape(self.name)}</name>"
            return f"<{root}{attributes}>{name}</{root}>"
        try:
            with open(self.options.xml, encoding="utf-8") as file:
                return file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(f"cannot read the definition: {self.options.xml}: {error}") from error

    def find(self):
        """The domain, which has to run."""
        try:
            domain = self.link.domain()
            if domain.isActive():
                return domain
        except libvirt.libvirtError as error:
            raise Failure(f"cannot find the domain: {self.options.domain}: {error}; see virsh list") from error
        raise Failure(f"cannot freeze: {self.options.domain}: the domain does not run; a snapshot of it needs no freeze, so use virsh")

    def freeze(self):
        """Asks the holder; a guest that cannot be frozen is an error only if a level is required."""
        self.is_frozen = True
        self.line.send(do="freeze", timeout=self.options.freeze_timeout, hold=self.options.max_hold)
        answer = self.line.receive(time.monotonic() + self.options.freeze_timeout + THAW_WAIT)
        if answer is None:
            raise Failure(f"cannot freeze: {self.options.domain}: the freeze did not end within {self.options.freeze_timeout} s; no snapshot "
                          "was taken")
        if answer["event"] == "frozen":
            self.report = answer["report"]
            self.result["agent"] = agent_name(answer)
            if self.report:
                self.describe(self.report)
            else:
                self.result["reasons"] = ["the agent gives no report of the freeze"]
            return
        self.is_frozen = False
        why = f"{answer['text'] or answer['kind']}"
        if answer["is_due"]:
            raise Failure(f"cannot thaw: {self.options.domain}: {why}; the guest thaws at its hold limit", FROZEN)
        if answer["kind"] == "frozen":
            raise Failure(f"cannot freeze: {self.options.domain}: {why}; wait for its end, or run \"virsh domfsthaw\" if nobody needs it")
        if answer["kind"] in (agent.LOST, agent.STOPPED):
            raise Failure(f"cannot freeze: {self.options.domain}: {why}; no snapshot was taken")
        remedy = REMEDIES.get(answer["kind"], "see \"qemu-ga report\" in the guest")
        if rank(self.options.require) > rank("crash"):
            self.result["result"] = "refused"
            raise Failure(f"cannot freeze: {self.options.domain}: {why}; {self.options.require} is required, so no snapshot was taken; {remedy}",
                          BELOW)
        self.result.update(level="crash", reasons=[f"not frozen: {why}"])
        print_line(f"not frozen: {self.options.domain}: {why}; the snapshot is as after a power failure; {remedy}")

    def refuse_below_requirement(self):
        """What is known while frozen: the level that the run has unless something happens until the thaw."""
        required = self.options.require
        if rank(self.result["level"]) < rank(required):
            self.result["result"] = "refused"
            raise Failure(f"level {self.result['level']}: {self.options.domain}: {self.why()}; {required} is required, so no snapshot was "
                          "taken; see \"qemu-ga report\" in the guest", BELOW)

    def why(self):
        """What keeps the level low."""
        return "; ".join(self.result["reasons"]) or "the agent names no reason"

    def begin(self):
        """The moment of the snapshot."""
        domain = self.link.domain()
        try:
            if self.options.backup:
                domain.backupBegin(self.definition, None, 0)
            else:
                domain.snapshotCreateXML(self.definition, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY |
                                         libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC)
        except libvirt.libvirtError as error:
            if not self.link.is_alive():
                raise Failure(f"connection lost: during the {self.kind} of {self.options.domain}: {error}; if there is a {self.kind} "
                              f"{self.name}, its level is not known") from error
            raise Failure(f"cannot take the {self.kind}: {self.name} of {self.options.domain}: {error}") from error

    def thaw(self):
        """Has the holder thaw, if it froze. Returns whether it had to do so before this call. Raises Failure if the guest stays
        frozen; a second signal ends the wait, not the holder's work."""
        if not self.is_frozen:
            return False
        self.line.send(do="thaw")
        deadline = time.monotonic() + THAW_WAIT
        try:
            answer = {"event": "frozen"}
            # After a signal the answer to the freeze may still come first.
            while answer and answer["event"] == "frozen":
                answer = self.line.receive(deadline)
        except EOFError:
            # The holder was killed.
            freeze = holder.Freeze(self.link)
            freeze.is_due = freeze.is_unsure = True
            answer = {"event": "thawed", "text": freeze.thaw(), "is_early": True, "is_due": freeze.is_due}
        if answer is None or answer["is_due"]:
            why = answer and answer["text"] or f"no answer within {THAW_WAIT} s"
            raise Failure(f"cannot thaw: {self.options.domain}: {why}; process {self.line.pid} tries again, and the guest thaws at its "
                          "hold limit", FROZEN)
        self.is_frozen = False
        return answer.get("is_early", False)

    def describe(self, report):
        """What the report says, in the result."""
        self.result.update(level=agent.level(report), run=agent.text(report.get("id")), hooks=agent.hooks(report), reasons=agent.reasons(report))

    def judge(self, is_early):
        """The level after the thaw, which may be another one than while frozen."""
        if self.report is not None:
            final = self.final_report()
            if final is None:
                self.result.update(level=UNKNOWN, reasons=["the report was not available after the thaw"])
            else:
                self.describe(final)
                self.result["frozen-seconds"] = agent.number(final.get("filesystems-seconds"))
        if is_early:
            # The agent does not know when the snapshot was taken.
            self.result.update(level="crash", reasons=[f"thawed before the {self.kind} was taken"])

    def final_report(self):
        """The report of this run after its end; None if it is not available."""
        run, deadline = self.report.get("id"), time.monotonic() + REPORT_SECONDS
        while run:
            try:
                _, reports = agent.read_reports(self.link.domain(deadline), holder.QUICK_TIMEOUT)
                found = [report for report in reports if report.get("id") == run and "end" in report]
                if found:
                    return found[0]
            except (agent.AgentFailure, ConnectionFailure, libvirt.libvirtError):
                pass
            if time.monotonic() > deadline:
                break
            time.sleep(REPORT_INTERVAL)
        return None

    def wait_for_backup(self):
        """Until it is complete, so that no label is on half a backup."""
        try:
            while True:
                domain = self.link.domain(time.monotonic() + RECONNECT_SECONDS)
                if domain.jobStats(0)["type"] == libvirt.VIR_DOMAIN_JOB_NONE:
                    break
                time.sleep(JOB_INTERVAL)
            done = domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
            succeeded = done.get("success", done["type"] == libvirt.VIR_DOMAIN_JOB_COMPLETED)
        except (ConnectionFailure, libvirt.libvirtError) as error:
            raise Failure(f"cannot watch the backup: {self.name} of {self.options.domain}: {error}; it is not labeled") from error
        if not succeeded:
            raise Failure(f"cannot complete the backup: {self.name} of {self.options.domain}: {done.get('errmsg', 'libvirt gives no reason')}")

    def write_label(self):
        """Writes the domain's metadata; returns the exit status."""
        found = {**self.result, "run": self.result.get("run", ""), "agent": self.result.get("agent", "")}
        try:
            label.add(self.link.domain(time.monotonic() + RECONNECT_SECONDS), found)
        except (ConnectionFailure, libvirt.libvirtError) as error:
            print_line(f"cannot write the label: {self.kind} {self.name} of {self.options.domain}: {error}; it was taken, with level "
                       f"{self.result['level']}")
            return UNLABELED
        self.result["labeled"] = True
        return DONE


REMEDIES = {
    agent.MISSING: "add the agent's port to the domain, and install the agent in the guest",
    agent.SILENT: "check that the agent runs in the guest",
}


def agent_name(answer):
    """The agent in one word: name and version."""
    own = answer.get("own_version")
    if answer["is_ours"]:
        return f"qemu-ga-rs/{own}" if own else "qemu-ga-rs"
    return f"qemu-ga/{answer['version']}"


def raise_interrupted(number, _frame):
    """The first signal unwinds; further ones do the same to the wait for the thaw."""
    raise Interrupted(number)


def main(words):
    """Returns the exit status."""
    options = parse(words)
    silence_libvirt()
    pid, line = holder.start(options.connect, options.domain)
    line.pid = pid
    for number in holder.SIGNALS:
        signal.signal(number, raise_interrupted)
    run = Run(options, line, DomainLink(options.connect, options.domain))
    try:
        status = run.take()
    except (Failure, ConnectionFailure) as error:
        print_line(str(error))
        run.result["error"], status = str(error), getattr(error, "status", FAILED)
    except EOFError:
        status = FAILED
        run.result["error"] = f"the process that freezes ended: {options.domain}"
        print_line(run.result["error"])
    except Interrupted as signal_:
        status = 128 + signal_.number
        run.result["error"] = f"ended by signal {signal_.number}: {options.domain}: no snapshot is labeled"
        if run.is_frozen:
            run.result["error"] += f"; process {pid} thaws the guest"
        print_line(run.result["error"])
    print(json.dumps(run.result), flush=True)
    if not run.is_frozen:
        line.socket.close()
        os.waitpid(pid, 0)
    return status
