"""The hook master beside the original's shell script: its own cost for each hook, and hooks side by side.

Both are the files that are installed, called as the agent calls them; only their log (and our memory of the freeze) is put into the run's directory.
"""
import os
import shutil
import subprocess
import time

from lib import paths

SIDES = ("ours", "original")
MANY, PARALLEL = 100, 50


def hooks(Row, alternate, say, work, rounds):
    """100 hooks that do nothing, 50 of 100 ms in one parallel stage, and 5 of 100 ms one after another."""
    own = Row(f"hook master, each of {MANY} hooks that do nothing", "ms", ratio=1)
    beside = Row(f"{PARALLEL} hooks of 100 ms, parallel", "ms", most=500)
    serial = Row("5 hooks of 100 ms, serial", "ms")
    nothing = {f"{number:03}": None for number in range(MANY)}
    sleeping = {f"{number:03}": "#!/bin/sh\nexec sleep 0.1\n" for number in range(PARALLEL)}
    scenes = ((own, nothing, "", MANY), (beside, sleeping, "[hooks]\nparallel = yes\n", 1), (serial, dict(list(sleeping.items())[:5]), "", 1))
    for row, scripts, conf, divisor in scenes:
        masters = {side: install(work / f"hooks-{side}", side, scripts, conf) for side in SIDES}
        for turn, side in alternate(rounds):
            took = one_call(masters[side], len(scripts)) / divisor
            row.add(side, took)
            say(f"{row.name}, run {turn}, {side}: {took:.2f} ms")
    return [own, beside, serial]


def install(place, side, scripts, conf):
    """A master with its hooks, as it lies in /etc/qemu; None for a script is /bin/true. Returns (master, log, environment)."""
    shutil.rmtree(place, ignore_errors=True)
    directory = place / "fsfreeze-hook.d"
    directory.mkdir(parents=True)
    for path in (place, directory):
        path.chmod(0o755)
    for name, text in scripts.items():
        if text is None:
            shutil.copy("/bin/true", directory / name)
        else:
            (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    (place / "fsfreeze-hook.conf").write_text(conf)
    log = place / "log"
    log.touch()
    if side == "ours":
        source, old = paths.ROOT / "hooks" / "fsfreeze-hook", '--dir "$here/fsfreeze-hook.d"'
        new = f"{old} --log '{log}' --state '{place}'"
    else:
        source, old, new = paths.ORIGINAL / "etc/qemu/fsfreeze-hook", "/var/log/qga-fsfreeze-hook.log", str(log)
    text = source.read_text()
    if old not in text:
        raise RuntimeError(f"{source} is not what this measures any more: no {old}")
    master = place / "fsfreeze-hook"
    master.write_text(text.replace(old, new))
    master.chmod(0o755)
    return master, log, dict(os.environ, QGA_BINARY=str(paths.binary_under_test()), LC_ALL="C")


def one_call(installed, count):
    """Time of the freeze call in ms; the thaw after it is not counted. Fails if not every hook ran and succeeded."""
    master, log, environment = installed
    log.write_text("")
    started = time.perf_counter_ns()
    subprocess.run([str(master), "freeze"], env=environment, stdin=subprocess.DEVNULL, check=True)
    took = (time.perf_counter_ns() - started) / 1e6
    lines = log.read_text().splitlines()
    good = sum(line.endswith(("finished with status=0", "finished successfully")) for line in lines)
    if good != count:
        raise RuntimeError(f"{master}: {good} of {count} hooks succeeded: {lines[-3:]}")
    subprocess.run([str(master), "thaw"], env=environment, stdin=subprocess.DEVNULL, check=True)
    return took
