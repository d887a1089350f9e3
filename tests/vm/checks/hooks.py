"""The hooks of fsfreeze-hook.d, the hook log that operators read, and the journal's audit lines."""
import re

from lib.report import check, equal, holds

LOG = "/var/log/qga-fsfreeze-hook.log"
FOLDER = "/etc/qemu/fsfreeze-hook.d"
DATE = re.compile(r"^(Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} [ 1-3]\d \d\d:\d\d:\d\d UTC \d{4}: ")


def entry(name, argument, output, status=0):
    """The lines that one hook leaves in the log, dates left out."""
    return [f"execute {FOLDER}/{name} {argument}", *output, f"{FOLDER}/{name} finished with status={status}"]


def expected(argument):
    """The log of one run of the hooks that tests/vm/hooks installs: name order, reversed on thaw."""
    entries = [
        entry("10-stamp", argument, [f"stamped {argument}"]),
        entry("20-writes", argument, ["both filesystems take writes"]),
        entry("30-stamp", argument, [f"stamped {argument}"]),
        entry("40-mariadb", argument, []),
        entry("50-fails", argument, ["this hook fails on purpose"], status=3),
    ]
    if argument == "freeze":
        # What is passed over is named once in a run.
        entries.append([f"{FOLDER}/70-not-executable skipped: not executable"])
    else:
        entries.reverse()
    return [line for lines in entries for line in lines]


def cycle(g):
    """One freeze and thaw with empty logs before it; returns the hook log's lines."""
    g.oob.run(f"rm -f {LOG} /run/hooks.stamps")
    equal(g.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen")
    equal(g.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed")
    return g.oob.run(f"cat {LOG}").splitlines()


@check("libvirt")
def hook_log_line_by_line(g):
    lines = cycle(g)
    for line in lines:
        if "execute /" in line or "finished with" in line:
            holds(DATE.match(line), f"a date as `date` prints it at the line's start: {line}")
    # After the reason why a hook was skipped comes advice, in words of its own.
    bare = [re.sub("(?<=skipped: not executable).*", "", DATE.sub("", line)) for line in lines]
    equal(bare, expected("freeze") + expected("thaw"), "the hook log")


@check("libvirt")
def hooks_run_before_the_freeze_and_after_the_thaw(g):
    g.oob.run("rm -f /run/hooks.stamps")
    equal(g.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen")
    frozen = float(g.oob.run("date +%s.%N"))
    during = g.oob.run("cat /run/hooks.stamps").split()
    holds("thaw" not in during and during.count("freeze") == 2, f"while frozen only the freeze hooks have run: {during}")
    thawing = float(g.oob.run("date +%s.%N"))
    equal(g.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed")
    stamps = [line.split() for line in g.oob.run("cat /run/hooks.stamps").splitlines()]
    equal([(s[0], s[2]) for s in stamps],
          [("freeze", "10-stamp"), ("freeze", "30-stamp"), ("thaw", "30-stamp"), ("thaw", "10-stamp")], "order of the hooks")
    holds(all(float(s[1]) < frozen for s in stamps[:2]) and all(float(s[1]) > thawing for s in stamps[2:]), f"times: {stamps}")
    # 20-writes ended, so both filesystems took writes when it ran; what it wrote last is the thaw.
    equal(g.oob.run("cat /var/tmp/hook-was-here /data/hook-was-here"), "thaw\nthaw\n", "the writing hook's files")


@check("libvirt")
def journal_holds_the_audit_lines(g):
    mark = g.oob.run("journalctl --sync; date '+%F %T.%N' | cut -c1-26").strip()
    g.ask("guest-ping")
    equal(g.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen")
    for _ in range(3):
        g.ask("guest-ping")
    equal(g.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed")
    g.oob.run("journalctl --sync")
    lines = g.oob.run(f"journalctl -q -o cat --since '{mark}' SYSLOG_IDENTIFIER=qemu-ga + _COMM=qemu-ga").splitlines()
    wanted = ["info: guest-ping called", "info: guest-fsfreeze called", "info: executing fsfreeze hook with arg 'freeze'",
              "info: guest-fsthaw called", "info: executing fsfreeze hook with arg 'thaw'"]
    for text in wanted:
        holds(text in lines, f"{text!r} in the journal, which has {lines}")
    equal(lines.count("info: guest-ping called"), 4, "pings in the journal, those of the frozen time included")


@check("libvirt")
def mariadb_is_stopped_for_the_snapshot_and_started_after(g):
    g.oob.run("touch /run/mariadb-in-use; systemctl start mariadb", timeout=120)
    g.oob.run("mariadb -e 'CREATE DATABASE IF NOT EXISTS shop; CREATE TABLE IF NOT EXISTS shop.t (n INT); INSERT INTO shop.t VALUES (7)'")
    try:
        g.oob.run(f"rm -f {LOG}")
        equal(g.ask("guest-fsfreeze-freeze", timeout=120), 2, "filesystems frozen")
        equal(g.oob.run("pidof mariadbd || echo none").strip(), "none", "database processes while frozen")
        equal(g.ask("guest-fsfreeze-thaw", timeout=120), 2, "filesystems thawed")
        equal(g.oob.run("systemctl is-active mariadb").strip(), "active", "the database after the thaw")
        equal(g.oob.run("mariadb -N -e 'SELECT n FROM shop.t LIMIT 1'").strip(), "7", "what was stored before")
        lines = [DATE.sub("", line) for line in g.oob.run(f"cat {LOG}").splitlines()]
        for argument, output in (
                ("freeze", ["Stopping MariaDB for consistent snapshot", "MariaDB service status: inactive"]),
                ("thaw", ["Starting MariaDB after the snapshot", "MariaDB service status: active"])):
            wanted = entry("40-mariadb", argument, output)
            start = lines.index(wanted[0]) if wanted[0] in lines else 0
            equal(lines[start:start + len(wanted)], wanted, f"the database hook's lines on {argument}")
    finally:
        g.oob.run("rm -f /run/mariadb-in-use; systemctl stop mariadb", timeout=120)
