"""qga-fleet: what the agents of many domains are, and what their last freezes did.

Every domain is asked by one of a number of threads, with a timeout for each request, so one that does not answer delays no other. Of each
domain one small row is kept; its reports are dropped when it is made.
"""
import argparse
import fnmatch
import json
import os
import queue
import shutil
import sys
import threading
import time
import unicodedata

import libvirt

from . import LEVELS, UNKNOWN, VERSION, agent, label, number_to
from .connection import ConnectionFailure, is_alive, open_connection, silence_libvirt
from .prometheus import Metrics, write_atomically

NAME = "qga-fleet"
# libvirt's daemon works at 5 requests of one connection at a time (max_client_requests), and queues the others.
THREADS_PER_CONNECTION = 4
DEFAULT_JOBS, DEFAULT_TIMEOUT = 32, 5
PROGRESS_INTERVAL = 0.1
DONE, FAILED = 0, 1

OURS, OTHER = "qemu-ga-rs", "other"
STATES = (OURS, OTHER, agent.MISSING, agent.SILENT, agent.STOPPED, agent.REFUSED, agent.LOST)

EPILOG = f"""\
agent: {OURS}; {OTHER}, which gives no report, so its level is unknown; {agent.MISSING}, if the domain has no port or nothing
listens on it; {agent.SILENT}, if it does not answer in time; {agent.STOPPED}; {agent.REFUSED}, if the agent answers with an error

exit status: 0 all domains were asked, 1 libvirt cannot be reached or the output cannot be written, 2 wrong usage
"""


def parse(words):
    """The command line."""
    parser = argparse.ArgumentParser(prog=NAME, description="Shows the agents of all domains of a libvirt connection, and what their last "
                                     "freezes did.", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", metavar="PATTERN", nargs="*", help="only domains whose name matches: web-*")
    parser.add_argument("-c", "--connect", metavar="URI", help="libvirt's URI; libvirt's default if not given")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="write JSON")
    form.add_argument("--prometheus", action="store_true", help="write metrics for node_exporter's textfile collector")
    parser.add_argument("--output", metavar="FILE", help="replace this file at once instead of writing to standard output")
    parser.add_argument("--timeout", metavar="SECONDS", type=number_to(3600), default=DEFAULT_TIMEOUT,
                        help="for each request to an agent (default: %(default)s)")
    parser.add_argument("--jobs", metavar="N", type=number_to(3600), default=DEFAULT_JOBS, help="domains asked at a time (default: %(default)s)")
    parser.add_argument("--version", action="version", version=f"{NAME} {VERSION}")
    return parser.parse_args(words)


def ask_domain(domain, timeout):
    """The row of one domain."""
    row = {"domain": domain.name(), "uuid": domain.UUIDString(), "agent": agent.STOPPED}
    try:
        row["snapshot"] = last_label(domain)
        if not domain.isActive():
            return row
        info = agent.read_info(domain, timeout)
        row.update({"agent": OURS, "protocol": info.version} if info.is_ours() else {"agent": OTHER, "protocol": info.version, "level": UNKNOWN})
        row["frozen"] = agent.read_status(domain, timeout) == "frozen"
        if info.has_reports():
            row["version"], reports = agent.read_reports(domain, timeout)
            row["runs"] = len(reports)
            row.update(last_run(reports))
    except agent.AgentFailure as error:
        row.update(why=str(error))
        # An agent that once answered is still what it is.
        if row["agent"] == agent.STOPPED:
            row["agent"] = error.kind
    except libvirt.libvirtError as error:
        row.update(agent=agent.LOST if not is_alive(domain.connect()) else agent.STOPPED, why=str(error))
    return row


def last_label(domain):
    """Name, level and time of the last snapshot that qga-snapshot labeled; None without one."""
    labels = label.read(domain)
    return {name: labels[0][name] for name in ("name", "kind", "level", "taken", "run")} if labels else None


def last_run(reports):
    """The newest run that has ended."""
    ended = next((report for report in reports if "end" in report), None)
    if ended is None:
        return {}
    hooks = agent.hooks(ended)
    filesystems = [agent.members(filesystem) for filesystem in agent.items(ended.get("filesystems"))]
    return {
        "run": agent.text(ended.get("id")), "level": agent.level(ended), "started": agent.number(ended.get("started")),
        "end": agent.text(ended.get("end")), "reasons": agent.reasons(ended)[:5],
        "filesystems": len(filesystems), "held": sum("held" in filesystem for filesystem in filesystems),
        "hooks": len(hooks), "failed-hooks": [{name: hook[name] for name in ("path", "phase", "status")} for hook in hooks if hook["failed"]],
        "filesystems-seconds": agent.number(ended.get("filesystems-seconds")),
        "applications-seconds": agent.number(ended.get("applications-seconds")),
    }


class Survey:
    """All domains, asked side by side."""

    def __init__(self, options):
        self.options = options
        self.rows, self.done, self.total = [], 0, 0
        self.waiting = queue.SimpleQueue()

    def run(self, progress):
        """Fills `rows`, sorted by name. Raises ConnectionFailure."""
        first = open_connection(self.options.connect)
        try:
            domains = first.listAllDomains(0)
        except libvirt.libvirtError as error:
            raise ConnectionFailure(f"cannot list the domains: {error}") from error
        names = [(domain.name(), domain.UUIDString()) for domain in domains]
        del domains
        wanted = [(name, uuid) for name, uuid in names
                  if not self.options.patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.options.patterns)]
        self.total = len(wanted)
        for entry in sorted(wanted):
            self.waiting.put(entry)
        jobs = min(self.options.jobs, self.total)
        connections = [first]
        while len(connections) * THREADS_PER_CONNECTION < jobs:
            connections.append(open_connection(self.options.connect))
        threads = [threading.Thread(target=self.work, args=(connections[number % len(connections)],), daemon=True)
                   for number in range(jobs)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            progress.show(self.done, self.total)
            time.sleep(PROGRESS_INTERVAL)
        progress.clear()
        self.rows.sort(key=lambda row: row["domain"])

    def work(self, connection):
        """One thread: asks until no domain waits."""
        while True:
            try:
                name, uuid = self.waiting.get_nowait()
            except queue.Empty:
                return
            row = {"domain": name, "uuid": uuid}
            try:
                row = ask_domain(connection.lookupByUUIDString(uuid), self.options.timeout)
            except libvirt.libvirtError as error:
                # Without a connection every further domain is one that could not be asked.
                row.update(agent=agent.STOPPED if is_alive(connection) else agent.LOST, why=str(error))
            except Exception as error:  # what a guest sends must not end the survey
                row.update(agent=agent.REFUSED, why=f"the answer cannot be read: {error}")
            self.rows.append(row)
            self.done += 1


class Progress:
    """A bar on standard error, if that is a terminal."""

    def __init__(self, file=sys.stderr):
        self.file, self.is_shown = file, file.isatty()

    def show(self, done, total):
        """Draws the bar anew."""
        if self.is_shown and total:
            count = f" {done}/{total} domains"
            width = max(10, min(60, shutil.get_terminal_size().columns - len(count) - 3))
            full = done * width // total
            self.file.write(f"\r[{'#' * full}{'-' * (width - full)}]{count}")
            self.file.flush()

    def clear(self):
        """Removes the bar."""
        if self.is_shown:
            self.file.write("\r\x1b[K")
            self.file.flush()


def age(started, now):
    """How long ago, in the largest unit."""
    if started is None:
        return "-"
    left = max(0, now - started)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if left >= size:
            return f"{int(left // size)} {unit}"
    return f"{int(left)} s"


def width(text):
    """Columns on a terminal."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def table(rows, now):
    """One line for each domain, and the sum."""
    def seconds(value):
        return "-" if value is None else f"{value:.2f} s"
    lines = [("DOMAIN", "AGENT", "VERSION", "LEVEL", "AGE", "FROZEN FOR", "FAILED HOOKS")]
    for row in rows:
        failed = row.get("failed-hooks", ())
        shown = ", ".join(dict.fromkeys(os.path.basename(hook["path"]) for hook in failed)) or ("none" if row.get("hooks") else "-")
        state = row["agent"] + (", frozen" if row.get("frozen") else "")
        lines.append((row["domain"], state, row.get("version") or row.get("protocol") or "-", row.get("level", "-"),
                      age(row.get("started"), now), seconds(row.get("filesystems-seconds")), shown))
    plain = [["".join(c if c.isprintable() else "?" for c in cell) for cell in line] for line in lines]
    widths = [max(width(line[column]) for line in plain) for column in range(len(plain[0]))]
    for line in plain:
        yield "  ".join(cell + " " * (widths[column] - width(cell)) for column, cell in enumerate(line)).rstrip() + "\n"
    states = {state: sum(row["agent"] == state for row in rows) for state in STATES}
    counts = [f"{count} {state}" for state, count in states.items() if count]
    noun = "domain" if len(rows) == 1 else "domains"
    yield f"{len(rows)} {noun}" + (": " + ", ".join(counts) if counts else "") + "\n"


def as_json(rows):
    """One object; a domain a line, so that a large fleet can be read line by line."""
    yield '{"version": 1, "domains": ['
    for number, row in enumerate(rows):
        yield (",\n" if number else "\n") + json.dumps(row)
    yield "\n]}\n"


def metrics(rows, now):
    """The same as metrics. Those of `qemu-ga report --format prometheus` have the same names, without the label `domain`."""
    found = Metrics()
    found.add("qemu_ga_fleet_domains", "Domains that were asked.", len(rows))
    found.add("qemu_ga_fleet_timestamp_seconds", "Time of the survey.", round(now))
    for row in rows:
        name = row["domain"]
        for state in STATES:
            found.add("qemu_ga_agent", "1 for the state of the domain's agent, 0 for all other states.", int(row["agent"] == state),
                      domain=name, state=state)
        if "protocol" in row:
            found.add("qemu_ga_build_info", "Versions of the agent: its own, and of QEMU's whose protocol it has.", 1, domain=name,
                      version=row.get("version", ""), protocol=row["protocol"])
        if "frozen" in row:
            found.add("qemu_ga_frozen", "1 while filesystems are frozen.", int(row["frozen"]), domain=name)
        found.add("qemu_ga_runs_kept", "Freezes whose report is kept; none are kept over a reboot.", row.get("runs"), domain=name)
        if "run" not in row:
            continue
        last = {
            "level": ("Consistency of the last freeze that has ended: 0 none, 1 crash, 2 filesystem, 3 application.",
                      LEVELS.index(row["level"]) if row["level"] in LEVELS else None),
            "timestamp_seconds": ("Time of its request.", row["started"]),
            "filesystems": ("Filesystems that were to be frozen.", row["filesystems"]),
            "filesystems_held": ("Filesystems that did not change until the thaw.", row["held"]),
            "filesystems_seconds": ("Time from the first FIFREEZE to the last FITHAW.", row["filesystems-seconds"]),
            "applications_seconds": ("Time from the first freeze hook to the last thaw hook.", row["applications-seconds"]),
            "hooks": ("Calls of hooks.", row["hooks"]),
            "hooks_failed": ("Calls of hooks that failed.", len(row["failed-hooks"])),
        }
        for suffix, (description, value) in last.items():
            found.add(f"qemu_ga_last_run_{suffix}", description, value, domain=name)
        for path, phase in dict.fromkeys((hook["path"], hook["phase"]) for hook in row["failed-hooks"]):
            found.add("qemu_ga_last_run_hook_failed", "1 for a hook that failed.", 1, domain=name, hook=path, phase=phase)
    return found.lines()


def main(words):
    """Returns the exit status."""
    options = parse(words)
    silence_libvirt()
    survey = Survey(options)
    try:
        survey.run(Progress())
    except ConnectionFailure as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return FAILED
    now = time.time()
    lines = as_json(survey.rows) if options.json else metrics(survey.rows, now) if options.prometheus else table(survey.rows, now)
    try:
        if options.output:
            write_atomically(options.output, lines)
        else:
            sys.stdout.writelines(lines)
            sys.stdout.flush()
    except OSError as error:
        print(f"{NAME}: cannot write: {options.output or 'standard output'}: {error.strerror}", file=sys.stderr)
        return FAILED
    return DONE
