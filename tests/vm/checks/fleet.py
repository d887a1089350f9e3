"""The host tools with real guests under a real libvirt: one with our agent, one with the original, and one whose agent is stopped."""
import json
import os
import random
import subprocess
import time
import xml.etree.ElementTree as tree

from lib.report import check, equal, holds
from lib import paths, virt

KILLS = int(os.environ.get("QGA_VM_KILLS", "20"))
NAMESPACE = "https://qemu-ga-rs.invalid/xmlns/snapshots/1"
HOOKS = "/etc/qemu/fsfreeze-hook.d"


def start(tool, *words):
    """A host tool of this tree."""
    return subprocess.Popen(["/usr/bin/python3", str(paths.ROOT / "host" / tool), "-c", virt.URI, *words], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(tool, *words):
    """Its exit status, output and errors."""
    process = start(tool, *words)
    shown, errors = process.communicate(timeout=300)
    return process.returncode, shown, errors


def snapshot(name, *words):
    """Exit status, JSON and errors of qga-snapshot."""
    status, shown, errors = run("qga-snapshot", name, *words)
    holds(shown.count("\n") == 1, f"one line of JSON, not: {shown}{errors}")
    return status, json.loads(shown), errors


def labels(g, name):
    """The labels in the domain's metadata, as libvirt shows them."""
    root = tree.fromstring(g.daemon.virsh("dumpxml", name).stdout)
    return [element.attrib for element in root.iter(f"{{{NAMESPACE}}}snapshot")]


def is_frozen(g):
    """Whether the guest has a marker of a freeze."""
    return g.oob.run("[ -e /run/qga.state.isfrozen ] && echo yes", check=False) == "yes\n"


def wait_thawed(g, timeout=120):
    """Fails if the guest stays frozen."""
    end = time.monotonic() + timeout
    while is_frozen(g):
        holds(time.monotonic() < end, f"frozen for {timeout} s")
        time.sleep(0.2)
    equal(g.oob.run("echo x >/root/written && echo x >/data/written && echo done", timeout=20), "done\n", "a write")


@check("fleet")
def fleet_a_snapshot_reaches_application(g):
    g.ours.oob.run(f"rm {HOOKS}/40-mariadb {HOOKS}/50-fails {HOOKS}/70-not-executable")
    status, result, errors = snapshot("fleet-ours", "--require", "application", "--name", "first")
    equal((status, errors, result["level"], result["labeled"]), (0, "", "application", True), "result")
    [label] = labels(g, "fleet-ours")
    equal((label["name"], label["level"], label["run"]), ("first", "application", result["run"]), "label")
    report = json.loads(g.ours.oob.run("qemu-ga report --json"))
    equal((report["id"], report["level"]), (result["run"], "application"), "the guest's report")
    holds("first" in g.daemon.virsh("snapshot-list", "fleet-ours", "--name").stdout, "libvirt has the snapshot")
    wait_thawed(g.ours)


@check("fleet")
def fleet_a_backup_is_labeled(g):
    status, result, errors = snapshot("fleet-ours", "--backup", "--name", "nightly")
    equal((status, errors, result["level"], result["kind"]), (0, "", "application", "backup"), "result")
    equal([label["name"] for label in labels(g, "fleet-ours")], ["nightly", "first"], "labels")
    wait_thawed(g.ours)


@check("fleet")
def fleet_a_failed_hook_lowers_the_level(g):
    g.ours.oob.run(f"printf '#!/bin/sh\\nexit 3\\n' >{HOOKS}/60-fails; chmod 755 {HOOKS}/60-fails")
    try:
        status, result, errors = snapshot("fleet-ours", "--require", "application")
        equal((status, result["result"], result["level"]), (3, "refused", "filesystem"), "result")
        holds("60-fails" in errors, errors)
        equal(len(labels(g, "fleet-ours")), 2, "labels")
        wait_thawed(g.ours)
        shown = json.loads(run("qga-fleet", "fleet-ours", "--json")[1])["domains"][0]
        holds(f"{HOOKS}/60-fails" in [hook["path"] for hook in shown["failed-hooks"]], shown)
        monitored = g.ours.oob.start("qemu-ga report --check --require application").wait(20)
        equal(monitored[0], 1, f"status of report --check: {monitored}")
    finally:
        g.ours.oob.run(f"rm {HOOKS}/60-fails")


@check("fleet")
def fleet_a_snapshot_that_fails_leaves_nothing_frozen(g):
    definition = g.work / "bad.xml"
    definition.write_text("<domainsnapshot><disks><disk name='vda'><source file='/no/such/directory/x'/></disk></disks></domainsnapshot>")
    status, result, errors = snapshot("fleet-ours", "--xml", str(definition))
    equal((status, result["result"], errors.count("\n")), (1, "failed", 1), "result")
    equal(len(labels(g, "fleet-ours")), 2, "labels")
    wait_thawed(g.ours)


@check("fleet")
def fleet_what_is_frozen_already_is_left_alone(g):
    g.ours.virsh("domfsfreeze")
    try:
        status, _, errors = snapshot("fleet-ours")
        equal(status, 1, "status")
        holds("already frozen" in errors, errors)
        equal(g.ours.ask("guest-fsfreeze-status"), "frozen", "status afterwards")
    finally:
        g.ours.virsh("domfsthaw")


@check("fleet")
def fleet_the_original_agent_leaves_the_level_unknown(g):
    status, result, errors = snapshot("fleet-original", "--require", "filesystem")
    equal((status, result["level"]), (3, "unknown"), f"result: {errors}")
    status, result, _ = snapshot("fleet-original")
    equal((status, result["level"]), (0, "unknown"), "result")
    equal([label["level"] for label in labels(g, "fleet-original")], ["unknown"], "label")
    wait_thawed(g.original)


@check("fleet")
def fleet_an_agent_that_is_stopped_or_gone_is_told(g):
    g.stopped.oob.run("kill -STOP $(systemctl show -p MainPID --value qemu-guest-agent)")
    status, result, errors = snapshot("fleet-stopped", "--require", "filesystem")
    equal((status, result["result"]), (3, "refused"), f"result: {errors}")
    equal((errors.count("\n"), labels(g, "fleet-stopped")), (1, []), "lines and labels")
    shown = json.loads(run("qga-fleet", "--json", "--timeout", "2")[1])["domains"]
    equal({row["domain"]: row["agent"] for row in shown},
          {"fleet-ours": "qemu-ga-rs", "fleet-original": "other", "fleet-stopped": "silent"}, "agents")
    g.stopped.oob.run("kill -KILL $(systemctl show -p MainPID --value qemu-guest-agent); systemctl stop qemu-guest-agent")
    status, result, errors = snapshot("fleet-stopped")
    equal((status, result["level"]), (0, "crash"), f"result: {errors}")
    holds("no-agent" in run("qga-fleet", "fleet-stopped")[1], "the table names it")
    g.stopped.oob.run("systemctl start qemu-guest-agent")


@check("fleet")
def fleet_a_daemon_that_is_killed_in_the_middle_leaves_nothing_frozen(g):
    g.ours.oob.run(f"printf '#!/bin/sh\\n[ $1 = thaw ] || sleep 3\\n' >{HOOKS}/05-slow; chmod 755 {HOOKS}/05-slow")
    before = len(labels(g, "fleet-ours"))
    try:
        process = start("qga-snapshot", "fleet-ours")
        end = time.monotonic() + 60
        while "05-slow" not in g.ours.oob.run("pgrep -fa 05-slow", check=False):
            holds(time.monotonic() < end, "the hook does not run")
            time.sleep(0.1)
        g.daemon.process.kill()
        g.daemon.process.wait()
        g.daemon.start()
        shown, errors = process.communicate(timeout=300)
        equal((process.returncode, json.loads(shown)["result"], errors.count("\n")), (1, "failed", 1), f"result: {errors}")
        wait_thawed(g.ours)
        equal(len(labels(g, "fleet-ours")), before, "labels")
    finally:
        g.ours.oob.run(f"rm {HOOKS}/05-slow")


@check("fleet")
def fleet_the_metrics_and_the_journal_name_the_last_run(g):
    status, result, errors = snapshot("fleet-ours", "--name", "last")
    equal(status, 0, errors)
    run_id = result["run"]
    text = run("qga-fleet", "--prometheus")[1]
    holds('qemu_ga_last_run_level{domain="fleet-ours"} 3\n' in text, text)
    inside = g.ours.oob.run("qemu-ga report --format prometheus")
    holds("qemu_ga_last_run_level 3\n" in inside, inside)
    lines = g.ours.oob.run(f"journalctl -o cat RUN_ID={run_id}").splitlines()
    holds(any(line.startswith(f"info: freeze {run_id}: consistency application") for line in lines), lines)
    holds("info: executing fsfreeze hook with arg 'freeze'" in lines, lines)
    equal(g.ours.oob.run(f"journalctl -o cat LEVEL=application RUN_ID={run_id} | wc -l"), "1\n", "lines with the level")
    done = g.ours.oob.start("qemu-ga report --check --require application --max-age 3600").wait(20)
    equal(done[0], 0, f"report --check: {done}")


@check("fleet")
def fleet_no_guest_stays_frozen_if_qga_snapshot_is_killed_at_random_moments(g):
    started = time.monotonic()
    equal(snapshot("fleet-ours")[0], 0, "status")
    whole = time.monotonic() - started
    seed = int(os.environ.get("QGA_VM_SEED", str(random.randrange(1 << 32))))
    print(f"qga-snapshot takes {whole:.1f} s; {KILLS} kills, seed {seed}", flush=True)
    moments = random.Random(seed)
    for _ in range(KILLS):
        process = start("qga-snapshot", "fleet-ours")
        time.sleep(moments.uniform(0, whole * 1.2))
        process.kill()
        # Its holder keeps these open until it has thawed.
        process.communicate(timeout=120)
        wait_thawed(g.ours)
    reports = g.ours.ask("x-guest-fsfreeze-report")["reports"]
    equal([report["id"] for report in reports if report.get("end") != "thaw"], [], "runs that were not thawed by the host")
